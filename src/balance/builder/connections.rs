//! The settings of a channel's connections, and their bounds.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::Uri;
use tower::Service;

use crate::balance::builder::BalancedChannelBuilder;
use crate::balance::shared::Settings;
#[cfg(feature = "_tls")]
use crate::connection::ClientTls;
use crate::connection::{Connector, ConnectorIo, KeepAlive, Options, TcpKeepalive};
use crate::error::{BoxError, Error};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What HTTP/2 allows (RFC 9113, 6.5.2 and 6.9.1).
const STREAM_WINDOW: RangeInclusive<u32> = 1..=(1 << 31) - 1;
const CONNECTION_WINDOW: RangeInclusive<u32> = 65_535..=(1 << 31) - 1;
const FRAME_SIZE: RangeInclusive<u32> = (1 << 14)..=(1 << 24) - 1;
/// h2 is given 16 times as much, and HTTP/2's settings say 2^32 - 1 at most.
const HEADER_LIST_SIZE: RangeInclusive<u32> = 1024..=1 << 28;
/// Timeouts shorter than the clock's resolution (1 ms) are no timeouts. Keep-alive and idle
/// timeouts are longer than a round trip.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
const SILENCE: RangeInclusive<Duration> = Duration::from_millis(10)..=DAY;
/// What Linux takes for TCP's keep-alive.
const TCP_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);
const TCP_RETRIES: RangeInclusive<u32> = 1..=127;
/// As `max_connections_per_subchannel` of gRFC A105.
const CONNECTIONS_PER_SERVER: RangeInclusive<usize> = 1..=10;

/// Checks the settings below against their bounds.
pub(super) fn check(options: &Options) -> Result<(), Error> {
    within("connect timeout", options.connect_timeout, &TIMEOUT)?;
    within("stream window", options.stream_window, &STREAM_WINDOW)?;
    within("connection window", options.connection_window, &CONNECTION_WINDOW)?;
    within("frame size", options.max_frame_size, &FRAME_SIZE)?;
    within("header list size", options.max_header_list_size, &HEADER_LIST_SIZE)?;
    within("request header list size", options.max_request_header_list_size, &HEADER_LIST_SIZE)?;
    if let Some(keep_alive) = options.keep_alive {
        within("keep-alive interval", keep_alive.interval, &SILENCE)?;
        within("keep-alive timeout", keep_alive.timeout, &SILENCE)?;
    }
    if let Some(timeout) = options.idle_timeout {
        within("idle timeout", timeout, &SILENCE)?;
    }
    if let Some(probes) = options.tcp_keepalive {
        for (setting, time) in [("TCP keep-alive time", probes.time), ("TCP keep-alive interval", probes.interval)] {
            within(setting, time, &TCP_TIME)?;
            if time.subsec_nanos() > 0 {
                return Err(Error::invalid(setting, format!("{time:?}"), "it must be whole seconds"));
            }
        }
        within("TCP keep-alive retries", probes.retries, &TCP_RETRIES)?;
    }
    options.tcp_user_timeout.map_or(Ok(()), |timeout| within("TCP user timeout", timeout, &TIMEOUT))
}

/// Checks what a server may have at once.
pub(super) fn check_per_server(settings: &Settings) -> Result<(), Error> {
    if let Some(connections) = settings.connections_per_server {
        within("connections per server", connections, &CONNECTIONS_PER_SERVER)?;
    }
    match settings.max_in_flight_per_server {
        Some(0) => Err(Error::invalid("calls in flight per server", "0", "it must be at least 1")),
        _ => Ok(()),
    }
}

fn within<T: PartialOrd + Copy + Debug>(
    setting: &'static str,
    value: T,
    range: &RangeInclusive<T>,
) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    let bounds = format!("it must be from {:?} to {:?}", range.start(), range.end());
    Err(Error::invalid(setting, format!("{value:?}"), bounds))
}

