//! `methodConfig`: names, times and sizes.

use std::time::Duration;

use super::*;
use crate::service_config::MethodParams;

/// A document with entries of these texts.
fn document(entries: &[&str]) -> String {
    format!(r#"{{"methodConfig":[{}]}}"#, entries.join(","))
}

/// The settings for all methods, of an entry with this field.
fn with(field: &str) -> MethodParams {
    (*valid(&document(&[&format!(r#"{{"name":[{{}}],{field}}}"#)])).methods["/"]).clone()
}

/// The error of an entry with this field.
fn without(field: &str) -> String {
    invalid(&document(&[&format!(r#"{{"name":[{{}}],{field}}}"#)]))
}

/// A config in which the entries are told apart by their sizes: 1, 2, ….
fn named(names: &[&str]) -> ServiceConfig {
    let entry =
        |(index, names): (usize, &&str)| format!(r#"{{"name":[{names}],"maxRequestMessageBytes":{}}}"#, index + 1);
    let entries: Vec<_> = names.iter().enumerate().map(entry).collect();
    valid(&document(&entries.iter().map(String::as_str).collect::<Vec<_>>()))
}

#[test]
fn the_method_wins_then_its_service_then_the_default() {
    let config =
        named(&["{}", r#"{"service":"a.S"}"#, r#"{"service":"a.S","method":"M"},{"service":"a.T","method":"N"}"#]);
    assert_eq!(config.methods.keys().collect::<Vec<_>>(), ["/", "/a.S/", "/a.S/M", "/a.T/N"]);
    for (path, size) in [("/a.S/M", 3), ("/a.S/N", 2), ("/a.T/N", 3), ("/a.T/M", 1), ("/M", 1), ("M", 1), ("", 1)] {
        assert_eq!(config.method(path).unwrap().max_request_bytes, Some(size), "{path}");
    }
    let config = named(&[r#"{"service":"a.S"}"#]);
    assert!(config.method("/a.S/M").is_some() && config.method("/a.T/M").is_none() && config.method("a.S").is_none());
}

#[test]
fn the_empty_text_null_and_absence_are_the_same() {
    for name in ["{}", r#"{"service":""}"#, r#"{"service":null,"method":""}"#, r#"{"method":null}"#] {
        assert_eq!(named(&[name]).methods.keys().collect::<Vec<_>>(), ["/"], "{name}");
    }
    for name in [r#"{"service":"S"}"#, r#"{"service":"S","method":""}"#, r#"{"service":"S","method":null}"#] {
        assert_eq!(named(&[name]).methods.keys().collect::<Vec<_>>(), ["/S/"], "{name}");
        let shown = invalid(&document(&[r#"{"name":[{"service":"S"}]}"#, &format!(r#"{{"name":[{name}]}}"#)]));
        assert_eq!(shown, "methodConfig[1].name[0]: is the same name as methodConfig[0].name[0]");
    }
}

#[test]
fn a_method_needs_its_service() {
    named(&[r#"{"service":"S","method":"M"}"#]);
    for name in [r#"{"method":"M"}"#, r#"{"service":"","method":"M"}"#, r#"{"service":null,"method":"M"}"#] {
        let shown = invalid(&document(&[&format!(r#"{{"name":[{{}},{name}]}}"#)]));
        assert_eq!(shown, "methodConfig[0].name[1]: names a method without its service");
    }
}

#[test]
fn a_name_stands_once() {
    named(&[r#"{"service":"S","method":"M"},{"service":"S","method":"N"}"#, r#"{"service":"S"}"#]);
    let twice = r#"{"name":[{"service":"S","method":"M"},{"service":"S","method":"M"}]}"#;
    assert_eq!(invalid(&document(&[twice])), "methodConfig[0].name[1]: is the same name as methodConfig[0].name[0]");
    let defaults = [r#"{"name":[{}]}"#, r#"{"name":[{"service":"S"}]}"#, r#"{"name":[{"service":""}]}"#];
    assert_eq!(invalid(&document(&defaults)), "methodConfig[2].name[0]: is the same name as methodConfig[0].name[0]");
}

#[test]
fn an_entry_without_names_is_skipped_but_must_be_valid() {
    for names in ["", r#""name":null,"#, r#""name":[],"#] {
        let entry = |timeout| document(&[&format!(r#"{{{names}"timeout":{timeout}}}"#)]);
        assert!(valid(&entry("\"1s\"")).methods.is_empty());
        assert_eq!(invalid(&entry("1")), "methodConfig[0].timeout: must be a string like \"1.5s\"");
    }
}

#[test]
fn lists_and_objects_are_what_they_must_be() {
    for (text, shown) in [
        (r#"{"methodConfig":{}}"#, "methodConfig: must be a list"),
        (r#"{"methodConfig":[null]}"#, "methodConfig[0]: must be an object"),
        (r#"{"methodConfig":[{},[]]}"#, "methodConfig[1]: must be an object"),
        (r#"{"methodConfig":[{"name":{}}]}"#, "methodConfig[0].name: must be a list"),
        (r#"{"methodConfig":[{"name":[null]}]}"#, "methodConfig[0].name[0]: must be an object"),
        (r#"{"methodConfig":[{"name":["S"]}]}"#, "methodConfig[0].name[0]: must be an object"),
        (r#"{"methodConfig":[{"name":[{"service":1}]}]}"#, "methodConfig[0].name[0].service: must be a string"),
        (r#"{"methodConfig":[{"name":[{"method":[]}]}]}"#, "methodConfig[0].name[0].method: must be a string"),
    ] {
        assert_eq!(invalid(text), shown);
    }
    assert!(valid(r#"{"methodConfig":[]}"#).methods.is_empty());
}

#[test]
fn wait_for_ready_is_a_boolean() {
    for (value, wait) in [("true", Some(true)), ("false", Some(false)), ("null", None)] {
        assert_eq!(with(&format!(r#""waitForReady":{value}"#)).wait_for_ready, wait);
    }
    for value in ["1", "\"true\"", "[]"] {
        let shown = without(&format!(r#""waitForReady":{value}"#));
        assert_eq!(shown, "methodConfig[0].waitForReady: must be true or false");
    }
}

#[test]
fn a_timeout_is_a_duration_of_proto3() {
    for (value, timeout) in [
        ("\"1.5s\"", Some(Duration::from_millis(1500))),
        ("\"0.000000001s\"", Some(Duration::from_nanos(1))),
        ("\"0s\"", Some(Duration::ZERO)),
        ("\"315576000000s\"", Some(Duration::from_secs(315_576_000_000))),
        ("null", None),
    ] {
        assert_eq!(with(&format!(r#""timeout":{value}"#)).timeout, timeout);
    }
    let unit = "a duration is a number of seconds with an s, like \"1.5s\"";
    for (value, reason) in [
        ("\"-1s\"", "is \"-1s\": it must not be negative"),
        ("\"1.0123456789s\"", "is \"1.0123456789s\": a duration has up to nine decimals"),
        ("\"315576000001s\"", "is \"315576000001s\": a duration is at most 315576000000 s"),
        ("\"50ms\"", &format!("is \"50ms\": {unit}")),
        ("\"1\"", &format!("is \"1\": {unit}")),
        ("1.5", "must be a string like \"1.5s\""),
        ("{\"seconds\":1}", "must be a string like \"1.5s\""),
    ] {
        assert_eq!(without(&format!(r#""timeout":{value}"#)), format!("methodConfig[0].timeout: {reason}"));
    }
    assert!(without(&format!(r#""timeout":"{}""#, "ä\\n".repeat(500))).chars().count() < 200);
}

#[test]
fn sizes_are_unsigned_numbers_or_strings_of_them() {
    for (value, bytes) in [
        ("0", Some(0)),
        ("4194304", Some(4 << 20)),
        ("\"1024\"", Some(1024)),
        ("1024.0", Some(1024)),
        ("1.024e3", Some(1024)),
        ("4294967295", Some(u32::MAX as usize)),
        ("null", None),
    ] {
        let params = with(&format!(r#""maxRequestMessageBytes":{value},"maxResponseMessageBytes":{value}"#));
        assert_eq!((params.max_request_bytes, params.max_response_bytes), (bytes, bytes), "{value}");
    }
    for value in ["-1", "1.5", "4294967296", "1e99", "1e999", "\"1 \"", "\"0x10\"", "\"\"", "true", "[1]"] {
        for field in ["maxRequestMessageBytes", "maxResponseMessageBytes"] {
            let shown = format!("methodConfig[0].{field}: must be a whole number from 0 to 4294967295");
            assert_eq!(without(&format!(r#""{field}":{value}"#)), shown, "{value}");
        }
    }
}
