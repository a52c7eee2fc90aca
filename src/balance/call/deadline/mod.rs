//! The deadline of a call: parsed from `grpc-timeout`, sent on with each attempt, and watched by a timer.

mod grpc_timeout;

use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::runtime::timer::Timer;
use crate::balance::status;

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The granularity of tokio's timers: they fire up to this much late.
const TIMER_GRANULARITY: Duration = Duration::from_millis(1);

/// The time at which a call must be over: from its first poll to the end of its response, whatever lies between.
///
/// It is fixed when the call begins. An attempt sends what is left of it, so that a later attempt announces less.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// The time that the call was given, for texts.
    pub(crate) timeout: Duration,
}

impl Deadline {
    /// Returns the earlier of what the call asks for (`grpc-timeout`) and what the channel gives it.
    ///
    /// `None` if neither has a limit, and if the limit is too far away for the clock.
    #[inline]
    pub(crate) fn new(grpc_timeout: Option<&HeaderValue>, limit: Option<Duration>, now: Instant) -> Option<Self> {
        let requested = grpc_timeout.and_then(|value| grpc_timeout::parse(value.as_bytes()));
        let timeout = match (requested, limit) {
            (Some(requested), Some(limit)) => requested.min(limit),
            (requested, limit) => requested.or(limit)?,
        };
        Self::of(timeout, now)
    }

    /// Returns the deadline of a call that begins now. `None` if it is too far away for the clock.
    #[inline]
    pub(crate) fn of(timeout: Duration, now: Instant) -> Option<Self> {
        Some(Self { at: now.checked_add(timeout)?, timeout })
    }

    pub(crate) fn has_passed(&self) -> bool {
        Instant::now() >= self.at
    }

    /// Returns `grpc-timeout` for an attempt that begins now: the time that is left. `None` if none is.
    pub(crate) fn remaining_header(&self) -> Option<HeaderValue> {
        let left = self.at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| grpc_timeout::format(left))
    }

    /// Whether it passes during a pause that begins now and may end [`TIMER_GRANULARITY`] late.
    pub(crate) fn passes_within(&self, pause: Duration) -> bool {
        let end = Instant::now().checked_add(pause).and_then(|end| end.checked_add(TIMER_GRANULARITY));
        end.is_none_or(|end| end >= self.at)
    }
}

/// Watches the deadline while a server has the call.
///
/// The timer is made with the first poll that finds nothing to read: a call whose response comes at once needs none.
pub(crate) struct DeadlineTimer {
    deadline: Option<Deadline>,
    timer: Timer,
    /// The status of a call for which no timer can be made here.
    timer_error: Option<Status>,
}

impl DeadlineTimer {
    pub(crate) fn new(deadline: Option<Deadline>) -> Self {
        Self { deadline, timer: Timer::default(), timer_error: None }
    }

    /// Returns whether the deadline has passed. If not, the task is woken when it does.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = &self.deadline else { return false };
        match self.timer.poll(deadline.at, cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            // Without a timer nothing would wake the caller: the call ends now, with that error.
            Poll::Ready(Err(status)) => {
                self.timer_error = Some(status);
                true
            }
        }
    }

    /// Returns whether the deadline has passed, without waking anybody later.
    pub(crate) fn has_passed(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline.has_passed())
    }

    /// Makes the status of a call whose deadline passed while this server had it.
    pub(crate) fn exceeded(&self, address: &Address) -> Status {
        if let Some(status) = &self.timer_error {
            return status.clone();
        }
        let timeout = self.deadline.map_or(0, |deadline| deadline.timeout.as_millis());
        status::with_server(Code::DeadlineExceeded, format!("{address}: no answer within {timeout} ms"), address)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn the_earlier_of_two_limits_holds() {
        let now = Instant::now();
        let headers = |text: &'static str| HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(text))]);
        let timeout = |headers: &HeaderMap, default| {
            Deadline::new(headers.get(GRPC_TIMEOUT), default, now).map(|deadline| deadline.timeout)
        };
        let second = Duration::from_secs(1);
        assert_eq!(timeout(&headers("2S"), Some(second)), Some(second));
        assert_eq!(timeout(&headers("500m"), Some(second)), Some(second / 2));
        assert_eq!(timeout(&headers("2S"), None), Some(second * 2));
        assert_eq!(timeout(&headers("nonsense"), Some(second)), Some(second));
        assert_eq!(timeout(&HeaderMap::new(), None), None);
        assert_eq!(timeout(&HeaderMap::new(), Some(Duration::MAX)), None, "as good as none");
    }
}
