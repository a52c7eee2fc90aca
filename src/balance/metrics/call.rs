//! What one call counts, and each of its attempts.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use crate::balance::metrics::method::{AttemptNumbers, MethodMetrics};
use crate::balance::pool::ready::ReadySubchannel;

/// A time since the channel's epoch, in nanoseconds: half as large as a `Duration`, because the future of a call has no room.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Nanos(u64);

impl Nanos {
    /// Of what has not begun, or is over.
    const NONE: Self = Self(u64::MAX);

    fn new(time: Duration) -> Self {
        Self(time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos().into()))
    }

    fn until(self, end: Duration) -> Duration {
        Duration::from_nanos(Self::new(end).0.saturating_sub(self.0))
    }
}

/// Why a call has a further attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Another {
    /// Its policy retries it, or it takes the place of an attempt that was given up after its time.
    Retry,
    /// No server has processed the attempt before (gRFC A6).
    TransparentRetry,
    /// It is sent beside attempts in flight.
    Hedge,
}

/// The numbers of one call, from its first poll to the end of its response. Dropped before that, it counts as cancelled.
///
/// A call begins with an attempt, and each attempt with the wait for its server. One that never has a server ends with its call.
pub(crate) struct CallRecord {
    method: Arc<MethodMetrics>,
    /// [`Nanos::NONE`] before the call and after it.
    begun_at: Nanos,
    /// Of the attempt that has no server yet. [`Nanos::NONE`] if there is none.
    attempt_begun_at: Nanos,
    /// Of the few calls that are made again.
    again: Option<Box<MadeAgain>>,
}

#[derive(Default)]
struct MadeAgain {
    retries: u32,
    transparent_retries: u32,
    hedges: u32,
    /// The time in which no attempt was active.
    delay: Duration,
}

impl CallRecord {
    pub(super) fn new(method: Arc<MethodMetrics>) -> Self {
        Self { method, begun_at: Nanos::NONE, attempt_begun_at: Nanos::NONE, again: None }
    }

    /// Begins the call and its first attempt. All times count from the channel's epoch.
    #[inline]
    pub(crate) fn begin(&mut self, now: Duration) {
        self.begun_at = Nanos::new(now);
        self.attempt_begun_at = self.begun_at;
        self.method.started.add(1);
    }

    /// The attempt that has waited for a server is sent to one.
    #[inline]
    pub(crate) fn sent(&mut self, now: Duration) -> AttemptRecord {
        let begun_at = std::mem::replace(&mut self.attempt_begun_at, Nanos::NONE);
        let begun_at = if begun_at == Nanos::NONE { Nanos::new(now) } else { begun_at };
        AttemptRecord { method: self.method.clone(), begun_at, sent: 0, received: 0 }
    }

    /// Begins another attempt, which looks for a server now. One before it that has found none has ended with its connection.
    #[cold]
    pub(crate) fn again(&mut self, why: Another, now: Duration) {
        self.end_attempt(Code::Unavailable, now);
        self.count(why);
        self.attempt_begun_at = Nanos::new(now);
    }

    /// Begins another attempt, which has a server, beside those in flight.
    #[cold]
    pub(crate) fn beside(&mut self, why: Another, now: Duration) -> AttemptRecord {
        self.count(why);
        AttemptRecord { method: self.method.clone(), begun_at: Nanos::new(now), sent: 0, received: 0 }
    }

    fn count(&mut self, why: Another) {
        let again = self.again.get_or_insert_default();
        let count = match why {
            Another::Retry => &mut again.retries,
            Another::TransparentRetry => &mut again.transparent_retries,
            Another::Hedge => &mut again.hedges,
        };
        *count = count.saturating_add(1);
        self.method.started.add(1);
    }

    /// Adds a time in which no attempt was active.
    #[cold]
    pub(crate) fn add_delay(&mut self, delay: Duration) {
        let again = self.again.get_or_insert_default();
        again.delay = again.delay.saturating_add(delay);
    }

    /// Ends the call, and with it an attempt that has no server. Only the first end counts.
    #[inline]
    pub(crate) fn end(&mut self, code: Code, now: Duration) {
        if self.begun_at == Nanos::NONE {
            return;
        }
        self.end_attempt(code, now);
        let begun_at = std::mem::replace(&mut self.begun_at, Nanos::NONE);
        if let Some(again) = self.again.take() {
            self.end_again(&again);
        }
        self.method.call_ended(code, begun_at.until(now));
    }

    /// Ends the call at this moment.
    #[cold]
    pub(crate) fn end_now(&mut self, code: Code) {
        let now = self.method.now();
        self.end(code, now);
    }

    #[inline]
    fn end_attempt(&mut self, code: Code, now: Duration) {
        if self.attempt_begun_at != Nanos::NONE {
            let duration = self.attempt_begun_at.until(now);
            self.attempt_begun_at = Nanos::NONE;
            self.method.attempt_ended(code, AttemptNumbers { duration, sent: 0, received: 0 }, None);
        }
    }

    /// Zero is not recorded (gRFC A96).
    #[cold]
    fn end_again(&self, again: &MadeAgain) {
        let of_method = self.method.again();
        for (count, histogram) in [
            (again.retries, &of_method.retries),
            (again.transparent_retries, &of_method.transparent_retries),
            (again.hedges, &of_method.hedges),
        ] {
            if count > 0 {
                histogram.record(count.into());
            }
        }
        if !again.delay.is_zero() {
            of_method.retry_delay.record_time(again.delay);
        }
    }
}

impl Drop for CallRecord {
    #[inline]
    fn drop(&mut self) {
        if self.begun_at != Nanos::NONE {
            self.end_now(Code::Cancelled);
        }
    }
}

/// The numbers of one attempt that was sent to a server. [`AttemptReporter`](crate::balance::call::reporter::AttemptReporter) has
/// it, and ends it once.
pub(crate) struct AttemptRecord {
    method: Arc<MethodMetrics>,
    /// With the wait for its server.
    begun_at: Nanos,
    /// Bytes of messages.
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl AttemptRecord {
    #[inline]
    pub(crate) fn end(&self, code: Code, now: Duration, server: &ReadySubchannel) {
        let duration = self.begun_at.until(now);
        self.method.attempt_ended(
            code,
            AttemptNumbers { duration, sent: self.sent, received: self.received },
            Some(server),
        );
    }
}
