//! What the metadata of etcd's gRPC naming says of an instance, whoever wrote it. PURE.
//!
//! The rules are those of the table at [`GrpcNaming`](crate::codec::GrpcNaming):
//!
//! - `null` says nothing; anything that is neither an object nor a string with an object is kept
//!   whole.
//! - Of an object each member is handled for itself, in order, so that of two with one name the
//!   later one counts.
//! - A member with a meaning (`weight`, `draining`, `zone`, `version`, `id`, `metadata`) is used if
//!   its value can be understood. Otherwise it is kept as metadata, and `Instance::misread` tells
//!   that.
//! - Every other member is kept as metadata.
//!
//! So nothing that a record says is lost.

use serde_json::value::RawValue;

use crate::codec::json::{self, Members, compact, matches_name, string};
use crate::instance::Instance;
use crate::secret;

/// The instance with everything that the `Metadata` of its record says.
pub(super) fn with_metadata(instance: Instance, metadata: &RawValue) -> Instance {
    match metadata.get().as_bytes().first() {
        Some(b'n') => instance,
        Some(b'{') => with_members(instance, metadata.get()),
        Some(b'"') => with_string(instance, string(metadata).unwrap_or_default()),
        _ => instance.with_metadata("Metadata", compact(metadata.get())),
    }
}

/// Metadata that is a string: grpc-proxy writes its object into one. Any other text is kept as
/// metadata with the name `Metadata`.
fn with_string(instance: Instance, text: String) -> Instance {
    if text.trim_start().starts_with('{')
        && let Ok(object) = json::text(text.as_bytes())
        && Members::of(&object).is_some()
    {
        return with_members(instance, &object);
    }
    instance.with_metadata("Metadata", text)
}

/// Metadata that is an object: each of its members, in order. The text has been parsed once
/// already, so it cannot fail here.
fn with_members(instance: Instance, object: &str) -> Instance {
    let members = Members::of(object).map(|members| members.0).unwrap_or_default(); // an object always parses
    members.into_iter().fold(instance, |instance, (name, value)| with_member(instance, name, value))
}

/// One member of that object. A `null` says nothing, as in Go.
fn with_member(instance: Instance, name: String, value: &RawValue) -> Instance {
    if value.get() == "null" {
        return instance;
    }
    let is = |meant| matches_name(&name, meant);
    if is("weight") {
        return match weight(value) {
            Some(weight) => instance.with_stored_weight(weight),
            None => keep_misread(instance, name, value, "no whole number from 0 to 4294967295"),
        };
    }
    if is("draining") {
        return match flag(value) {
            Some(draining) => instance.with_draining(draining),
            None => keep_misread(instance, name, value, "neither true nor false"),
        };
    }
    if is("metadata") && value.get().starts_with('{') {
        let pairs = Members::of(value.get()).map(|members| members.0).unwrap_or_default(); // an object always parses
        return pairs.into_iter().fold(instance, |instance, (name, value)| instance.with_metadata(name, text(value)));
    }
    let named: Option<fn(Instance, String) -> Instance> = if is("zone") {
        Some(Instance::with_zone)
    } else if is("version") {
        Some(Instance::with_version)
    } else if is("id") {
        Some(Instance::with_id)
    } else {
        None
    };
    match (named, text_or_number(value)) {
        (Some(with), Some(text)) => with(instance, text),
        (Some(_), None) => keep_misread(instance, name, value, "neither text nor a number"),
        (None, _) => instance.with_metadata(name, text(value)),
    }
}

/// A member whose value has no meaning there. It is kept as metadata, and the instance says so
/// ([`Instance::misread`]) with the first 50 characters of the value.
fn keep_misread(instance: Instance, name: String, value: &RawValue, reason: &str) -> Instance {
    let value = text(value);
    // The password is removed from the whole value first: without the rest it may not be
    // recognised.
    let shown: String = secret::without_password(&value).chars().take(50).collect();
    let instance = instance.with_misread(format!("{name:?} is {shown:?}: {reason}"));
    instance.with_metadata(name, value)
}

/// A weight: 9, 9.0, 9e0, "9" or "9.0". An empty text is 0, which says nothing. `None` for negative
/// numbers, fractions, and what is larger than a `u32`.
fn weight(value: &RawValue) -> Option<u32> {
    let text = text_or_number(value)?;
    let text = text.trim();
    if text.is_empty() {
        return Some(0);
    }
    // An f64 is exact for every u32.
    let number: f64 = text.parse().ok()?;
    let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    is_whole.then_some(number as u32)
}

/// A flag as JSON, YAML, Python and Go write it: true, 1, 1.0, "true", "True", "1", "yes", "on" and
/// their opposites. An empty text is false, as a weight of "" is 0. `None` for anything else.
fn flag(value: &RawValue) -> Option<bool> {
    let text = match value.get() {
        "true" => return Some(true),
        "false" => return Some(false),
        _ => text_or_number(value)?,
    };
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" => Some(true),
        "false" | "f" | "no" | "n" | "off" => Some(false),
        _ => match weight(value)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
    }
}

/// A string, or a number as it is written: a zone `7` is the text "7". `None` for anything else.
fn text_or_number(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first() {
        Some(b'"') => string(value),
        Some(b'-' | b'0'..=b'9') => Some(value.get().to_owned()),
        _ => None,
    }
}

