//! Hints for people: what an unreadable value looks like, and so who may have written it. PURE.
//!
//! A hint ends up in the text of a [`DecodeError`](crate::codec::DecodeError), which is logged with
//! the key. It is a guess by the first rule that matches. A wrong guess misleads a reader, but
//! never makes a record readable, and never hides the error of the parser.
//!
//! | value | function |
//! |---|---|
//! | neither an object nor an address: encodings, compression, binary formats | [`hint_for_value`] |
//! | text without an address: templates, quotes, XML, YAML, numbers, ids | [`hint_for_text`] |
//! | starts as an object and is not JSON | [`hint_for_json`] |
//! | an object without `Addr`: go-micro, Kratos, Kitex, Dubbo, Nacos, Consul, … | [`hint_for_object`] |
//!
//! The corpus of records (`tests/corpus`) holds an example for each hint.

use crate::codec::json::{Members, matches_name, string};

/// What a value looks like that is neither a JSON object nor an address. `None` if the error of the
/// parser says enough.
pub(super) fn hint_for_value(value: &[u8]) -> Option<&'static str> {
    if value.starts_with(b"\xef\xbb\xbf") {
        return Some("it begins with a byte order mark, as Windows' editors write it: put it without");
    }
    if value.starts_with(b"\xff\xfe") || value.starts_with(b"\xfe\xff") || looks_like_utf16(value) {
        return Some("it looks like UTF-16: put it as UTF-8");
    }
    if value.starts_with(b"\x1f\x8b") {
        return Some("it looks compressed (gzip)");
    }
    if value.trim_ascii_start().first() == Some(&b'{') {
        return hint_for_json(&String::from_utf8_lossy(value));
    }
    let Ok(text) = std::str::from_utf8(value) else {
        return Some("it is not UTF-8, and looks like a binary format such as protobuf");
    };
    let text = text.trim();
    if text.is_empty() {
        return Some("the value is empty; where the address stands in the key, that takes a codec of its own");
    }
    if text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
        return Some("it has control characters, and looks like a binary format such as protobuf");
    }
    hint_for_text(text)
}

/// What a value looks like that starts as an object and is not JSON.
fn hint_for_json(text: &str) -> Option<&'static str> {
    Some(match text {
        _ if text.contains('\0') => "it holds a null byte, as strings of C do at their end",
        _ if text.contains("{{") => UNFILLED_TEMPLATE,
        _ if text.contains('\'') && !text.contains('"') => "it looks like a Python dictionary: JSON has double quotes",
        _ if text.contains('"') && (text.contains("NaN") || text.contains("Infinity")) => {
            "JSON has no NaN and no Infinity"
        }
        _ if text.contains('"') => return None,
        _ if text.to_ascii_lowercase().contains("addr") => {
            "its double quotes are missing: a shell takes them away unless all of it stands in single quotes"
        }
        _ => PRINTED_STRUCT,
    })
}

/// The hint for placeholders such as `${HOST}` or `{{ .Host }}`.
const UNFILLED_TEMPLATE: &str = "it looks like a template that was not filled in";
/// The hint for the printed form of a struct, such as Go's `%v`.
const PRINTED_STRUCT: &str = "it looks like a struct that was printed: put host:port, or JSON with \"Addr\"";

/// What a text looks like that is not an address.
fn hint_for_text(text: &str) -> Option<&'static str> {
    let has_scheme = text.split_once("://").is_some_and(|(scheme, _)| is_word(scheme));
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    Some(match text.as_bytes()[0] {
        b'<' => "it looks like XML",
        _ if text.contains("${") || text.contains("$(") || text.contains("{{") => UNFILLED_TEMPLATE,
        _ if text.starts_with("[object ") => "it looks like an object that JavaScript made a text of: put JSON",
        b'[' if text.ends_with(']') && !text.contains("]:") => {
            "it is a list: put each server at a key of its own, as an object or as host:port"
        }
        b'"' | b'\'' | b'`' => "it stands in quotes: put it without",
        b'b' if text.starts_with("b'") || text.starts_with("b\"") => {
            "it looks like bytes that Python printed: put them decoded"
        }
        _ if matches!(text, "null" | "true" | "false" | "None" | "nil" | "undefined") => {
            "it is a word that stands for no address"
        }
        _ if is_number && text.len() > 10 => {
            "it is a large number, as Dubbo for Java writes a lease where the address stands in the key"
        }
        _ if is_number => "it is a number: a port without a host?",
        _ if has_scheme && text.contains('?') => "it looks like Dubbo's URL, which takes a codec of its own",
        _ if has_scheme => return None,
        _ if text.contains('\n') => {
            "it has several lines: put each server at a key of its own, as host:port or JSON with \"Addr\""
        }
        _ if text.ends_with('}') || (text.ends_with(']') && text.contains('[')) => PRINTED_STRUCT,
        _ if text.contains(": ") => "it looks like YAML or a configuration file: put host:port, or JSON with \"Addr\"",
        _ if text.contains('=') && !text.ends_with('=') => {
            "it looks like key=value: put host:port, or JSON with \"Addr\""
        }
        _ if is_base64(text) => "it looks like base64: put what it stands for",
        _ if is_id(text) => "it looks like an id: put host:port, or JSON with \"Addr\"",
        _ => return None,
    })
}

