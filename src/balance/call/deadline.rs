//! A call's deadline: `grpc-timeout` in, and what is left of it out.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The granularity of tokio's timers.
const TIMER: Duration = Duration::from_millis(1);

/// When the call must be over, and how long it was given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) given: Duration,
}

impl Deadline {
    /// The earlier of what the call says and what the channel gives to all; none where neither says anything. What is too
    /// far away for the clock is none.
    #[inline]
    pub(crate) fn of(asked: Option<&HeaderValue>, default: Option<Duration>, now: Instant) -> Option<Self> {
        let asked = asked.and_then(|value| parse(value.as_bytes()));
        let given = match (asked, default) {
            (Some(asked), Some(default)) => asked.min(default),
            (asked, default) => asked.or(default)?,
        };
        Some(Self { at: now.checked_add(given)?, given })
    }

    pub(crate) fn has_passed(&self) -> bool {
        Instant::now() >= self.at
    }

    /// What is left, for the server to know; none where nothing is.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let left = self.at.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| format(left))
    }

    /// Whether so long a pause would end after it. Timers are up to [`TIMER`] late.
    pub(crate) fn is_before(&self, pause: Duration) -> bool {
        let end = Instant::now().checked_add(pause).and_then(|end| end.checked_add(TIMER));
        end.is_none_or(|end| end >= self.at)
    }
}

/// 1 to 8 digits and a unit; anything else is no timeout, and left to the server to complain of.
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

/// In the finest unit that takes at most 8 digits.
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
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0n")) // digits and a letter always are one
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn timeouts_are_read_and_written_as_grpc_does() {
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
        let given = |headers: &HeaderMap, default| {
            Deadline::of(headers.get(GRPC_TIMEOUT), default, now).map(|deadline| deadline.given)
        };
        let second = Duration::from_secs(1);
        assert_eq!(given(&headers("2S"), Some(second)), Some(second));
        assert_eq!(given(&headers("500m"), Some(second)), Some(second / 2));
        assert_eq!(given(&headers("2S"), None), Some(second * 2));
        assert_eq!(given(&headers("nonsense"), Some(second)), Some(second));
        assert_eq!(given(&HeaderMap::new(), None), None);
        assert_eq!(given(&HeaderMap::new(), Some(Duration::MAX)), None, "as good as none");
    }
}
