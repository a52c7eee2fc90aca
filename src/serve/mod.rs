//! The whole life of a tonic server: it serves, is found, leaves every client's hands, and stops.

mod advertise;
mod checks;
mod control;
#[cfg(feature = "tonic-health")]
mod health;
mod lifecycle;
mod listener;
mod route;
mod socket;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Error as ServerError;
use tonic::transport::server::{Connected, Router};
use tower::{Layer, Service as TowerService};

use self::advertise::Bound;
use self::checks::Check;
use self::control::StoppedAtDrop;
pub use self::control::{ServeControl, ServeState, ServeStates};
use self::lifecycle::{Lifecycle, Service};
pub use self::listener::Listener;
use self::socket::Incoming;
use crate::error::Error;
use crate::instance::Instance;
use crate::registrar::{Conflict, Registrar};
use crate::target::Target;

/// See [`Serve::deregister_within`].
const DEREGISTER: Duration = Duration::from_secs(5);
/// See [`Serve::propagation`].
const PROPAGATION: Duration = Duration::from_secs(1);
/// See [`Serve::drain`].
const DRAIN: Duration = Duration::from_secs(20);
/// How often [`Serve::healthy_when`] asks at the most: a check costs something.
const CHECK_LEAST: Duration = Duration::from_millis(10);

/// How a server takes its leave of the clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Departure {
    /// Its keys go: the default, because every client of every language understands it.
    #[default]
    Deregister,
    /// Its instances are marked ([`Instance::with_draining`]) for as long as the propagation takes, and go after that:
    /// for people who want to see in etcd what is leaving. Only clients of this crate understand the mark.
    MarkDraining,
}

/// Serves a tonic server and keeps it registered: made by [`Registrar::service`].
///
/// In this order: it serves; when the accept loop runs and [`Serve::ready_when`] passes, it registers. When the shutdown
/// signal comes it deregisters, waits until the clients have seen that ([`Serve::propagation`]), says by its health
/// service that it does not serve, stops with GOAWAY, answers what is on its way for as long as [`Serve::drain`] lets it,
/// and ends what is left. Every step is bounded, also while etcd is down: it starts without etcd, and ends without etcd.
///
/// By hand it is the same order: listen and serve, [`Registrar::register`], then
/// [`Registration::deregister`](crate::Registration::deregister), a second's wait, and tonic's graceful shutdown.
#[must_use = "nothing is served before `serve`"]
pub struct Serve {
    registrar: Registrar,
    services: Vec<Named>,
    advertise: Vec<String>,
    https: bool,
    nodelay: bool,
    key: Option<String>,
    conflict: Conflict,
    ready: Option<Check>,
    healthy: Option<(Duration, Check)>,
    #[cfg(feature = "tonic-health")]
    health: Option<tonic_health::server::HealthReporter>,
    departure: Departure,
    deregister_within: Duration,
    propagation: Duration,
    drain: Duration,
    control: ServeControl,
    stopped: StoppedAtDrop,
}

/// A service that is to be registered.
struct Named {
    target: Result<Target, Error>,
    #[cfg(feature = "tonic-health")]
    health: Option<String>,
}

impl Registrar {
    /// Serves a tonic server as an instance of this service: [`Serve::serve`] does it. A target that is refused is told
    /// there.
    pub fn service<T>(&self, target: T) -> Serve
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        let control = ServeControl::new();
        let serve = Serve {
            registrar: self.clone(),
            services: Vec::new(),
            advertise: Vec::new(),
            https: false,
            nodelay: true,
            key: None,
            conflict: Conflict::default(),
            ready: None,
            healthy: None,
            #[cfg(feature = "tonic-health")]
            health: None,
            departure: Departure::default(),
            deregister_within: DEREGISTER,
            propagation: PROPAGATION,
            drain: DRAIN,
            stopped: control.stopped_at_drop(),
            control,
        };
        serve.service(target)
    }
}

