//! JSON as Go's `encoding/json` reads it. PURE.
//!
//! Go reads more than `serde_json`: strings that are not UTF-8 or hold half a surrogate pair (each
//! such byte or half becomes U+FFFD), and values that are nested deeper than 128 levels. Values are
//! kept as they are written, so that no digit of a number is lost.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The deepest nesting, in levels: Go's own limit, beyond which its decoder fails too.
const MAX_DEPTH: usize = 10_000;
/// What replaces a byte that is not UTF-8, and half a surrogate pair.
const REPLACEMENT: &str = "\u{fffd}";

/// The text of a value, prepared for `serde_json`. Borrowed if nothing is replaced, as for every
/// record that Go writes.
///
/// Three things are done: invalid UTF-8 is replaced, the nesting is checked, lone surrogate escapes
/// are replaced.
///
/// # Errors
/// When the value is nested more deeply than Go reads.
pub(super) fn text(value: &[u8]) -> Result<Cow<'_, str>, &'static str> {
    let text = match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(lossy(value)),
    };
    // Each level takes two bytes, so that short values need no check.
    if text.len() > 2 * MAX_DEPTH && is_nested_deeper(&text, MAX_DEPTH) {
        return Err("it is nested deeper than 10000");
    }
    Ok(match replace_lone_surrogates(&text) {
        Some(mended) => Cow::Owned(mended),
        None => text,
    })
}

/// The value as UTF-8, with one U+FFFD for each invalid byte. `String::from_utf8_lossy` replaces
/// several bytes by one, and Go does not.
fn lossy(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| text.push_str(REPLACEMENT));
    }
    text
}

/// The text with lone surrogate escapes replaced; `None` if there is none.
///
/// `serde_json` refuses `\ud800` without a low surrogate after it. Go reads it as U+FFFD.
/// JavaScript and Java write such halves when they cut a text.
fn replace_lone_surrogates(text: &str) -> Option<String> {
    let surrogate = |unit: u16| (0xd800..0xe000).contains(&unit);
    let (mut mended, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = text[at..].find('\\') {
        let escape = at + found;
        let Some(unit) = unit(&text[escape..]).filter(|unit| surrogate(*unit)) else {
            // Skips the escaped character, so that `\\` does not start another escape.
            let escaped = text[escape + 1..].chars().next().map_or(0, char::len_utf8);
            at = escape + 1 + escaped;
            continue;
        };
        at = escape + 6;
        let next = self::unit(&text[at..]);
        if unit < 0xdc00 && next.is_some_and(|next| (0xdc00..0xe000).contains(&next)) {
            at += 6;
            continue;
        }
        mended.push_str(&text[copied..escape]);
        mended.push_str(REPLACEMENT);
        copied = at;
    }
    (copied > 0).then(|| mended + &text[copied..])
}

/// The UTF-16 code unit of `\uXXXX`, if the text starts with one. Four hexadecimal digits exactly,
/// as JSON requires.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    if digits.bytes().all(|b| b.is_ascii_hexdigit()) { u16::from_str_radix(digits, 16).ok() } else { None }
}

/// Whether arrays and objects are nested deeper than this. The parser skips values that nobody
/// reads, so it does not check this itself.
fn is_nested_deeper(text: &str, than: usize) -> bool {
    let mut depth = 0_usize;
    visit_outside_strings(text, |byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth <= than
    })
}

/// Calls `go_on` for each byte outside of strings until it gives `false`. Gives whether it did.
/// Needs no valid JSON: a quotation mark that is not closed leaves the rest a string.
fn visit_outside_strings(text: &str, mut go_on: impl FnMut(u8) -> bool) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if !quoted && !go_on(byte) => return true,
            _ => {}
        }
    }
    false
}

/// A value without white space outside of its strings, as Go's `json.Compact` gives it.
pub(super) fn compact(value: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let keep = |c: &char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        quoted || !matches!(c, ' ' | '\t' | '\r' | '\n')
    };
    value.chars().filter(keep).collect()
}

/// The string that a value is, if it is one, with its escapes decoded.
pub(super) fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// Whether a field name is meant, without regard to case as in Go, which also folds ſ (U+017F) to s
/// and the Kelvin sign (U+212A) to k. `name` is in lower case.
pub(super) fn matches_name(written: &str, name: &str) -> bool {
    let fold = |c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    written.chars().map(fold).eq(name.chars())
}

