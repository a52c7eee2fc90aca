//! The whole life of a tonic server: it serves, is found, leaves every client's hands, and stops.

mod advertise;
mod connections;
mod control;
mod gates;
mod lifecycle;
mod options;
mod update_lock;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
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

use self::advertise::{Bound, Plan};
use self::connections::calls::Calls;
pub use self::connections::calls::CountCalls;
pub use self::connections::listener::Listener;
use self::connections::socket::Incoming;
#[cfg(unix)]
use self::connections::socket_file::SocketFile;
use self::control::StoppedAtDrop;
pub use self::control::{ServeControl, ServeState, ServeStates};
use self::gates::checks::Check;
use self::lifecycle::{Lifecycle, Service};
use crate::error::Error;
use crate::registrar::{Conflict, Registrar};
use crate::secret;
use crate::target::Target;
use crate::timers;

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
    /// Its instances are marked ([`Instance::with_draining`](crate::Instance::with_draining)) for as long as the propagation takes, and go after that:
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
/// [`serving`](crate::serving) shows it beside health, reflection, axum, tonic-web, TLS, several listeners, systemd and signals, and says
/// what is waited for at the end.
///
/// By hand it is the same order: listen and serve, [`Registrar::register`], then
/// [`Registration::deregister`](crate::Registration::deregister), a second's wait, and tonic's graceful shutdown.
///
/// # Streams of clients
///
/// A handler that reads a stream of messages cannot tell a client that has finished from one that has given up: where a client drops
/// its call halfway, or aborts the task that makes it, hyper's server ends the request's stream as if it were whole, and
/// `Streaming::message` gives `Ok(None)` (tonic 0.14, over its own channel and this crate's: both reset the stream with `CANCEL`, as
/// gRPC has it). Half an upload then looks like all of it. Where that matters, let the client say that it is done: by a last message of
/// its own kind, or by a count or length in the first, and let the handler do nothing final before. A connection that is lost, and
/// a request's stream that fails or panics under [`BalancedChannel`](crate::BalancedChannel), do show, as an error; a
/// deadline that passes drops the handler's future.
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
    calls: Arc<Calls>,
    control: ServeControl,
    /// Taken when it is served.
    stopped: Option<StoppedAtDrop>,
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
            calls: Arc::default(),
            stopped: Some(control.stopped_at_drop()),
            control,
        };
        serve.service(target)
    }
}

impl Serve {
    /// A layer for the router's server, which counts the calls of each connection: needed where tonic itself speaks TLS
    /// (`Server::tls_config`), so that at shutdown a connection whose client is gone is told from one with a call in flight.
    /// Without it such a connection is kept for the whole [`Serve::drain`]. Plain connections need none: their bytes tell. Put it
    /// first, so that it covers the other layers.
    ///
    /// ```no_run
    /// # use greeter_proto::greeter_server::{Greeter, GreeterServer};
    /// # async fn serve(registrar: tonic_etcd::Registrar, greeter: impl Greeter) -> Result<(), tonic_etcd::Error> {
    /// # let (listener, shutdown) = (tokio::net::TcpListener::bind("0.0.0.0:50051").await.unwrap(), std::future::pending());
    /// let serve = registrar.service("greeter").https();
    /// let server = tonic::transport::Server::builder(); // .tls_config(tls)?
    /// let router = server.layer(serve.count_calls()).add_service(GreeterServer::new(greeter));
    /// serve.serve(router, listener, shutdown).await
    /// # }
    /// ```
    pub fn count_calls(&self) -> CountCalls {
        self.calls.layer()
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
    /// Before it serves: when a target or an address is refused, or the runtime has no timers. Later, and then it has left and stopped:
    /// when the instance is refused or no address could be registered ([`Error::is_invalid_argument`]), when the registrar was closed
    /// before it was ready ([`Error::is_closed`]), or when tonic's server ended by itself ([`Error::is_server`]). Never because etcd is
    /// away.
    ///
    /// # Panics
    /// As far as the router does, or what [`Serve::describe`] was given: all connections are closed, and it deregisters in the
    /// background. A check that panics has failed.
    ///
    /// # Cancel safety
    /// A future that is dropped closes all connections at once, and deregisters in the background: the way to end at a second
    /// signal. The file of a Unix socket then stays, as tokio leaves it.
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
        let bound = Listening {
            bound: listener.bound(),
            #[cfg(unix)]
            file: listener.file(),
        };
        let incoming = listener.incoming(self.nodelay);
        let serve = |incoming, stopped| router.serve_with_incoming_shutdown(incoming, stop(stopped));
        self.run(bound, incoming, shutdown, serve).await
    }

