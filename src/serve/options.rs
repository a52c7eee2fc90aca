//! What can be said of a server that is to be served, each with its default and the reason for it.

use std::future::Future;
use std::time::Duration;

use crate::error::Error;
use crate::instance::Instance;
use crate::registrar::Conflict;
use crate::serve::gates::checks::Check;
use crate::serve::{CHECK_LEAST, Departure, Named, Serve};
use crate::target::Target;

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
    /// host in `POD_IP`, as Kubernetes' documentation calls it, or the address of the interface that reaches etcd. Of several in
    /// `POD_IP`, separated by commas or blanks, the first is taken whose address family is listened on (`[::]` takes both, unless it is
    /// told not to); where there is none, that is refused. What is said here or in `TONIC_ETCD_ADVERTISE` is believed, since something
    /// may forward it. A loopback address is registered where every endpoint of etcd is one too, or it is said here or in the environment.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise.push(address.into());
        self
    }

    /// Clients are to call by TLS: addresses are registered as `https://`. tonic does not tell whether a router has TLS.
    /// Go's resolver does not understand the scheme: in a mixed fleet leave it out, and turn TLS on at the clients. Unix sockets
    /// are called without TLS.
    pub fn https(mut self) -> Self {
        self.https = true;
        self
    }

    /// What the instance says of itself: `|instance| instance.with_zone("a").with_weight(3)`. Where that is refused, as a weight of 0
    /// is, the server ends with the error before it is registered.
    pub fn describe<R>(self, describe: impl FnOnce(Instance) -> R + Send + 'static) -> Self
    where
        R: TryInto<Instance>,
        Error: From<R::Error>,
    {
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
    /// every 5 s, until it does; one that takes longer than 5 s, or panics, has failed.
    pub fn ready_when<F, Fut, E>(mut self, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.ready = Some(Check::new(check));
        self
    }

    /// Asks this all the time, so often (10 ms at the least): while it fails, takes longer than 5 s, or panics, the server is not in
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
    /// over one. A service that turns `NOT_SERVING` leaves, and returns with `SERVING`. At shutdown the reporter is told,
    /// once the clients have left, that the server does not serve, and none of the names that were given by [`Serve::health_name`] and
    /// [`Serve::health_of`]. It does not say which other names it knows: those stay as they are.
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

    /// How long taking its leave of etcd may take; 5 s by default, longer than an election. With [`Serve::propagation`] and
    /// [`Serve::drain`] it is 26 s together, within the 30 s that Kubernetes gives. When etcd is down, a server that is
    /// registered stops so much later; how long its clients get is then up to them.
    pub fn deregister_within(mut self, limit: Duration) -> Self {
        self.deregister_within = limit;
        self
    }

    /// How long clients get to see that it has left, before it stops; 1 s by default: etcd tells them within milliseconds,
    /// and the rest is for those that are slow or far away. There is no such wait where it was not in the directory, or could
    /// not be taken out of it; where it left before, as by a pause, the time since then counts.
    pub fn propagation(mut self, wait: Duration) -> Self {
        self.propagation = wait;
        self
    }

    /// How long calls that are still on their way may take after GOAWAY; 20 s by default. Then connections are closed as they are.
    /// A connection without a call in flight has 0.75 s to end by itself: see [`serving`](crate::serving#what-is-waited-for-at-the-end).
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }
}
