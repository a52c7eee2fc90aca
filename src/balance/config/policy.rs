//! The policy, the outlier detection and the subset that a service config asks for.

use std::sync::Arc;
use std::time::Duration;

use crate::balance::policy::{ConsistentHash, LeastRequest, PickFirst, Policy, RoundRobin};
use crate::balance::subchannel::outlier::OutlierDetection;
use crate::service_config::{LoadBalancing, OutlierParams, RingHashParams};

/// How a channel balances calls.
pub(crate) struct Balancing {
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    /// How many servers are used at most; `None` is all.
    pub(crate) subset: Option<usize>,
}

/// What `loadBalancingConfig` means here. `pick_first` has a random order in any case, and `least_request_experimental` compares two
/// servers, whatever the document says of that.
pub(crate) fn of(wanted: &LoadBalancing) -> Balancing {
    let alone = |policy: Arc<dyn Policy>| Balancing { policy, outlier_detection: None, subset: None };
    match wanted {
        LoadBalancing::PickFirst { .. } => alone(Arc::new(PickFirst::new())),
        LoadBalancing::RoundRobin => alone(Arc::new(RoundRobin::new())),
        LoadBalancing::LeastRequest { .. } => alone(Arc::new(LeastRequest::new())),
        LoadBalancing::RingHash(ring) => alone(Arc::new(ring_hash(ring))),
        // A subset of a subset is as small as the smaller one.
        LoadBalancing::RandomSubsetting { subset_size, child } => {
            let (child, size) = (of(child), *subset_size as usize);
            Balancing { subset: Some(child.subset.map_or(size, |inner| inner.min(size))), ..child }
        }
        // Of nested ones the outer one holds.
        LoadBalancing::OutlierDetection { options, child } => {
            Balancing { outlier_detection: Some(detection(options)), ..of(child) }
        }
    }
}

/// A42's ring, with the sizes where the document sets them. Without a header calls have no key, as there is no xDS to
/// give them one.
fn ring_hash(ring: &RingHashParams) -> ConsistentHash {
    let without_key = || ConsistentHash::by(|_| None);
    let by_header = ring.request_hash_header.as_deref().map(ConsistentHash::by_header);
    // The document's header was checked when it was parsed.
    let policy = by_header.and_then(Result::ok).unwrap_or_else(without_key);
    policy.ring_size(ring.min_ring_size.unwrap_or(0), ring.max_ring_size.unwrap_or(u32::MAX))
}

/// A50's options. An algorithm whose enforcement is 0 % is off, and any other share counts as 100 %. The larger number of servers
/// counts for both algorithms. Consecutive failures are none of A50's: they eject nobody.
fn detection(options: &OutlierParams) -> OutlierDetection {
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let base = options.base_ejection_time.min(year);
    let max = options.max_ejection_time.clamp(base, year);
    let success = options.success_rate_ejection.as_ref().filter(|success| success.enforcement_percentage > 0);
    let failure = options.failure_percentage_ejection.as_ref().filter(|failure| failure.enforcement_percentage > 0);
    let servers = success.map(|success| success.minimum_hosts).into_iter();
    let servers = servers.chain(failure.map(|failure| failure.minimum_hosts)).max().unwrap_or(1);
    let calls = |volume: u32| u64::from(volume.max(1));
    OutlierDetection::default()
        .interval(options.interval.clamp(Duration::from_millis(10), year))
        .ejection_time(base, max)
        .max_ejection_percent(options.max_ejection_percent)
        .consecutive_failures(None)
        .success_rate(
            success.map(|success| f64::from(success.stdev_factor) / 1_000.0),
            success.map_or(1, |success| calls(success.request_volume)),
        )
        .failure_percentage(
            failure.map(|failure| failure.threshold),
            failure.map_or(1, |failure| calls(failure.request_volume)),
        )
        .min_servers(servers.max(1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_config::ServiceConfig;

    fn parsed(policies: &str) -> (String, Option<OutlierDetection>, Option<usize>) {
        let document = format!(r#"{{"loadBalancingConfig": {policies}}}"#);
        let config = ServiceConfig::parse(document.as_bytes(), 5).unwrap();
        let Balancing { policy, outlier_detection, subset } = of(&config.load_balancing.unwrap());
        (format!("{policy:?}"), outlier_detection, subset)
    }

    #[test]
    fn each_policy_is_one_of_ours() {
        for (policies, expected) in [
            (r#"[{"unknown": {}}, {"round_robin": {}}]"#, "RoundRobin"),
            (r#"[{"pick_first": {"shuffleAddressList": true}}]"#, "PickFirst"),
            (r#"[{"least_request_experimental": {"choiceCount": 4}}]"#, "LeastRequest"),
            (r#"[{"ring_hash_experimental": {}}]"#, "ConsistentHash { key: Function"),
            (r#"[{"ring_hash_experimental": {"requestHashHeader": "X-A"}}]"#, r#"ConsistentHash { key: Header("x-a")"#),
        ] {
            let (policy, detection, subset) = parsed(policies);
            assert!(policy.starts_with(expected) && detection.is_none() && subset.is_none(), "{policy}");
        }
        let (policy, ..) = parsed(r#"[{"ring_hash_experimental": {"minRingSize": 7, "maxRingSize": 4096}}]"#);
        assert!(policy.contains("RingSize { least: 7, most: 4096 }"), "{policy}");
    }

    #[test]
    fn policies_nest_in_any_order() {
        let subset = |size, child: &str| {
            format!(r#"[{{"random_subsetting_experimental": {{"subsetSize": {size}, "childPolicy": {child}}}}}]"#)
        };
        let outlier = |child: &str| format!(r#"[{{"outlier_detection_experimental": {{"childPolicy": {child}}}}}]"#);
        let round_robin = r#"[{"round_robin": {}}]"#;
        for (policies, size) in [
            (outlier(&subset(20, round_robin)), 20),
            (subset(20, &outlier(round_robin)), 20),
            (outlier(&subset(20, &subset(5, round_robin))), 5),
            (outlier(&subset(5, &subset(20, round_robin))), 5),
        ] {
            let (policy, detection, subset) = parsed(&policies);
            assert!(policy.starts_with("RoundRobin") && detection.is_some() && subset == Some(size), "{policies}");
        }
    }

    #[test]
    fn whatever_a_document_says_of_outliers_is_valid_here() {
        for options in [
            "",
            r#""interval": "0s", "baseEjectionTime": "600s", "maxEjectionTime": "1s","#,
            r#""interval": "315576000000s", "baseEjectionTime": "315576000000s","#,
            r#""successRateEjection": {"requestVolume": 0, "minimumHosts": 0, "enforcementPercentage": 0},"#,
            r#""failurePercentageEjection": {"requestVolume": 0, "minimumHosts": 0, "threshold": 100},"#,
            r#""maxEjectionPercent": 0,"#,
        ] {
            let child = r#""childPolicy": [{"round_robin": {}}]"#;
            let (policy, detection, _) =
                parsed(&format!(r#"[{{"outlier_detection_experimental": {{{options} {child}}}}}]"#));
            assert!(policy.starts_with("RoundRobin"));
            assert!(detection.unwrap().invalid().is_none(), "{options}: {:?}", detection.unwrap().invalid());
        }
    }
}
