//! `loadBalancingConfig`: the list, and each policy.

use std::time::Duration;

use super::*;
use crate::service_config::outlier::{FailurePercentageParams, SuccessRateParams};
use crate::service_config::{LoadBalancing, OutlierParams, RingHashParams};

/// The policy of a list.
fn policy(list: &str) -> LoadBalancing {
    valid(&format!(r#"{{"loadBalancingConfig":{list}}}"#)).load_balancing.unwrap()
}

/// What follows the path of the list in the error.
fn refused(list: &str) -> String {
    let shown = invalid(&format!(r#"{{"loadBalancingConfig":{list}}}"#));
    shown.strip_prefix("loadBalancingConfig").unwrap().to_owned()
}

const UNKNOWN: &str = ": names no policy that is known here: pick_first, round_robin, least_request_experimental, \
    ring_hash_experimental, random_subsetting_experimental, outlier_detection_experimental";

#[test]
fn the_first_policy_that_is_known_counts() {
    assert_eq!(policy(r#"[{"round_robin":{}},{"pick_first":{}}]"#), LoadBalancing::RoundRobin);
    assert_eq!(policy(r#"[{"grpclb":7},{"round_robin":{}}]"#), LoadBalancing::RoundRobin);
    assert_eq!(policy(r#"[{"round_robin":{}},{"pick_first":{"shuffleAddressList":7}}]"#), LoadBalancing::RoundRobin);
    for list in ["[]", r#"[{"grpclb":{}}]"#, r#"[{"Round_Robin":{}}]"#, r#"[{"roundRobin":{}}]"#] {
        assert_eq!(refused(list), UNKNOWN, "{list}");
    }
    assert_eq!(valid(r#"{"loadBalancingConfig":null}"#).load_balancing, None);
}

#[test]
fn an_entry_has_exactly_one_field() {
    let reason = "must have exactly one field, the name of a policy";
    assert_eq!(refused("[{}]"), format!("[0]: {reason}"));
    assert_eq!(refused(r#"[{"round_robin":{},"pick_first":{}}]"#), format!("[0]: {reason}"));
    assert_eq!(refused(r#"[{"round_robin":{}},{}]"#), format!("[1]: {reason}"));
    assert_eq!(refused(r#"["round_robin"]"#), "[0]: must be an object");
    assert_eq!(refused(r#"{"round_robin":{}}"#), ": must be a list");
    assert_eq!(refused(r#"[{"round_robin":null}]"#), "[0].round_robin: must be an object");
}

#[test]
fn pick_first_may_shuffle() {
    assert_eq!(policy(r#"[{"pick_first":{}}]"#), LoadBalancing::PickFirst { shuffle: false });
    let shuffled = policy(r#"[{"pick_first":{"shuffleAddressList":true}}]"#);
    assert_eq!(shuffled, LoadBalancing::PickFirst { shuffle: true });
    let shown = refused(r#"[{"pick_first":{"shuffleAddressList":"yes"}}]"#);
    assert_eq!(shown, "[0].pick_first.shuffleAddressList: must be true or false");
}

#[test]
fn least_request_chooses_between_2_and_10() {
    for (config, choice_count) in [("{}", 2), (r#"{"choiceCount":3}"#, 3), (r#"{"choiceCount":"11"}"#, 10)] {
        let read = policy(&format!(r#"[{{"least_request_experimental":{config}}}]"#));
        assert_eq!(read, LoadBalancing::LeastRequest { choice_count });
    }
    for (count, reason) in [("1", "2 or more"), ("0", "2 or more"), ("-2", "a whole number from 0 to 4294967295")] {
        let shown = refused(&format!(r#"[{{"x":0}},{{"least_request_experimental":{{"choiceCount":{count}}}}}]"#));
        assert_eq!(shown, format!("[1].least_request_experimental.choiceCount: must be {reason}"));
    }
}

#[test]
fn ring_hash_takes_each_value() {
    let ring = |min_ring_size, max_ring_size, header: Option<&str>| {
        let request_hash_header = header.map(str::to_owned);
        LoadBalancing::RingHash(RingHashParams { min_ring_size, max_ring_size, request_hash_header })
    };
    for (config, expected) in [
        ("{}", ring(None, None, None)),
        (r#"{"minRingSize":0,"maxRingSize":0,"requestHashHeader":""}"#, ring(None, None, None)),
        (r#"{"minRingSize":7,"max_ring_size":"8388608"}"#, ring(Some(7), Some(8_388_608), None)),
        (r#"{"minRingSize":4096}"#, ring(Some(4_096), None, None)),
        (r#"{"maxRingSize":1024,"requestHashHeader":"X-User_1.b"}"#, ring(None, Some(1_024), Some("x-user_1.b"))),
    ] {
        assert_eq!(policy(&format!(r#"[{{"ring_hash_experimental":{config}}}]"#)), expected, "{config}");
    }
}

#[test]
fn ring_hash_refuses_what_its_grfcs_refuse() {
    let header = "requestHashHeader: must be the name of a header, of letters, digits, \"-\", \"_\" and \".\"";
    for (config, shown) in [
        (r#"{"minRingSize":8388609,"maxRingSize":8388609}"#, "minRingSize: must be at most 8388608"),
        (r#"{"maxRingSize":8388609}"#, "maxRingSize: must be at most 8388608"),
        (r#"{"maxRingSize":-1}"#, "maxRingSize: must be a whole number from 0 to 4294967295"),
        (r#"{"minRingSize":3,"maxRingSize":2}"#, "minRingSize: is 3 and must be at most maxRingSize, 2"),
        (r#"{"minRingSize":4097}"#, "minRingSize: is 4097 and must be at most maxRingSize, 4096"),
        (r#"{"maxRingSize":1023}"#, "minRingSize: is 1024 and must be at most maxRingSize, 1023"),
        (r#"{"requestHashHeader":"x user"}"#, header),
        (r#"{"requestHashHeader":":path"}"#, header),
        (r#"{"requestHashHeader":"x-ü"}"#, header),
        (r#"{"requestHashHeader":"x-user-bin"}"#, "requestHashHeader: must not end with \"-bin\""),
        (r#"{"requestHashHeader":"X-User-BIN"}"#, "requestHashHeader: must not end with \"-bin\""),
        (r#"{"requestHashHeader":7}"#, "requestHashHeader: must be a string"),
    ] {
        let refused = refused(&format!(r#"[{{"ring_hash_experimental":{config}}}]"#));
        assert_eq!(refused, format!("[0].ring_hash_experimental.{shown}"), "{config}");
    }
    assert_eq!(refused(r#"[{"ring_hash_experimental":7}]"#), "[0].ring_hash_experimental: must be an object");
}

#[test]
fn random_subsetting_has_a_size_and_a_child() {
    let read = policy(r#"[{"random_subsetting_experimental":{"subsetSize":"20","childPolicy":[{"round_robin":{}}]}}]"#);
    let child = Box::new(LoadBalancing::RoundRobin);
    assert_eq!(read, LoadBalancing::RandomSubsetting { subset_size: 20, child });
    let child = r#""childPolicy":[{"round_robin":{}}]"#;
    for (config, shown) in [
        (format!("{{{child}}}"), "subsetSize: is required"),
        (format!(r#"{{{child},"subsetSize":0}}"#), "subsetSize: must be 1 or more"),
        (format!(r#"{{{child},"subsetSize":1.5}}"#), "subsetSize: must be a whole number from 0 to 4294967295"),
        (r#"{"subsetSize":20}"#.to_owned(), "childPolicy: is required"),
        (r#"{"subsetSize":20,"childPolicy":[]}"#.to_owned(), &format!("childPolicy{UNKNOWN}")),
    ] {
        let refused = refused(&format!(r#"[{{"random_subsetting_experimental":{config}}}]"#));
        assert_eq!(refused, format!("[0].random_subsetting_experimental.{shown}"), "{config}");
    }
}

/// The options and the child of outlier detection.
fn outlier(config: &str) -> (OutlierParams, LoadBalancing) {
    match policy(&format!(r#"[{{"outlier_detection_experimental":{config}}}]"#)) {
        LoadBalancing::OutlierDetection { options, child } => (options, *child),
        other => panic!("{other:?}"),
    }
}

#[test]
fn outlier_detection_has_the_defaults_of_its_grfc() {
    let (options, child) = outlier(
        r#"{"successRateEjection":{},"failurePercentageEjection":{},"childPolicy":[{"x":{}},{"round_robin":{}}]}"#,
    );
    let expected = OutlierParams {
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_percent: 10,
        success_rate_ejection: Some(SuccessRateParams {
            stdev_factor: 1900,
            enforcement_percentage: 100,
            minimum_hosts: 5,
            request_volume: 100,
        }),
        failure_percentage_ejection: Some(FailurePercentageParams {
            threshold: 85,
            enforcement_percentage: 100,
            minimum_hosts: 5,
            request_volume: 50,
        }),
    };
    assert_eq!((options, child), (expected, LoadBalancing::RoundRobin));
    let (options, _) = outlier(r#"{"childPolicy":[{"round_robin":{}}],"baseEjectionTime":"400s"}"#);
    assert_eq!(options.max_ejection_time, Duration::from_secs(400));
    assert!(options.success_rate_ejection.is_none() && options.failure_percentage_ejection.is_none());
}

#[test]
fn outlier_detection_takes_each_value() {
    let (options, child) = outlier(
        r#"{"interval":"1s","baseEjectionTime":"2s","maxEjectionTime":"1.5s","maxEjectionPercent":100,
            "successRateEjection":{"stdevFactor":1,"enforcementPercentage":2,"minimumHosts":3,"requestVolume":4},
            "failurePercentageEjection":{"threshold":5,"enforcementPercentage":6,"minimumHosts":7,"requestVolume":8},
            "childPolicy":[{"least_request_experimental":{"choiceCount":5}}]}"#,
    );
    let expected = OutlierParams {
        interval: Duration::from_secs(1),
        base_ejection_time: Duration::from_secs(2),
        max_ejection_time: Duration::from_millis(1500),
        max_ejection_percent: 100,
        success_rate_ejection: Some(SuccessRateParams {
            stdev_factor: 1,
            enforcement_percentage: 2,
            minimum_hosts: 3,
            request_volume: 4,
        }),
        failure_percentage_ejection: Some(FailurePercentageParams {
            threshold: 5,
            enforcement_percentage: 6,
            minimum_hosts: 7,
            request_volume: 8,
        }),
    };
    assert_eq!((options, child), (expected, LoadBalancing::LeastRequest { choice_count: 5 }));
}

#[test]
fn outlier_detection_refuses_what_its_grfc_refuses() {
    let child = r#""childPolicy":[{"round_robin":{}}]"#;
    for (config, shown) in [
        (format!(r#"{child},"interval":"-1s""#), "interval: is \"-1s\": it must not be negative"),
        (format!(r#"{child},"baseEjectionTime":5"#), "baseEjectionTime: must be a string like \"1.5s\""),
        (format!(r#"{child},"maxEjectionTime":"-1s""#), "maxEjectionTime: is \"-1s\": it must not be negative"),
        (format!(r#"{child},"maxEjectionPercent":101"#), "maxEjectionPercent: must be at most 100"),
        (format!(r#"{child},"successRateEjection":[]"#), "successRateEjection: must be an object"),
        (
            format!(r#"{child},"successRateEjection":{{"enforcementPercentage":101}}"#),
            "successRateEjection.enforcementPercentage: must be at most 100",
        ),
        (
            format!(r#"{child},"successRateEjection":{{"stdevFactor":-1}}"#),
            "successRateEjection.stdevFactor: must be a whole number from 0 to 4294967295",
        ),
        (
            format!(r#"{child},"failurePercentageEjection":{{"threshold":101}}"#),
            "failurePercentageEjection.threshold: must be at most 100",
        ),
        (
            format!(r#"{child},"failurePercentageEjection":{{"enforcementPercentage":101}}"#),
            "failurePercentageEjection.enforcementPercentage: must be at most 100",
        ),
        (String::new(), "childPolicy: is required"),
        (
            r#""childPolicy":[{"round_robin":{},"x":{}}]"#.to_owned(),
            "childPolicy[0]: must have exactly one field, the name of a policy",
        ),
        (r#""childPolicy":[]"#.to_owned(), &format!("childPolicy{UNKNOWN}")),
    ] {
        let refused = refused(&format!(r#"[{{"outlier_detection_experimental":{{{config}}}}}]"#));
        assert_eq!(refused, format!("[0].outlier_detection_experimental.{shown}"));
    }
}

#[test]
fn policies_nest_within_the_depth_of_a_document() {
    let nested = |levels: usize| {
        let open = r#"[{"outlier_detection_experimental":{"childPolicy":"#;
        format!("{}{}{}", open.repeat(levels), r#"[{"round_robin":{}}]"#, "}}]".repeat(levels))
    };
    assert!(matches!(policy(&nested(41)), LoadBalancing::OutlierDetection { .. }));
    let shown = invalid(&format!(r#"{{"loadBalancingConfig":{}}}"#, nested(42)));
    assert_eq!(shown, "the document is nested deeper than 128 levels");
}