/// Whether every other byte is 0, as in UTF-16 of ASCII text.
fn looks_like_utf16(value: &[u8]) -> bool {
    let zeros = |from: usize| value.iter().skip(from).step_by(2).all(|byte| *byte == 0);
    value.len() >= 4 && value.len().is_multiple_of(2) && (zeros(0) != zeros(1))
}

/// Whether the text may be the scheme of a URL: ASCII letters, digits, `+`, `-` and `.`.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Whether the text is padded base64 of more than eight characters. Without padding it cannot be
/// told from a name.
fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let padded = text.len() > body.len();
    padded
        && text.len().is_multiple_of(4)
        && body.len() > 8
        && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

/// Whether the text is a UUID, or a long row of hexadecimal digits, as lease ids and trace ids are.
fn is_id(text: &str) -> bool {
    text.len() >= 16 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// What a JSON object without `Addr` looks like, by the members that other frameworks write. Names
/// are compared without regard to case. The first rule that matches counts.
pub(super) fn hint_for_object(text: &str) -> Option<&'static str> {
    let Members(members) = Members::of(text)?;
    let find = |name: &str| members.iter().find(|(written, _)| matches_name(written, name)).map(|(_, value)| value);
    let has = |names: &[&str]| names.iter().all(|name| find(name).is_some());
    let begins = |name: &str, byte: u8| find(name).is_some_and(|value| value.get().as_bytes().first() == Some(&byte));
    Some(if members.is_empty() {
        "the object is empty"
    } else if has(&["endpoints", "nodes"]) {
        "it looks like go-micro's format, which takes a codec of its own"
    } else if begins("endpoints", b'[') {
        "it looks like Kratos' format, which takes a codec of its own"
    } else if has(&["network", "address"]) {
        "it looks like Kitex' format, which takes a codec of its own"
    } else if has(&["servicename", "host", "port", "enable"]) {
        "it looks like Dubbo's application level, which takes a codec of its own"
    } else if has(&["scheme", "address"]) {
        "it looks like EGO's format, which takes a codec of its own"
    } else if has(&["serviceid", "host"]) || has(&["instanceid", "uri"]) {
        "it looks like Spring Cloud's format, which takes a codec of its own"
    } else if has(&["instanceid", "ip"]) || has(&["ephemeral", "ip"]) || has(&["clustername", "ip"]) {
        "it looks like Nacos' format, which takes a codec of its own"
    } else if begins("instance", b'{') || has(&["ipaddr", "vipaddress"]) {
        "it looks like Eureka's format, which takes a codec of its own"
    } else if has(&["serviceaddress"]) || has(&["address", "port", "service"]) {
        "it looks like Consul's format, which takes a codec of its own"
    } else if has(&["listeners"]) || has(&["config", "path"]) {
        "it looks like a configuration"
    } else if members.len() <= 2 && find("protocol").and_then(|value| string(value)).is_some() {
        "it looks like GoFrame's format, whose addresses stand in the key: it takes a codec of its own"
    } else if has(&["host", "port"]) || has(&["ip", "port"]) || has(&["servicehost", "serviceport"]) {
        "host and port stand apart in it, where etcd's gRPC naming has both in \"Addr\""
    } else if let Some(name) = OTHER_ADDRESS_FIELDS.iter().find(|name| find(name).is_some()) {
        hint_for_field(name)
    } else {
        return None;
    })
}

/// What other formats call the address.
const OTHER_ADDRESS_FIELDS: [&str; 10] =
    ["address", "addresses", "endpoint", "host", "ip", "url", "uri", "target", "listen", "server"];

/// The hint for an object whose address seems to be in this field. It names the field, so that its
/// writer is found quickly.
fn hint_for_field(name: &str) -> &'static str {
    match name {
        "address" | "addresses" => "its address seems to stand in \"address\", which etcd's gRPC naming calls \"Addr\"",
        "host" => {
            "its address seems to stand in \"host\", as CoreDNS has it; etcd's gRPC naming has host:port in \"Addr\""
        }
        "ip" => "its address seems to stand in \"ip\"; etcd's gRPC naming has host:port in \"Addr\"",
        "url" | "uri" => "its address seems to stand in a URL; etcd's gRPC naming has host:port in \"Addr\"",
        _ => "its address seems to stand under another name; etcd's gRPC naming has host:port in \"Addr\"",
    }
}
