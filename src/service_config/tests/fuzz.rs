//! The fuzz target: any bytes are a document.

use std::time::Duration;

use serde_json::{Value, json};

use crate::service_config::{InvalidServiceConfig, LoadBalancing, MethodParams, OutlierParams, ServiceConfig};

/// A document that is taken is the same when it is written anew, with names that are all known; the error of any other says where
/// it is wrong. How many attempts are allowed decides nothing about it.
pub(crate) fn fuzz(bytes: &[u8]) {
    let parsed = ServiceConfig::read(bytes, 5);
    assert_eq!(ServiceConfig::parse(bytes, u32::MAX).err(), parsed.as_ref().err().cloned());
    match parsed {
        Ok((config, remarks)) => {
            assert!(remarks.warnings.len() <= 17, "{:?}", remarks.warnings);
            let (again, remarks) = ServiceConfig::read(written(&config).to_string().as_bytes(), 5).unwrap();
            assert_eq!(again, config);
            let is_unknown = |warning: &String| warning.ends_with("is not known here, and is ignored");
            assert!(!remarks.warnings.iter().any(is_unknown), "{:?}", remarks.warnings);
        }
        Err(error) => is_found(&error, bytes),
    }
}

/// Its path leads through the document. Only its last field may be missing, if that is what is wrong.
fn is_found(error: &InvalidServiceConfig, bytes: &[u8]) {
    assert!(!error.reason().is_empty() && error.reason().len() < 600, "{error}");
    // `serde_json` refuses some documents that are JSON: huge numbers, half of surrogate pairs.
    let Ok(document) = serde_json::from_slice::<Value>(bytes) else { return };
    let mut at = &document;
    let mut steps = steps(error.path()).into_iter().peekable();
    while let Some(step) = steps.next() {
        let next = match step {
            Step::Field(name) => at.get(name),
            Step::Element(index) => at.get(index),
        };
        // The last two name a field in lowerCamelCase that the document may have as in the proto file.
        let of_missing = ["is required", "is set twice", "must not be set"];
        let may_miss = of_missing.iter().any(|reason| error.reason().starts_with(reason));
        match next {
            Some(next) => at = next,
            None => return assert!(may_miss && at.is_object() && steps.peek().is_none(), "{error}"),
        }
    }
}

enum Step<'a> {
    Field(&'a str),
    Element(usize),
}

/// The steps of a path: `a[1].b` has three.
fn steps(path: &str) -> Vec<Step<'_>> {
    let parts = path.split(['.', '[']).filter(|part| !part.is_empty());
    let step = |part: &'_ str| part.strip_suffix(']').map(|index| Step::Element(index.parse().unwrap()));
    parts.map(|part| step(part).unwrap_or(Step::Field(part))).collect()
}

/// A document that says what the config does: an entry for each path.
fn written(config: &ServiceConfig) -> Value {
    let entries: Vec<_> = config.methods.iter().map(|(path, params)| entry(path, params)).collect();
    json!({
        "methodConfig": entries,
        "retryThrottling": config.retry_throttling.map(|throttling| {
            json!({ "maxTokens": throttling.max_tokens, "tokenRatio": throttling.token_ratio })
        }),
        "healthCheckConfig": { "serviceName": config.health_check_service },
        "connectionScaling": { "maxConnectionsPerSubchannel": config.max_connections_per_subchannel },
        "loadBalancingConfig": config.load_balancing.as_ref().map(policies),
    })
}

fn entry(path: &str, params: &MethodParams) -> Value {
    let (service, method) = path[1..].rsplit_once('/').unwrap_or_default();
    json!({
        "name": [{ "service": service, "method": method }],
        "waitForReady": params.wait_for_ready,
        "timeout": params.timeout.map(time),
        "maxRequestMessageBytes": params.max_request_bytes,
        "maxResponseMessageBytes": params.max_response_bytes,
        "retryPolicy": params.retry.as_ref().map(|retry| json!({
            "maxAttempts": retry.max_attempts,
            "initialBackoff": time(retry.initial_backoff),
            "maxBackoff": time(retry.max_backoff),
            "backoffMultiplier": retry.backoff_multiplier,
            "retryableStatusCodes": retry.codes,
        })),
        "hedgingPolicy": params.hedging.as_ref().map(|hedging| json!({
            "maxAttempts": hedging.max_attempts,
            "hedgingDelay": time(hedging.hedging_delay),
            "nonFatalStatusCodes": hedging.non_fatal_codes,
        })),
    })
}

fn policies(policy: &LoadBalancing) -> Value {
    match policy {
        LoadBalancing::PickFirst { shuffle } => json!([{ "pick_first": { "shuffleAddressList": shuffle } }]),
        LoadBalancing::RoundRobin => json!([{ "round_robin": {} }]),
        LoadBalancing::LeastRequest { choice_count } => {
            json!([{ "least_request_experimental": { "choiceCount": choice_count } }])
        }
        LoadBalancing::RingHash(ring) => json!([{ "ring_hash_experimental": {
            "minRingSize": ring.min_ring_size,
            "maxRingSize": ring.max_ring_size,
            "requestHashHeader": ring.request_hash_header,
        } }]),
        LoadBalancing::RandomSubsetting { subset_size, child } => {
            let child = policies(child);
            json!([{ "random_subsetting_experimental": { "subsetSize": subset_size, "childPolicy": child } }])
        }
        LoadBalancing::OutlierDetection { options, child } => {
            json!([{ "outlier_detection_experimental": outlier(options, child) }])
        }
    }
}

fn outlier(options: &OutlierParams, child: &LoadBalancing) -> Value {
    json!({
        "interval": time(options.interval),
        "baseEjectionTime": time(options.base_ejection_time),
        "maxEjectionTime": time(options.max_ejection_time),
        "maxEjectionPercent": options.max_ejection_percent,
        "successRateEjection": options.success_rate_ejection.as_ref().map(|rate| json!({
            "stdevFactor": rate.stdev_factor,
            "enforcementPercentage": rate.enforcement_percentage,
            "minimumHosts": rate.minimum_hosts,
            "requestVolume": rate.request_volume,
        })),
        "failurePercentageEjection": options.failure_percentage_ejection.as_ref().map(|failures| json!({
            "threshold": failures.threshold,
            "enforcementPercentage": failures.enforcement_percentage,
            "minimumHosts": failures.minimum_hosts,
            "requestVolume": failures.request_volume,
        })),
        "childPolicy": policies(child),
    })
}

fn time(duration: Duration) -> String {
    format!("{}.{:09}s", duration.as_secs(), duration.subsec_nanos())
}
