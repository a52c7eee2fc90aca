//! The load balancing policy: `loadBalancingConfig`, as gRFC A24 defines it. PURE.

use super::document::{Node, Object};
use super::invalid::InvalidServiceConfig;
use super::outlier::OutlierParams;
use super::ring_hash::RingHashParams;

/// How many servers least request chooses between if the document does not say it (A48).
const CHOICE_COUNT: u32 = 2;
/// The most of them. Larger values count as this one (A48).
const MOST_CHOICES: u32 = 10;

/// A load balancing policy that is known here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LoadBalancing {
    /// `pick_first`.
    PickFirst {
        /// Whether the order of the servers is random (A62).
        shuffle: bool,
    },
    /// `round_robin`.
    RoundRobin,
    /// `least_request_experimental`.
    LeastRequest {
        /// How many servers are compared for each call, from 2 to 10.
        choice_count: u32,
    },
    /// `ring_hash_experimental`.
    RingHash(RingHashParams),
    /// `random_subsetting_experimental`.
    RandomSubsetting {
        /// How many servers are used; never 0.
        subset_size: u32,
        /// The policy for those.
        child: Box<LoadBalancing>,
    },
    /// `outlier_detection_experimental`.
    OutlierDetection {
        /// When servers are ejected.
        options: OutlierParams,
        /// The policy for the servers that are not.
        child: Box<LoadBalancing>,
    },
}

impl LoadBalancing {
    /// Reads a list of policies. Each entry is an object with one field, whose name is the policy's. The first one that is known
    /// counts, and only its configuration is read.
    pub(super) fn read(list: &Node<'_>) -> Result<Self, InvalidServiceConfig> {
        let mut first = None;
        for entry in list.list()? {
            let object = entry.object()?;
            let Some((name, config)) = object.only() else {
                return Err(entry.invalid("must have exactly one field, the name of a policy"));
            };
            if first.is_none() {
                first = Self::named(name, &config)?;
            }
        }
        let known = "pick_first, round_robin, least_request_experimental, ring_hash_experimental, \
            random_subsetting_experimental, outlier_detection_experimental";
        first.ok_or_else(|| list.invalid(format!("names no policy that is known here: {known}")))
    }

    /// A policy by its name; `None` if it is not known. Nested policies recurse, which the depth of the document bounds.
    fn named(name: &str, config: &Node<'_>) -> Result<Option<Self>, InvalidServiceConfig> {
        let policy = match name {
            "pick_first" => {
                let shuffle = config.fields(|config| config.optional("shuffleAddressList", Node::boolean))?;
                Self::PickFirst { shuffle: shuffle.unwrap_or_default() }
            }
            "round_robin" => {
                config.fields(|_| Ok(()))?;
                Self::RoundRobin
            }
            "least_request_experimental" => {
                let choice_count = config.fields(|config| config.optional("choiceCount", choice_count))?;
                Self::LeastRequest { choice_count: choice_count.unwrap_or(CHOICE_COUNT) }
            }
            "ring_hash_experimental" => Self::RingHash(RingHashParams::read(&config.object()?)?),
            "random_subsetting_experimental" => {
                let config = config.object()?;
                let subset_size = config.required("subsetSize", subset_size)?;
                Self::RandomSubsetting { subset_size, child: Box::new(config.required("childPolicy", Self::read)?) }
            }
            "outlier_detection_experimental" => {
                let read = |config: &Object<'_>| {
                    Ok((OutlierParams::read(config)?, config.required("childPolicy", Self::read)?))
                };
                let (options, child) = config.fields(read)?;
                Self::OutlierDetection { options, child: Box::new(child) }
            }
            _ => return Ok(None),
        };
        Ok(Some(policy))
    }
}

/// `choiceCount` of least request.
fn choice_count(node: &Node<'_>) -> Result<u32, InvalidServiceConfig> {
    match node.unsigned()? {
        0 | 1 => Err(node.invalid("must be 2 or more")),
        choices => Ok(choices.min(MOST_CHOICES)),
    }
}

/// `subsetSize` of random subsetting (A68).
fn subset_size(node: &Node<'_>) -> Result<u32, InvalidServiceConfig> {
    match node.unsigned()? {
        0 => Err(node.invalid("must be 1 or more")),
        size => Ok(size),
    }
}
