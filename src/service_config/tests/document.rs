//! The document as a whole, and what belongs to no method.

use super::*;

#[test]
fn a_document_is_one_json_object_in_utf_8() {
    for text in ["{}", " {\n} ", r#"{"methodConfig":null,"retryThrottling":null,"loadBalancingConfig":null}"#] {
        assert_eq!(valid(text), ServiceConfig::default());
    }
    for (text, shown) in [
        ("", "the document is not JSON: EOF while parsing a value at line 1 column 0"),
        ("null", "the document must be an object"),
        ("[]", "the document must be an object"),
        ("\"{}\"", "the document must be an object"),
        ("{} {}", "the document is not JSON: trailing characters at line 1 column 4"),
        ("{,}", "the document is not JSON: key must be a string at line 1 column 2"),
        ("{'a':1}", "the document is not JSON: key must be a string at line 1 column 2"),
    ] {
        assert_eq!(invalid(text), shown, "{text}");
    }
    let error = ServiceConfig::parse(b"{\"\xff\":1}", MOST_ATTEMPTS).unwrap_err();
    assert_eq!((error.path(), error.reason()), ("", "is not UTF-8"));
}

#[test]
fn unknown_fields_are_ignored_whatever_they_hold() {
    let unknown = r#""x":[{"a":1e999,"a":2}],"loadBalancingPolicy":7,"méthode":"\ud800""#;
    assert_eq!(valid(&format!("{{{unknown}}}")), ServiceConfig::default());
    let entry = r#"{"methodConfig":[{"name":[{"service":"S","x":1}],"waitForReady":true,"y":{}}],"z":0}"#;
    assert_eq!(valid(entry).methods["/S/"].wait_for_ready, Some(true));
    assert_eq!(invalid(r#"{"x":01}"#), "the document is not JSON: invalid number at line 1 column 7");
}

#[test]
fn names_of_fields_are_in_lower_camel_case_or_as_in_the_proto_file() {
    let camel = r#"{"methodConfig":[{"name":[{}],"waitForReady":true,"maxRequestMessageBytes":7}]}"#;
    let snake = r#"{"method_config":[{"name":[{}],"wait_for_ready":true,"max_request_message_bytes":7}]}"#;
    assert_eq!(valid(camel), valid(snake));
    // Other spellings are unknown fields.
    assert_eq!(valid(r#"{"MethodConfig":1,"methodconfig":2}"#), ServiceConfig::default());
    let shown = invalid(r#"{"method_config":[{"name":[{}],"wait_for_ready":1}]}"#);
    assert_eq!(shown, "method_config[0].wait_for_ready: must be true or false");
}

#[test]
fn a_field_stands_once() {
    assert_eq!(
        invalid(r#"{"methodConfig":[],"methodConfig":[]}"#),
        "the document has the field \"methodConfig\" twice"
    );
    let shown = invalid(r#"{"methodConfig":[{"timeout":"1s","timeout":"1s"}]}"#);
    assert_eq!(shown, "methodConfig[0]: has the field \"timeout\" twice");
    assert_eq!(
        invalid(r#"{"retryThrottling":null,"retry_throttling":null}"#),
        "retryThrottling: is set twice, also as retry_throttling"
    );
    assert_eq!(invalid(r#"{"x":1,"x":1}"#), "the document has the field \"x\" twice");
    let long = "y".repeat(1000);
    assert!(invalid(&format!(r#"{{"{long}":1,"{long}":1}}"#)).len() < 100);
}

#[test]
fn a_name_that_is_no_text_is_refused() {
    assert_eq!(invalid(r#"{"\ud800":1}"#), "the document has a field whose name is no text");
    assert_eq!(valid(r#"{"\ud83d\ude00":1}"#), ServiceConfig::default());
}

#[test]
fn the_order_of_fields_does_not_matter() {
    let first = r#"{"healthCheckConfig":{"serviceName":"S"},"methodConfig":[{"name":[{"service":"a","method":"B"}],
        "timeout":"1s","maxResponseMessageBytes":3}],"retryThrottling":{"maxTokens":10,"tokenRatio":0.1}}"#;
    let second = r#"{"retryThrottling":{"tokenRatio":0.1,"maxTokens":10},"methodConfig":[{"maxResponseMessageBytes":3,
        "timeout":"1s","name":[{"method":"B","service":"a"}]}],"healthCheckConfig":{"serviceName":"S"}}"#;
    assert_eq!(valid(first), valid(second));
}

/// 128 levels are the document and 127 lists.
#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert_eq!(valid(&nested(127)), ServiceConfig::default());
    assert_eq!(invalid(&nested(128)), "the document is nested deeper than 128 levels");
    assert_eq!(invalid(&nested(1_000_000)), "the document is nested deeper than 128 levels");
    assert_eq!(valid(&format!(r#"{{"x":"\"{}"}}"#, "[".repeat(200))), ServiceConfig::default());
}

#[test]
fn the_service_of_health_checks_is_a_string() {
    let service = |text: &str| valid(text).health_check_service;
    assert_eq!(service(r#"{"healthCheckConfig":{"serviceName":"greeter"}}"#).as_deref(), Some("greeter"));
    assert_eq!(service(r#"{"healthCheckConfig":{"serviceName":""}}"#).as_deref(), Some(""));
    assert_eq!(service(r#"{"healthCheckConfig":{"serviceName":null}}"#), None);
    assert_eq!(service(r#"{"healthCheckConfig":{}}"#), None);
    let shown = invalid(r#"{"healthCheckConfig":{"serviceName":1}}"#);
    assert_eq!(shown, "healthCheckConfig.serviceName: must be a string");
    assert_eq!(invalid(r#"{"healthCheckConfig":"greeter"}"#), "healthCheckConfig: must be an object");
    let shown = invalid(r#"{"healthCheckConfig":{"serviceName":"\ud800"}}"#);
    assert_eq!(shown, "healthCheckConfig.serviceName: must be a string");
}

#[test]
fn connections_are_from_1_to_10() {
    let document = |value: &str| format!(r#"{{"connectionScaling":{{"maxConnectionsPerSubchannel":{value}}}}}"#);
    for (value, connections) in [("1", Some(1)), ("\"3\"", Some(3)), ("10", Some(10)), ("11", Some(10)), ("null", None)]
    {
        assert_eq!(valid(&document(value)).max_connections_per_subchannel, connections, "{value}");
    }
    let path = "connectionScaling.maxConnectionsPerSubchannel";
    assert_eq!(invalid(&document("0")), format!("{path}: must be 1 or more"));
    for value in ["-1", "1.5", "\"\"", "true", "4294967296"] {
        let shown = format!("{path}: must be a whole number from 0 to 4294967295");
        assert_eq!(invalid(&document(value)), shown, "{value}");
    }
}