impl BalancedChannelBuilder {
    /// The maximum time for making a connection, from the resolution of the name to the server's
    /// HTTP/2 SETTINGS. From 1 ms to 24 h; 5 s by default. It also ends
    /// attempts to connect to a frozen process, for which the kernel still accepts connections.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// How many connections a server may have at most. From 1 to 10, as in gRFC A105. By default it is what `connectionScaling` of
    /// the [service config](Self::service_config) says, and 1 without that.
    ///
    /// A server accepts so many calls at once over a connection
    /// (`SETTINGS_MAX_CONCURRENT_STREAMS`), often 100 to 250. Calls beyond that wait for another
    /// server or for the end of a call. With `n` connections a server gets up to `n` times as many.
    /// For streams that last long, and for few servers with many calls. In most other cases more
    /// servers help more: the limit is there to protect the server.
    ///
    /// - **When one is made:** a call finds no ready server with room, and one of them is at its own
    ///   limit of streams and has fewer than `n` connections. A server at
    ///   [`max_in_flight_per_server`](Self::max_in_flight_per_server) gets none: that would not help.
    ///   The call waits in the queue meanwhile. A server gets one at a time,
    ///   and no more are being made in the channel than calls wait. First connections come first
    ///   (see [`BalancedChannel`](crate::BalancedChannel#connections)).
    /// - **Which one a call takes:** the oldest with room, so that later ones run empty. One beyond
    ///   the first that had no call for 5 minutes closes, up to 30 s later.
    /// - **What it is not:** another server. A server has one state, weight and load, and is ejected
    ///   as a whole. Calls in flight count over all its connections.
    /// - **When one ends** (GOAWAY, loss, silence): the calls over it alone are concerned. The server
    ///   stays [`Ready`](crate::ServerState::Ready) while it has another one.
    /// - **When one cannot be made:** the server stays ready, and the error is in
    ///   [`ServerStatus::last_error`](crate::ServerStatus::last_error). While calls wait, another
    ///   attempt follows after the usual backoff.
    ///
    /// Streams without an end take up to `n` times the server's limit of places. Then calls wait, and
    /// their statuses name the limit. A [health check](Self::health_check) takes one stream of each
    /// connection: with a limit of 100 calls have 99, which is what the statuses name.
    pub fn connections_per_server(mut self, connections: usize) -> Self {
        self.settings.connections_per_server = Some(connections);
        self
    }

    /// How many calls a server may have in flight at most, over all its connections. At least 1. Off
    /// by default: then the limit of the server itself holds
    /// (`SETTINGS_MAX_CONCURRENT_STREAMS` of each connection), which is the better place for it.
    ///
    /// It works as the limit of the server does, and the lower of the two holds: a server that has
    /// so many calls is passed over, and if no server has room, calls wait in the queue. It fails no
    /// call. Only the calls of this channel count, from their start to the end of their responses:
    /// cancelled calls until their streams are reset, and calls over connections that are draining
    /// too. So do the calls that a server still has when it is removed and comes back.
    ///
    /// gRFC A32 (circuit breaking) is another thing: its limit is for all servers of a cluster
    /// together, and calls beyond it fail.
    pub fn max_in_flight_per_server(mut self, calls: usize) -> Self {
        self.settings.max_in_flight_per_server = Some(calls);
        self
    }

