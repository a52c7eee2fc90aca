//! The deadline of a call: parsed from `grpc-timeout`, sent on with each attempt, and watched by a timer.

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
        let requested = grpc_timeout.and_then(|value| parse(value.as_bytes()));
        let timeout = match (requested, limit) {
            (Some(requested), Some(limit)) => requested.min(limit),
            (requested, limit) => requested.or(limit)?,
        };
        Some(Self { at: now.checked_add(timeout)?, timeout })
    }

    pub(crate) fn has_passed(&self) -> bool {
        Instant::now() >= self.at
    }

    /// Returns `grpc-timeout` for an attempt that begins now: the time that is left. `None` if none is.
    pub(crate) fn remaining_header(&self) -> Option<HeaderValue> {
        let left = self.at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| format(left))
    }

    /// Whether it passes during a pause that begins now and may end [`TIMER_GRANULARITY`] late.
    pub(crate) fn passes_within(&self, pause: Duration) -> bool {
        let end = Instant::now().checked_add(pause).and_then(|end| end.checked_add(TIMER_GRANULARITY));
        end.is_none_or(|end| end >= self.at)
    }
}

/// Parses 1 to 8 digits and a unit. Anything else is no timeout for the client: the server sees it and may refuse it.
fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Formats a time in the finest unit that takes at most 8 digits, rounded down.
fn format(left: Duration) -> HeaderValue {
    let nanos = left.as_nanos();
    for (unit, size) in [("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000), ("M", 60_000_000_000)] {
        let amount = nanos / size;
        if amount < 100_000_000 {
            return value(format!("{amount}{unit}"));
        }
    }
    value(format!("{}H", (nanos / 3_600_000_000_000).min(99_999_999)))
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0n")) // digits and a letter are always a value
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

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::balance::call::retry::{PUSHBACK, Pushback};

    /// The fuzz target, of `grpc-timeout` and `grpc-retry-pushback-ms`. A timeout is read as its documentation says, and sent on
    /// as a time that is no longer, and shorter by no more than rounding makes it.
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
        let timeout = parse(bytes);
        assert_eq!(timeout.map(|timeout| timeout.as_nanos()), expected, "{text:?}");
        if let Some(timeout) = timeout {
            let sent = parse(format(timeout).as_bytes()).unwrap();
            assert!(
                sent <= timeout && timeout.saturating_sub(sent) <= timeout / 100_000,
                "{timeout:?} is sent as {sent:?}"
            );
        }
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
        let now = Instant::now();
        let deadline = Deadline::new(Some(&value), Some(Duration::from_secs(1)), now).unwrap();
        assert!(deadline.timeout <= Duration::from_secs(1) && deadline.at == now + deadline.timeout);
        let pushback = Pushback::from_headers(&HeaderMap::from_iter([(PUSHBACK, value)]));
        match pushback {
            Pushback::None => panic!("there is one"),
            Pushback::After(pause) => {
                let digits = text.strip_prefix('+').unwrap_or(text);
                assert_eq!(amount(digits), Some(pause.as_millis()), "{text:?}");
                let is_long = pause > Duration::from_secs(60);
                assert_eq!(pushback.without_deadline(), if is_long { Pushback::Never } else { pushback });
            }
            Pushback::Never => assert!(amount(text).is_none_or(|millis| text.is_empty() || millis > u32::MAX.into())),
        }
    }

    #[test]
    fn timeouts_are_parsed_and_formatted_as_grpc_does() {
        for (text, time) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("1s", None),
            ("-1S", None),
            ("1.5S", None),
        ] {
            assert_eq!(parse(text.as_bytes()), time, "{text}");
        }
        for (time, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_millis(20), "20000000n"),
            (Duration::from_secs(1), "1000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
            (Duration::from_secs(1_000_000_000), "16666666M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format(time), text, "{time:?}");
            assert!(parse(text.as_bytes()).unwrap() <= time);
        }
    }

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
