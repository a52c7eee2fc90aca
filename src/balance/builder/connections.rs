//! The settings of a channel's connections.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use crate::balance::builder::{BalancedChannelBuilder, check_range};
#[cfg(feature = "_tls")]
use crate::connection::ClientTls;
use crate::connection::{Io, KeepAlive, Options, TcpKeepalive};
use crate::error::{BoxError, Error};

/// Refuses settings outside of their ranges. The error names setting, value and range.
pub(super) fn check(options: &Options) -> Result<(), Error> {
    // tokio's timers count milliseconds, and overflow after some years. A day is more than any setting needs.
    let (shortest, longest) = (Duration::from_millis(1), Duration::from_secs(24 * 60 * 60));
    check_range("connect timeout", options.connect_timeout, shortest..=longest)?;
    // What HTTP/2 allows (RFC 9113, 6.5.2 and 6.9.1).
    check_range("stream window", options.stream_window, 1..=(1 << 31) - 1)?;
    check_range("connection window", options.connection_window, 65_535..=(1 << 31) - 1)?;
    check_range("frame size", options.max_frame_size, (1 << 14)..=(1 << 24) - 1)?;
    // h2 is given 16 times the limit, and HTTP/2's settings hold 32 bits.
    check_range("header list size", options.max_header_list_size, 1024..=1 << 28)?;
    check_range("request header list size", options.max_request_header_list_size, 1024..=1 << 28)?;
    if let Some(timeout) = options.idle_timeout {
        // A shorter one would probe connections that are in use.
        check_range("idle timeout", timeout, Duration::from_millis(10)..=longest)?;
    }
    if let Some(timeout) = options.tcp_user_timeout {
        check_range("TCP user timeout", timeout, shortest..=longest)?;
    }
    if let Some(TcpKeepalive { time, interval, retries }) = options.tcp_keepalive {
        // What Linux takes.
        let times = Duration::from_secs(1)..=Duration::from_secs(32_767);
        check_range("TCP keep-alive time", time, times.clone())?;
        check_range("TCP keep-alive interval", interval, times)?;
        check_range("TCP keep-alive retries", retries, 1..=127)?;
    }
    Ok(())
}

