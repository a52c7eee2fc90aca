//! What can be set of a server, each setting with its default and the reason for it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::instance::Instance;
use crate::registrar::{Registrar, RegistrationOptions};
use crate::secret;
use crate::serve::connections::calls::{CallCounter, CountCalls};
use crate::serve::control::{ServeControl, StoppedAtDrop};
use crate::serve::health::check::Check;
use crate::target::Target;

/// See [`Serve::deregister_within`].
const DEREGISTER: Duration = Duration::from_secs(5);
/// See [`Serve::propagation`].
const PROPAGATION: Duration = Duration::from_secs(1);
/// See [`Serve::drain`].
const DRAIN: Duration = Duration::from_secs(20);

/// How a server leaves the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Departure {
    /// Deletes its keys. The default, because every client of every language understands it.
    #[default]
    Deregister,
    /// Marks its instances ([`Instance::with_draining`]) for as long as the propagation takes, and
    /// deletes the keys after that. For operators who want to see in etcd what is leaving. Only
    /// clients of this crate understand the mark.
    MarkDraining,
}

/// Serves a tonic server and keeps it registered. Made by [`Registrar::service`].
///
/// The order of a server's life is:
///
/// 1. It serves.
/// 2. Once the accept loop runs and [`Serve::ready_when`] passes, it registers.
/// 3. When the shutdown signal comes, it deregisters, and waits until clients have seen that
///    ([`Serve::propagation`]).
/// 4. It tells its health service that it does not serve.
/// 5. It sends GOAWAY, and answers the calls in flight for up to [`Serve::drain`].
/// 6. It closes what is left.
///
/// Each step is bounded, also while etcd is unavailable: a server starts and stops without etcd.
///
/// [`serving`](crate::serving) shows it with health, reflection, axum, tonic-web, TLS, several
/// listeners, systemd and signals, and says what is waited for at the end.
///
/// A server with a lifecycle of its own follows the same order: listen and serve,
/// [`Registrar::register`], then [`Registration::deregister`](crate::Registration::deregister),
/// wait for a second, and stop tonic gracefully.
///
/// # Streams of clients
///
/// A handler that reads a stream of messages cannot tell a client that has finished from one that
/// has given up. If a client drops its call halfway, or aborts the task that makes it, hyper's
/// server ends the request stream as if it were whole, and `Streaming::message` returns `Ok(None)`
/// (tonic 0.14, over its own channel and this crate's: both reset the stream with `CANCEL`, as gRPC
/// requires). Half an upload then looks complete. If that matters, let the client say that it is
/// done, by a last message of a special kind or by a count in the first one, and let the handler do
/// nothing final before.
///
/// A lost connection, and a request stream that fails or panics under
/// [`BalancedChannel`](crate::BalancedChannel), do show as an error. A deadline that passes drops
/// the handler's future.
#[must_use = "nothing is served before `serve`"]
pub struct Serve {
    pub(super) registrar: Registrar,
    /// One for each registration, in the order in which they were added.
    pub(super) services: Vec<ServiceOptions>,
    /// How every service is registered.
    pub(super) registration: RegistrationOptions,
    /// The texts as they were given: they are parsed when the port is known.
    pub(super) advertise: Vec<String>,
    /// Whether `https://` addresses are registered.
    pub(super) https: bool,
    pub(super) nodelay: bool,
    /// See [`Serve::ready_when`].
    pub(super) ready: Option<Check>,
    /// See [`Serve::healthy_when`]. The interval is checked when serving begins.
    pub(super) healthy: Option<(Duration, Check)>,
    /// See [`Serve::health`].
    #[cfg(feature = "tonic-health")]
    pub(super) health: Option<tonic_health::server::HealthReporter>,
    pub(super) departure: Departure,
    pub(super) deregister_within: Duration,
    pub(super) propagation: Duration,
    pub(super) drain: Duration,
    /// Shared with the layer, if that is made.
    pub(super) calls: Arc<CallCounter>,
    /// The handle that [`Serve::control`] clones.
    pub(super) control: ServeControl,
    /// Shows the end of the server to its handles, also if it is never served.
    pub(super) stopped: StoppedAtDrop,
}

/// A service that the server registers.
pub(super) struct ServiceOptions {
    /// The error is returned by [`Serve::serve`].
    pub(super) target: Result<Target, Error>,
    /// The name by which gRPC's health service knows it.
    #[cfg(feature = "tonic-health")]
    pub(super) health_name: Option<String>,
}

