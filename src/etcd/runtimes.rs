//! One [`Etcd`] for each tokio runtime.
//!
//! Connections, password checks and watch streams are tasks, and a task runs only while its runtime
//! is driven. A resolver or a registrar may be used from several runtimes, and one of them may be
//! driven only now and then (`current_thread` inside `block_on`). So each runtime has connections,
//! a token and streams of its own, and none waits for another one.
//!
//! A runtime that ends takes its tasks with it. Its entry is removed when the next runtime is
//! added.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::{self, Handle};
use tokio::task::AbortHandle;

use crate::address::Authority;
use crate::address::domain::Domain;
use crate::error::Error;
#[cfg(feature = "unstable-etcd-client")]
use crate::etcd::Client;
use crate::etcd::options::EtcdOptions;
use crate::etcd::{Etcd, Source};
use crate::target::Target;
use crate::timers;

/// The etcd of one resolver or registrar, on all runtimes that use it.
pub(crate) struct EtcdPerRuntime {
    source: Source,
    /// What each runtime uses. Entries of runtimes that have ended are removed when another one is
    /// added.
    by_runtime: Mutex<HashMap<runtime::Id, RuntimeEtcd>>,
}

/// What one runtime uses.
struct RuntimeEtcd {
    etcd: Etcd,
    /// The handle of a task that does nothing. It finishes when the runtime ends, and so tells that
    /// the runtime has ended.
    runtime: AbortHandle,
}

impl Drop for RuntimeEtcd {
    fn drop(&mut self) {
        self.runtime.abort();
    }
}

impl EtcdPerRuntime {
    /// The etcd of these options. Members are tried in a random order, so that a fleet spreads over
    /// them.
    ///
    /// # Errors
    /// When an option is invalid.
    pub(crate) fn new(options: EtcdOptions) -> Result<Self, Error> {
        options.check()?;
        Ok(Self::with(Source::Options(Arc::new(options.shuffled()))))
    }

    /// The etcd of a user's own client.
    #[cfg(feature = "unstable-etcd-client")]
    pub(crate) fn from_client(client: Client) -> Self {
        Self::with(Source::Client(Box::new(client)))
    }

    /// Nothing is connected before a runtime uses it.
    fn with(source: Source) -> Self {
        Self { source, by_runtime: Mutex::default() }
    }

    /// Connects on the calling runtime and waits for the first response of etcd. See
    /// [`Etcd::first_response`].
    pub(crate) async fn connect(&self) -> Result<(), Error> {
        let runtime = timers::runtime("connecting to etcd")?;
        self.on(&runtime).first_response().await
    }

    /// The [`Etcd`] of this runtime, made where there is none. Two threads that make it at the same
    /// time get the same one.
    pub(crate) fn on(&self, runtime: &Handle) -> Etcd {
        let id = runtime.id();
        if let Some(here) = self.lock().get(&id) {
            return here.etcd.clone();
        }
        // Outside of the lock: spawning may run hooks of the runtime's user, and a runtime that has
        // ended drops the task immediately.
        let here = RuntimeEtcd {
            etcd: Etcd::with(self.source.clone()),
            runtime: runtime.spawn(pending::<()>()).abort_handle(),
        };
        let mut of = self.lock();
        let ended: Vec<runtime::Id> =
            of.iter().filter(|(_, here)| here.runtime.is_finished()).map(|(id, _)| *id).collect();
        let ended: Vec<RuntimeEtcd> = ended.iter().filter_map(|id| of.remove(id)).collect();
        let (etcd, unused) = match of.get(&id) {
            Some(known) => (known.etcd.clone(), Some(here)),
            None => (of.entry(id).or_insert(here).etcd.clone(), None),
        };
        drop(of);
        // Their connections close while no lock is held.
        drop((ended, unused));
        etcd
    }

    /// Nothing panics while the lock is held, so that a poisoned lock still guards a valid map.
    fn lock(&self) -> MutexGuard<'_, HashMap<runtime::Id, RuntimeEtcd>> {
        self.by_runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses a target that names the members of another etcd. A target without hosts fits any
    /// etcd. The hosts of SRV records are not compared, because they change: there the domain must
    /// be the same.
    ///
    /// # Errors
    /// When a host, or the domain, of the target is not one of this etcd's.
    pub(crate) fn check_hosts(&self, target: &Target) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::invalid("target", target.to_string(), reason));
        if let Some(domain) = target.domain() {
            return match self.srv_domain() {
                Some(known) if known.is_same(domain) => Ok(()),
                _ => refuse("the members were not found by the SRV records of that domain".into()),
            };
        }
        if target.hosts().len() == 0 {
            return Ok(());
        }
        if let Some(domain) = self.srv_domain() {
            let name = format!("etcd-srv://{}/{}", domain.as_str(), target.name());
            return refuse(format!("it names hosts, and the members are found by SRV records: write {name:?}"));
        }
        let Some(hosts) = self.source.hosts() else {
            return refuse("it names hosts, and the hosts of a client of your own are not known".into());
        };
        match target.hosts().find(|host| !hosts.iter().any(|known| known.as_str() == *host)) {
            None => Ok(()),
            Some(host) => {
                let hosts: Vec<&str> = hosts.iter().map(Authority::as_str).collect();
                refuse(format!(
                    "its host {host} is not one of this etcd's: {}; without hosts a target fits any",
                    hosts.join(", ")
                ))
            }
        }
    }

    /// The domain whose SRV records name the members, if there is one.
    #[cfg(feature = "srv")]
    fn srv_domain(&self) -> Option<Domain> {
        match &self.source {
            Source::Options(options) => options.srv.as_ref()?.domain().ok(),
            Source::Client(_) => None,
        }
    }

    #[cfg(not(feature = "srv"))]
    #[expect(clippy::unused_self, reason = "with the feature there may be one")]
    fn srv_domain(&self) -> Option<Domain> {
        None
    }
}
