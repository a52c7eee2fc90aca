//! Durations of proto3's JSON: seconds as a decimal, and an `s`. PURE.

use std::time::Duration;

/// The largest number of whole seconds, as `google.protobuf.Duration` has it: about 10,000 years.
const MAX_SECONDS: u64 = 315_576_000_000;
/// The most digits of a fraction: nanoseconds.
const MAX_DIGITS: usize = 9;

/// Reads a duration that is 0 or more: `"1.5s"`, `".5s"`, `"+2s"`, `"-0s"`. As in grpc-go, digits may be missing before the
/// point or after it, and zeros may lead.
///
/// # Errors
/// The reason, as it follows the text in a sentence.
pub(super) fn parse(text: &str) -> Result<Duration, &'static str> {
    let unit = "a duration is a number of seconds with an s, like \"1.5s\"";
    let number = text.strip_suffix('s').ok_or(unit)?;
    let (negative, number) = match number.as_bytes().first() {
        Some(b'-') => (true, &number[1..]),
        Some(b'+') => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || !(whole.bytes().chain(fraction.bytes())).all(|byte| byte.is_ascii_digit()) {
        return Err(unit);
    }
    if fraction.len() > MAX_DIGITS {
        return Err("a duration has up to nine decimals");
    }
    let seconds = digits(whole).filter(|seconds| *seconds <= MAX_SECONDS);
    let seconds = seconds.ok_or("a duration is at most 315576000000 s")?;
    let nanos = digits(&format!("{fraction:0<MAX_DIGITS$}")).unwrap_or_default(); // nine digits
    let duration = Duration::new(seconds, nanos as u32); // below 10^9
    if negative && !duration.is_zero() {
        return Err("it must not be negative");
    }
    Ok(duration)
}

/// The number that digits are; 0 for none, `None` for one that is too large.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() { Some(0) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_decimal_of_seconds() {
        let nanos = Duration::from_nanos;
        for (text, duration) in [
            ("1.5s", nanos(1_500_000_000)),
            ("0.000000001s", nanos(1)),
            ("3s", nanos(3_000_000_000)),
            ("007s", nanos(7_000_000_000)),
            (".25s", nanos(250_000_000)),
            ("2.s", nanos(2_000_000_000)),
            ("+2s", nanos(2_000_000_000)),
            ("0s", nanos(0)),
            ("-0.000s", nanos(0)),
            ("315576000000.999999999s", Duration::new(MAX_SECONDS, 999_999_999)),
        ] {
            assert_eq!(parse(text), Ok(duration), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "s",
            ".s",
            "-s",
            "1",
            "1.5",
            "1ms",
            "1.5 s",
            " 1s",
            "1s ",
            "1m30s",
            "1e3s",
            "1.2.3s",
            "1.-5s",
            "--1s",
            "1_0s",
            "0x1s",
            "1.0000000001s",
            "-1s",
            "-0.000000001s",
            "315576000001s",
            "99999999999999999999s",
            "١s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
