//! What is told of a valid document: names that are not known, and what has no effect.

use super::*;
use crate::service_config::{DeclaredRepeats, Remarks};

fn remarks(text: &str) -> Remarks {
    ServiceConfig::read(text.as_bytes(), MOST_ATTEMPTS).unwrap_or_else(|error| panic!("{error}: {text}")).1
}

fn warnings(text: &str) -> Vec<String> {
    remarks(text).warnings
}

/// What a document with everything looks like that has nothing to warn of.
const WHOLE: &str = r#"{
    "methodConfig": [
        {"name": [{}], "waitForReady": true, "timeout": "5s", "maxRequestMessageBytes": 1, "max_response_message_bytes": 1},
        {"name": [{"service": "a.B", "method": "Get"}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.1s",
            "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}},
        {"name": [{"service": "a.B", "method": ""}, {"service": "a.C"}], "hedgingPolicy": {"maxAttempts": 2,
            "hedgingDelay": "0.1s", "nonFatalStatusCodes": [14]}}
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    "healthCheckConfig": {"serviceName": "a.B"},
    "connectionScaling": {"maxConnectionsPerSubchannel": 2},
    "loadBalancingConfig": [
        {"not_known_here": {"x": 1}},
        {"outlier_detection_experimental": {
            "interval": "1s", "baseEjectionTime": "1s", "maxEjectionTime": "1s", "maxEjectionPercent": 1,
            "successRateEjection": {"stdevFactor": 1, "enforcementPercentage": 1, "minimumHosts": 1, "requestVolume": 1},
            "failurePercentageEjection": {"threshold": 1, "enforcementPercentage": 1, "minimumHosts": 1, "requestVolume": 1},
            "childPolicy": [{"least_request_experimental": {"choiceCount": 2}}]
        }},
        {"pick_first": {"shuffleAddressList": true}}
    ]
}"#;

#[test]
fn what_is_known_is_not_warned_of() {
    assert_eq!(warnings("{}"), Vec::<String>::new());
    assert_eq!(warnings(WHOLE), Vec::<String>::new());
    let pick_first = r#"{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}"#;
    assert_eq!(warnings(pick_first), Vec::<String>::new());
}

/// Each object, with a field that it does not have.
#[test]
fn unknown_fields_are_told_with_their_paths() {
    let outlier = "loadBalancingConfig[1].outlier_detection_experimental";
    for (object, path) in [
        ("{\n    \"methodConfig\"", "typo"),
        ("{\"name\": [{}]", "methodConfig[0].typo"),
        ("{\"service\": \"a.C\"", "methodConfig[2].name[1].typo"),
        ("{\"maxAttempts\": 3", "methodConfig[1].retryPolicy.typo"),
        ("{\"maxAttempts\": 2", "methodConfig[2].hedgingPolicy.typo"),
        ("{\"maxTokens\"", "retryThrottling.typo"),
        ("{\"serviceName\"", "healthCheckConfig.typo"),
        ("{\"maxConnectionsPerSubchannel\"", "connectionScaling.typo"),
        ("{\n            \"interval\"", &format!("{outlier}.typo")),
        ("{\"stdevFactor\"", &format!("{outlier}.successRateEjection.typo")),
        ("{\"threshold\"", &format!("{outlier}.failurePercentageEjection.typo")),
        ("{\"choiceCount\"", &format!("{outlier}.childPolicy[0].least_request_experimental.typo")),
    ] {
        assert_eq!(WHOLE.matches(object).count(), 1, "{object}");
        let text = WHOLE.replace(object, &object.replacen('{', "{\"typo\": null, ", 1));
        assert_eq!(warnings(&text), [format!("{path}: is not known here, and is ignored")], "{text}");
    }
    for policy in ["pick_first", "round_robin"] {
        let text = format!(r#"{{"loadBalancingConfig":[{{"{policy}":{{"x":1}}}}]}}"#);
        assert_eq!(warnings(&text), [format!("loadBalancingConfig[0].{policy}.x: is not known here, and is ignored")]);
    }
    let spelled = r#"{"methodConfig":[{"name":[{}],"timeOut":"1s"}],"a b":1}"#;
    let ignored = "is not known here, and is ignored";
    assert_eq!(warnings(spelled), [format!("methodConfig[0].timeOut: {ignored}"), format!("\"a b\": {ignored}")]);
    assert!(warnings(&format!(r#"{{"{}":1}}"#, "y".repeat(1_000)))[0].len() < 100);
}

#[test]
fn names_that_match_nothing_are_told() {
    let reason = "has a slash, so that it names no method of a generated client: write it as in the proto file";
    for (name, field) in [
        (r#"{"service":"/helloworld.Greeter"}"#, "service"),
        (r#"{"service":"helloworld.Greeter/SayHello"}"#, "service"),
        (r#"{"service":"helloworld.Greeter","method":"/SayHello"}"#, "method"),
    ] {
        let told = warnings(&format!(r#"{{"methodConfig":[{{"name":[{name}]}}]}}"#));
        assert_eq!(told, [format!("methodConfig[0].name[0].{field}: {reason}")]);
    }
    for names in ["", r#""name":[],"#] {
        let told = warnings(&format!(r#"{{"methodConfig":[{{{names}"timeout":"1s"}}]}}"#));
        assert_eq!(told, ["methodConfig[0]: has no name, and is skipped; {} is the name of all methods"]);
    }
}

#[test]
fn what_no_call_survives_and_what_counts_as_less_is_told() {
    let entry = |fields: &str| warnings(&format!(r#"{{"methodConfig":[{{"name":[{{}}],{fields}}}]}}"#));
    assert_eq!(entry(r#""timeout":"0s""#), ["methodConfig[0].timeout: is 0: every call fails"]);
    for field in ["maxRequestMessageBytes", "maxResponseMessageBytes"] {
        let reason = "is 0: every call with a message that is not empty fails";
        assert_eq!(entry(&format!(r#""{field}":0"#)), [format!("methodConfig[0].{field}: {reason}")]);
    }
    let hedging = entry(r#""hedgingPolicy":{"maxAttempts":9}"#);
    assert_eq!(hedging, ["methodConfig[0].hedgingPolicy.maxAttempts: counts as 5"]);
    let scaling = warnings(r#"{"connectionScaling":{"maxConnectionsPerSubchannel":11}}"#);
    assert_eq!(scaling, ["connectionScaling.maxConnectionsPerSubchannel: counts as 10"]);
    let health = warnings(r#"{"healthCheckConfig":{}}"#);
    let reason = "has no serviceName, so that no health is checked; \"\" stands for the server as a whole";
    assert_eq!(health, [format!("healthCheckConfig: {reason}")]);
    assert!(warnings(r#"{"healthCheckConfig":{"serviceName":""}}"#).is_empty());
}

#[test]
fn a_document_can_have_any_number_of_them() {
    let fields: Vec<_> = (0..1_000).map(|number| format!("\"x{number}\":1")).collect();
    let told = warnings(&format!("{{{}}}", fields.join(",")));
    assert_eq!((told.len(), told[16].as_str()), (17, "984 more"));
}

#[test]
fn what_says_how_calls_are_repeated_is_known_by_its_place() {
    let all = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let expected = [
        DeclaredRepeats { policy: "methodConfig[1].retryPolicy".to_owned(), methods: all(&["/a.B/Get"]) },
        DeclaredRepeats { policy: "methodConfig[2].hedgingPolicy".to_owned(), methods: all(&["/a.B/", "/a.C/"]) },
    ];
    assert_eq!(remarks(WHOLE).repeats, expected);
}