impl Serve {
    /// The same server is a further service's, under the same lease.
    pub fn service<T>(mut self, target: T) -> Self
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        self.services.push(Named {
            target: target.try_into().map_err(Error::from),
            #[cfg(feature = "tonic-health")]
            health: None,
        });
        self
    }

    /// The address that clients reach, as `host:port` or `https://host:port`, or a host alone, which gets the port that is
    /// listened on. Called again it adds a further address of the same server.
    ///
    /// Without it: what the environment says in `TONIC_ETCD_ADVERTISE` (the same, separated by commas); else the address
    /// that is listened on, if others can reach it; else, where every interface is listened on (`0.0.0.0`, `[::]`), the
    /// host in `POD_IP`, as Kubernetes' documentation calls it, or the address of the interface that reaches etcd. A
    /// loopback address is registered where every endpoint of etcd is one too, or it is said here or in the environment.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise.push(address.into());
        self
    }

    /// Clients are to call by TLS: addresses are registered as `https://`. tonic does not tell whether a router has TLS.
    /// Go's resolver does not understand the scheme: in a mixed fleet leave it out, and turn TLS on at the clients.
    pub fn https(mut self) -> Self {
        self.https = true;
        self
    }

    /// What the instance says of itself: `|instance| instance.with_weight(3).with_zone("a")`.
    pub fn describe(self, describe: impl FnOnce(Instance) -> Instance + Send + 'static) -> Self {
        self.control.describe(describe);
        self
    }

    /// The key's name below the service's prefix, where it is not to be the address: see
    /// [`RegistrationBuilder::key`](crate::RegistrationBuilder::key).
    pub fn key(mut self, name: impl Into<String>) -> Self {
        self.key = Some(name.into());
        self
    }

    /// What is done where another instance holds the key; [`Conflict::TakeOver`] by default.
    pub fn conflict(mut self, conflict: Conflict) -> Self {
        self.conflict = conflict;
        self
    }

    /// Whether `TCP_NODELAY` is set on what is accepted; true by default, because an answer in two writes otherwise waits for
    /// the client's delayed acknowledgement (40 ms). What tonic's own builder says of it has no effect on a listener.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Registers only once this passes. It is asked again, ever more slowly up to every 0.8 s and after a minute up to
    /// every 5 s, until it does; one that takes longer than 5 s has failed.
    pub fn ready_when<F, Fut, E>(mut self, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.ready = Some(Check::new(check));
        self
    }

    /// Asks this all the time, so often (10 ms at the least): while it fails, or takes longer than 5 s, the server is not in
    /// the directory.
    pub fn healthy_when<F, Fut, E>(mut self, every: Duration, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.healthy = Some((every.max(CHECK_LEAST), Check::new(check)));
        self
    }

    /// The reporter of the server's health service decides: while it says of the whole server (the empty name) that it does
    /// not serve, none of the services is in the directory; [`Serve::health_name`] and [`Serve::health_of`] let it decide
    /// over one. A service that turns `NOT_SERVING` leaves, and returns with `SERVING`. At shutdown the reporter is told
    /// that nothing serves, once the clients have left.
    #[cfg(feature = "tonic-health")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic-health")))]
    pub fn health(mut self, reporter: &tonic_health::server::HealthReporter) -> Self {
        self.health = Some(reporter.clone());
        self
    }

    /// The name by which gRPC's health service knows the service that was named last, such as `helloworld.Greeter`. It is
    /// in the directory only while the reporter says that this name serves; one that it was told nothing of does not.
    #[cfg(feature = "tonic-health")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic-health")))]
    pub fn health_name(mut self, name: impl Into<String>) -> Self {
        if let Some(service) = self.services.last_mut() {
            service.health = Some(name.into());
        }
        self
    }

    /// The same by the type of the generated server, as [`HealthReporter::set_serving`] takes it.
    ///
    /// [`HealthReporter::set_serving`]: tonic_health::server::HealthReporter::set_serving
    #[cfg(feature = "tonic-health")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic-health")))]
    pub fn health_of<S: tonic::server::NamedService>(self) -> Self {
        self.health_name(S::NAME)
    }

    /// How it takes its leave; [`Departure::Deregister`] by default.
    pub fn departure(mut self, departure: Departure) -> Self {
        self.departure = departure;
        self
    }

    /// How long deregistering may take; 5 s by default, longer than an election. With [`Serve::propagation`] and
    /// [`Serve::drain`] it is 26 s together, within the 30 s that Kubernetes gives.
    pub fn deregister_within(mut self, limit: Duration) -> Self {
        self.deregister_within = limit;
        self
    }

    /// How long clients get to see that it has left, before it stops; 1 s by default: etcd tells them within milliseconds,
    /// and the rest is for those that are slow or far away. There is no such wait where it was not in the directory, or could
    /// not be taken out of it.
    pub fn propagation(mut self, wait: Duration) -> Self {
        self.propagation = wait;
        self
    }

    /// How long what is still on its way may take after GOAWAY; 20 s by default. Then connections are closed as they are.
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// A handle to pause, change and watch it while it serves.
    pub fn control(&self) -> ServeControl {
        self.control.clone()
    }

    /// Serves until the signal comes, [`ServeControl::stop`] is called or there is nothing more to accept; then leaves and
    /// stops.
    ///
    /// Any router with any layers and TLS will do; `listener` is a tokio `TcpListener` or `UnixListener`, or tonic's
    /// `TcpIncoming`.
    ///
    /// # Errors
    /// Before it serves: when a target or an address is refused. Later, and then it has left and stopped: when the instance
    /// is refused or no address could be registered ([`Error::is_invalid_argument`]), or when tonic's server ended by itself
    /// ([`Error::is_server`]). Never because etcd is away.
    ///
    /// # Panics
    /// As far as the router or a check of yours does: all connections are closed, and it deregisters in the background.
    ///
    /// # Cancel safety
    /// A future that is dropped closes all connections at once, and deregisters in the background.
    pub async fn serve<L, ResBody>(
        self,
        router: Router<L>,
        listener: impl Listener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error>
    where
        L: Layer<Routes>,
        L::Service: TowerService<http::Request<Body>, Response = http::Response<ResBody>> + Clone + Send + 'static,
        <L::Service as TowerService<http::Request<Body>>>::Future: Send,
        <L::Service as TowerService<http::Request<Body>>>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
        ResBody: HttpBody<Data = Bytes> + Send + 'static,
        ResBody::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let bound = listener.bound()?;
        let incoming = listener.incoming(self.nodelay);
        let serve = |incoming, stopped| router.serve_with_incoming_shutdown(incoming, stop(stopped));
        self.run(bound, incoming, shutdown, serve).await
    }

    /// The same on any stream of connections, of which nothing is known: [`Serve::advertise`] or the environment must say
    /// host and port, and [`Serve::nodelay`] is the stream's matter.
    ///
    /// # Errors
    /// As those of [`Serve::serve`].
    ///
    /// # Panics
    /// As [`Serve::serve`].
    ///
    /// # Cancel safety
    /// As that of [`Serve::serve`].
    pub async fn serve_with_incoming<L, ResBody, I, IO, IE>(
        self,
        router: Router<L>,
        incoming: I,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error>
    where
        L: Layer<Routes>,
        L::Service: TowerService<http::Request<Body>, Response = http::Response<ResBody>> + Clone + Send + 'static,
        <L::Service as TowerService<http::Request<Body>>>::Future: Send,
        <L::Service as TowerService<http::Request<Body>>>::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
        ResBody: HttpBody<Data = Bytes> + Send + 'static,
        ResBody::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        I: Stream<Item = Result<IO, IE>>,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IE: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let serve = |incoming, stopped| router.serve_with_incoming_shutdown(incoming, stop(stopped));
        self.run(Bound::Unknown, incoming, shutdown, serve).await
    }

    async fn run<I, F>(
        self,
        bound: Bound,
        incoming: I,
        shutdown: impl Future<Output = ()>,
        serve: impl FnOnce(Incoming<I>, oneshot::Receiver<()>) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), ServerError>>,
    {
        let life = self.check(&bound)?;
        let (sockets, incoming) = socket::wrap(incoming);
        let (stop, stopped) = oneshot::channel();
        life.run(serve(incoming, stopped), sockets, stop, shutdown).await
    }

    /// What can be refused is refused before anything is served.
    fn check(self, bound: &Bound) -> Result<Lifecycle, Error> {
        let plan = advertise::plan(&self.advertise, &route::environment(), bound, self.https)?;
        let service = |named: Named| {
            let target = named.target?;
            self.registrar.check_target(&target)?;
            Ok(Service {
                target,
                #[cfg(feature = "tonic-health")]
                health: named.health,
            })
        };
        Ok(Lifecycle {
            services: self.services.into_iter().map(service).collect::<Result<_, Error>>()?,
            registrar: self.registrar,
            plan,
            key: self.key,
            conflict: self.conflict,
            ready: self.ready,
            healthy: self.healthy,
            #[cfg(feature = "tonic-health")]
            health: self.health,
            departure: self.departure,
            deregister_within: self.deregister_within,
            propagation: self.propagation,
            drain: self.drain,
            control: self.control,
            _stopped: self.stopped,
        })
    }
}

/// Until it is dropped.
async fn stop(stopped: oneshot::Receiver<()>) {
    drop(stopped.await);
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("services", &self.services.iter().map(|named| named.target.as_ref()).collect::<Vec<_>>())
            .field("advertise", &self.advertise)
            .field("departure", &self.departure)
            .field("deregister_within", &self.deregister_within)
            .field("propagation", &self.propagation)
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}
