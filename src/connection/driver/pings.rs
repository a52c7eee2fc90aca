//! The PINGs of a connection: one at a time, and no more of them than servers forgive.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

use crate::connection::Shared;
use crate::connection::driver::read_tracking::LastRead;

/// Servers forgive so many pings after each answer (Go, Java and C++: three before the fourth is too many) …
const FORGIVEN: u32 = 2;
/// … and one in five minutes without any, while calls are in flight …
const SELDOM: Duration = Duration::from_secs(5 * 60 + 10);
/// … and one in two hours while none are.
const HARDLY_EVER: Duration = Duration::from_secs(2 * 60 * 60 + 10);
/// Between two pings, where one is asked for: etcd ends connections that are pinged more often than every 5 s.
const APART: Duration = Duration::from_millis(5_500);
/// The answer to a ping, which is no progress.
const PONG: u64 = 17;
/// A timer that is so late means that the runtime stood still; half of the time to wait, where that is less.
const LATE: Duration = Duration::from_secs(1);

pub(crate) struct Pings {
    h2: PingPong,
    last_read: Arc<LastRead>,
    /// The ping that nothing was read after.
    awaited: Option<Awaited>,
    last_sent: Option<Instant>,
    /// Pings since an answer made progress, and what had been read by the last of them.
    sent: u32,
    bytes: u64,
}

/// A ping that nothing was read after.
#[derive(Clone, Copy)]
pub(crate) struct Awaited {
    asked: Instant,
    /// When it left for the socket, as far as it has.
    written: Option<Instant>,
}

/// Whether calls wait for what is asked.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Activity {
    InFlight,
    Idle,
}

impl Pings {
    pub(crate) fn new(h2: PingPong, last_read: Arc<LastRead>) -> Self {
        Self { h2, last_read, awaited: None, last_sent: None, sent: 0, bytes: 0 }
    }

    /// When anything was last read.
    pub(crate) fn heard(&self) -> Instant {
        self.last_read.at()
    }

    /// How much was read in all.
    pub(crate) fn bytes(&self) -> u64 {
        self.last_read.bytes()
    }

    /// After each poll of the connection.
    pub(crate) fn see(&mut self) {
        if let Some(awaited) = &mut self.awaited
            && awaited.written.is_none()
            && self.last_read.is_flushed()
        {
            awaited.written = Some(Instant::now());
        }
    }

    /// The ping that is out, if nothing was read since it was asked for.
    pub(crate) fn awaited(&mut self) -> Option<Awaited> {
        let heard = self.heard();
        self.awaited = self.awaited.filter(|awaited| heard < awaited.asked);
        self.awaited
    }

    pub(crate) fn send(&mut self, now: Instant, cx: &mut Context<'_>) {
        // The answer itself counts as something read; taking it lets the next ping be sent. One that is still on its way
        // does as well.
        drop(self.h2.poll_pong(cx));
        drop(self.h2.send_ping(Ping::opaque()));
        self.awaited = Some(Awaited { asked: now, written: None });
        self.last_sent = Some(now);
        self.last_read.pings();
        (self.sent, self.bytes) = (self.sent + 1, self.last_read.bytes());
        // The connection writes it at its next poll.
        cx.waker().wake_by_ref();
    }

    /// Whether a ping was sent a moment ago.
    pub(crate) fn is_just_sent(&self, now: Instant) -> bool {
        self.last_sent.is_some_and(|last| now.duration_since(last) < APART)
    }

    /// Whether servers that count pings would forgive a further one.
    pub(crate) fn may_send(&mut self, shared: &Shared, now: Instant, activity: Activity) -> bool {
        // Taken by a caller and come since: what is read late was sent before.
        let came = self.last_read.bytes() - self.bytes > PONG;
        if shared.progress.swap(false, Ordering::Relaxed) && came {
            self.sent = 0;
        }
        let apart = match activity {
            Activity::InFlight => SELDOM,
            Activity::Idle => HARDLY_EVER,
        };
        self.sent < FORGIVEN || self.last_sent.is_none_or(|last| now.duration_since(last) >= apart)
    }
}

/// The time that the answer to one ping has, from when the ping was written.
pub(crate) struct PingTimeout {
    time: Duration,
    asked: Instant,
    /// Once for each ping: the look was late, or the ping could not be written.
    extended: Option<Instant>,
}

impl PingTimeout {
    pub(crate) fn new(time: Duration) -> Self {
        Self { time, asked: Instant::now(), extended: None }
    }

    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// When to look next; none when the time is over.
    pub(crate) fn until(&mut self, now: Instant, ping: Awaited) -> Option<Instant> {
        if self.asked != ping.asked {
            (self.asked, self.extended) = (ping.asked, None);
        }
        let end = self.extended.unwrap_or(ping.written.unwrap_or(ping.asked) + self.time);
        if now < end {
            return Some(end);
        }
        let is_late = now >= end + LATE.min(self.time / 2);
        if self.extended.is_none() && (is_late || ping.written.is_none()) {
            self.extended = Some(now + self.time);
        }
        self.extended.filter(|end| now < *end)
    }
}
