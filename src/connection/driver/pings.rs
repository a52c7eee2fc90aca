//! The PINGs of a connection: one at a time, and no more than servers with ping enforcement
//! tolerate.
//!
//! Go, Java and C++ close a connection with `too_many_pings` (gRFC A8) on the fourth PING since a
//! response, if each came too soon after the one before: in less than five minutes, or two hours
//! while no call is in flight. A response resets their count. etcd closes connections that are
//! pinged more often than every 5 s.
//!
//! There are four reasons for a PING: keep-alive after silence, a probe of an idle connection, a
//! request of etcd's side, which asks whether a late response comes from a slow or from a dead
//! member, and the proof that a server lives which etcd has lost. All of them share one
//! [`PingSender`], because servers count all PINGs of a connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

use crate::connection::driver::read_tracking::IoActivity;
use crate::connection::shared::Shared;

/// How many PINGs may follow a response without a pause. Servers tolerate three; one is kept back
/// for a PING on request.
const FREE_PINGS: u32 = 2;
/// The pause between further PINGs while calls are in flight: Go's five minutes, and 10 s for
/// networks that delay the first.
pub(crate) const PAUSE_IN_FLIGHT: Duration = Duration::from_secs(5 * 60 + 10);
/// The pause between further PINGs while no call is in flight: two hours, and the same 10 s.
pub(crate) const PAUSE_IDLE: Duration = Duration::from_secs(2 * 60 * 60 + 10);
/// The pause before a PING on request: etcd closes connections that are pinged more often than
/// every 5 s.
const PAUSE_ON_REQUEST: Duration = Duration::from_millis(5_500);
/// The size of a PING frame. The acknowledgement of a PING is no progress of a response.
const PING_SIZE: u64 = 17;
/// A timer that fires so much too late shows that the runtime stood still. For timeouts below 2 s
/// it is half of them.
const LATE: Duration = Duration::from_secs(1);

/// Sends PINGs and remembers the last one. [`KeepAliveTimer`](super::keepalive::KeepAliveTimer) and
/// [`IdleTimer`](super::idle::IdleTimer) share it. A PING is answered by whatever is read after it:
/// h2 does not need to be asked for its acknowledgement, and a server that sends frames is alive.
pub(crate) struct PingSender {
    h2: PingPong,
    activity: Arc<IoActivity>,
    /// The last PING, unless something was read after it.
    unanswered: Option<PendingPing>,
    last_sent: Option<Instant>,
    /// The number of PINGs since a response made progress.
    sent: u32,
    /// The number of bytes that had been read when the last of them was sent.
    bytes_at_last: u64,
}

/// A PING after which nothing was read.
#[derive(Clone, Copy)]
pub(crate) struct PendingPing {
    queued_at: Instant,
    /// When it was written to the socket; `None` while it is queued in h2.
    written_at: Option<Instant>,
}

impl PingSender {
    /// No PING was sent yet.
    pub(crate) fn new(h2: PingPong, activity: Arc<IoActivity>) -> Self {
        Self { h2, activity, unanswered: None, last_sent: None, sent: 0, bytes_at_last: 0 }
    }

    /// When anything was last read.
    pub(crate) fn last_read(&self) -> Instant {
        self.activity.last_read()
    }

    /// The number of bytes that were read in all.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.activity.bytes_read()
    }

    /// Called after each poll of h2. Notes when the last PING was written: its timeout begins then.
    pub(crate) fn observe(&mut self) {
        if let Some(ping) = &mut self.unanswered
            && ping.written_at.is_none()
            && self.activity.is_flushed()
        {
            ping.written_at = Some(Instant::now());
        }
    }

    /// The last PING, if nothing was read since it was queued. Whatever is read answers it.
    pub(crate) fn unanswered(&mut self) -> Option<PendingPing> {
        let last_read = self.last_read();
        self.unanswered = self.unanswered.filter(|ping| last_read < ping.queued_at);
        self.unanswered
    }

    /// Queues a PING. h2 writes it at its next poll, for which this wakes the task.
    pub(crate) fn send(&mut self, now: Instant, cx: &mut Context<'_>) {
        // h2 sends no PING while one is unanswered, and does not say that the acknowledgement of
        // the last one has come until it is polled. If it has not come yet, `send_ping` fails, and
        // the PING that is on its way serves as well.
        drop(self.h2.poll_pong(cx));
        drop(self.h2.send_ping(Ping::opaque()));
        self.unanswered = Some(PendingPing { queued_at: now, written_at: None });
        self.last_sent = Some(now);
        self.activity.record_ping();
        self.sent += 1;
        self.bytes_at_last = self.bytes_read();
        cx.waker().wake_by_ref();
    }

    /// Queues a PING on request, unless one is unanswered or was sent a moment ago.
    pub(crate) fn send_on_request(&mut self, now: Instant, cx: &mut Context<'_>) {
        let is_recent = self.last_sent.is_some_and(|last| now.duration_since(last) < PAUSE_ON_REQUEST);
        if self.unanswered().is_none() && !is_recent {
            self.send(now, cx);
        }
    }

    /// Whether servers that count PINGs tolerate another one, `pause` after the last:
    /// [`PAUSE_IN_FLIGHT`] or [`PAUSE_IDLE`].
    pub(crate) fn is_allowed(&mut self, now: Instant, pause: Duration, shared: &Shared) -> bool {
        self.is_below(FREE_PINGS, now, pause, shared)
    }

    /// The same of the PING that is kept back.
    pub(crate) fn is_one_more_allowed(&mut self, now: Instant, pause: Duration, shared: &Shared) -> bool {
        self.is_below(FREE_PINGS + 1, now, pause, shared)
    }

    fn is_below(&mut self, free: u32, now: Instant, pause: Duration, shared: &Shared) -> bool {
        let has_progress = shared.has_progress.swap(false, Ordering::Relaxed);
        // Progress that a caller takes late may have been read before the last PING: the bytes
        // tell.
        if has_progress && self.bytes_read() - self.bytes_at_last > PING_SIZE {
            self.sent = 0;
        }
        self.sent < free || self.last_sent.is_none_or(|last| now.duration_since(last) >= pause)
    }
}

/// The time for the answer to a PING. It begins when the PING is written, and is extended once
/// if this side was slow.
pub(crate) struct PingTimeout {
    timeout: Duration,
    /// The PING that is timed.
    queued_at: Option<Instant>,
    /// The extended deadline of that PING.
    extended: Option<Instant>,
}

impl PingTimeout {
    /// Times no PING yet.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, queued_at: None, extended: None }
    }

    /// The deadline of this PING; `None` when it has passed. Extends it once, if the PING is not
    /// written by then or this check comes late: the answer may lie in the socket, which h2 reads
    /// before the next check.
    pub(crate) fn deadline(&mut self, now: Instant, ping: PendingPing) -> Option<Instant> {
        if self.queued_at != Some(ping.queued_at) {
            (self.queued_at, self.extended) = (Some(ping.queued_at), None);
        }
        let deadline = self.extended.unwrap_or(ping.written_at.unwrap_or(ping.queued_at) + self.timeout);
        if now < deadline {
            return Some(deadline);
        }
        let is_late = now >= deadline + LATE.min(self.timeout / 2);
        if self.extended.is_none() && (is_late || ping.written_at.is_none()) {
            self.extended = Some(now + self.timeout);
        }
        self.extended.filter(|deadline| now < *deadline)
    }
}
