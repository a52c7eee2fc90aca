//! PURE: the text of `grpc-timeout` (gRPC over HTTP/2), parsed and formatted.
//!
//! From 100 ms on the text is one of a fixed ladder, at most 5 % above the time that is left. A
//! header that repeats costs one byte on the wire, and neither side has to code it again: HPACK's
//! table has it. A deadline that is passed on from call to call leaves another time for each call,
//! which without the ladder would fill that table with texts that never come again. Only the server
//! is told the longer time: the caller's own deadline is exact.

use std::time::Duration;

use http::HeaderValue;

/// The first three digits of the ladder's texts: each step is at most 5 % above the one before.
const STEPS: [u16; STEP_COUNT] = steps();
const STEP_COUNT: usize = 49;

/// As many powers of ten have a ladder: from 100 ms to 99 900 s, about a day. Few deadlines are longer.
const POWERS: usize = 6;

/// The longest text: eight digits and the unit, as gRPC allows.
const MAX_TEXT: usize = 9;

/// The texts of the ladder, in milliseconds, padded with zero bytes.
static TEXTS: [[u8; MAX_TEXT]; STEP_COUNT * POWERS] = texts();

const fn steps() -> [u16; STEP_COUNT] {
    let (mut steps, mut step, mut at) = ([0; STEP_COUNT], 100, 0);
    while at < STEP_COUNT {
        steps[at] = step;
        step += step / 20;
        at += 1;
    }
    steps
}

const fn texts() -> [[u8; MAX_TEXT]; STEP_COUNT * POWERS] {
    let mut texts = [[0; MAX_TEXT]; STEP_COUNT * POWERS];
    let mut at = 0;
    while at < texts.len() {
        let (step, zeros) = (STEPS[at % STEP_COUNT], at / STEP_COUNT);
        let text = &mut texts[at];
        text[0] = b'0' + (step / 100) as u8;
        text[1] = b'0' + (step / 10 % 10) as u8;
        text[2] = b'0' + (step % 10) as u8;
        let mut digit = 3;
        while digit < 3 + zeros {
            text[digit] = b'0';
            digit += 1;
        }
        text[digit] = b'm';
        at += 1;
    }
    texts
}

/// Parses 1 to 8 digits and a unit. Anything else is no timeout for the client: the server sees it
/// and may refuse it.
pub(super) fn parse(text: &[u8]) -> Option<Duration> {
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

/// Formats the time that is left for a server.
pub(super) fn format(left: Duration) -> HeaderValue {
    on_ladder(left).map_or_else(|| exact(left), HeaderValue::from_static)
}

/// The ladder's text for a time: the first one that is not below it. `None` if the ladder does not
/// reach there.
fn on_ladder(left: Duration) -> Option<&'static str> {
    let micros = left.as_secs().checked_mul(1_000_000)?.checked_add(left.subsec_micros().into())?;
    // One step of the ladder's three digits.
    let (mut unit, mut power) = (1_000, 0);
    if micros < 100 * unit {
        return None;
    }
    while micros > 1_000 * unit {
        unit *= 10;
        power += 1;
    }
    let digits = micros.div_ceil(unit); // 100 to 1 000
    let step = STEPS.partition_point(|step| u64::from(*step) < digits);
    // Beyond the last step follows the first one of the next power.
    let at = power * STEP_COUNT + step;
    let digits_and_unit = 4 + at / STEP_COUNT;
    std::str::from_utf8(TEXTS.get(at)?.get(..digits_and_unit)?).ok()
}

/// Formats a time in the finest unit that takes at most 8 digits, rounded down.
fn exact(left: Duration) -> HeaderValue {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_millis(100), "100m"),
            (Duration::from_nanos(100_000_001), "100m"), // whole microseconds
            (Duration::from_micros(100_001), "105m"),
            (Duration::from_millis(4_999), "5120m"),
            (Duration::from_secs(1), "1000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
            (Duration::from_secs(1_000_000_000), "16666666M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(format(time), text, "{time:?}");
        }
    }

    #[test]
    fn the_ladder_has_about_fifty_steps_for_each_power_of_ten() {
        for steps in STEPS.windows(2) {
            assert!(steps[0] < steps[1] && u32::from(steps[1]) * 100 <= u32::from(steps[0]) * 105, "{steps:?}");
        }
        let last = STEPS[STEP_COUNT - 1];
        assert!(
            last < 1_000 && u32::from(last) * 105 >= 1_000 * 100,
            "the next step is that of the next power: {last}"
        );
    }

    proptest! {
        /// A server is told at least what is left, and at most 5 % more. Above the ladder and below
        /// it the text is exact in its unit.
        #[test]
        fn a_server_is_told_up_to_five_percent_more(nanos in 1_u64..1 << 57) {
            let left = Duration::from_nanos(nanos);
            let told = parse(format(left).as_bytes()).unwrap();
            if left < Duration::from_millis(100) || left > Duration::from_secs(90_000) {
                prop_assert!(told <= left && told >= left.mul_f64(0.999_98), "{left:?}: {told:?}");
            } else {
                prop_assert!(told >= Duration::from_micros(nanos / 1_000), "{left:?}: {told:?}");
                prop_assert!(told <= left.mul_f64(1.05), "{left:?}: {told:?}");
            }
        }
    }
}
