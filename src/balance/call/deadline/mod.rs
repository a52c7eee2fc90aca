//! The deadline of a call: parsed from `grpc-timeout`, sent on with each attempt, and watched by a timer.

mod grpc_timeout;

use std::borrow::Cow;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::runtime::nanos::Nanos;
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
    timeout: Nanos,
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
        Some(Self { at: now.checked_add(timeout)?, timeout: Nanos::new(timeout) })
    }

    /// The deadline, or this time if it is earlier.
    pub(crate) fn at_latest(self, at: Instant) -> Self {
        Self { at: self.at.min(at), ..self }
    }

    /// A time that is no deadline of the call's.
    pub(crate) fn at(at: Instant) -> Self {
        Self { at, timeout: Nanos::new(Duration::ZERO) }
    }

    /// The time that the call was given.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.time()
    }

    pub(crate) fn has_passed(&self) -> bool {
        Instant::now() >= self.at
    }

    /// Returns `grpc-timeout` for an attempt that begins now: the time that is left. `None` if none is.
    pub(crate) fn remaining_header(&self) -> Option<HeaderValue> {
        let left = self.at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| match grpc_timeout::format(left) {
            Cow::Borrowed(text) => HeaderValue::from_static(text),
            // Digits and a letter are always a value.
            Cow::Owned(text) => HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0n")),
        })
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
        let timeout = self.deadline.map_or(0, |deadline| deadline.timeout().as_millis());
        status::with_server(Code::DeadlineExceeded, format!("{address}: no answer within {timeout} ms"), address)
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::balance::call::retry::{PUSHBACK, Pushback};

    /// The fuzz target, of `grpc-timeout` and `grpc-retry-pushback-ms`. A timeout is read as its documentation says, and sent on
    /// as the same time but for rounding: down by a part in 100 000, or up to the ladder.
    pub(crate) fn fuzz(bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let nanos = |unit| match unit {
            'H' => Some(3_600_000_000_000),
            'M' => Some(60_000_000_000),
            'S' => Some(1_000_000_000),
            'm' => Some(1_000_000),
            'u' => Some(1_000),
            'n' => Some(1_u128),
            _ => None,
        };
        let amount = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u128>().ok())?;
        let written = text.char_indices().last().filter(|(length, _)| (1..=8).contains(length));
        let expected = written.and_then(|(length, unit)| Some(amount(&text[..length])? * nanos(unit)?));
        let timeout = grpc_timeout::parse(bytes);
        assert_eq!(timeout.map(|timeout| timeout.as_nanos()), expected, "{text:?}");
        if let Some(timeout) = timeout {
            let sent = grpc_timeout::parse(grpc_timeout::format(timeout).as_bytes()).unwrap();
            let ladder = if timeout < Duration::from_millis(100) { Duration::ZERO } else { timeout / 20 };
            let is_close = timeout.saturating_sub(sent) <= timeout / 100_000 && sent.saturating_sub(timeout) <= ladder;
            assert!(is_close, "{timeout:?} is sent as {sent:?}");
        }
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
        let now = Instant::now();
        let deadline = Deadline::new(Some(&value), Some(Duration::from_secs(1)), now).unwrap();
        assert!(deadline.timeout() <= Duration::from_secs(1) && deadline.at == now + deadline.timeout());
        let pushback = Pushback::from_headers(&HeaderMap::from_iter([(PUSHBACK, value)]));
        match pushback {
            Pushback::None => panic!("there is one"),
            Pushback::After(millis) => {
                let pause = Duration::from_millis(millis.into());
                let digits = text.strip_prefix('+').unwrap_or(text);
                assert_eq!(amount(digits), Some(pause.as_millis()), "{text:?}");
                let is_long = pause > Duration::from_secs(60);
                assert_eq!(pushback.without_deadline(), if is_long { Pushback::Never } else { pushback });
            }
            Pushback::Never => assert!(amount(text).is_none_or(|millis| text.is_empty() || millis > u32::MAX.into())),
        }
    }

    #[test]
    fn the_earlier_of_two_limits_holds() {
        let now = Instant::now();
        let headers = |text: &'static str| HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(text))]);
        let timeout = |headers: &HeaderMap, default| {
            Deadline::new(headers.get(GRPC_TIMEOUT), default, now).map(|deadline| deadline.timeout())
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
