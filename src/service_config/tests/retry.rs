//! `retryPolicy`, `hedgingPolicy` and `retryThrottling`.

use std::time::Duration;

use super::*;
use crate::service_config::RetryThrottling;
use crate::service_config::retry::{HedgingParams, RetryParams};

const RETRY: [(&str, &str); 5] = [
    ("maxAttempts", "4"),
    ("initialBackoff", "\"0.1s\""),
    ("maxBackoff", "\"1s\""),
    ("backoffMultiplier", "2"),
    ("retryableStatusCodes", "[\"UNAVAILABLE\"]"),
];

/// A document whose entry for all methods has a policy of these fields.
fn document(policy: &str, fields: &[(&str, &str)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!(r#"{{"methodConfig":[{{"name":[{{}}],"{policy}":{{{}}}}}]}}"#, fields.join(","))
}

/// A retry policy with another value in one field.
fn retry(field: &str, value: &str) -> String {
    let fields = RETRY.map(|(name, valid)| (name, if name == field { value } else { valid }));
    document("retryPolicy", &fields)
}

fn retry_of(text: &str) -> RetryParams {
    valid(text).methods["/"].retry.clone().unwrap()
}

fn hedging_of(text: &str) -> HedgingParams {
    valid(text).methods["/"].hedging.clone().unwrap()
}

#[test]
fn a_retry_policy_has_all_of_its_fields() {
    let expected = RetryParams {
        max_attempts: 4,
        initial_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(1),
        backoff_multiplier: 2.0,
        codes: vec![14],
    };
    assert_eq!(retry_of(&document("retryPolicy", &RETRY)), expected);
    for left_out in RETRY.map(|(name, _)| name) {
        let fields: Vec<_> = RETRY.into_iter().filter(|(name, _)| *name != left_out).collect();
        let shown = format!("methodConfig[0].retryPolicy.{left_out}: is required");
        assert_eq!(invalid(&document("retryPolicy", &fields)), shown);
        assert_eq!(invalid(&retry(left_out, "null")), shown);
    }
    let none = valid(r#"{"methodConfig":[{"name":[{}],"retryPolicy":null,"hedgingPolicy":null}]}"#);
    assert!(none.methods["/"].retry.is_none() && none.methods["/"].hedging.is_none());
}

#[test]
fn attempts_are_2_or_more_and_at_most_what_is_allowed() {
    for (value, attempts) in [("2", 2), ("5", 5), ("6", 5), ("\"3\"", 3), ("4294967295", 5)] {
        assert_eq!(retry_of(&retry("maxAttempts", value)).max_attempts, attempts);
        assert_eq!(hedging_of(&document("hedgingPolicy", &[("maxAttempts", value)])).max_attempts, attempts);
    }
    let config = ServiceConfig::parse(retry("maxAttempts", "9").as_bytes(), 10).unwrap();
    assert_eq!(config.methods["/"].retry.as_ref().unwrap().max_attempts, 9);
    for value in ["0", "1"] {
        let shown = invalid(&retry("maxAttempts", value));
        assert_eq!(shown, "methodConfig[0].retryPolicy.maxAttempts: must be 2 or more");
        let shown = invalid(&document("hedgingPolicy", &[("maxAttempts", value)]));
        assert_eq!(shown, "methodConfig[0].hedgingPolicy.maxAttempts: must be 2 or more");
    }
    let shown = invalid(&retry("maxAttempts", "-3"));
    assert_eq!(shown, "methodConfig[0].retryPolicy.maxAttempts: must be a whole number from 0 to 4294967295");
}

#[test]
fn backoffs_and_their_multiplier_are_above_0() {
    assert_eq!(retry_of(&retry("initialBackoff", "\"0.000000001s\"")).initial_backoff, Duration::from_nanos(1));
    for (field, value, reason) in [
        ("initialBackoff", "\"0s\"", "must be more than 0"),
        ("initialBackoff", "\"-1s\"", "is \"-1s\": it must not be negative"),
        ("maxBackoff", "\"-0s\"", "must be more than 0"),
        ("maxBackoff", "1", "must be a string like \"1.5s\""),
        ("backoffMultiplier", "0", "must be more than 0"),
        ("backoffMultiplier", "-1.5", "must be more than 0"),
        ("backoffMultiplier", "1e-999", "must be more than 0"),
        ("backoffMultiplier", "1e999", "must be a finite number"),
        ("backoffMultiplier", "\"Infinity\"", "must be a finite number"),
        ("backoffMultiplier", "\"NaN\"", "must be a finite number"),
        ("backoffMultiplier", "\"two\"", "must be a finite number"),
        ("backoffMultiplier", "true", "must be a finite number"),
    ] {
        assert_eq!(invalid(&retry(field, value)), format!("methodConfig[0].retryPolicy.{field}: {reason}"), "{value}");
    }
    for (value, multiplier) in [("1.6", 1.6), ("\"1.6\"", 1.6), ("0.5", 0.5), ("1e3", 1000.0)] {
        let read = retry_of(&retry("backoffMultiplier", value)).backoff_multiplier;
        assert!((read - multiplier).abs() < 1e-12, "{value}");
    }
}

#[test]
fn codes_are_names_or_numbers() {
    let codes = |value: &str| retry_of(&retry("retryableStatusCodes", value)).codes;
    assert_eq!(codes(r#"["UNAVAILABLE","CANCELLED",8,14,"RESOURCE_EXHAUSTED",4.0]"#), [1, 4, 8, 14]);
    assert_eq!(codes("[16,0]"), [0, 16]);
    for (value, shown) in [
        ("[]", ": must name at least one code"),
        ("\"UNAVAILABLE\"", ": must be a list"),
        ("[14,17]", "[1]: must be the name of a code, or a number from 0 to 16"),
        ("[-1]", "[0]: must be the name of a code, or a number from 0 to 16"),
        ("[null]", "[0]: must be the name of a code, or a number from 0 to 16"),
        ("[\"unavailable\"]", "[0]: is \"unavailable\": there is no such code"),
        ("[\"CANCELED\"]", "[0]: is \"CANCELED\": there is no such code"),
        ("[\"14\"]", "[0]: is \"14\": there is no such code"),
    ] {
        let path = "methodConfig[0].retryPolicy.retryableStatusCodes";
        assert_eq!(invalid(&retry("retryableStatusCodes", value)), format!("{path}{shown}"));
    }
}

#[test]
fn every_name_of_a_code_has_its_number() {
    use tonic::Code;
    for (name, code) in [
        ("OK", Code::Ok),
        ("CANCELLED", Code::Cancelled),
        ("UNKNOWN", Code::Unknown),
        ("INVALID_ARGUMENT", Code::InvalidArgument),
        ("DEADLINE_EXCEEDED", Code::DeadlineExceeded),
        ("NOT_FOUND", Code::NotFound),
        ("ALREADY_EXISTS", Code::AlreadyExists),
        ("PERMISSION_DENIED", Code::PermissionDenied),
        ("RESOURCE_EXHAUSTED", Code::ResourceExhausted),
        ("FAILED_PRECONDITION", Code::FailedPrecondition),
        ("ABORTED", Code::Aborted),
        ("OUT_OF_RANGE", Code::OutOfRange),
        ("UNIMPLEMENTED", Code::Unimplemented),
        ("INTERNAL", Code::Internal),
        ("UNAVAILABLE", Code::Unavailable),
        ("DATA_LOSS", Code::DataLoss),
        ("UNAUTHENTICATED", Code::Unauthenticated),
    ] {
        let codes = retry_of(&retry("retryableStatusCodes", &format!("[\"{name}\"]"))).codes;
        assert_eq!(codes, [code as u8], "{name}");
    }
}

#[test]
fn a_hedging_policy_needs_only_its_attempts() {
    let text = document("hedgingPolicy", &[("maxAttempts", "3")]);
    let expected = HedgingParams { max_attempts: 3, hedging_delay: Duration::ZERO, non_fatal_codes: Vec::new() };
    assert_eq!(hedging_of(&text), expected);
    let all = [("maxAttempts", "3"), ("hedgingDelay", "\"0.5s\""), ("nonFatalStatusCodes", "[\"UNAVAILABLE\",2]")];
    let expected =
        HedgingParams { max_attempts: 3, hedging_delay: Duration::from_millis(500), non_fatal_codes: vec![2, 14] };
    assert_eq!(hedging_of(&document("hedgingPolicy", &all)), expected);
    assert!(
        hedging_of(&document("hedgingPolicy", &[all[0], ("nonFatalStatusCodes", "[]")])).non_fatal_codes.is_empty()
    );
    for (fields, shown) in [
        (&all[1..], "maxAttempts: is required"),
        (&[all[0], ("hedgingDelay", "\"-1s\"")], "hedgingDelay: is \"-1s\": it must not be negative"),
        (
            &[all[0], ("nonFatalStatusCodes", "[99]")],
            "nonFatalStatusCodes[0]: must be the name of a code, or a number from 0 to 16",
        ),
    ] {
        assert_eq!(invalid(&document("hedgingPolicy", fields)), format!("methodConfig[0].hedgingPolicy.{shown}"));
    }
}

#[test]
fn an_entry_has_one_of_the_two_policies() {
    let both = |retry: &str, hedging: &str| {
        format!(r#"{{"methodConfig":[{{}},{{"name":[{{}}],"retryPolicy":{retry},"hedgingPolicy":{hedging}}}]}}"#)
    };
    let retry = r#"{"maxAttempts":2,"initialBackoff":"1s","maxBackoff":"1s","backoffMultiplier":1,"retryableStatusCodes":[14]}"#;
    let hedging = r#"{"maxAttempts":2}"#;
    assert!(valid(&both(retry, "null")).methods["/"].retry.is_some());
    assert!(valid(&both("null", hedging)).methods["/"].hedging.is_some());
    let shown = invalid(&both(retry, hedging));
    assert_eq!(shown, "methodConfig[1].hedgingPolicy: must not be set together with retryPolicy");
}

#[test]
fn throttling_has_up_to_1000_tokens_and_a_ratio_above_0() {
    let document =
        |tokens: &str, ratio: &str| format!(r#"{{"retryThrottling":{{"maxTokens":{tokens},"tokenRatio":{ratio}}}}}"#);
    for (tokens, ratio, max_tokens, token_ratio) in
        [("10", "0.1", 10.0, 0.1), ("1000", "1", 1000.0, 1.0), ("\"0.5\"", "0.0004", 0.5, 0.0004)]
    {
        let expected = RetryThrottling { max_tokens, token_ratio };
        assert_eq!(valid(&document(tokens, ratio)).retry_throttling, Some(expected));
    }
    for (tokens, ratio, shown) in [
        ("0", "0.1", "maxTokens: must be more than 0"),
        ("-1", "0.1", "maxTokens: must be more than 0"),
        ("1000.5", "0.1", "maxTokens: must be at most 1000"),
        ("\"many\"", "0.1", "maxTokens: must be a finite number"),
        ("null", "0.1", "maxTokens: is required"),
        ("10", "0", "tokenRatio: must be more than 0"),
        ("10", "-0.1", "tokenRatio: must be more than 0"),
        ("10", "null", "tokenRatio: is required"),
    ] {
        assert_eq!(invalid(&document(tokens, ratio)), format!("retryThrottling.{shown}"));
    }
    assert_eq!(invalid(r#"{"retryThrottling":[]}"#), "retryThrottling: must be an object");
}
