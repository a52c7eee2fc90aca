//! Numbers of proto3's JSON. PURE.

use serde_json::value::RawValue;

/// A whole number of 32 bits: 3, 3.0 and 3e0 are the same. `None` for anything else.
pub(in crate::service_config) fn unsigned(text: &str) -> Option<u32> {
    // An f64 is exact for every u32.
    let number = finite(text)?;
    let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    is_whole.then_some(number as u32)
}

/// A number as JSON writes it. `None` for what is none, and for what is too large.
pub(in crate::service_config) fn finite(text: &str) -> Option<f64> {
    // Rust reads more than JSON: `+3`, `.5`, `inf`. A value of JSON may have white space around it.
    let is_json = serde_json::from_str::<&RawValue>(text).is_ok_and(|value| value.get() == text);
    text.parse().ok().filter(|number: &f64| is_json && number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_may_be_written_as_a_decimal() {
        for (text, number) in [("3", 3), ("3.0", 3), ("3e0", 3), ("30E-1", 3), ("-0", 0), ("4294967295", u32::MAX)] {
            assert_eq!(unsigned(text), Some(number), "{text}");
        }
        for text in ["", "3.5", "-1", "4294967296", "1e400", "+3", "03", "3.", ".5", " 3", "3 ", "0x3", "NaN", "three"]
        {
            assert_eq!(unsigned(text), None, "{text}");
        }
    }

    #[test]
    fn a_number_is_what_json_writes() {
        for (text, number) in [("1.6", 1.6), ("-2", -2.0), ("1e3", 1000.0), ("0.1", 0.1)] {
            assert_eq!(finite(text), Some(number), "{text}");
        }
        for text in ["", "NaN", "Infinity", "inf", "1e400", "\"1\"", "[1]", "true", "1 2"] {
            assert_eq!(finite(text), None, "{text}");
        }
    }
}
