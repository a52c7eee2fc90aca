//! Whether servers are asked for their health.

use crate::balance::builder::BalancedChannelBuilder;

impl BalancedChannelBuilder {
    /// Asks each server whether it serves, by `Watch` of the standard health service (`grpc.health.v1.Health`), as gRFC A17 says.
    /// `service` is the name that is asked for; an empty one asks for the server as a whole. Off by default, as in gRPC, unless a
    /// [service config](Self::service_config) has a `healthCheckConfig`. This setting replaces that one.
    ///
    /// It is for servers that do not leave the directory by themselves when they cannot serve.
    /// [`Serve::health`](crate::Serve) of this crate takes a server out of etcd, which is better where it is possible: every
    /// client sees it, and it costs no stream.
    ///
    /// Each connection has one stream on which the server tells each change:
    ///
    /// | the server's answer | what follows |
    /// |---|---|
    /// | none yet | The server is [`Connecting`](crate::ServerState::Connecting), and calls wait. After the [`connect_timeout`](Self::connect_timeout) (5 s by default), from when the server could be asked, it counts as unhealthy until it answers. While calls have all streams that the server accepts it cannot be asked, and stays what it was. |
    /// | `SERVING` | It is [`Ready`](crate::ServerState::Ready). |
    /// | `NOT_SERVING`, `SERVICE_UNKNOWN`, `UNKNOWN` | It is [`Unhealthy`](crate::ServerState::Unhealthy): no new call goes to it, and calls in flight go on. Calls do not wait for it: if no other server can be used, they fail at once with `UNAVAILABLE` unless they [wait for ready](Self::wait_for_ready). |
    /// | the stream ends with `UNIMPLEMENTED`, or the server accepts only one stream at a time | It counts as healthy, and is not asked again over this connection. Logged at WARN, once for each server. |
    /// | the stream ends otherwise, after it said `SERVING` and lasted 1 s | It is `Connecting`, is asked again at once, and calls wait for the answer as for the first one: a proxy, or a maximum age of streams, ends a check of a server that serves. If that stream ends too, the next row holds. |
    /// | the stream ends otherwise | It is unhealthy, and is asked again: at once after a stream that has given an answer and lasted 1 s, else after 0 to 0.8 s, and up to 5 s once that has gone on for a minute. |
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
