//! What can be set of a channel's connections.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use crate::balance::builder::BalancedChannelBuilder;
#[cfg(feature = "_tls")]
use crate::connection::ClientTls;
use crate::connection::{Io, KeepAlive, TcpKeepalive};
use crate::error::BoxError;

/// The longest time that can be set; a longer one would be for ever.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
impl BalancedChannelBuilder {
    /// How long a connection may take, from the name's resolution to the server's HTTP/2 SETTINGS. 5 s by default: a frozen process
    /// still accepts connections. Values below 1 ms count as 1 ms, those above a day as a day.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout.clamp(Duration::from_millis(1), A_DAY);
        self
    }

    /// HTTP/2 keep-alive; on by default, as [`KeepAlive::default`] says.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.options.keep_alive = Some(keep_alive);
        self
    }

    /// No keep-alive: a server that freezes is then found out by nothing but the calls' deadlines.
    pub fn without_keep_alive(mut self) -> Self {
        self.options.keep_alive = None;
        self
    }

    /// How many bytes of one answer may be on their way, from 1 to 2³¹ − 1. 2 MiB by default, as with tonic's channel.
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.options.stream_window = bytes;
        self
    }

    /// The maximum number of bytes of all answers over one connection that were received and not read, from 65 535 to 2³¹ − 1.
    /// 2³¹ − 1 by default, all that HTTP/2 allows.
    ///
    /// A byte counts until its caller reads it, in this window and in its stream's: h2 couples the two. With a smaller window
    /// answers that nobody reads stop every other call over the connection once they fill it, three of them with tonic's 5 MiB
    /// and 2 MiB. A connection therefore buffers up to min(this window, concurrent streams ×
    /// [`stream_window`](Self::stream_window)) bytes, and about 250 bytes more for each DATA frame. Set a cap where memory
    /// matters more than that; concurrent streams × `stream_window` is one that stops nobody.
    pub fn connection_window(mut self, bytes: u32) -> Self {
        self.options.connection_window = bytes;
        self
    }

    /// The largest frame that servers may send, from 16 KiB to 16 MiB − 1. 16 KiB by default, as with tonic's channel.
    pub fn max_frame_size(mut self, bytes: u32) -> Self {
        self.options.max_frame_size = bytes;
        self
    }

    /// The maximum size of an answer's headers, and of its trailers, in bytes from 1 KiB to 256 MiB: names, values and 32 bytes
    /// for each, as HTTP/2 counts them (RFC 9113, 6.5.2). 1 MiB by default: error texts and details come whole, and no answer
    /// takes much memory. tonic's channel takes 16 KiB.
    ///
    /// Larger headers or trailers fail their own call with `RESOURCE_EXHAUSTED`. The text has the server's code, the size, and this
    /// limit. The call is not repeated.
    ///
    /// HTTP/2 itself takes 16 MiB, or 16 times this limit if that is more. (More again where
    /// [`max_frame_size`](Self::max_frame_size) is above 64 KiB, because servers may keep to small frames.) Beyond that the
    /// status is the same without the size. It lacks the server's code too, unless `grpc-status` comes first in trailers. An answer
    /// with more than 1.25 times HTTP/2's limit on the wire ends the connection. Its own call ends in the same way; the others
    /// over the connection end with `UNAVAILABLE`, and are repeated once at most, where [`RetryPolicy`](crate::RetryPolicy) lets them be.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.options.max_header_list_size = bytes;
        self
    }

    /// The maximum size of a request's headers, in bytes from 1 KiB to 256 MiB and counted as in
    /// [`max_header_list_size`](Self::max_header_list_size), towards a server whose SETTINGS do not say what it takes. 1 MiB by
    /// default. For others what they say holds in its place (`SETTINGS_MAX_HEADER_LIST_SIZE`, also when it changes): tonic's
    /// take 16 KiB by default, Java's 8 KiB. Go's take 16 MiB, and do not say so unless it is set.
    ///
    /// A request whose headers are as large as that or larger is not sent (h2's servers refuse exactly their limit too). It fails
    /// with `INTERNAL`, as in Go's gRPC; the text has the size, the limit, and the name of the largest header, and never its value.
    /// It is not repeated elsewhere.
    pub fn max_request_header_list_size(mut self, bytes: u32) -> Self {
        self.options.max_request_header_list_size = bytes;
        self
    }

    /// `TCP_NODELAY`; on by default, as with tonic's channel. It does nothing with a [`connector`](Self::connector).
    pub fn tcp_nodelay(mut self, on: bool) -> Self {
        self.options.tcp_nodelay = on;
        self
    }

    /// Sends HTTP/2 keep-alive pings also on connections without calls, as gRPC's `GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS`. Off by
    /// default, because servers end connections over that unless they are told to permit it (in Go, `keepalive.EnforcementPolicy`
    /// with `PermitWithoutStream`; tonic's always do). Two such pings come at the interval of [`KeepAlive`], then one in five
    /// minutes until an answer makes progress; all of them at its interval with [`KeepAlive::unthrottled`]. It does nothing
    /// without keep-alive.
    pub fn keep_alive_while_idle(mut self, on: bool) -> Self {
        self.options.keep_alive_while_idle = on;
        self
    }

    /// How long nothing may come over a connection before it must prove that it is alive. A call that finds it so sends it a PING,
    /// and goes to another server that is ready. The only server gets the call when it answers the PING, or anything else comes
    /// from it; where nothing does within 1 s, the call goes over a new connection. 5 min by default: NATs and cloud load balancers
    /// forget idle connections after four to six minutes, and tell nobody. Values below 10 ms count as 10 ms, those above a day
    /// as a day.
    ///
    /// At most two such pings are sent before a call is answered, because servers count pings (see [`KeepAlive`]); after that a new
    /// connection takes the place of the silent one. [`KeepAlive::unthrottled`] lifts that limit. This does not depend on
    /// keep-alive: it works without it too.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = Some(timeout.clamp(Duration::from_millis(10), A_DAY));
        self
    }

    /// Takes connections for alive however long they were silent: calls go over them without a PING before.
    pub fn without_idle_timeout(mut self) -> Self {
        self.options.idle_timeout = None;
        self
    }

    /// TCP's own keep-alive (`SO_KEEPALIVE`): probes after `time` without traffic, every `interval`; the connection is lost after
    /// `retries` probes without an answer. Off by default, because HTTP/2's keep-alive sees more: a frozen process still answers
    /// TCP's probes. They keep NATs from forgetting idle connections, and no server counts them.
    ///
    /// Times are whole seconds from 1 to 32 767, and retries from 1 to 127, as on Linux; what is outside counts as the nearest of
    /// them. `interval` and `retries` are set on Linux and Android alone; elsewhere they are the system's. It does nothing with
    /// Unix sockets and with a [`connector`](Self::connector).
    pub fn tcp_keepalive(mut self, time: Duration, interval: Duration, retries: u32) -> Self {
        self.options.tcp_keepalive = Some(TcpKeepalive::new(time, interval, retries));
        self
    }

    /// `TCP_USER_TIMEOUT` (gRFC A18): how long what was sent may stay unacknowledged before the connection is lost. Where
    /// [`tcp_keepalive`](Self::tcp_keepalive) is on, it overrides its `retries`. By default the system's own limit holds, which is
    /// many minutes: HTTP/2 keep-alive sees more. It counts whole milliseconds, from 1 ms to a day. On Linux and Android alone;
    /// elsewhere it does nothing, nor with Unix sockets or a [`connector`](Self::connector).
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Self {
        self.options.tcp_user_timeout = Some(timeout.clamp(Duration::from_millis(1), A_DAY));
        self
    }

    /// TLS for servers that are written as `https`. Without it they are refused, and never called in plain text. [`ClientTls`] says
    /// how certificates are given that are renewed.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// A way of one's own to a server, in place of TCP and Unix sockets: it is given `http://host:port/`,
    /// `https://host:port/` or `unix://localhost/path` (percent-encoded). TLS is laid over it where the server is written as `https`.
    pub fn connector<C>(mut self, connector: C) -> Self
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send,
    {
        self.connector = Some(Arc::new(move |uri| {
            let mut connector = connector.clone();
            Box::pin(async move {
                let said = |error: C::Error| error.into().to_string();
                std::future::poll_fn(|cx| connector.poll_ready(cx)).await.map_err(said)?;
                let io = connector.call(uri).await.map_err(said)?;
                Ok(Box::new(io) as Box<dyn Io>)
            })
        }));
        self
    }
}