    /// HTTP/2 keep-alive. On by default, with an interval of 20 s and a timeout of 10 s
    /// ([`KeepAlive::default`]).
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.options.keep_alive = Some(keep_alive);
        self
    }

    /// No keep-alive. Calls on a server that freezes then end at their deadlines only.
    pub fn without_keep_alive(mut self) -> Self {
        self.options.keep_alive = None;
        self
    }

    /// The HTTP/2 window of a stream: how many bytes of one response a server may send before its
    /// caller reads them. From 1 to 2³¹ − 1; 2 MiB by default, as in tonic's channel.
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.options.stream_window = bytes;
        self
    }

    /// The HTTP/2 window of a connection: how many bytes of all its responses a server may send
    /// before their callers read them. From 65 535 to 2³¹ − 1, which is the default and the maximum
    /// of HTTP/2.
    ///
    /// A byte counts in this window and in its stream's until its caller reads it; h2 couples the
    /// two. With a smaller window, responses that nobody reads can fill it, and then stop every
    /// other call over the connection. With tonic's windows of 5 MiB and 2 MiB, three unread
    /// responses are enough. The price is memory: a connection buffers up to min(this window, concurrent streams ×
    /// [`stream_window`](Self::stream_window)) bytes, and about 250 bytes more for each DATA frame.
    /// The smallest window with which no response stops another is concurrent streams ×
    /// `stream_window`.
    pub fn connection_window(mut self, bytes: u32) -> Self {
        self.options.connection_window = bytes;
        self
    }

    /// The maximum size of a frame that servers may send, in bytes. From 16 KiB to 16 MiB − 1; 16
    /// KiB by default, as in tonic's channel.
    pub fn max_frame_size(mut self, bytes: u32) -> Self {
        self.options.max_frame_size = bytes;
        self
    }

    /// The maximum size of a response's headers, and of its trailers, in bytes: names, values and
    /// 32 bytes for each, as HTTP/2 counts them (RFC 9113, 6.5.2). From 1 KiB to 256 MiB. 1 MiB by
    /// default: error texts and details pass, and no response takes much memory. tonic's channel
    /// has 16 KiB.
    ///
    /// Larger headers or trailers fail their own call with `RESOURCE_EXHAUSTED`, and the call is not
    /// retried. So that they fail no other call, the HTTP/2 library (h2) is given a larger limit: 16
    /// MiB, or 16 times this limit if that is more. If [`max_frame_size`](Self::max_frame_size) is
    /// above 64 KiB, h2's limit is `max_header_list_size` × 4 × (`max_frame_size` / 16 KiB), and at least
    /// 16 MiB.
    ///
    /// - **Above this limit, and below h2's:** the message has the server's code, the size, and this
    ///   limit.
    /// - **Above h2's limit:** the message has no size. It has the server's code only if
    ///   `grpc-status` is the first of the trailers.
    /// - **Encoded, above 1.25 times h2's limit:** the same, and the connection is closed. The
    ///   other calls over it fail with `UNAVAILABLE`, and are retried once at most, if
    ///   [`RetryPolicy`](crate::RetryPolicy) allows it.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.options.max_header_list_size = bytes;
        self
    }

    /// The size that a request's headers must stay below, in bytes and counted as in
    /// [`max_header_list_size`](Self::max_header_list_size), for servers whose SETTINGS do not say
    /// what they accept. From 1 KiB to 256 MiB; 1 MiB by default.
    ///
    /// If a server's SETTINGS have a limit (`SETTINGS_MAX_HEADER_LIST_SIZE`), that limit holds in
    /// place of this one, also when it changes. tonic's servers accept 16 KiB by default, and Java's
    /// 8 KiB. Go's accept 16 MiB, and send no limit unless the user sets one.
    ///
    /// A request whose headers are as large as the limit or larger is not sent: h2's servers refuse
    /// a request of exactly their limit too. The call fails with `INTERNAL`, as in Go's gRPC. The
    /// message has the size, the limit, and the name of the largest header, and never its value. The
    /// call is not tried on another server.
    pub fn max_request_header_list_size(mut self, bytes: u32) -> Self {
        self.options.max_request_header_list_size = bytes;
        self
    }

    /// `TCP_NODELAY`. On by default, as in tonic's channel. Has no effect with a
    /// [`connector`](Self::connector).
    pub fn tcp_nodelay(mut self, on: bool) -> Self {
        self.options.tcp_nodelay = on;
        self
    }

    /// Sends HTTP/2 keep-alive PINGs also while a connection has no calls, as gRPC's
    /// `GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS`. Has no effect without keep-alive.
    ///
    /// Off by default, because many servers close connections that send PINGs without calls. Go's
    /// servers permit it with `PermitWithoutStream` in `keepalive.EnforcementPolicy`; tonic's always
    /// permit it. Two such PINGs are sent at the interval of [`KeepAlive`], then one in five minutes
    /// until a response progresses. With [`KeepAlive::unthrottled`] all are sent at the interval.
    pub fn keep_alive_while_idle(mut self, on: bool) -> Self {
        self.options.keep_alive_while_idle = on;
        self
    }

    /// How long a connection may be silent before it is checked with a PING, which its next call
    /// waits for. From 10 ms to 24 h. 5 min by default: NATs and cloud load balancers forget idle
    /// connections after four to six minutes, and tell neither side. Unlike gRPC's idle timeout,
    /// this one does not close connections that answer.
    ///
    /// The first call that finds a connection idle sends a PING over it, and goes to another
    /// connected server. If there is no other server, the call waits until anything is read from
    /// this one. If nothing is read within 1 s, the call goes over a new connection.
    ///
    /// No more than two such PINGs are sent until a response progresses, because servers count
    /// PINGs (see [`KeepAlive`]). After those, a new connection replaces an idle one.
    /// [`KeepAlive::unthrottled`] lifts that limit. The idle timeout works without keep-alive too.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = Some(timeout);
        self
    }

    /// No idle timeout: calls go over a connection without a check, however long it was silent.
    pub fn without_idle_timeout(mut self) -> Self {
        self.options.idle_timeout = None;
        self
    }

    /// TCP's own keep-alive (`SO_KEEPALIVE`): after `time` without traffic the system sends a probe
    /// every `interval`, and the connection is lost after `retries` probes without an answer. Times
    /// are whole seconds from 1 to 32 767, and retries from 1 to 127, as on Linux.
    ///
    /// Off by default, because HTTP/2 keep-alive also detects frozen processes: their system still
    /// answers TCP's probes. The probes keep NATs from forgetting idle connections, and no server
    /// counts them. `interval` and `retries` are set only on Linux and Android; elsewhere the system
    /// decides. Has no effect on Unix sockets, or with a [`connector`](Self::connector).
    pub fn tcp_keepalive(mut self, time: Duration, interval: Duration, retries: u32) -> Self {
        self.options.tcp_keepalive = Some(TcpKeepalive { time, interval, retries });
        self
    }

    /// `TCP_USER_TIMEOUT` (gRFC A18): how long sent data may stay unacknowledged before the
    /// connection is lost. From 1 ms to 24 h, in whole milliseconds. Overrides the `retries` of
    /// [`tcp_keepalive`](Self::tcp_keepalive).
    ///
    /// By default the limit of the system holds, which is many minutes: HTTP/2 keep-alive is
    /// sooner. Has an effect only on Linux and Android, and none on Unix sockets or with a
    /// [`connector`](Self::connector).
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Self {
        self.options.tcp_user_timeout = Some(timeout);
        self
    }

    /// Calls every server over TLS, whatever scheme its record has, as the channel credentials of gRPC do. Unix sockets are
    /// called in plain text: they do not leave the host.
    ///
    /// | | a record with `https` | a record without a scheme, or with `http` |
    /// |---|---|---|
    /// | by default | not called: connecting fails, and the error names this setting | plain text |
    /// | `tls` | TLS | TLS |
    /// | [`tls_for_https`](Self::tls_for_https) | TLS | plain text |
    ///
    /// With `tls` a server that does not speak TLS is never called. So a record that was written without a scheme, by mistake or
    /// by somebody else, does not make calls go in plain text. Use it too if Go servers and clients share the records: Go's
    /// clients of etcd's naming do not understand records with a scheme.
    ///
    /// The features `tls-native-roots` and `tls-webpki-roots` do not turn on TLS to servers: they provide the root certificates
    /// of [`ClientTls::new`]. See [`ClientTls`] for certificates that are renewed.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self.settings.tls_only = true;
        self
    }

    /// Calls servers whose records have `https` over TLS, and the others in plain text. For a fleet that is moving to TLS.
    ///
    /// It gives no protection from anybody who can write records: the record decides whether a server is called over TLS.
    /// [`tls`](Self::tls) calls all servers over TLS.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    pub fn tls_for_https(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self.settings.tls_only = false;
        self
    }

    /// Connects with your own tower service in place of TCP and Unix sockets. A connector that was
    /// made for tonic's `Endpoint::connect_with_connector` fits as it is, if it is `Clone` and
    /// `Sync`: one channel connects to many servers. Its IO has hyper's traits (`hyper::rt::Read +
    /// Write`) or tokio's (`AsyncRead + AsyncWrite`), see [`ConnectorIo`].
    ///
    /// A clone of the connector is called for each connection, within the
    /// [`connect_timeout`](Self::connect_timeout), with `http://host:port/`, `https://host:port/`
    /// or `unix://localhost/path` (percent-encoded). It returns IO in plain text: for `https` the
    /// channel does TLS over it. If the connector fails or panics, the attempt to connect has
    /// failed, and another follows.
    ///
    /// ```
    /// use hyper_util::rt::TokioIo;
    /// use tokio::net::TcpStream;
    /// use tonic::transport::Uri;
    ///
    /// // As for tonic; without `TokioIo` it works as well.
    /// let connector = tower::service_fn(|uri: Uri| async move {
    ///     let host = uri.authority().expect("servers have addresses").to_string();
    ///     TcpStream::connect(host).await.map(TokioIo::new)
    /// });
    /// let builder = tonic_etcd::BalancedChannel::builder().connector(connector);
    /// ```
    pub fn connector<C, Traits: ?Sized>(mut self, connector: C) -> Self
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: ConnectorIo<Traits>,
        C::Error: Into<BoxError>,
        C::Future: Send,
    {
        self.connector = Some(Connector::new(connector));
        self
    }
}
