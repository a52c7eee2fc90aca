//! The resolver: watches the prefix of each service once, and gives every user the live snapshot
//! and its changes.
//!
//! - `mod.rs`: [`Resolver`]; which service is watched on which runtime. `builder.rs`: its settings.
//! - `resolution.rs`: [`Resolution`], what users hold of one service.
//! - `task.rs`: the task of one service. It drives the machine in `watch/` (pure), publishes a
//!   `View` in a tokio watch channel, and logs.
//! - `snapshot/` (pure): [`Snapshot`], and the difference of two.
//! - `doubt/` (pure): which losses are doubtful, by the rules of [`MassLoss`] in `mass_loss.rs` (pure).
//! - `cache/`: files of the last known instances, for a start while etcd is down.
//! - `record.rs` (pure): what a codec makes of a record, and which addresses may be called.
//! - `stats/`: the numbers of a service: [`ResolutionStats`], and the series of a recorder.
//! - `report.rs`: what is logged about changes of a service.
//! - `discover.rs`, `servers.rs` (pure): [`ChangeStream`], changes for tower's balancers, and
//!   tonic's own balanced channel.
//! - `config/`: service configs in etcd, for channels.
//! - `channel/`: the way to the [`BalancedChannel`](crate::BalancedChannel).
//!
//! ```text
//! etcd ─▶ task.rs ◀─▶ watch/ ─▶ View ─▶ Resolution ─▶ snapshot, state, error
//!                                  ├───▶ ChangeStream ─▶ tonic's balanced channel
//!                                  └───▶ ChannelUpdates ─▶ BalancedChannel
//! ```
//!
//! Readers see the latest view and skip those in between. An error never removes an instance.

mod builder;
pub(crate) mod cache;
mod channel;
pub(crate) mod config;
mod discover;
pub(crate) mod doubt;
mod mass_loss;
pub(crate) mod record;
mod report;
mod resolution;
pub(crate) mod servers;
pub(crate) mod snapshot;
mod stats;
mod task;
pub(crate) mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::runtime::{self, Handle};
use tokio::sync::Notify;
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::AbortHandle;
use tonic::transport::Channel;

pub use crate::resolver::builder::ResolverBuilder;
pub use crate::resolver::discover::ChangeStream;
pub use crate::resolver::mass_loss::MassLoss;
pub use crate::resolver::resolution::{Resolution, ResolutionState};
pub use crate::resolver::servers::ServerKey;
pub use crate::resolver::snapshot::{Snapshot, SnapshotEntry};
pub use crate::resolver::stats::ResolutionStats;

use self::cache::Cache;
use self::config::ConfigKeys;
use self::discover::Configure;
use self::record::RecordReader;
use self::task::{Subject, Task, View};
use crate::error::Error;
#[cfg(feature = "unstable-etcd-client")]
use crate::etcd::EtcdClient;
use crate::etcd::{Etcd, EtcdOptions, EtcdPerRuntime};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::target::Target;
use crate::timers;

/// Resolves services of one etcd. Cheap to clone; clones share their watches.
///
/// A resolver has one watch for each service and tokio runtime, however many resolutions and
/// channels use it. The watch ends when the last of them is dropped. All watches of a resolver
/// share one connection and a few streams: 1 000 services take eight streams.
///
/// A resolver that is used from several tokio runtimes has watches, a connection and a token on
/// each of them. So a runtime that is not driven does not delay the others.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

/// What the clones of a resolver share.
struct Shared {
    /// The etcd, on each runtime.
    etcds: EtcdPerRuntime,
    /// How records are read.
    reader: RecordReader,
    /// How tonic endpoints are configured.
    configure: Option<Configure>,
    /// The cache files, if there is a folder for them.
    cache: Option<Arc<Cache>>,
    /// Which losses are doubtful.
    mass_loss: MassLoss,
    /// Where service configs are.
    config_keys: ConfigKeys,
    /// Where metrics go.
    metrics: Option<Metrics>,
    /// The services that are watched. Entries without users are removed when another service is
    /// added.
    services: Mutex<HashMap<(Watched, runtime::Id), Weak<WatchedService>>>,
}