impl BalancedChannelBuilder {
    /// Sets how long a connection may take, from the resolution of its name to the server's HTTP/2 SETTINGS. From 1 ms to a day.
    ///
    /// 5 s by default: a frozen process still accepts connections.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// Sets HTTP/2 keep-alive, which finds frozen servers. On by default, with the times of [`KeepAlive::default`].
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.options.keep_alive = Some(keep_alive);
        self
    }

    /// Turns HTTP/2 keep-alive off. Calls to a server that freezes then end with their deadlines alone.
    pub fn without_keep_alive(mut self) -> Self {
        self.options.keep_alive = None;
        self
    }

    /// Sets how many bytes of one response a server may send before the caller reads them (HTTP/2's window of a stream), from 1 to
    /// 2³¹ − 1. 2 MiB by default, as with tonic's channel.
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.options.stream_window = bytes;
        self
    }

    /// Sets how many bytes of all responses over one connection may be received and not yet read, from 65 535 to 2³¹ − 1.
    /// 2³¹ − 1 by default, all that HTTP/2 allows: an unread response then stops no other.
    ///
    /// A byte counts until its caller reads it, in this window and in its stream's: h2 couples the two. With a smaller window,
    /// unread responses stop every other call over the connection once they fill it; with tonic's 5 MiB and 2 MiB
    /// three of them do. A connection therefore buffers up to min(this window, concurrent streams ×
    /// [`stream_window`](Self::stream_window)) bytes, and about 250 bytes more for each DATA frame. Set a smaller one where memory
    /// matters more than that; concurrent streams × `stream_window` is one that stops no call.
    pub fn connection_window(mut self, bytes: u32) -> Self {
        self.options.connection_window = bytes;
        self
    }

    /// Sets the largest frame that servers may send, from 16 KiB to 16 MiB − 1. 16 KiB by default, as with tonic's channel.
    pub fn max_frame_size(mut self, bytes: u32) -> Self {
        self.options.max_frame_size = bytes;
        self
    }

    /// Sets the maximum size of the headers of a response, and of its trailers, in bytes from 1 KiB to 256 MiB. Each header counts
    /// as its name, its value and 32 bytes (RFC 9113, 6.5.2).
    ///
    /// 1 MiB by default: error texts and details arrive as a whole, and no response takes much memory. tonic's channel takes
    /// 16 KiB.
    ///
    /// Larger headers or trailers fail their own call with `RESOURCE_EXHAUSTED`. The text has the server's code, the size, and this
    /// limit. The call is not repeated.
    ///
    /// HTTP/2 itself takes 16 MiB, or 16 times this limit if that is more. (More again where
    /// [`max_frame_size`](Self::max_frame_size) is above 64 KiB, because servers may keep to small frames.) Beyond that the
    /// status is the same without the size. It lacks the server's code too, unless `grpc-status` comes first in trailers. A response
    /// with more than 1.25 times HTTP/2's limit on the wire ends the connection. Its own call ends in the same way; the others over
    /// the connection end with `UNAVAILABLE`, and are repeated once at most, where [`RetryPolicy`](crate::RetryPolicy) allows it.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.options.max_header_list_size = bytes;
        self
    }

    /// Sets the maximum size of the headers of a request to a server whose SETTINGS name no limit, in bytes from 1 KiB to 256 MiB,
    /// counted as in [`max_header_list_size`](Self::max_header_list_size). 1 MiB by default.
    ///
    /// For other servers their own limit holds (`SETTINGS_MAX_HEADER_LIST_SIZE`, also when it changes): tonic's take 16 KiB by
    /// default, Java's 8 KiB. Go's take 16 MiB, and announce it only where it was set.
    ///
    /// A request whose headers are as large as the limit or larger is not sent (h2's servers refuse exactly their limit too). It
    /// fails with `INTERNAL`, as in Go's gRPC. The text has the size, the limit, and the name of the largest header, and never its
    /// value. The call is not repeated elsewhere.
    pub fn max_request_header_list_size(mut self, bytes: u32) -> Self {
        self.options.max_request_header_list_size = bytes;
        self
    }

    /// Sets `TCP_NODELAY`. On by default, as with tonic's channel. It does nothing with a [`connector`](Self::connector).
    pub fn tcp_nodelay(mut self, on: bool) -> Self {
        self.options.tcp_nodelay = on;
        self
    }

    /// Sets whether HTTP/2 keep-alive PINGs are sent on connections without calls too (gRPC's
    /// `GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS`).
    ///
    /// Off by default, because servers end connections over that unless they are configured to permit it (in Go,
    /// `keepalive.EnforcementPolicy` with `PermitWithoutStream`; tonic's always do). Two such PINGs come at the interval of
    /// [`KeepAlive`], then one in five minutes until a response makes progress; all of them at its interval with
    /// [`KeepAlive::unthrottled`]. It does nothing without keep-alive.
    pub fn keep_alive_while_idle(mut self, on: bool) -> Self {
        self.options.keep_alive_while_idle = on;
        self
    }

    /// Sets after how long a silence a connection must answer a PING before it gets a call, from 10 ms to a day. 5 min by default:
    /// NATs and cloud load balancers forget idle connections after four to six minutes without telling either end.
    ///
    /// A call that finds such a connection sends the PING, and goes to another server that is ready. Where there is no other, it
    /// waits until the server answers or sends anything else; after 1 s without, it goes over a new connection.
    ///
    /// At most two such PINGs are sent before a call is answered, because servers count PINGs (see [`KeepAlive`]); after that a new
    /// connection replaces the silent one. [`KeepAlive::unthrottled`] lifts that limit. The setting works without keep-alive too.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = Some(timeout);
        self
    }

    /// Turns the idle timeout off: calls go over a connection however long it was silent.
    pub fn without_idle_timeout(mut self) -> Self {
        self.options.idle_timeout = None;
        self
    }

    /// Sets TCP's own keep-alive (`SO_KEEPALIVE`): probes after `time` without traffic, then every `interval`. The connection is
    /// lost after `retries` probes without an answer.
    ///
    /// Off by default, because HTTP/2 keep-alive detects more: a frozen process still answers TCP's probes. The probes keep NATs
    /// from forgetting idle connections, and no server counts them.
    ///
    /// Times are from 1 to 32 767 s, of which the system takes whole seconds; retries are from 1 to 127, as on Linux. `interval`
    /// and `retries` are used on Linux and Android alone; elsewhere they are the system's. It does nothing with Unix sockets and
    /// with a [`connector`](Self::connector).
    pub fn tcp_keepalive(mut self, time: Duration, interval: Duration, retries: u32) -> Self {
        self.options.tcp_keepalive = Some(TcpKeepalive { time, interval, retries });
        self
    }

    /// Sets `TCP_USER_TIMEOUT` (gRFC A18): how long sent data may stay unacknowledged before the connection is lost. From 1 ms to a
    /// day, in whole milliseconds.
    ///
    /// By default the system's limit holds, which is many minutes: HTTP/2 keep-alive is faster. Where
    /// [`tcp_keepalive`](Self::tcp_keepalive) is on, it overrides its `retries`. On Linux and Android alone; elsewhere it does
    /// nothing, nor with Unix sockets or a [`connector`](Self::connector).
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Self {
        self.options.tcp_user_timeout = Some(timeout);
        self
    }

    /// Sets TLS for servers that are registered as `https`. Without it they are refused, and never called in plain text.
    /// [`ClientTls`] describes how certificates are renewed.
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
