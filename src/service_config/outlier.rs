//! The configuration of outlier detection, as gRFC A50 defines it. PURE.

use std::time::Duration;

use super::document::{Node, Object};
use super::invalid::InvalidServiceConfig;

/// When servers are ejected: A50's `OutlierDetectionLoadBalancingConfig` without its child.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OutlierParams {
    /// The time between two comparisons; 10 s by default.
    pub(crate) interval: Duration,
    /// The time of an ejection, for each ejection of the server so far; 30 s by default.
    pub(crate) base_ejection_time: Duration,
    /// The longest time of an ejection. The larger of 300 s and `base_ejection_time` by default.
    pub(crate) max_ejection_time: Duration,
    /// The share of servers that may be ejected, in percent up to 100; 10 by default. One may always be.
    pub(crate) max_ejection_percent: u32,
    /// Ejection by success rate; none by default.
    pub(crate) success_rate_ejection: Option<SuccessRateParams>,
    /// Ejection by the share of failures; none by default.
    pub(crate) failure_percentage_ejection: Option<FailurePercentageParams>,
}

/// Ejects servers whose success rate is far below the mean.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SuccessRateParams {
    /// How far, in thousandths of a standard deviation; 1900 by default.
    pub(crate) stdev_factor: u32,
    /// The chance that such a server is ejected, in percent up to 100; 100 by default.
    pub(crate) enforcement_percentage: u32,
    /// How many servers must have enough calls; 5 by default.
    pub(crate) minimum_hosts: u32,
    /// How many calls of an interval are enough; 100 by default.
    pub(crate) request_volume: u32,
}

/// Ejects servers whose share of failures is high.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FailurePercentageParams {
    /// The share of failures, in percent up to 100; 85 by default.
    pub(crate) threshold: u32,
    /// The chance that such a server is ejected, in percent up to 100; 100 by default.
    pub(crate) enforcement_percentage: u32,
    /// How many servers must have enough calls; 5 by default.
    pub(crate) minimum_hosts: u32,
    /// How many calls of an interval are enough; 50 by default.
    pub(crate) request_volume: u32,
}

impl OutlierParams {
    /// Reads all fields but the child's. None is required.
    pub(super) fn read(config: &Object<'_>) -> Result<Self, InvalidServiceConfig> {
        let time = |name| config.optional(name, Node::duration);
        let base_ejection_time = time("baseEjectionTime")?.unwrap_or(Duration::from_secs(30));
        Ok(Self {
            interval: time("interval")?.unwrap_or(Duration::from_secs(10)),
            base_ejection_time,
            max_ejection_time: time("maxEjectionTime")?.unwrap_or(base_ejection_time.max(Duration::from_secs(300))),
            max_ejection_percent: config.optional("maxEjectionPercent", percentage)?.unwrap_or(10),
            success_rate_ejection: config.optional("successRateEjection", SuccessRateParams::read)?,
            failure_percentage_ejection: config.optional("failurePercentageEjection", FailurePercentageParams::read)?,
        })
    }
}

impl SuccessRateParams {
    fn read(config: &Node<'_>) -> Result<Self, InvalidServiceConfig> {
        config.fields(|config| {
            Ok(Self {
                stdev_factor: config.optional("stdevFactor", Node::unsigned)?.unwrap_or(1900),
                enforcement_percentage: config.optional("enforcementPercentage", percentage)?.unwrap_or(100),
                minimum_hosts: config.optional("minimumHosts", Node::unsigned)?.unwrap_or(5),
                request_volume: config.optional("requestVolume", Node::unsigned)?.unwrap_or(100),
            })
        })
    }
}

impl FailurePercentageParams {
    fn read(config: &Node<'_>) -> Result<Self, InvalidServiceConfig> {
        config.fields(|config| {
            Ok(Self {
                threshold: config.optional("threshold", percentage)?.unwrap_or(85),
                enforcement_percentage: config.optional("enforcementPercentage", percentage)?.unwrap_or(100),
                minimum_hosts: config.optional("minimumHosts", Node::unsigned)?.unwrap_or(5),
                request_volume: config.optional("requestVolume", Node::unsigned)?.unwrap_or(50),
            })
        })
    }
}

/// A share in percent, up to 100.
fn percentage(node: &Node<'_>) -> Result<u32, InvalidServiceConfig> {
    match node.unsigned()? {
        percent @ 0..=100 => Ok(percent),
        _ => Err(node.invalid("must be at most 100")),
    }
}
