//! The resolver: watches prefixes, each once, and gives everyone the live snapshot and its changes.

mod channel;
mod discover;
mod record;
mod report;
mod resolution;
mod servers;
mod snapshot;
mod task;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::runtime::{self, Handle};
use tokio::sync::Notify;
use tokio::sync::watch::Receiver;
use tokio::task::AbortHandle;
use tonic::transport::{Channel, Endpoint};

pub use crate::resolver::discover::Discover;
pub use crate::resolver::resolution::{Resolution, State};
pub use crate::resolver::servers::ServerKey;
pub use crate::resolver::snapshot::{Entry, Snapshot};

use self::discover::Configure;
use self::record::Reader;
use self::task::{Task, View};
use crate::address::Address;
use crate::codec::{Caught, Codec};
use crate::error::{BoxError, Error};
use crate::etcd::{Client as EtcdClient, EtcdOptions, Etcds};
use crate::target::Target;
use crate::timers;
use crate::turns::Turns;

/// Resolves services of one etcd. Cheap to clone; clones share their watches.
///
/// However many users a service has in a process, etcd sees one watch of it per resolver; it ends when the last
/// user of it goes. All watches of a resolver share one connection and a few streams: 1 000 services take eight.
///
/// A resolver that is used from several tokio runtimes has a watch, a connection and a token on each of them, so that none
/// waits for what another one does, or does not do because nobody drives it.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    etcds: Etcds,
    reader: Reader,
    configure: Option<Configure>,
    services: Mutex<HashMap<(Target, runtime::Id), Weak<Service>>>,
}

/// One watched service, on one runtime.
struct Service {
    view: Receiver<View>,
    pulse: Arc<Pulse>,
    /// None until it is spawned.
    task: OnceLock<AbortHandle>,
}

/// Tells whether the task of a service runs.
#[derive(Default)]
struct Pulse {
    turns: Turns,
    /// Wakes it.
    look: Notify,
}

impl Service {
    fn view(&self) -> Receiver<View> {
        self.view.clone()
    }

    fn has_ended(&self) -> bool {
        self.task.get().is_some_and(AbortHandle::is_finished)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.get().into_iter().for_each(AbortHandle::abort);
    }
}

/// Builds a [`Resolver`] with a stored format or endpoint settings of its own.
#[must_use]
pub struct ResolverBuilder {
    etcds: Result<Etcds, Error>,
    reader: Reader,
    configure: Option<Configure>,
}

impl Resolver {
    /// A resolver of the etcd at these endpoints, with every option at its default.
    ///
    /// Does not wait for etcd, and does not fail when it is away: what is resolved goes on trying in the background.
    /// [`Resolution::ready`] is for those who want to fail early.
    ///
    /// # Errors
    /// When an endpoint or option is refused.
    #[expect(clippy::unused_async, reason = "connecting may come to need the runtime; callers are async anyway")]
    pub async fn connect(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        Self::builder(etcd).build()
    }

    /// A resolver over a client of your own, whose options are then yours. What they should hold:
    /// - `require_leader`: otherwise a member that is cut off from its cluster serves old data without a word;
    /// - HTTP/2 keep-alive of 10 s and 5 s: otherwise a dead connection is found out only by the probes of each watch;
    /// - one endpoint: of several, etcd-client gives a dead one its share of the requests, which are then tried again, five
    ///   times at most.
    ///
    /// What is known of a connection of our own is not known of such a client's: a request that hangs is only given up at its
    /// timeout, and a user's token is fetched by the client itself.
    pub fn new(client: EtcdClient) -> Self {
        Self::over(Etcds::from_client(client), Reader::default(), None)
    }

    /// A resolver with options of its own.
    pub fn builder(etcd: impl Into<EtcdOptions>) -> ResolverBuilder {
        ResolverBuilder::over(Etcds::new(etcd.into()))
    }

    fn over(etcds: Etcds, reader: Reader, configure: Option<Configure>) -> Self {
        Self { shared: Arc::new(Shared { etcds, reader, configure, services: Mutex::default() }) }
    }