impl Registrar {
    /// A server of this service. [`Serve::serve`] serves it, and returns an error if the target is
    /// refused.
    pub fn service<T>(&self, target: T) -> Serve
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        let control = ServeControl::new();
        let serve = Serve {
            registrar: self.clone(),
            services: Vec::new(),
            registration: RegistrationOptions::new(),
            advertise: Vec::new(),
            https: false,
            nodelay: true,
            ready: None,
            healthy: None,
            #[cfg(feature = "tonic-health")]
            health: None,
            departure: Departure::default(),
            deregister_within: DEREGISTER,
            propagation: PROPAGATION,
            drain: DRAIN,
            calls: Arc::default(),
            stopped: control.stopped_at_drop(),
            control,
        };
        serve.service(target)
    }
}

impl Serve {
    /// Adds another service of the same server, under the same lease.
    pub fn service<T>(mut self, target: T) -> Self
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        self.services.push(ServiceOptions {
            target: target.try_into().map_err(Error::from),
            #[cfg(feature = "tonic-health")]
            health_name: None,
        });
        self
    }

    /// Sets how all services are registered: under which key, what happens if another instance
    /// holds it, and whether they begin paused. By default each key is the address,
    /// [`Conflict::TakeOver`](crate::Conflict::TakeOver) applies, and nothing is paused.
    ///
    /// ```no_run
    /// # fn serve(registrar: tonic_etcd::Registrar) {
    /// use tonic_etcd::{Conflict, RegistrationOptions};
    ///
    /// let one_at_a_time = RegistrationOptions::new().key("primary").conflict(Conflict::Refuse);
    /// let serve = registrar.service("greeter").registration(one_at_a_time);
    /// # }
    /// ```
    pub fn registration(mut self, options: RegistrationOptions) -> Self {
        if options.is_paused() {
            self.control.pause();
        }
        self.registration = options;
        self
    }

    /// Adds an address that clients reach: `host:port`, `https://host:port`, or a host, which gets
    /// the port that is listened on. Each call adds one.
    ///
    /// Without it, the first of these applies:
    ///
    /// 1. The environment variable `TONIC_ETCD_ADVERTISE`: addresses as above, separated by commas.
    /// 2. The address that is listened on, if it is not `0.0.0.0` or `[::]` and other hosts can
    ///    reach it.
    /// 3. The host in the environment variable `POD_IP`, as Kubernetes' documentation calls it. It
    ///    may list several, separated by commas or blanks: the first one of an address family that
    ///    is listened on is taken (`[::]` takes both families unless `IPV6_V6ONLY` is set). If
    ///    there is none, that is refused.
    /// 4. The address of the network interface that reaches etcd.
    ///
    /// An address that is set here or in `TONIC_ETCD_ADVERTISE` is taken as it is, because
    /// something may forward it. A loopback address that is found otherwise is registered only if
    /// every endpoint of etcd is on this host.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise.push(address.into());
        self
    }

    /// Registers `https://` addresses, so that clients use TLS. tonic does not tell whether a
    /// router has TLS, so false by default.
    ///
    /// Go's resolver does not understand the scheme: in a mixed fleet leave this out and turn TLS
    /// on at the clients. Unix sockets are called without TLS.
    pub fn https(mut self) -> Self {
        self.https = true;
        self
    }

    /// Changes the instance before it is registered: `|instance|
    /// instance.with_zone("a").with_weight(3)`. If `describe` returns an error, as for a weight of
    /// 0, [`Serve::serve`] ends with it before the server is registered.
    pub fn describe<R>(self, describe: impl FnOnce(Instance) -> R + Send + 'static) -> Self
    where
        R: TryInto<Instance>,
        Error: From<R::Error>,
    {
        self.control.describe(describe);
        self
    }

    /// Whether `TCP_NODELAY` is set on accepted connections. True by default, because a response in
    /// two writes otherwise waits for the client's delayed acknowledgement (40 ms). tonic's own
    /// setting has no effect on a listener.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Registers only once the check passes.
    ///
    /// The check is repeated until it does, with waits that grow to 0.8 s, and to 5 s after a
    /// minute. A check that takes longer than 5 s, or panics, has failed.
    pub fn ready_when<F, Fut, E>(mut self, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.ready = Some(Check::new(check));
        self
    }

    /// Repeats the check for as long as the server serves, with a wait of `every` after each (10 ms
    /// at least; a shorter one is refused by [`Serve::serve`], because each check costs something).
    /// While it fails, takes longer than 5 s, or panics, the server is not in the directory.
    pub fn healthy_when<F, Fut, E>(mut self, every: Duration, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.healthy = Some((every, Check::new(check)));
        self
    }

    /// Lets the reporter of the server's health service decide whether the server is in the
    /// directory.
    ///
    /// While the whole server (the empty name) does not serve, none of its services is in the
    /// directory. [`Serve::health_name`] and [`Serve::health_of`] let a name decide over one
    /// service. A service that turns `NOT_SERVING` leaves, and returns with `SERVING`.
    ///
    /// At shutdown, once clients have seen that the server left, the reporter is told that the
    /// whole server does not serve, and none of the names of [`Serve::health_name`] and
    /// [`Serve::health_of`]. It does not tell which other names it knows: those stay as they are.
    #[cfg(feature = "tonic-health")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic-health")))]
    pub fn health(mut self, reporter: &tonic_health::server::HealthReporter) -> Self {
        self.health = Some(reporter.clone());
        self
    }

    /// Sets the name by which gRPC's health service knows the service that was added last, such as
    /// `helloworld.Greeter`. That service is in the directory only while the reporter says that the
    /// name serves. A name that the reporter was told nothing of does not serve.
    #[cfg(feature = "tonic-health")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic-health")))]
    pub fn health_name(mut self, name: impl Into<String>) -> Self {
        if let Some(service) = self.services.last_mut() {
            service.health_name = Some(name.into());
        }
        self
    }

    /// [`Serve::health_name`] by the type of the generated server, as
    /// [`HealthReporter::set_serving`] takes it.
    ///
    /// [`HealthReporter::set_serving`]: tonic_health::server::HealthReporter::set_serving
    #[cfg(feature = "tonic-health")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic-health")))]
    pub fn health_of<S: tonic::server::NamedService>(self) -> Self {
        self.health_name(S::NAME)
    }

    /// Sets how the server leaves the directory. [`Departure::Deregister`] by default.
    pub fn departure(mut self, departure: Departure) -> Self {
        self.departure = departure;
        self
    }

    /// The maximum time that deregistering may take. 5 s by default, longer than an election of
    /// etcd.
    ///
    /// With [`Serve::propagation`] and [`Serve::drain`] the default is 26 s, within the 30 s that
    /// Kubernetes gives. While etcd is unavailable, a registered server takes this whole time to
    /// leave; its key then stays until the lease ends.
    pub fn deregister_within(mut self, limit: Duration) -> Self {
        self.deregister_within = limit;
        self
    }

    /// How long the server goes on after it left the directory, so that clients see that before it
    /// stops. 1 s by default: etcd tells them within milliseconds, and the rest is for slow and
    /// distant ones. The server does not wait if it was not in the directory, or could not be taken
    /// out of it. If it left before, as by a pause, the time since then counts.
    pub fn propagation(mut self, wait: Duration) -> Self {
        self.propagation = wait;
        self
    }

    /// The maximum time that calls in flight may take after GOAWAY. 20 s by default. Then their
    /// connections are closed. A connection without a call in flight has 0.75 s to end by itself:
    /// see [`serving`](crate::serving#what-is-waited-for-at-the-end).
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// A layer for the router's server, which counts the calls of each connection.
    ///
    /// It is needed where tonic itself speaks TLS (`Server::tls_config`): it tells a connection
    /// whose client is gone from one with a call in flight. Without it such a connection is kept
    /// for the whole [`Serve::drain`]. Connections without TLS need no layer, because their frames
    /// can be read. Put it first, so that it covers the other layers.
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

    /// A handle to watch, pause, change and stop the server while it serves.
    pub fn control(&self) -> ServeControl {
        self.control.clone()
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("services", &self.services.iter().map(|service| service.target.as_ref()).collect::<Vec<_>>())
            .field("registration", &self.registration)
            .field("advertise", &self.advertise.iter().map(|text| secret::without_user(text)).collect::<Vec<_>>())
            .field("departure", &self.departure)
            .field("deregister_within", &self.deregister_within)
            .field("propagation", &self.propagation)
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}
