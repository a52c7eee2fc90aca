//! Whether servers are asked for their health.

use crate::balance::builder::BalancedChannelBuilder;

impl BalancedChannelBuilder {
    /// Asks each server whether it serves, by `Watch` of the standard health service (`grpc.health.v1.Health`), as gRFC A17 says.
    /// `service` is the name that is asked for; an empty one asks for the server as a whole. Off by default, as in gRPC, unless a
    /// [service config](Self::service_config) has a `healthCheckConfig` with a `serviceName`. This setting replaces that one.
    ///
    /// The name is one that the server has given to its health service, by convention that of the proto file
    /// (`helloworld.Greeter`). It has nothing to do with the name of the service in etcd (`greeter`).
    ///
    /// It is for servers that do not leave the directory by themselves when they cannot serve.
    /// [`Serve::health`](crate::Serve) of this crate takes a server out of etcd, which is better where it is possible: every
    /// client sees it, and it costs no stream. For servers that clients are to ask, leave `Serve::health` out, and add the health
    /// service to the router. The client needs no feature for it.
    ///
    /// ```no_run
    /// # #[cfg(feature = "tonic-health")]
    /// # async fn run(
    /// #     registrar: tonic_etcd::Registrar, resolver: tonic_etcd::Resolver, greeter: impl greeter_proto::greeter_server::Greeter,
    /// #     listener: tokio::net::TcpListener,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// # use greeter_proto::greeter_server::GreeterServer;
    /// # use tonic::transport::Server;
    /// # use tonic_etcd::BalancedChannel;
    /// # let shutdown = std::future::pending();
    /// // The server:
    /// let (reporter, health) = tonic_health::server::health_reporter();
    /// reporter.set_service_status("helloworld.Greeter", tonic_health::ServingStatus::Serving).await;
    /// let router = Server::builder().add_service(health).add_service(GreeterServer::new(greeter));
    /// registrar.service("greeter").serve(router, listener, shutdown).await?;
    ///
    /// // The client:
    /// let greeters = resolver.resolve("greeter")?;
    /// let channel = BalancedChannel::builder().health_check("helloworld.Greeter").build(&greeters)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Each connection has one stream on which the server tells each change:
    ///
    /// | the server's answer | what follows |
    /// |---|---|
    /// | none yet | The server is [`Connecting`](crate::ServerState::Connecting), and calls wait. After the [`connect_timeout`](Self::connect_timeout) (5 s by default), from when the server could be asked, it counts as unhealthy until it answers. While calls have all streams that the server accepts it cannot be asked, and stays what it was. A connection that is in use already when a service config turns the checks on, or changes the name, keeps its state until the first answer, or until that time is over. One that was made before the first service config came is not in use. |
    /// | `SERVING` | It is [`Ready`](crate::ServerState::Ready). |
    /// | `NOT_SERVING`, `SERVICE_UNKNOWN`, `UNKNOWN` | It is [`Unhealthy`](crate::ServerState::Unhealthy): no new call goes to it, and calls in flight go on. Calls do not wait for it: if no other server can be used, they fail at once with `UNAVAILABLE` unless they [wait for ready](Self::wait_for_ready). |
    /// | the stream ends with `UNIMPLEMENTED`, or the server accepts only one stream at a time | It counts as healthy, and is not asked again over this connection. Logged at WARN, once for each server. |
    /// | the stream ends otherwise, after it said `SERVING` and lasted 1 s | It is `Connecting`, is asked again at once, and calls wait for the answer as for the first one: a proxy, or a maximum age of streams, ends a check of a server that serves. If that stream ends too, the next row holds. |
    /// | the stream ends otherwise, as with `NOT_FOUND` of a tonic-health server that does not know the name (grpc-go answers `SERVICE_UNKNOWN` instead) | It is unhealthy, and is asked again: at once after a stream that has given an answer and lasted 1 s, else after 0 to 0.8 s, and up to 5 s once that has gone on for a minute. |
    ///
    /// - **It is not a call.** It does not count in flight, as load, for outlier detection, retries, or the 5 minutes after which a
    ///   further connection closes, and it ends with its connection. No PING is sent because of it over a healthy connection: a
    ///   server that freezes while it has no calls is found out when it gets some, as without it.
    /// - **A server that is not ready is watched.** No call would find out that the connection of such a server is lost. So
    ///   [keep-alive](Self::keep_alive) and the [idle timeout](Self::idle_timeout) treat its connection as if a call were in flight, with
    ///   as few PINGs as servers permit (two, and then one in about 5 min): it is connected again once its connection is found dead.
    /// - **It takes one stream** of those that the server accepts at once over a connection
    ///   (`SETTINGS_MAX_CONCURRENT_STREAMS`); calls have the others. A server that accepts one at a time could not be called beside
    ///   it, and is not asked.
    /// - **Its request has no metadata of calls.** A server that wants a token for the health service too refuses it, and is
    ///   unhealthy.
    /// - **What is seen of it:** [`ServerStatus::last_error`](crate::ServerStatus::last_error) of an unhealthy server has the reason
    ///   and the name that was asked for. A server that cannot be asked is `Ready`, and only the WARN tells of it.
    /// - **With several connections** ([`connections_per_server`](Self::connections_per_server)) each is asked for itself, and calls go
    ///   over the healthy ones. No further one is made before the health of the last one is known, nor within a second of one that is
    ///   unhealthy.
    /// - **A policy may do without** ([`Policy::checks_health`](crate::Policy::checks_health)). [`PickFirst`](crate::policy::PickFirst) does, as
    ///   in gRPC. Then nothing is asked, whatever is set here, which is logged at INFO. It is no error, because it is none in
    ///   gRPC's service config either.
    pub fn health_check(mut self, service: impl Into<String>) -> Self {
        self.settings.health_check = Some(service.into().into());
        self
    }
}