    /// A service's live snapshot, kept true in the background from now on; shared with everyone who resolves the same.
    ///
    /// Returns at once: the snapshot is empty, and the state [`State::Unresolved`], until etcd was heard, which
    /// [`Resolution::ready`] waits for.
    ///
    /// Needs a runtime with its timer enabled, on which the watch lives: what is resolved on one runtime and read on another
    /// changes only while the first one is driven. A machine that was suspended sees what it missed
    /// within 8 s of waking.
    ///
    /// # Errors
    /// When the target is refused, or names hosts that are not this resolver's; outside of a tokio runtime with timers. Never because
    /// etcd is away.
    #[expect(clippy::unused_async, reason = "the task needs a runtime, and an async caller has one")]
    pub async fn resolve<T>(&self, target: T) -> Result<Resolution, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        let target = target.try_into()?;
        self.shared.etcds.check_hosts(&target)?;
        let runtime = timers::runtime("resolving")?;
        let service = self.shared.service(&target, &runtime);
        Ok(Resolution::new(target, service, self.shared.configure.clone()))
    }

    /// tonic's own balanced channel over a service: see [`Resolution::balance_channel`]. Its calls wait without end while no
    /// server is known: bound them, with `tokio::time::timeout`.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    pub async fn balance_channel<T>(&self, target: T) -> Result<Channel, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        self.resolve(target).await?.balance_channel()
    }
}

impl Shared {
    fn service(&self, target: &Target, runtime: &Handle) -> Arc<Service> {
        let key = (target.clone().without_hosts(), runtime.id());
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner); // nothing panics while it is held
        let known = services.get(&key).and_then(Weak::upgrade);
        // A task that has ended went with its runtime: another takes its place.
        if let Some(service) = known.as_ref().filter(|service| !service.has_ended()) {
            return service.clone();
        }
        services.retain(|_, service| service.strong_count() > 0);
        let (sender, view) = tokio::sync::watch::channel(View::unresolved());
        let service = Arc::new(Service { view, pulse: Arc::default(), task: OnceLock::new() });
        services.insert(key.clone(), Arc::downgrade(&service));
        drop(services);
        // Outside of the lock, as whatever may run code of others. Without a span: it would live as long as the process, and
        // keep whatever span it was made in open.
        let task = Task::new(self.etcds.on(runtime), self.reader.clone(), key.0, sender, service.pulse.clone());
        let task = runtime.spawn(task.run()).abort_handle();
        let _ = service.task.set(task); // it is set here alone
        service
    }
}

impl ResolverBuilder {
    fn over(etcds: Result<Etcds, Error>) -> Self {
        Self { etcds, reader: Reader::default(), configure: None }
    }

    /// A builder over a client of your own: see [`Resolver::new`].
    pub fn from_client(client: EtcdClient) -> Self {
        Self::over(Ok(Etcds::from_client(client)))
    }

    /// The stored format to read; by default [`Detect`](crate::codec::Detect), which reads etcd's gRPC naming and plain addresses.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.reader.codec = Arc::new(Caught(codec));
        self
    }

    /// Whether records may name Unix sockets (`unix:/run/greeter.sock`); false by default, because whoever may write into etcd
    /// could send this process's calls to any socket of its host. Without it such a record counts as one that cannot be read.
    pub fn unix_sockets(mut self, allow: bool) -> Self {
        self.reader.unix_sockets = allow;
        self
    }

    /// Configures each server's `tonic::transport::Endpoint` (TLS, timeouts) before [`Resolution::discover`] and
    /// [`Resolution::balance_channel`] give it out. A server for which this fails or panics is left out, with a warning.
    ///
    /// TLS is then yours for `https` addresses, too; without this they get the enabled root certificates.
    pub fn configure_endpoint<E: Into<BoxError>>(
        mut self,
        configure: impl Fn(&Address, Endpoint) -> Result<Endpoint, E> + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(Arc::new(move |address, endpoint| configure(address, endpoint).map_err(Into::into)));
        self
    }

    /// The resolver.
    ///
    /// # Errors
    /// When an endpoint or option is refused.
    pub fn build(self) -> Result<Resolver, Error> {
        Ok(Resolver::over(self.etcds?, self.reader, self.configure))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("codec", &self.shared.reader.codec).finish_non_exhaustive()
    }
}

impl fmt::Debug for ResolverBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolverBuilder").field("codec", &self.reader.codec).finish_non_exhaustive()
    }
}