/// The members of an object as they are written, in order. Repeated names are all kept: the reader
/// decides which one counts, as Go does with the last.
pub(super) struct Members<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The members of a text that is an object; `None` for anything else. Borrows the values, which
    /// are parsed only where they are read.
    pub(super) fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    /// F70: as Go replaces them, byte by byte and half by half.
    #[test]
    fn replaces_what_go_replaces() {
        for (value, read) in [
            (&b"\"a\xffb\""[..], "\"a\u{fffd}b\""),
            (b"\"\xe2\x82\"", "\"\u{fffd}\u{fffd}\""),
            (b"\"\xed\xa0\x80\"", "\"\u{fffd}\u{fffd}\u{fffd}\""),
            (br#""\ud800""#, "\"\u{fffd}\""),
            (br#""\uDC00x""#, "\"\u{fffd}x\""),
            (br#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (br#""\ud800\ud83d\ude00""#, "\"\u{fffd}\\ud83d\\ude00\""),
            (br#""\ud800\u0041""#, "\"\u{fffd}\\u0041\""),
            (br#""\\ud800""#, r#""\\ud800""#),
            (br#""\ud8""#, r#""\ud8""#),
            (br#""\"#, r#""\"#),
        ] {
            assert_eq!(text(value).unwrap(), read, "{:?}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn counts_depth_as_go_does() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(text(nested(10_000).as_bytes()).is_ok());
        assert!(text(nested(10_001).as_bytes()).is_err());
        assert!(text(format!("\"{}\"", nested(10_001)).as_bytes()).is_ok(), "in a string they are no brackets");
    }

    #[test]
    fn compacts_what_stands_outside_of_strings() {
        assert_eq!(compact("{ \"a b\" : [ 1,\n\t\"\\\" x\" ] }"), r#"{"a b":[1,"\" x"]}"#);
    }

    /// F70: ſ and the Kelvin sign too.
    #[test]
    fn folds_names_as_go_does() {
        for written in ["version", "Version", "VERSION", "ver\u{17f}ion", "VER\u{17f}ION"] {
            assert!(matches_name(written, "version"), "{written}");
        }
        assert!(
            matches_name("\u{212a}ind", "kind")
                && !matches_name("wéight", "weight")
                && !matches_name("weights", "weight")
        );
    }

    /// The fuzz target. What needs no replacement is left alone, and nothing needs it twice; white space is no part of a value;
    /// and an object has the members that `serde_json` finds in it.
    pub(crate) fn fuzz(bytes: &[u8]) {
        let Ok(read) = text(bytes) else { return };
        assert!(matches!(text(read.as_bytes()), Ok(Cow::Borrowed(again)) if again == read), "{read:?}");
        if serde_json::from_slice::<serde_json::Value>(bytes).is_ok() {
            assert_eq!(read.as_bytes(), bytes);
        }
        let compacted = compact(&read);
        assert_eq!(compact(&compacted), compacted);
        let value = serde_json::from_str::<serde_json::Value>(&read).ok();
        if value.is_some() {
            assert_eq!(serde_json::from_str::<serde_json::Value>(&compacted).ok(), value, "{read:?}");
        }
        let members = Members::of(&read).map(|Members(members)| members);
        if let Some(serde_json::Value::Object(expected)) = &value {
            let found: BTreeSet<_> = members.iter().flatten().map(|(name, _)| name).collect();
            assert!(found.into_iter().eq(expected.keys()), "{read:?}");
        } else if value.is_some() {
            assert!(members.is_none(), "{read:?}");
        }
        for (_, value) in members.iter().flatten() {
            let expected = serde_json::from_str::<serde_json::Value>(value.get());
            assert_eq!(string(value).as_deref(), expected.as_ref().ok().and_then(serde_json::Value::as_str));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_text(value: Vec<u8>) {
            fuzz(&value);
        }

        #[test]
        fn any_escapes_give_strings(inside in r"(\\u[dD][89aAcCfF][0-9a-f]{2}|\\\\|\\n|\\u00e4|[a-zä]){0,8}") {
            let value = format!("\"{inside}\"");
            let read: Result<String, _> = serde_json::from_str(&text(value.as_bytes()).unwrap());
            prop_assert!(read.is_ok(), "{} {:?}", value, read);
        }
    }
}
