//! How connections are made and kept, each option with its default and reason.

use std::time::Duration;

/// Settings of every connection of a channel.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// From the first packet to the server's SETTINGS. 5 s: a frozen process still accepts connections.
    pub(crate) connect_timeout: Duration,
    /// For the server's SETTINGS alone, once it has accepted; without it they too must come within the connect timeout.
    pub(crate) settings_timeout: Option<Duration>,
    /// 2 MiB, as hyper's client and so tonic's channel has it.
    pub(crate) stream_window: u32,
    /// 2^31 - 1 bytes, all that HTTP/2 allows: what one answer leaves unread must not stop the others.
    pub(crate) connection_window: u32,
    /// 16 KiB, likewise.
    pub(crate) max_frame_size: u32,
    /// 1 MiB, for the headers of an answer, and for its trailers: below it error texts and details are let through, and one
    /// answer costs little memory. h2 is given more, see `headers.rs`.
    pub(crate) max_header_list_size: u32,
    /// 1 MiB, for the headers of a request to a server whose SETTINGS do not say what it takes. tonic's and Java's say so (16
    /// and 8 KiB by default); Go's, which do not unless it is set, take 16 MiB.
    pub(crate) max_request_header_list_size: u32,
    /// On, as with tonic: calls are small and wait for each other.
    pub(crate) tcp_nodelay: bool,
    /// TCP's own probes; off, as with tonic: HTTP/2's are better.
    pub(crate) tcp_keepalive: Option<TcpKeepalive>,
    /// How long what was sent may stay unacknowledged (gRFC A18); the system's own limit by default.
    pub(crate) tcp_user_timeout: Option<Duration>,
    pub(crate) keep_alive: Option<KeepAlive>,
    /// A connection is replaced after so many exchanges. 2^30 - 2^16: it has ids for 2^30 (RFC 9113, 5.1.1), and 65 536 calls may be
    /// about to begin meanwhile.
    pub(crate) most_exchanges: u32,
    /// Keep-alive pings also where no call waits; off, because many servers end connections over that.
    pub(crate) keep_alive_while_idle: bool,
    /// After so much silence a connection takes no exchange until a PING is answered; never by default.
    pub(crate) idle_timeout: Option<Duration>,
}

/// TCP's own keep-alive. The channel's builder has checked that the values are within what Linux takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpKeepalive {
    pub(crate) time: Duration,
    pub(crate) interval: Duration,
    pub(crate) retries: u32,
}

/// HTTP/2 keep-alive: how a server that has gone silent is found out.
///
/// A PING is sent when calls are in flight, or were since the last look, and nothing at all has come from the server for
/// `interval`. The connection is taken for dead when still nothing has come `timeout` after the PING was written: its calls fail,
/// and it is made anew. Where the PING cannot be written, or the program itself stood still meanwhile, `timeout` counts once more:
/// a silent server is found out within `interval` and twice `timeout`. An idle connection is left alone, unless
/// [`BalancedChannelBuilder::keep_alive_while_idle`](crate::BalancedChannelBuilder::keep_alive_while_idle) is set.
///
/// That is safe with servers that count pings, as Go's, Java's and C++'s do by default. They end the connection over the third one
/// too many; too many are those that come sooner than five minutes after the one before (two hours without calls), and each answer
/// of theirs forgives all. So while no answer makes progress only two are sent, and then one in five minutes. On a connection
/// whose calls have all been quiet for longer than that (idle streams of a server) a freeze is found out within five minutes and
/// `timeout`, unless [`KeepAlive::unthrottled`] is set; where the server is registered under a lease, that mostly ends before. A
/// server that complains all the same (GOAWAY with `ENHANCE_YOUR_CALM` and `too_many_pings`) is pinged half as often from then on,
/// as gRFC A8 asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) unthrottled: bool,
}

impl KeepAlive {
    /// A PING after `interval` of silence, and `timeout` for its answer. For each of them, values below 10 ms count as 10 ms, and
    /// those above a day as a day.
    pub fn new(interval: Duration, timeout: Duration) -> Self {
        let (least, most) = (Duration::from_millis(10), Duration::from_secs(24 * 60 * 60));
        Self { interval: interval.clamp(least, most), timeout: timeout.clamp(least, most), unthrottled: false }
    }

    /// Pings at each interval of silence, however long no answer comes: for servers that permit it (in Go,
    /// `keepalive.EnforcementPolicy` with a `MinTime` below the interval; tonic's always do).
    #[must_use]
    pub fn unthrottled(mut self) -> Self {
        self.unthrottled = true;
        self
    }

    /// Half as often.
    pub(crate) fn doubled(self) -> Self {
        Self { unthrottled: self.unthrottled, ..Self::new(self.interval.saturating_mul(2), self.timeout) }
    }
}

impl Default for KeepAlive {
    /// 20 s and 10 s: a server that freezes in the middle of its answers is found out within half a minute.
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
            most_exchanges: (1 << 30) - (1 << 16),
            keep_alive_while_idle: false,
            idle_timeout: None,
        }
    }
}