/// A string as it is, anything else as compact JSON.
fn text(value: &RawValue) -> String {
    string(value).unwrap_or_else(|| compact(value.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(metadata: &str) -> Instance {
        let raw: &RawValue = serde_json::from_str(metadata).unwrap();
        with_metadata(Instance::new("h:1").unwrap(), raw)
    }

    /// F68: in whatever case the name and in whatever form the number is written.
    #[test]
    fn weights_are_read_in_every_form() {
        for metadata in [
            r#"{"weight":9}"#,
            r#"{"Weight":9}"#,
            r#"{"WEIGHT":9.0}"#,
            r#"{"weight":"9"}"#,
            r#"{"Weight":"9.0"}"#,
            r#"{"weight":" 9 "}"#,
            r#"{"weight":9e0}"#,
            r#"{"weight":0.9E+1}"#,
            r#"{"weight":3,"Weight":9}"#,
            r#"{"Weight":9,"weight":null}"#,
            r#""{\"Weight\":9}""#,
        ] {
            let instance = read(metadata);
            assert_eq!((instance.weight(), instance.misread()), (Some(9), None), "{metadata}");
            assert!(instance.metadata().is_empty(), "{metadata}");
        }
    }

    /// F24: Go and others write 0 where nobody has said a weight.
    #[test]
    fn a_weight_of_zero_says_nothing() {
        for metadata in [
            r#"{"weight":0}"#,
            r#"{"Weight":0.0}"#,
            r#"{"weight":"0"}"#,
            r#"{"weight":""}"#,
            r#"{"weight":null}"#,
            r#"{"weight":-0.0}"#,
            "null",
        ] {
            let instance = read(metadata);
            assert_eq!((instance.weight(), instance.misread()), (None, None), "{metadata}");
        }
    }

    /// F68: what is not understood stays as metadata, and is said.
    #[test]
    fn what_is_not_understood_is_told() {
        for (metadata, said) in [
            (r#"{"weight":"heavy"}"#, r#""weight" is "heavy": no whole number"#),
            (r#"{"Weight":-1}"#, r#""Weight" is "-1": no whole number"#),
            (r#"{"weight":0.5}"#, r#""weight" is "0.5": no whole number"#),
            (r#"{"weight":4294967296}"#, "no whole number"),
            (r#"{"weight":1e400}"#, "no whole number"),
            (r#"{"weight":"NaN"}"#, "no whole number"),
            (r#"{"weight":"inf"}"#, "no whole number"),
            (r#"{"weight":true}"#, r#""weight" is "true""#),
            (r#"{"weight":[9]}"#, r#""weight" is "[9]""#),
            (r#"{"Draining":"maybe"}"#, r#""Draining" is "maybe": neither true nor false"#),
            (r#"{"draining":2}"#, "neither true nor false"),
            (r#"{"zone":{"name":"a"}}"#, r#""zone" is "{\"name\":\"a\"}": neither text nor a number"#),
            (r#"{"version":[1, 2]}"#, r#""version" is "[1,2]""#),
        ] {
            let instance = read(metadata);
            assert!(instance.misread().is_some_and(|misread| misread.contains(said)), "{metadata}: {instance:?}");
            assert_eq!(instance.metadata().len(), 1, "{metadata}");
            assert!(instance.weight().is_none() && !instance.is_draining(), "{metadata}");
        }
    }

    /// F68: flags too.
    #[test]
    fn flags_are_read_in_every_form() {
        for flag in ["true", "1", "1.0", "1e0", r#""true""#, r#""True""#, r#""TRUE""#, r#""1""#, r#""yes""#, r#""on""#]
        {
            for name in ["draining", "Draining", "DRAINING"] {
                let instance = read(&format!(r#"{{"{name}":{flag}}}"#));
                assert!(instance.is_draining() && instance.misread().is_none(), "{name} {flag}");
            }
        }
        for flag in ["false", "0", "0.0", "null", r#""false""#, r#""False""#, r#""0""#, r#""no""#, r#""off""#, r#""""#]
        {
            let instance = read(&format!(r#"{{"Draining":{flag}}}"#));
            assert!(!instance.is_draining() && instance.misread().is_none(), "{flag}");
        }
    }

    /// F68: zone, version and id as well; an empty one says nothing.
    #[test]
    fn names_are_read_in_every_form() {
        let instance = read(r#"{"Zone":7,"VERSION":1.10,"ID":"x","ver\u017fion":"2"}"#);
        assert_eq!((instance.zone(), instance.version(), instance.id()), (Some("7"), Some("2"), Some("x")));
        let instance = read(r#"{"zone":"","version":"","id":""}"#);
        assert_eq!((instance.zone(), instance.version(), instance.id()), (None, None, None));
        assert!(instance.metadata().is_empty() && instance.misread().is_none());
    }

    /// F70: numbers keep their digits, and what is nested its form.
    #[test]
    fn nothing_of_other_members_is_lost() {
        let instance = read(
            r#"{"big":12345678901234567890123,"tags":["a", {"b" : 1e400}],"same":1,"same":2,"Metadata":{"k":"v","n":null}}"#,
        );
        let pairs: Vec<_> = instance.metadata().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("big", "12345678901234567890123"),
                ("k", "v"),
                ("n", "null"),
                ("same", "2"),
                ("tags", r#"["a",{"b":1e400}]"#)
            ]
        );
    }
}
