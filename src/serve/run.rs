//! Serving: checks the options, wraps what is accepted, and starts the lifecycle.
//!
//! tonic's server is a future of its own, made by [`Router::serve_with_incoming_shutdown`]. The
//! lifecycle polls it beside everything else, and ends it by dropping a sender. Two public
//! functions differ only in what is known of the listener.

use std::collections::BTreeSet;
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

use crate::error::{BoxError, Error};
use crate::serve::advertise::plan::{self, AddressPlan, BoundAddress};
use crate::serve::advertise::route;
use crate::serve::connections::incoming::{self, Incoming};
use crate::serve::connections::listener::Listener;
#[cfg(unix)]
use crate::serve::connections::socket_file::SocketFile;
use crate::serve::lifecycle::{Lifecycle, ServedService, StopSignal};
use crate::serve::options::{Serve, ServiceOptions};
use crate::serve::series::ServerSeries;
use crate::timers;

/// The shortest wait between two health checks. See [`Serve::healthy_when`].
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// What is known of the listener, asked before tonic takes it over.
struct ListenerInfo {
    /// Where it listens, or why it does not tell.
    address: Result<BoundAddress, Error>,
    /// The file of a Unix socket that this process has bound.
    #[cfg(unix)]
    file: Option<SocketFile>,
}

impl Serve {
    /// Serves until `shutdown` completes, [`ServeControl::stop`](crate::ServeControl::stop) is
    /// called, or the listener ends. Then leaves the directory and stops.
    ///
    /// Takes a router with any layers and TLS. `listener` is a tokio `TcpListener` or
    /// `UnixListener`, or tonic's `TcpIncoming`.
    ///
    /// # Errors
    /// - Before it serves: a target, an address or another setting is refused
    ///   ([`Error::is_invalid_argument`]), or the runtime has no timers.
    /// - After it has accepted calls, and has stopped again: the instance was refused, or the
    ///   address that was found cannot be registered because other hosts cannot reach it
    ///   ([`Error::is_invalid_argument`]; see [`Serve::advertise`]); the registrar was closed before
    ///   the server was ready ([`Error::is_closed`]); or tonic's server ended without being told to
    ///   ([`Error::is_server`]).
    ///
    /// It never fails because etcd is unavailable.
    ///
    /// # Panics
    /// If the function given to [`Serve::describe`] panics, or a layer of the router does when it
    /// is applied to the server. Then all connections are closed, and the server is deregistered in
    /// the background. A handler that panics ends its own call, not the server. A check that panics
    /// has failed.
    ///
    /// # Cancel safety
    /// Dropping the future closes all connections at once, and deregisters the server in the
    /// background while the runtime lives: a way to end at a second signal. The file of a Unix
    /// socket then stays, as tokio leaves it.
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
        <L::Service as TowerService<http::Request<Body>>>::Error: Into<BoxError> + Send,
        ResBody: HttpBody<Data = Bytes> + Send + 'static,
        ResBody::Error: Into<BoxError>,
    {
        let info = ListenerInfo {
            address: listener.address(),
            #[cfg(unix)]
            file: listener.file(),
        };
        let incoming = listener.incoming(self.nodelay);
        let serve = |incoming, stopped| router.serve_with_incoming_shutdown(incoming, until_dropped(stopped));
        self.run(info, incoming, shutdown, serve).await
    }

    /// Serves any stream of connections, as [`Serve::serve`] serves a listener.
    ///
    /// A stream does not tell its address: [`Serve::advertise`] or `TONIC_ETCD_ADVERTISE` must give
    /// host and port, otherwise this returns an error. [`Serve::nodelay`] has no effect, and the
    /// file of a Unix socket is not removed.
    ///
    /// # Errors
    /// As [`Serve::serve`].
    ///
    /// # Panics
    /// As [`Serve::serve`].
    ///
    /// # Cancel safety
    /// As [`Serve::serve`].
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
        <L::Service as TowerService<http::Request<Body>>>::Error: Into<BoxError> + Send,
        ResBody: HttpBody<Data = Bytes> + Send + 'static,
        ResBody::Error: Into<BoxError>,
        I: Stream<Item = Result<IO, IE>>,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IE: Into<BoxError>,
    {
        let info = ListenerInfo {
            address: Ok(BoundAddress::Unknown),
            #[cfg(unix)]
            file: None,
        };
        let serve = |incoming, stopped| router.serve_with_incoming_shutdown(incoming, until_dropped(stopped));
        self.run(info, incoming, shutdown, serve).await
    }

    /// Runs the lifecycle of a server that `serve` makes of the wrapped connections and a signal to
    /// stop.
    async fn run<I, F>(
        self,
        info: ListenerInfo,
        incoming: I,
        shutdown: impl Future<Output = ()>,
        serve: impl FnOnce(Incoming<I>, oneshot::Receiver<()>) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), ServerError>>,
    {
        let checked = timers::runtime("serving").and(info.address).and_then(|address| self.check(&address));
        let result = match checked {
            Ok((plan, services)) => {
                let names = services.iter().map(|service| service.target.name());
                let series = Arc::new(ServerSeries::new(self.metrics.as_ref(), names));
                self.control.count_in(series.clone());
                let (connections, incoming) = incoming::wrap(incoming, self.calls.clone(), series);
                let (sender, stopped) = oneshot::channel();
                let stop = StopSignal {
                    sender,
                    #[cfg(unix)]
                    file: info.file,
                };
                let lifecycle = Lifecycle { options: &self, services, plan };
                lifecycle.run(serve(incoming, stopped), connections, stop, shutdown).await
            }
            Err(error) => {
                #[cfg(unix)]
                info.file.into_iter().for_each(SocketFile::remove);
                Err(error)
            }
        };
        // Held until here, so that the handles show the end however it comes.
        self.stopped.with(result)
    }

    /// Refuses what can be refused before anything is served. Returns how addresses are found, and
    /// the services.
    fn check(&self, address: &BoundAddress) -> Result<(AddressPlan, Vec<ServedService>), Error> {
        if let Some((every, _)) = self.healthy.as_ref().filter(|(every, _)| *every < MIN_CHECK_INTERVAL) {
            let reason = format!("the shortest one is {MIN_CHECK_INTERVAL:?}: each check costs something");
            return Err(Error::invalid("health check interval", format!("{every:?}"), reason));
        }
        let plan = plan::plan(&self.advertise, &route::environment(), address, self.https)?;
        if let AddressPlan::Known(addresses) = &plan {
            for address in plan::of_other_family(addresses, address) {
                tracing::warn!(%address, "advertised address is of an address family that is not listened on");
            }
        }
        let mut prefixes = BTreeSet::new();
        let service = |service: &ServiceOptions| {
            let target = service.target.clone()?;
            self.registrar.check_target(&target)?;
            if !prefixes.insert(target.prefix()) {
                return Err(Error::invalid("service", target.name(), "it is named twice for this server"));
            }
            #[cfg(feature = "tonic-health")]
            if let Some(name) = service.health_name.as_ref().filter(|_| self.health.is_none()) {
                let reason = "`Serve::health` gives the reporter that knows it, and was not called";
                return Err(Error::invalid("health name", name, reason));
            }
            Ok(ServedService {
                target,
                #[cfg(feature = "tonic-health")]
                health_name: service.health_name.clone(),
            })
        };
        Ok((plan, self.services.iter().map(service).collect::<Result<_, Error>>()?))
    }
}

/// Completes when the sender is dropped: tonic's graceful shutdown begins.
async fn until_dropped(stopped: oneshot::Receiver<()>) {
    drop(stopped.await);
}