/// What is watched.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Watched {
    /// The instances of a service.
    Instances(Target),
    /// All service configs.
    Configs,
    /// The service config at this key.
    Config(Vec<u8>),
}

/// One service that is watched on one runtime. Dropping it ends the watch.
struct WatchedService {
    /// The latest view of the service.
    view: Receiver<View>,
    /// Tells whether the task runs.
    probe: Arc<TaskProbe>,
    /// The handle of the task; unset until it is spawned.
    task: OnceLock<AbortHandle>,
}

/// Tells whether the task of a service runs: its runtime may exist and not be driven.
#[derive(Default)]
struct TaskProbe {
    /// Counts the iterations of the task.
    turns: Progress,
    /// Wakes it.
    wake: Notify,
}

impl WatchedService {
    /// A receiver of the latest view.
    fn view(&self) -> Receiver<View> {
        self.view.clone()
    }

    /// Whether the task has ended, which it does only with its runtime.
    fn has_ended(&self) -> bool {
        self.task.get().is_some_and(AbortHandle::is_finished)
    }
}

impl Drop for WatchedService {
    fn drop(&mut self) {
        self.task.get().into_iter().for_each(AbortHandle::abort);
    }
}

impl Resolver {
    /// Connects to etcd and waits for its first response, with every option of the resolver at its
    /// default.
    ///
    /// If [`EtcdOptions::user`] gives a user, the first response is the one to the password,
    /// otherwise the one to a read of one key. A role that may not read that key is no failure:
    /// etcd has responded. Every member is tried, as for any request.
    ///
    /// Takes at most the connect timeout and the request timeout together, 7 s by default, and
    /// fails earlier if every member has refused. When all members have failed, it does not begin
    /// again: use [`Resolver::connect_lazy`] in a program that must start while etcd is
    /// unavailable. The connection belongs to the calling tokio runtime.
    ///
    /// # Errors
    /// - An endpoint or an option is invalid ([`Error::is_invalid_argument`]).
    /// - etcd has not responded in time ([`Error::is_timeout`]; the source says why).
    /// - No member can be reached, or etcd refuses the user. The text names the member and the
    ///   reason.
    /// - It is called outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection. Nothing is left behind.
    pub async fn connect(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        Self::builder(etcd).connect().await
    }

    /// A resolver of the etcd at these endpoints, with every option of the resolver at its default.
    /// Returns immediately.
    ///
    /// The first [`Resolver::resolve`] connects to etcd in the background and retries until it
    /// succeeds. [`Resolution::ready`] waits for that, with a time limit.
    ///
    /// # Errors
    /// When an endpoint or an option is invalid ([`Error::is_invalid_argument`]). It never fails
    /// because etcd is unavailable.
    pub fn connect_lazy(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        Self::builder(etcd).connect_lazy()
    }

    /// A resolver over your own `etcd_client::Client`.
    ///
    /// **Exempt from semver**, as all of the feature `unstable-etcd-client`: its type changes with
    /// the releases of etcd-client.
    ///
    /// You choose the options of the client. Recommended are:
    /// - `require_leader`: without it, a member that is cut off from its cluster serves old data
    ///   and does not say so;
    /// - HTTP/2 keep-alive of 10 s and 5 s: without it, only the probes of each watch find a dead
    ///   connection;
    /// - one endpoint: if one of several is dead, etcd-client sends it its share of the requests,
    ///   which are then tried again, five times at most.
    ///
    /// The resolver does not see the connections of such a client, so a request that hangs fails
    /// only after its timeout. The client fetches a user's token itself.
    #[cfg(feature = "unstable-etcd-client")]
    #[cfg_attr(docsrs, doc(cfg(feature = "unstable-etcd-client")))]
    pub fn new(client: EtcdClient) -> Self {
        Self::over(Shared::new(EtcdPerRuntime::from_client(client)))
    }

    /// A builder, for options beyond those of etcd.
    pub fn builder(etcd: impl Into<EtcdOptions>) -> ResolverBuilder {
        ResolverBuilder::over(EtcdPerRuntime::new(etcd.into()))
    }

    /// A resolver that watches nothing yet.
    fn over(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }

