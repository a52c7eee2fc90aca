//! The registrar as users hold it.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::address::Authority;
use crate::error::Error;
use crate::instance::Instance;
use crate::metrics::Metrics;
use crate::registrar::entry::Entry;
use crate::registrar::handle::health::RegistrarHealth;
use crate::registrar::handle::options::RegistrationOptions;
use crate::registrar::handle::registration::Registration;
use crate::registrar::records::records;
use crate::registrar::shared::Shared;
use crate::registrar::stats::RegistrarStats;
use crate::registrar::task::Task;
use crate::target::Target;
use crate::target::control::{self, CONTROL_PREFIX};
use crate::timers;

/// Registers instances in one etcd, all under one lease. Cheap to clone; clones share the lease.
///
/// Before `main` returns, wait for [`Serve::serve`](crate::Serve::serve),
/// [`Registration::deregister`] or [`Registrar::close`], so that every registration has left:
/// registrations leave etcd only while the tokio runtime lives.
///
/// ```no_run
/// # async fn register() -> Result<(), tonic_etcd::Error> {
/// use std::time::Duration;
///
/// use tonic_etcd::{Instance, Registrar};
///
/// let registrar = Registrar::connect(["http://127.0.0.1:2379"]).await?;
/// let instance = Instance::new("10.0.0.5:50051")?.with_zone("a");
/// let registration = registrar.register("greeter", instance)?;
/// registration.ready(Duration::from_secs(5)).await?;
/// // … serve …
/// registration.deregister().await?;
/// registrar.close(Duration::from_secs(5)).await?;
/// # Ok(())
/// # }
/// ```
///
/// # The lease
///
/// All registrations of a registrar and of its clones share one lease, so one request every few
/// seconds renews all of them. If etcd loses the lease, as after an outage that outlasts it, the
/// registrar asks for another one and puts all keys again, and retries until that succeeds. When
/// the last registration leaves, the lease is revoked. The next registration gets a new one.
///
/// # Many registrations
///
/// One registrar may have thousands of registrations, and each costs about the same. Each address is
/// a key, with one request to put it and a watch. Up to 24 keys are put at a time, and the watches
/// share a few streams. A registration that leaves alone has its keys deleted. [`Registrar::close`] takes out all
/// of them by one request, which revokes the lease: close the registrar rather than dropping
/// thousands of registrations. Each registration logs a line at INFO when it is in etcd, and
/// another when it has left. [`Registrar::stats`] counts them by state, and [`Registrar::health`]
/// counts those that are missing.
///
/// # Keys that others change
///
/// The registrar watches its own keys. A key that is deleted or overwritten by hand is put again at
/// once, and once a second if that happens again and again. If another instance puts the key,
/// [`Conflict`](crate::Conflict) decides. If the role may not watch the key, the key is put about
/// once a minute, whatever is there: two such instances with one key overwrite each other.
#[derive(Clone)]
pub struct Registrar {
    pub(super) shared: Arc<Shared>,
}

