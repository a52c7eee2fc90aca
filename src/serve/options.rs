//! What can be set of a server, each setting with its default and the reason for it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::instance::Instance;
use crate::metrics::Metrics;
use crate::registrar::{Registrar, RegistrationOptions};
use crate::secret;
use crate::serve::connections::calls::{CallCounter, CountCallsLayer};
use crate::serve::control::{ServeControl, StoppedAtDrop};
use crate::serve::health::check::Check;
use crate::target::Target;

/// See [`Serve::deregister_timeout`].
const DEREGISTER: Duration = Duration::from_secs(5);
/// See [`Serve::propagation_delay`].
const PROPAGATION: Duration = Duration::from_secs(1);
/// See [`Serve::drain_timeout`].
const DRAIN: Duration = Duration::from_secs(20);

/// How a server leaves the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Departure {
    /// Deletes its keys. The default, because every client of every language understands it.
    #[default]
    Deregister,
    /// Marks its instances ([`Instance::with_draining`]), waits for the propagation time, and then
    /// deletes the keys. For operators who want to see in etcd what is leaving. Only clients of
    /// this crate understand the mark: all others learn of the departure when the keys are deleted,
    /// immediately before GOAWAY.
    MarkDraining,
}

/// Serves a tonic server and keeps it registered. Made by [`Registrar::service`].
///
/// A server goes through these steps:
///
/// 1. It accepts calls.
/// 2. It registers, once it knows its address and the checks pass ([`Serve::ready_when`], and the
///    first run of [`Serve::healthy_when`]).
/// 3. When the shutdown signal comes, it deregisters, and goes on accepting calls for a fixed time
///    so that clients can learn of that ([`Serve::propagation_delay`]). With [`Departure::MarkDraining`]
///    it marks its instances, goes on accepting calls for that time, and then deregisters.
/// 4. It sets its health service to `NOT_SERVING`, if it was given to `Serve::health`.
/// 5. It sends GOAWAY, and finishes the calls in flight for up to [`Serve::drain_timeout`].
/// 6. It closes the connections that are left, and [`Serve::serve`] returns.
///
/// A server starts without etcd. From the shutdown signal on, each step has a time limit, also
/// while etcd is unavailable.
///
/// [`serving`](crate::serving) has examples with health, reflection, axum, tonic-web, TLS, several
/// listeners, systemd and signals, and says what a server waits for at the end.
///
/// If you start and stop the server yourself, without `Serve`, keep to the same order: listen and
/// serve, [`Registrar::register`], then
/// [`Registration::deregister`](crate::Registration::deregister), wait for a second, and stop tonic
/// gracefully.
///
/// # Streams of clients
///
/// A handler that reads a stream of messages cannot tell a client that has finished from one that
/// has given up. If a client drops its call halfway, or aborts the task that makes it, hyper's
/// server ends the request stream as if it were whole, and `Streaming::message` returns `Ok(None)`
/// (tonic 0.14, over its own channel and this crate's: both reset the stream with `CANCEL`, as gRPC
/// requires). Half an upload then looks complete. If that matters, let the client say that it is
/// done, by a last message of a special kind or by a count in the first one, and let the handler do
/// nothing final before it has seen that.
///
/// A lost connection, and a request stream that fails or panics under
/// [`BalancedChannel`](crate::BalancedChannel), do show as an error. A handler that
/// has not returned its response yet is dropped after the reset, but only where it next waits: one
/// that reads its stream sees `Ok(None)` first. A handler whose deadline passes before it has returned
/// its response is dropped without that.
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
    /// The registrar's, unless others are set.
    pub(super) metrics: Option<Metrics>,
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
    /// Describes a server of this service. [`Serve::serve`] runs it, and returns an error if the
    /// target is refused.
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
            metrics: self.metrics().cloned(),
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
    /// // The second server waits until the key is free. A key is no lock: for a short time, two may believe that they hold it.
    /// let primary = RegistrationOptions::new().key("primary").conflict(Conflict::Wait);
    /// let serve = registrar.service("greeter").registration(primary);
    /// # }
    /// ```
    pub fn registration(mut self, options: RegistrationOptions) -> Self {
        if options.is_paused() {
            self.control.pause();
        }
        self.registration = options;
        self
    }

    /// Adds an address under which clients reach this server: `host:port`, `https://host:port`, or
    /// a host alone, to which the listener's port is added. Each call adds one address.
    ///
    /// Without it, the first of these applies:
    ///
    /// 1. The environment variable `TONIC_ETCD_ADVERTISE`: addresses as above, separated by commas.
    /// 2. The address of the listener, or the path of its Unix socket, unless the listener is on
    ///    `0.0.0.0` or `[::]`. An address that other hosts cannot reach is an error of `serve`; 3
    ///    and 4 are not tried instead:
    ///    - A link-local address is always refused, before the server accepts calls.
    ///    - A loopback address or the path of a Unix socket is refused unless every endpoint of etcd
    ///      is a loopback address or a name that resolves to loopback addresses only. The check runs
    ///      when the server already accepts calls. After a refusal the server stops as at shutdown,
    ///      and `serve` returns the error. `serve` retries while DNS does not resolve an endpoint.
    /// 3. The address in the environment variable `POD_IP`. Kubernetes does not set it: the pod's
    ///    manifest must (`fieldRef` with `status.podIP`). The variable may list several addresses,
    ///    separated by commas or blanks: the first one of an address family that the listener
    ///    accepts is taken (`[::]` accepts both families unless `IPV6_V6ONLY` is set). If `POD_IP`
    ///    is set and has no such address, `serve` returns an error. The address that is taken is
    ///    refused as in 2 if it is link-local, loopback or a Unix socket.
    /// 4. The address of the network interface that reaches etcd.
    ///
    /// An address that is set here or in `TONIC_ETCD_ADVERTISE` is taken as it is, also a loopback
    /// address or a Unix socket, because something may forward connections to it. Only what nobody can
    /// call is refused: `0.0.0.0`, `[::]`, a multicast or the broadcast address, and a variable that
    /// is not UTF-8. The address of the interface (4) is a loopback address only if etcd is reached by
    /// loopback.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise.push(address.into());
        self
    }

    /// Registers `https://` addresses, so that clients know that the server uses TLS. Off unless
    /// this is called, because tonic does not tell whether a router has TLS. `BalancedChannel`
    /// calls such a server only with TLS settings (`BalancedChannelBuilder::tls` or
    /// `tls_for_https`).
    ///
    /// etcd's Go resolver does not understand the scheme: in a mixed fleet leave this out and turn
    /// TLS on at the clients. Unix sockets are called without TLS.
    pub fn https(mut self) -> Self {
        self.https = true;
        self
    }

    /// Changes the instance before it is registered: `|instance|
    /// instance.with_zone("a").with_weight(3)`. It has the zone of the environment's variable
    /// `TONIC_ETCD_ZONE` already, if that is set. If `describe` returns an error, as for a weight of
    /// 0, [`Serve::serve`] ends with it before the server is registered.
    pub fn describe<R>(self, describe: impl FnOnce(Instance) -> R + Send + 'static) -> Self
    where
        R: TryInto<Instance>,
        Error: From<R::Error>,
    {
        self.control.describe(describe);
        self
    }

    /// Whether `TCP_NODELAY` is set on accepted connections. True by default, because without it a
    /// response that is sent in two writes waits for the client's delayed acknowledgement (40 ms).
    /// tonic's own setting has no effect on a listener.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Registers only once the check passes.
    ///
    /// The check is repeated until it passes, with waits that grow to 0.8 s, and to 5 s after a
    /// minute. The repetition has no time limit. A check that returns an error, panics, or takes
    /// longer than 5 s has failed.
    pub fn ready_when<F, Fut, E>(mut self, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.ready = Some(Check::new(check));
        self
    }

    /// Repeats a check until the server leaves, with a wait of `every` after each run. After a
    /// failure the server is out of the directory until the check passes again. A check
    /// fails if it returns an error, panics, or has not returned after 5 s. Until then the result of
    /// the last one stays.
    ///
    /// [`Serve::serve`] refuses a wait of less than 10 ms, because each check costs something.
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
    /// While the reporter says `NOT_SERVING` of the whole server (the empty name), none of its
    /// services is in the directory. With [`Serve::health_name`] or [`Serve::health_of`], the
    /// status of another name decides over one service. A service that turns `NOT_SERVING` leaves,
    /// and returns with `SERVING`.
    ///
    /// At shutdown, after the propagation time, the reporter is set to `NOT_SERVING` for the whole
    /// server and for each name given to [`Serve::health_name`] or [`Serve::health_of`]. Other
    /// names that you set on the reporter keep their status: `tonic_health` has no way to list
    /// them.
    #[cfg(feature = "tonic-health")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tonic-health")))]
    pub fn health(mut self, reporter: &tonic_health::server::HealthReporter) -> Self {
        self.health = Some(reporter.clone());
        self
    }

    /// Sets the name, such as `helloworld.Greeter`, by which gRPC's health service knows the
    /// service of the preceding [`Registrar::service`] or [`Serve::service`] call. That service is
    /// in the directory only while the reporter says `SERVING` of the name. A name that was never
    /// set on the reporter counts as `NOT_SERVING`.
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
    /// etcd. With [`Departure::MarkDraining`], writing the mark and deleting the keys may each take
    /// half of this time.
    ///
    /// With the defaults of [`Serve::propagation_delay`] (1 s) and [`Serve::drain_timeout`] (20 s), these three
    /// steps take at most 26 s with either [`Departure`]. If calls are still in flight then, closing
    /// their connections may take up to 1 s more. Kubernetes' grace period is 30 s. While etcd is
    /// unavailable, deregistering may take the whole of this limit; the key then stays until the
    /// lease ends.
    pub fn deregister_timeout(mut self, limit: Duration) -> Self {
        self.deregister_within = limit;
        self
    }

    /// How long the server goes on accepting calls after it has left the directory, so that clients
    /// learn of that before it stops. 1 s by default: etcd tells clients within milliseconds, and
    /// the rest is for slow and distant clients. Nobody tells the server what clients have seen.
    /// The server does not wait if it was not in the directory, or could not be taken out of it.
    /// Time that has passed since the server left earlier, as for a pause, is subtracted.
    ///
    /// With [`Departure::MarkDraining`], the server waits after the mark is written and before the
    /// keys are deleted, and not again after that. If the mark cannot be written for every service,
    /// the server waits after the keys are deleted.
    pub fn propagation_delay(mut self, wait: Duration) -> Self {
        self.propagation = wait;
        self
    }

    /// The maximum time that calls in flight may take after GOAWAY. 20 s by default. When it is
    /// over, their connections are closed. A connection without a call in flight is closed after
    /// 0.75 s if its client has not ended it: see
    /// [`serving`](crate::serving#what-is-waited-for-at-the-end).
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// A layer for tonic's `Server::layer`, which counts the calls of each connection.
    ///
    /// It is needed if tonic does the TLS (`Server::tls_config`). It shows which connections have
    /// calls in flight. Without the layer, a TLS connection whose client is gone looks as if it had
    /// one, and is kept for the whole of [`Serve::drain_timeout`]. Connections without TLS need no layer,
    /// because their frames can be read. Put the layer first, so that it covers the other layers,
    /// and use it only in the router that is given to this `Serve`.
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
    pub fn count_calls(&self) -> CountCallsLayer {
        self.calls.layer()
    }

    /// Where the instruments `tonic_etcd.server.*` go: a [`Recorder`](crate::metrics::Recorder), or [`Metrics`]. By default where those
    /// of the registrar go ([`RegistrarBuilder::metrics`](crate::RegistrarBuilder::metrics)).
    ///
    /// A server counts for each of its services, from the first poll of [`Serve::serve`]'s future until it has stopped.
    pub fn metrics(mut self, metrics: impl Into<Metrics>) -> Self {
        self.metrics = Some(metrics.into());
        self
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
