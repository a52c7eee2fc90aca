//! What one call counts, and each of its attempts.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use crate::balance::metrics::method::{AttemptNumbers, MethodMetrics};
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::runtime::nanos::Nanos;

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
    stage: Stage,
    /// Boxed, because few calls are made again.
    again: Option<Box<MadeAgain>>,
}

/// Whether a call has begun, and when: nanoseconds since the channel's epoch. The highest bit says that an attempt has no server
/// yet, so that the future of a call need not have room for more.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stage(u64);

impl Stage {
    /// Not polled yet, or over.
    const NONE: Self = Self(u64::MAX);
    const WAITING: u64 = 1 << 63;

    fn begun(now: Nanos) -> Self {
        Self(now.0 | Self::WAITING)
    }

    fn begun_at(self) -> Nanos {
        Nanos(self.0 & !Self::WAITING)
    }

    fn is_waiting(self) -> bool {
        self.0 & Self::WAITING != 0 && self != Self::NONE
    }

    fn waiting(self) -> Self {
        Self(self.0 | Self::WAITING)
    }

    fn sent(self) -> Self {
        Self(self.0 & !Self::WAITING)
    }
}

#[derive(Default)]
struct MadeAgain {
    retries: u32,
    transparent_retries: u32,
    hedges: u32,
    /// The time in which no attempt was active.
    delay: Duration,
    /// Since when none is.
    delayed_since: Option<Nanos>,
    /// When the call has begun its last attempt in a row.
    begun_at: Option<Nanos>,
}

impl MadeAgain {
    fn end_delay(&mut self, now: Nanos) {
        if let Some(since) = self.delayed_since.take() {
            self.delay = self.delay.saturating_add(now.since(since).time());
        }
    }
}

impl CallRecord {
    pub(super) fn new(method: Arc<MethodMetrics>) -> Self {
        Self { method, stage: Stage::NONE, again: None }
    }

    /// Begins the call and its first attempt. All times count from the channel's epoch.
    #[inline]
    pub(crate) fn begin(&mut self, now: Nanos) {
        self.stage = Stage::begun(now);
        self.method.started.add(1);
    }

    /// When the call has begun.
    #[inline]
    pub(crate) fn begun_at(&self) -> Nanos {
        self.stage.begun_at()
    }

    /// The attempt that has waited for a server is sent to one. Returns its record, and how long it has waited.
    #[inline]
    pub(crate) fn sent(&mut self, now: Nanos) -> (AttemptRecord, Nanos) {
        let waited = now.since(self.attempt_begun_at());
        self.stage = self.stage.sent();
        (AttemptRecord { method: self.method.clone(), sent: 0 }, waited)
    }

    #[inline]
    fn attempt_begun_at(&self) -> Nanos {
        self.again.as_ref().and_then(|again| again.begun_at).unwrap_or(self.stage.begun_at())
    }

    /// Begins another attempt, which looks for a server now. One before it that has found none has ended with its connection.
    #[cold]
    pub(crate) fn again(&mut self, why: Another, now: Nanos) {
        self.end_attempt(Code::Unavailable, now);
        self.count(why).begun_at = Some(now);
        self.stage = self.stage.waiting();
    }

    /// Begins another attempt, which has a server, beside those in flight.
    #[cold]
    pub(crate) fn beside(&mut self, why: Another) -> AttemptRecord {
        self.count(why);
        AttemptRecord { method: self.method.clone(), sent: 0 }
    }

    fn count(&mut self, why: Another) -> &mut MadeAgain {
        self.method.started.add(1);
        let again = self.again.get_or_insert_default();
        let count = match why {
            Another::Retry => &mut again.retries,
            Another::TransparentRetry => &mut again.transparent_retries,
            Another::Hedge => &mut again.hedges,
        };
        *count = count.saturating_add(1);
        again
    }

    /// Begins a time in which no attempt is active. It ends with the call at the latest.
    #[cold]
    pub(crate) fn begin_delay(&mut self, now: Nanos) {
        self.again.get_or_insert_default().delayed_since = Some(now);
    }

    /// An attempt that has no server yet begins now: the delay is none of its time.
    #[cold]
    pub(crate) fn end_delay(&mut self, now: Nanos) {
        if let Some(again) = &mut self.again {
            again.end_delay(now);
            again.begun_at = Some(now).filter(|_| self.stage.is_waiting()).or(again.begun_at);
        }
    }

    /// Ends the call, and with it an attempt that has no server. Only the first end counts.
    #[inline]
    pub(crate) fn end(&mut self, code: Code, now: Nanos) {
        if self.stage == Stage::NONE {
            return;
        }
        if self.stage.is_waiting() {
            self.end_attempt(code, now);
        }
        let begun_at = std::mem::replace(&mut self.stage, Stage::NONE).begun_at();
        if self.again.is_some() {
            self.end_again(now);
        }
        self.method.call_ended(code, now.since(begun_at).0);
    }

    /// Ends the call at this moment.
    #[cold]
    pub(crate) fn end_now(&mut self, code: Code) {
        self.end(code, self.method.now());
    }

    /// Ends an attempt that has no server, if there is one.
    #[cold]
    fn end_attempt(&mut self, code: Code, now: Nanos) {
        if self.stage.is_waiting() {
            let duration = now.since(self.attempt_begun_at()).0;
            self.stage = self.stage.sent();
            self.method.attempt_ended(code, AttemptNumbers { duration, sent: 0, received: 0 }, None);
        }
    }

    /// Zero is not recorded (gRFC A96).
    #[cold]
    fn end_again(&mut self, now: Nanos) {
        let Some(mut again) = self.again.take() else { return };
        again.end_delay(now);
        let of_method = self.method.again();
        for (count, histogram) in [
            (again.retries, &of_method.retries),
            (again.transparent_retries, &of_method.transparent_retries),
            (again.hedges, &of_method.hedges),
        ] {
            if count > 0 {
                histogram.record_count(count.into());
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
        if self.stage != Stage::NONE {
            self.end_now(Code::Cancelled);
        }
    }
}

/// The numbers of one attempt that was sent to a server. [`AttemptReporter`](crate::balance::call::reporter::AttemptReporter) has
/// it, and ends it once.
pub(crate) struct AttemptRecord {
    method: Arc<MethodMetrics>,
    /// Bytes of messages.
    pub(crate) sent: u64,
}

impl AttemptRecord {
    /// Ends the attempt, which has lasted so many nanoseconds and has received so many bytes of messages.
    #[inline]
    pub(crate) fn end(&self, code: Code, duration: u64, received: u64, server: &ReadySubchannel) {
        self.method.attempt_ended(code, AttemptNumbers { duration, sent: self.sent, received }, Some(server));
    }
}
