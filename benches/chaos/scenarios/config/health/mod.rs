//! Servers are asked for their health (gRFC A17), because a service config says so.

#[cfg(feature = "tonic-health")]
mod idle;
mod stops;

use crate::findings::Findings;
use crate::scenarios::calls::block_on;
use crate::world::{Result, World};

const DOCUMENT: &str = r#"{"healthCheckConfig": {"serviceName": "helloworld.Greeter"}}"#;

pub(in crate::scenarios) fn run(_: &World, findings: &mut Findings) -> Result<()> {
    if let Err(error) = block_on(stops::run(findings)) {
        findings.missing("a Go server turns NOT_SERVING", error.to_string());
    }
    #[cfg(feature = "tonic-health")]
    return block_on(idle::run(findings));
    #[cfg(not(feature = "tonic-health"))]
    Err("built without the feature tonic-health, which `cargo xtask chaos` enables".into())
}