    /// The same on any stream of connections, of which nothing is known: [`Serve::advertise`] or the environment must say
    /// host and port, and [`Serve::nodelay`] and the file of a Unix socket are the stream's matter.
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
        let unknown = Listening {
            bound: Ok(Bound::Unknown),
            #[cfg(unix)]
            file: None,
        };
        self.run(unknown, incoming, shutdown, serve).await
    }

    async fn run<I, F>(
        mut self,
        listening: Listening,
        incoming: I,
        shutdown: impl Future<Output = ()>,
        serve: impl FnOnce(Incoming<I>, oneshot::Receiver<()>) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), ServerError>>,
    {
        // Held to the end, so that the handle tells of it however that comes.
        let stopped_at_drop = self.stopped.take();
        let calls = self.calls.clone();
        let life = timers::runtime("serving").and(listening.bound).and_then(|bound| self.check(&bound));
        let result = match life {
            Ok(life) => {
                let (sockets, incoming) = connections::socket::wrap(incoming, calls);
                let (stop, stopped) = oneshot::channel();
                let stop = Stop {
                    stop,
                    #[cfg(unix)]
                    file: listening.file,
                };
                life.run(serve(incoming, stopped), sockets, stop, shutdown).await
            }
            Err(error) => {
                #[cfg(unix)]
                listening.file.into_iter().for_each(SocketFile::remove);
                Err(error)
            }
        };
        match stopped_at_drop {
            Some(stopped) => stopped.with(result),
            None => result,
        }
    }

    /// What can be refused is refused before anything is served.
    fn check(self, bound: &Bound) -> Result<Lifecycle, Error> {
        let plan = advertise::plan(&self.advertise, &advertise::route::environment(), bound, self.https)?;
        if let Plan::Known(addresses) = &plan {
            for address in advertise::forwarded(addresses, bound) {
                tracing::warn!(%address, "registered as it is said: its address family is not listened on");
            }
        }
        let mut known = BTreeSet::new();
        let service = |named: Named| {
            let target = named.target?;
            self.registrar.check_target(&target)?;
            if !known.insert(target.prefix()) {
                return Err(Error::invalid("service", target.name(), "it is named twice for this server"));
            }
            #[cfg(feature = "tonic-health")]
            if let Some(name) = named.health.as_ref().filter(|_| self.health.is_none()) {
                return Err(Error::invalid(
                    "health name",
                    name,
                    "`Serve::health` says whose it is, and was not called",
                ));
            }
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
        })
    }
}

/// What is listened on.
struct Listening {
    bound: Result<Bound, Error>,
    #[cfg(unix)]
    file: Option<SocketFile>,
}

/// Makes tonic's server stop to listen, and to send GOAWAY.
struct Stop {
    stop: oneshot::Sender<()>,
    #[cfg(unix)]
    file: Option<SocketFile>,
}

impl Stop {
    fn now(self) {
        // Before the listener is closed: until then no other file can have the number of this one.
        #[cfg(unix)]
        self.file.into_iter().for_each(SocketFile::remove);
        drop(self.stop);
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
            .field("advertise", &self.advertise.iter().map(|text| secret::without_user(text)).collect::<Vec<_>>())
            .field("departure", &self.departure)
            .field("deregister_within", &self.deregister_within)
            .field("propagation", &self.propagation)
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}