impl Registrar {
    /// Registers an instance of a service with the default [`RegistrationOptions`], and keeps it
    /// registered until the returned handle is deregistered or dropped.
    ///
    /// Returns immediately. The registration is made in the background and retried until it
    /// succeeds; [`Registration::ready`] waits for it.
    ///
    /// Needs a tokio runtime with its timer enabled. All registrations are maintained on the
    /// runtime on which the first one was made, also those that are made on other runtimes. When
    /// nothing is registered any more, or that runtime has ended, the runtime of the next
    /// registration takes its place. If the runtime is not driven, the error of
    /// [`Registration::ready`] says so.
    ///
    /// An instance without a [zone](Instance::zone) gets that of the environment's variable
    /// `TONIC_ETCD_ZONE`, if it is set, as
    /// [`BalancedChannelBuilder::zone_from_env`](crate::BalancedChannelBuilder::zone_from_env) gives it to
    /// clients.
    ///
    /// # Errors
    /// - The target or the instance is refused: addresses that nobody can call (`0.0.0.0`, `[::]`,
    ///   multicast), an instance that the codec refuses or panics on, records larger than etcd
    ///   takes, keys that this registrar has registered already, a service named `tonic-etcd` or below:
    ///   those keys are for operators ([`Error::is_invalid_argument`]).
    /// - [`Registrar::close`] was called ([`Error::is_closed`]).
    /// - There is no tokio runtime, or it has no timers.
    ///
    /// It never fails because etcd is unavailable.
    pub fn register<T>(&self, target: T, instance: Instance) -> Result<Registration, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        self.register_with(target, instance, RegistrationOptions::new())
    }

    /// Registers an instance as [`Registrar::register`] does, with options: another key, what
    /// happens if another instance holds it, whether it begins paused.
    ///
    /// ```no_run
    /// # fn register(registrar: tonic_etcd::Registrar) -> Result<(), tonic_etcd::Error> {
    /// use tonic_etcd::{Conflict, Instance, RegistrationOptions};
    ///
    /// // The second instance waits until the key is free. A key is no lock: for a short time, two may believe that they hold it.
    /// let primary = RegistrationOptions::new().key("primary").conflict(Conflict::Wait);
    /// let registration = registrar.register_with("greeter", Instance::new("10.0.0.5:50051")?, primary)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Registrar::register`], and if the key is refused.
    pub fn register_with<T>(
        &self,
        target: T,
        instance: Instance,
        options: RegistrationOptions,
    ) -> Result<Registration, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        let instance = instance.with_zone_or(crate::zone::from_env);
        let mut registrations = self.register_all(vec![(target.try_into()?, instance, options)])?;
        // One for each element.
        registrations.pop().ok_or_else(|| Error::closed("the registrar"))
    }

    /// Registers all of them, or none: everything that can be refused is refused before the first
    /// is added.
    pub(crate) fn register_all(
        &self,
        all: Vec<(Target, Instance, RegistrationOptions)>,
    ) -> Result<Vec<Registration>, Error> {
        let mut entries = self.entries(&all)?;
        let runtime = timers::runtime("registering")?;
        let shown: Vec<_> = entries.iter().map(|entry| (entry.subscribe(), entry.visibility.clone())).collect();
        // Before they are added: then only the task's lock is needed to move them.
        entries.iter_mut().for_each(|entry| entry.count_in(self.shared.series.of(entry.target.name())));
        let (ids, starts_task) = self.shared.add(entries)?;
        if starts_task {
            // Not under the lock: a runtime that is shutting down drops the task at once, and `Task::drop` takes the lock.
            // Without a span: the task lives as long as the process and would keep the span open.
            runtime.spawn(Task::new(self.shared.clone(), self.shared.etcds.on(&runtime)).run());
        }
        self.shared.changed.notify_one();
        let registration = |(((target, instance, options), id), (states, visibility))| {
            let RegistrationOptions { key, .. } = options;
            let etcd = self.shared.etcds.on(&runtime);
            let (names, codec) = (&self.shared.nested_names, self.shared.codec.clone());
            names.check(&runtime, etcd, &target, codec, key.as_deref(), Clone::clone(&states));
            Registration { shared: self.shared.clone(), id, target, instance, key, states, visibility }
        };
        Ok(all.into_iter().zip(ids).zip(shown).map(registration).collect())
    }

    /// Whether [`Registrar::register_all`] would refuse them now. Adds nothing.
    pub(crate) fn check_all(&self, all: &[(Target, Instance, RegistrationOptions)]) -> Result<(), Error> {
        let entries = self.entries(all)?;
        self.shared.check(&entries)
    }

    /// The entries of all registrations, or why one is refused.
    fn entries(&self, all: &[(Target, Instance, RegistrationOptions)]) -> Result<Vec<Entry>, Error> {
        let entry = |(target, instance, options): &(Target, Instance, RegistrationOptions)| {
            let entry = self.entry(target, instance, options);
            entry.map_err(|error| error.for_service(target.name()))
        };
        all.iter().map(entry).collect()
    }

    /// The entry of one registration, or why it is refused.
    fn entry(&self, target: &Target, instance: &Instance, options: &RegistrationOptions) -> Result<Entry, Error> {
        self.check_target(target)?;
        control::check_service(target, CONTROL_PREFIX)?;
        let records = records(&*self.shared.codec, target, instance, options.key.as_deref())?;
        let id = instance.id().map(Into::into);
        Ok(Entry::new(target.clone(), records, id, options.conflict, options.pauses))
    }

    /// The id of the lease that the registrations are under, or `None` while there is none.
    /// `etcdctl` shows it in hexadecimal.
    pub fn lease_id(&self) -> Option<i64> {
        self.shared.state().lease
    }

    /// The health of all registrations together, for a probe.
    pub fn health(&self) -> RegistrarHealth {
        let (abandoned, is_expired, states) = {
            let state = self.shared.state();
            let staying = state.entries.values().filter(|entry| !entry.leaving);
            let states: Vec<_> = staying.map(|entry| entry.state().clone()).collect();
            (state.abandoned, state.lease_expires_at.is_some_and(|at| Instant::now() >= at), states)
        };
        RegistrarHealth::new(!abandoned, is_expired, &states)
    }

    /// The numbers of this moment, as a recorder of [`RegistrarBuilder::metrics`](crate::RegistrarBuilder::metrics) gets them. It goes
    /// over all registrations.
    pub fn stats(&self) -> RegistrarStats {
        let state = self.shared.state();
        let registrations = state.entries.values().map(|entry| (entry.target.name(), entry.state()));
        RegistrarStats::new(registrations, state.counts, self.shared.series.renewal_duration.distribution())
    }

    /// Where its metrics go, and those of its servers.
    pub(crate) fn metrics(&self) -> Option<&Metrics> {
        self.shared.series.metrics()
    }

    /// The hosts of etcd, or `None` if only a client of the user's knows them.
    pub(crate) async fn etcd_hosts(&self) -> Option<Vec<Authority>> {
        let runtime = Handle::try_current().ok()?;
        self.shared.etcds.on(&runtime).known_hosts().await
    }

    /// Refuses a target that names another etcd.
    pub(crate) fn check_target(&self, target: &Target) -> Result<(), Error> {
        self.shared.etcds.check_hosts(target)
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar").field("codec", &self.shared.codec).finish_non_exhaustive()
    }
}
