//! gRPC's service config: what it says of methods, retries, health checks and load balancing, parsed from its JSON. PURE.
//!
//! The fields are those of grpc-proto's `service_config.proto`, with the rules of the gRFCs A6 (retries, hedging,
//! throttling), A17 (health checks), A21 (errors), A24 (policies), A42 and A76 (ring hash), A48 (least request), A50
//! (outlier detection), A62 (pick-first), A68 (random subsetting) and A105 (connections). A document is taken or
//! refused as a whole.
//!
//! - `document/` reads the JSON, value by value, and knows the path of each.
//! - `methods.rs` reads `methodConfig`, `retry.rs` the policies in it and `retryThrottling`.
//! - `load_balancing.rs` reads `loadBalancingConfig`, `outlier.rs` the policy of A50, `ring_hash.rs` that of A42.
//! - `invalid.rs` is the error, `warnings.rs` collects what is valid and probably not meant.
//!
//! Where gRPC's libraries differ, the proto3 JSON mapping counts: names in lowerCamelCase or as in the proto file, whole
//! numbers also as strings, `null` as if the field were absent. A field that stands twice in one object is an error, as in
//! C-core and Java; grpc-go takes the last one.

mod document;
mod invalid;
mod load_balancing;
mod methods;
mod outlier;
mod retry;
mod ring_hash;
#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
mod warnings;

use std::collections::BTreeMap;
use std::sync::Arc;

use document::Node;
pub(crate) use invalid::InvalidServiceConfig;
pub(crate) use load_balancing::LoadBalancing;
pub(crate) use methods::{DeclaredRepeats, MethodParams};
pub(crate) use outlier::OutlierParams;
pub(crate) use retry::{CODES, RetryThrottling};
pub(crate) use ring_hash::RingHashParams;
pub(crate) use warnings::Warnings;

/// The most connections to one server that a document can ask for: A105's limit. Larger values count as this one.
const MOST_CONNECTIONS: u32 = 10;

/// A parsed service config.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServiceConfig {
    /// The settings of methods by path: `/pkg.Service/Method`, `/pkg.Service/` for a service, `/` for all methods.
    pub(crate) methods: BTreeMap<String, Arc<MethodParams>>,
    /// When retries and hedges stop because too many calls fail.
    pub(crate) retry_throttling: Option<RetryThrottling>,
    /// The service whose health servers are asked for; empty for a server as a whole.
    pub(crate) health_check_service: Option<String>,
    /// The most connections to one server, from 1 to 10.
    pub(crate) max_connections_per_subchannel: Option<u32>,
    /// The load balancing policy.
    pub(crate) load_balancing: Option<LoadBalancing>,
}

/// What is to be told of a valid document, beside what it says.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    /// What is probably not meant, each with its path.
    pub(crate) warnings: Vec<String>,
    /// Where the document says how calls are repeated.
    pub(crate) repeats: Vec<DeclaredRepeats>,
}

impl ServiceConfig {
    /// Parses a document, as [`Self::read`].
    #[cfg(any(test, tonic_etcd_fuzzing))]
    pub(crate) fn parse(text: &[u8], most_attempts: u32) -> Result<Self, InvalidServiceConfig> {
        Self::read(text, most_attempts).map(|(config, _)| config)
    }

    /// Reads a document. `maxAttempts` over `most_attempts` counts as that; A6 says 5.
    ///
    /// # Errors
    /// When anything in it is invalid. The error names the path.
    pub(crate) fn read(text: &[u8], most_attempts: u32) -> Result<(Self, Remarks), InvalidServiceConfig> {
        let warnings = Warnings::default();
        let mut repeats = Vec::new();
        let config = Node::top(text, &warnings)?.fields(|document| {
            Ok(Self {
                methods: document
                    .optional("methodConfig", |entries| methods::read(entries, most_attempts, &mut repeats))?
                    .unwrap_or_default(),
                retry_throttling: document.optional("retryThrottling", RetryThrottling::read)?,
                health_check_service: document.optional("healthCheckConfig", health_check_service)?.flatten(),
                max_connections_per_subchannel: document.optional("connectionScaling", max_connections)?.flatten(),
                load_balancing: document.optional("loadBalancingConfig", LoadBalancing::read)?,
            })
        })?;
        Ok((config, Remarks { warnings: warnings.into_list(), repeats }))
    }

    /// The settings of a method, by its path `/pkg.Service/Method`: its own, else those of its service, else those of all
    /// methods. They are never merged.
    pub(crate) fn method(&self, path: &str) -> Option<&Arc<MethodParams>> {
        let service = path.rfind('/').map_or("", |slash| &path[..=slash]);
        [path, service, "/"].into_iter().find_map(|key| self.methods.get(key))
    }
}

/// `serviceName` of `healthCheckConfig`. Without it there is no health check (A17).
fn health_check_service(config: &Node<'_>) -> Result<Option<String>, InvalidServiceConfig> {
    let service = config.fields(|config| config.optional("serviceName", Node::string))?;
    if service.is_none() {
        config.warn("has no serviceName, so that no health is checked; \"\" stands for the server as a whole");
    }
    Ok(service)
}

/// `maxConnectionsPerSubchannel` of `connectionScaling`. A105 does not speak of 0; it is refused.
fn max_connections(config: &Node<'_>) -> Result<Option<u32>, InvalidServiceConfig> {
    let read = |node: &Node<'_>| match node.unsigned()? {
        0 => Err(node.invalid("must be 1 or more")),
        connections => Ok(node.at_most(connections, MOST_CONNECTIONS)),
    };
    config.fields(|config| config.optional("maxConnectionsPerSubchannel", read))
}
