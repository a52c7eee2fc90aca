//! The settings of a connection, each with its default and the reason for it. `balance` and `etcd`
//! check them.

use std::sync::Arc;
use std::time::Duration;

use crate::connection::server_streams::ServerStreams;

/// A day: the maximum of every time that can be set. tokio's timers and `Instant`s bear no infinite
/// times.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The settings of all connections of a channel.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// From the resolution of the name to the server's SETTINGS. 5 s: a frozen process still
    /// accepts connections.
    pub(crate) connect_timeout: Duration,
    /// The part of it for SETTINGS, after the server has accepted, on top of `connect_timeout`.
    /// `None`: they must come within `connect_timeout` too.
    pub(crate) settings_timeout: Option<Duration>,
    /// Bytes of one response that may be unread. 2 MiB, as in hyper's client and so in tonic's
    /// channel.
    pub(crate) stream_window: u32,
    /// Bytes of all responses that may be unread. 2^31 - 1, the maximum of HTTP/2: an unread
    /// response must not stop the others.
    pub(crate) connection_window: u32,
    /// Bytes. 16 KiB, as in hyper's client.
    pub(crate) max_frame_size: u32,
    /// Bytes of a response's headers, and of its trailers. 1 MiB: error texts and details pass, and
    /// a response costs little memory. h2 is given a larger limit, see
    /// [`header_sizes`](crate::connection::exchange::header_sizes).
    pub(crate) max_header_list_size: u32,
    /// Bytes of a request's headers, for servers whose SETTINGS have no limit. 1 MiB. tonic's and
    /// Java's servers send one (16 and 8 KiB by default). Go's accept 16 MiB, and send no limit
    /// unless the user sets one.
    pub(crate) max_request_header_list_size: u32,
    /// On, as in tonic: calls are small and wait for each other.
    pub(crate) tcp_nodelay: bool,
    /// TCP's own probes. Off, as in tonic: HTTP/2 keep-alive also detects frozen processes.
    pub(crate) tcp_keepalive: Option<TcpKeepalive>,
    /// How long sent data may stay unacknowledged (gRFC A18). `None`: the limit of the system.
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) keep_alive: Option<KeepAlive>,
    /// The connection drains after so many exchanges. 2^30 - 2^16: HTTP/2 has ids for 2^30 (RFC
    /// 9113, 5.1.1), and 65 536 calls may be about to begin at that time.
    pub(crate) max_exchanges: u32,
    /// Keep-alive PINGs also while no call waits. Off, because many servers close connections for
    /// that.
    pub(crate) keep_alive_while_idle: bool,
    /// After so much silence the connection opens no stream until a PING is answered. `None`:
    /// never.
    pub(crate) idle_timeout: Option<Duration>,
    /// Of one server: counts the streams of all its connections. `None`: it has one connection, and
    /// no limit but its own.
    pub(crate) server_streams: Option<Arc<ServerStreams>>,
}

/// TCP's own keep-alive, see `SO_KEEPALIVE`. Linux takes whole seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpKeepalive {
    /// The silence before the first probe.
    pub(crate) time: Duration,
    /// The time between probes.
    pub(crate) interval: Duration,
    /// The number of unanswered probes that end the connection.
    pub(crate) retries: u32,
}

/// HTTP/2 keep-alive: detects servers that no longer respond.
///
/// A PING is sent after an interval in which nothing was read from the server, if a call is in flight
/// or was started in that interval. Whatever is read after the PING shows that the server is alive. If
/// nothing is read for the timeout after the PING was written, the connection is closed: its calls
/// fail, and a new connection is made. So a server that stops responding during a call is usually
/// detected after the interval plus the timeout, which is 30 s by default, and later if its streams
/// were silent before (see below). If the PING cannot be written, or
/// if the program itself stood still, the timeout counts once more: 40 s by default.
///
/// After one interval without calls, a connection gets no more of these PINGs, unless
/// [`BalancedChannelBuilder::keep_alive_while_idle`](crate::BalancedChannelBuilder::keep_alive_while_idle)
/// is set.
///
/// # Servers that count PINGs
/// Go, Java and C++ servers close connections that are pinged too often. By default they tolerate a
/// few PINGs that come less than five minutes after the one before (two hours without calls), and
/// every response resets their count. Therefore only two PINGs are sent while no response
/// progresses, and then one in five minutes. The price: once all streams of a connection have been
/// silent for two PINGs, about 40 s by default, a server that freezes may be detected only after
/// about five and a half minutes. [`KeepAlive::unthrottled`] avoids that. The end of the server's lease
/// stops new calls sooner, but does not end calls in flight.
///
/// If a server complains all the same (GOAWAY with `ENHANCE_YOUR_CALM` and `too_many_pings`), the
/// interval for that server doubles, as gRFC A8 asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) unthrottled: bool,
}

impl KeepAlive {
    /// Sends a PING after `interval` of silence, and closes the connection `timeout` later.
    ///
    /// Each is from 10 ms to 24 h; other values are an error when the channel is built.
    pub fn new(interval: Duration, timeout: Duration) -> Self {
        Self { interval, timeout, unthrottled: false }
    }

    /// Sends a PING at every interval of silence, without a limit. For servers that permit it: Go's
    /// servers with `keepalive.EnforcementPolicy` and a `MinTime` below the interval, and tonic's
    /// servers always.
    #[must_use]
    pub fn unthrottled(mut self) -> Self {
        self.unthrottled = true;
        self
    }

    /// Twice the interval, and a day at most. For servers that have complained of PINGs.
    pub(crate) fn with_doubled_interval(self) -> Self {
        Self { interval: self.interval.saturating_mul(2).min(MAX_TIME), ..self }
    }
}

impl Default for KeepAlive {
    /// An interval of 20 s and a timeout of 10 s: a server that freezes during a call is detected
    /// after 30 s, in rare cases after 40 s, and later if its streams were silent before (see
    /// [`KeepAlive`]).
    fn default() -> Self {
        Self::new(Duration::from_secs(20), Duration::from_secs(10))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            settings_timeout: None,
            stream_window: 2 << 20,
            connection_window: (1 << 31) - 1,
            max_frame_size: 16 << 10,
            max_header_list_size: 1 << 20,
            max_request_header_list_size: 1 << 20,
            tcp_nodelay: true,
            tcp_keepalive: None,
            tcp_user_timeout: None,
            keep_alive: Some(KeepAlive::default()),
            max_exchanges: (1 << 30) - (1 << 16),
            keep_alive_while_idle: false,
            idle_timeout: None,
            server_streams: None,
        }
    }
}
