//! The JSON of a service config, as the proto3 JSON mapping reads it, with the path of each value. PURE.
//!
//! Values are kept as they are written, and parsed where they are read: what nobody reads must only be JSON. `object.rs` finds
//! the fields of an object, `number.rs` reads numbers, `duration.rs` durations.

mod duration;
pub(super) mod number;
mod object;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde_json::value::RawValue;

use super::invalid::InvalidServiceConfig;
use super::warnings::Warnings;
pub(super) use object::Object;

/// The deepest nesting, in levels: that of `serde_json` for values it parses. It bounds the recursion over nested policies.
const MAX_DEPTH: usize = 128;
/// The longest text of a document that an error shows, in characters.
const LONGEST_SHOWN: usize = 40;

/// A value of the document.
pub(super) struct Node<'a> {
    /// Where it stands; empty for the document.
    path: String,
    /// Its text.
    value: &'a RawValue,
    /// Takes what is valid, and probably not meant.
    warnings: &'a Warnings,
}

impl<'a> Node<'a> {
    /// The document.
    pub(super) fn top(text: &'a [u8], warnings: &'a Warnings) -> Result<Self, InvalidServiceConfig> {
        let invalid = |reason: String| InvalidServiceConfig::new(String::new(), reason);
        let text = std::str::from_utf8(text).map_err(|_| invalid("is not UTF-8".into()))?;
        if is_nested_deeper(text, MAX_DEPTH) {
            return Err(invalid(format!("is nested deeper than {MAX_DEPTH} levels")));
        }
        let value = serde_json::from_str(text).map_err(|error| invalid(format!("is not JSON: {error}")))?;
        Ok(Self { path: String::new(), value, warnings })
    }

    /// The error that this value is invalid. The reason is what follows its path in a sentence.
    pub(super) fn invalid(&self, reason: impl Into<String>) -> InvalidServiceConfig {
        InvalidServiceConfig::new(self.path.clone(), reason)
    }

    /// Warns of this value. The reason is what follows its path in a sentence.
    pub(super) fn warn(&self, reason: impl fmt::Display) {
        self.warnings.add(&self.path, reason);
    }

    /// Where it stands.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Reads the fields of an object, and warns of those that are not known: that `read` does not ask for.
    pub(super) fn fields<T>(
        &self,
        read: impl FnOnce(&Object<'a>) -> Result<T, InvalidServiceConfig>,
    ) -> Result<T, InvalidServiceConfig> {
        let object = self.object()?;
        let value = read(&object)?;
        object.warn_of_unknown();
        Ok(value)
    }

    /// An object, whose fields may have any name.
    pub(super) fn object(&self) -> Result<Object<'a>, InvalidServiceConfig> {
        if !self.value.get().starts_with('{') {
            return Err(self.invalid("must be an object"));
        }
        Object::new(&self.path, self.value, self.warnings).map_err(|reason| self.invalid(reason))
    }

    /// The elements of a list.
    pub(super) fn list(&self) -> Result<Vec<Self>, InvalidServiceConfig> {
        let values: Vec<&'a RawValue> =
            serde_json::from_str(self.value.get()).map_err(|_| self.invalid("must be a list"))?;
        let node = |(index, value)| Self { path: format!("{}[{index}]", self.path), value, warnings: self.warnings };
        Ok(values.into_iter().enumerate().map(node).collect())
    }

    /// A text.
    pub(super) fn string(&self) -> Result<String, InvalidServiceConfig> {
        self.text().ok_or_else(|| self.invalid("must be a string"))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, InvalidServiceConfig> {
        serde_json::from_str(self.value.get()).map_err(|_| self.invalid("must be true or false"))
    }

    /// A `uint32`: 3, 3.0, 3e0, or one of them as a string.
    pub(super) fn unsigned(&self) -> Result<u32, InvalidServiceConfig> {
        number::unsigned(&self.number_text()).ok_or_else(|| self.invalid("must be a whole number from 0 to 4294967295"))
    }

    /// A number, or the largest one that counts, with a warning.
    pub(super) fn at_most(&self, number: u32, most: u32) -> u32 {
        if number > most {
            self.warn(format!("counts as {most}"));
        }
        number.min(most)
    }

    /// A finite number, or one as a string.
    pub(super) fn number(&self) -> Result<f64, InvalidServiceConfig> {
        number::finite(&self.number_text()).ok_or_else(|| self.invalid("must be a finite number"))
    }

    /// A duration as a string, 0 or more: `"1.5s"`.
    pub(super) fn duration(&self) -> Result<Duration, InvalidServiceConfig> {
        let text = self.text().ok_or_else(|| self.invalid("must be a string like \"1.5s\""))?;
        duration::parse(&text).map_err(|reason| self.invalid(format!("is {}: {reason}", shown(&text))))
    }

    /// A duration above 0.
    pub(super) fn positive_duration(&self) -> Result<Duration, InvalidServiceConfig> {
        let duration = self.duration()?;
        if duration.is_zero() { Err(self.invalid("must be more than 0")) } else { Ok(duration) }
    }

    /// A number above 0.
    pub(super) fn positive_number(&self) -> Result<f64, InvalidServiceConfig> {
        let number = self.number()?;
        if number > 0.0 { Ok(number) } else { Err(self.invalid("must be more than 0")) }
    }

    /// The value as it is written.
    pub(super) fn written(&self) -> &'a str {
        self.value.get()
    }

    /// The text, if the value is one.
    pub(super) fn text(&self) -> Option<String> {
        serde_json::from_str(self.value.get()).ok()
    }

    /// What must be a number: the text, or the value as it is written.
    fn number_text(&self) -> Cow<'a, str> {
        self.text().map_or(Cow::Borrowed(self.value.get()), Cow::Owned)
    }
}

/// A text of the document for an error: its beginning, quoted.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Whether arrays and objects are nested deeper than this. The parser skips values that nobody reads, and so does not check it.
fn is_nested_deeper(text: &str, than: usize) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > than {
            return true;
        }
    }
    false
}