    /// The live snapshot of a service, kept up to date in the background from now on. Shared with
    /// everyone who resolves the same service.
    ///
    /// Returns immediately. The snapshot is empty and the state is [`ResolutionState::Unresolved`]
    /// until etcd has responded, which [`Resolution::ready`] waits for.
    ///
    /// Needs a tokio runtime with its timer enabled. The watch runs on that runtime. A
    /// [`Resolution`] that is read on another runtime changes only while the first one is driven.
    /// After a machine was suspended, its snapshots are up to date within 8 s of waking.
    ///
    /// # Errors
    /// When the target is invalid, names hosts that are not this resolver's, or is the
    /// [control prefix](ResolverBuilder::control_prefix) ([`Error::is_invalid_argument`]), and outside a tokio runtime with timers. It never fails
    /// because etcd is unavailable.
    pub fn resolve<T>(&self, target: T) -> Result<Resolution, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        let target = target.try_into()?;
        self.shared.etcds.check_hosts(&target)?;
        self.shared.config_keys.check(&target)?;
        let runtime = timers::runtime("resolving")?;
        let service = self.shared.service(&target, &runtime);
        Ok(Resolution::new(target, service, self.shared.clone()))
    }

    /// tonic's own balanced channel over a service: see [`Resolution::balance_channel`]. Its calls
    /// wait without limit while no server is known: limit them with `tokio::time::timeout`.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    pub fn balance_channel<T>(&self, target: T) -> Result<Channel, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        self.resolve(target)?.balance_channel()
    }
}

impl Shared {
    /// With every option at its default.
    fn new(etcds: EtcdPerRuntime) -> Self {
        Self {
            etcds,
            reader: RecordReader::default(),
            configure: None,
            cache: None,
            mass_loss: MassLoss::default(),
            config_keys: ConfigKeys::default(),
            metrics: None,
            services: Mutex::default(),
        }
    }

    /// A service of this target on this runtime.
    fn service(&self, target: &Target, runtime: &Handle) -> Arc<WatchedService> {
        let target = target.clone().without_hosts();
        self.watched(Watched::Instances(target.clone()), runtime, |etcd, views, probe| {
            let (cache, metrics) = (self.cache.clone(), self.metrics.clone());
            let subject = Subject::instances(self.reader.clone(), cache, self.mass_loss, metrics);
            Task::new(etcd, subject, target, views, probe)
        })
    }

    /// All service configs.
    fn configs(&self, runtime: &Handle) -> Arc<WatchedService> {
        self.watched(Watched::Configs, runtime, |etcd, views, probe| {
            Task::new(etcd, Subject::configs(None), self.config_keys.all().clone(), views, probe)
        })
    }

    /// The service config of one service.
    fn config_of(&self, service: &Target, runtime: &Handle) -> Arc<WatchedService> {
        let key = self.config_keys.of(service);
        self.watched(Watched::Config(key.clone()), runtime, |etcd, views, probe| {
            Task::new(etcd, Subject::configs(Some(key)), self.config_keys.all().clone(), views, probe)
        })
    }

    /// What is watched on this runtime; a task is spawned if there is none.
    fn watched(
        &self,
        what: Watched,
        runtime: &Handle,
        task: impl FnOnce(Etcd, Sender<View>, Arc<TaskProbe>) -> Task,
    ) -> Arc<WatchedService> {
        let key = (what, runtime.id());
        // Nothing panics while the lock is held.
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let known = services.get(&key).and_then(Weak::upgrade);
        // A task ends only with its runtime. Then another one takes its place.
        if let Some(service) = known.as_ref().filter(|service| !service.has_ended()) {
            return service.clone();
        }
        services.retain(|_, service| service.strong_count() > 0);
        let (sender, view) = tokio::sync::watch::channel(View::unresolved());
        let service = Arc::new(WatchedService { view, probe: Arc::default(), task: OnceLock::new() });
        services.insert(key, Arc::downgrade(&service));
        drop(services);
        // Outside of the lock, as everything that may run foreign code. Without a span: it would
        // live as long as the process, and keep the span open in which it was made.
        let task = task(self.etcds.on(runtime), sender, service.probe.clone());
        let task = runtime.spawn(task.run()).abort_handle();
        let _ = service.task.set(task); // set only here, so never an error
        service
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("codec", &self.shared.reader.codec).finish_non_exhaustive()
    }
}
