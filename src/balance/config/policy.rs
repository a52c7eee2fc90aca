//! The policy and the outlier detection that a service config asks for.

use std::sync::Arc;
use std::time::Duration;

use crate::balance::policy::{LeastRequest, PickFirst, Policy, RoundRobin};
use crate::balance::subchannel::outlier::OutlierDetection;
use crate::service_config::{LoadBalancing, OutlierParams};

/// What `loadBalancingConfig` means here. `pick_first` has a random order in any case, and `least_request_experimental` compares two
/// servers, whatever the document says of that.
pub(crate) fn of(wanted: &LoadBalancing) -> (Arc<dyn Policy>, Option<OutlierDetection>) {
    match wanted {
        LoadBalancing::PickFirst { .. } => (Arc::new(PickFirst::new()), None),
        LoadBalancing::RoundRobin => (Arc::new(RoundRobin::new()), None),
        LoadBalancing::LeastRequest { .. } => (Arc::new(LeastRequest::new()), None),
        // Of nested ones the outer one holds.
        LoadBalancing::OutlierDetection { options, child } => (of(child).0, Some(detection(options))),
    }
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

    fn parsed(policies: &str) -> (String, Option<OutlierDetection>) {
        let document = format!(r#"{{"loadBalancingConfig": {policies}}}"#);
        let config = ServiceConfig::parse(document.as_bytes(), 5).unwrap();
        let (policy, detection) = of(&config.load_balancing.unwrap());
        (format!("{policy:?}"), detection)
    }

    #[test]
    fn each_policy_is_one_of_ours() {
        for (policies, expected) in [
            (r#"[{"unknown": {}}, {"round_robin": {}}]"#, "RoundRobin"),
            (r#"[{"pick_first": {"shuffleAddressList": true}}]"#, "PickFirst"),
            (r#"[{"least_request_experimental": {"choiceCount": 4}}]"#, "LeastRequest"),
        ] {
            let (policy, detection) = parsed(policies);
            assert!(policy.starts_with(expected) && detection.is_none(), "{policy}");
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
            let (policy, detection) =
                parsed(&format!(r#"[{{"outlier_detection_experimental": {{{options} {child}}}}}]"#));
            assert!(policy.starts_with("RoundRobin"));
            assert!(detection.unwrap().invalid().is_none(), "{options}: {:?}", detection.unwrap().invalid());
        }
    }
}
