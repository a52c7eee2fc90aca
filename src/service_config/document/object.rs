//! An object of a service config: its fields by name. PURE.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{LONGEST_SHOWN, Node, shown};
use crate::service_config::invalid::InvalidServiceConfig;
use crate::service_config::warnings::Warnings;

/// An object of the document.
pub(in crate::service_config) struct Object<'a> {
    /// Where it stands.
    path: String,
    /// Its fields, as they are named in the document.
    fields: BTreeMap<String, Field<'a>>,
    warnings: &'a Warnings,
}

/// A field of an object.
struct Field<'a> {
    value: &'a RawValue,
    /// Somebody has asked for it, so that its name is known.
    is_known: Cell<bool>,
}

impl<'a> Object<'a> {
    /// The fields of a value that is an object, and the path of it.
    ///
    /// # Errors
    /// The reason, if a field stands twice or has no name.
    pub(in crate::service_config) fn new(
        path: &str,
        value: &'a RawValue,
        warnings: &'a Warnings,
    ) -> Result<Self, String> {
        // It has been parsed once: only half a surrogate pair in a name is found now.
        let Members(members) = serde_json::from_str(value.get()).map_err(|_| "has a field whose name is no text")?;
        let mut fields = BTreeMap::new();
        for (name, value) in members {
            if fields.contains_key(&name) {
                return Err(format!("has the field {} twice", shown(&name)));
            }
            fields.insert(name, Field { value, is_known: Cell::new(false) });
        }
        Ok(Self { path: path.to_owned(), fields, warnings })
    }

    /// A field by its name in lowerCamelCase, which may also be written as in the proto file. None if it is absent or `null`.
    pub(in crate::service_config) fn optional<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Node<'a>) -> Result<T, InvalidServiceConfig>,
    ) -> Result<Option<T>, InvalidServiceConfig> {
        let snake = snake_case(name);
        let mut written = self.fields.get_key_value(name);
        if let Some(other) = self.fields.get_key_value(&snake).filter(|_| snake != name) {
            if written.is_some() {
                return Err(self.invalid(name, format!("is set twice, also as {snake}")));
            }
            written = Some(other);
        }
        let Some((name, field)) = written else { return Ok(None) };
        field.is_known.set(true);
        if field.value.get() == "null" { Ok(None) } else { read(&self.node(name, field)).map(Some) }
    }

    /// A field that must be there.
    pub(in crate::service_config) fn required<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Node<'a>) -> Result<T, InvalidServiceConfig>,
    ) -> Result<T, InvalidServiceConfig> {
        self.optional(name, read)?.ok_or_else(|| self.invalid(name, "is required"))
    }

    /// The error of a field that the object may not have.
    pub(in crate::service_config) fn invalid(&self, name: &str, reason: impl Into<String>) -> InvalidServiceConfig {
        InvalidServiceConfig::new(self.path_of(name), reason)
    }

    /// The field, if there is exactly one.
    pub(in crate::service_config) fn only(&self) -> Option<(&str, Node<'a>)> {
        let mut fields = self.fields.iter();
        match (fields.next(), fields.next()) {
            (Some((name, field)), None) => Some((name, self.node(name, field))),
            _ => None,
        }
    }

    /// Warns of the fields that nobody has asked for.
    pub(super) fn warn_of_unknown(&self) {
        for (name, _) in self.fields.iter().filter(|(_, field)| !field.is_known.get()) {
            let is_plain =
                name.len() <= LONGEST_SHOWN && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let name = if is_plain { name.clone() } else { shown(name) };
            self.warnings.add(&self.path_of(&name), "is not known here, and is ignored");
        }
    }

    fn node(&self, name: &str, field: &Field<'a>) -> Node<'a> {
        Node { path: self.path_of(name), value: field.value, warnings: self.warnings }
    }

    /// The path of a field.
    pub(in crate::service_config) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// The members of an object, in order, with those that stand twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
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

        deserializer.deserialize_map(Visit)
    }
}

/// A name in lowerCamelCase as the proto file has it: `maxAttempts` is `max_attempts`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
