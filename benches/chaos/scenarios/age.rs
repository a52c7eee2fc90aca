//! Servers that close each connection at some age, whatever is on its way.

use test_support::Bar;

use crate::findings::{Findings, explain};
use crate::world::{Result, Side, World};

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let _servers = world.servers(3, &["age"], &["--max-connection-age-ms", "1000"])?;
    let ours = world.run(Side::Ours, "age", &["--seconds", "20"])?;
    let tonic = world.run(Side::Tonic, "age", &["--seconds", "20"])?;
    explain(&ours);
    findings.ours("failed calls in 20 s", ours.failed as f64, "", Bar::Equal(0.0));
    findings.ours("hanging calls", ours.hanging as f64, "", Bar::Equal(0.0));
    findings.ours("slowest call", ours.slowest_ms, "ms", None);
    findings.ours("answered calls", ours.throughput(), "calls/s", None);
    findings.tonic("failed calls in 20 s", tonic.failed as f64, "");
    findings.tonic("answered calls", tonic.throughput(), "calls/s");
    findings.draw("connections closed after a second", Side::Ours, &ours, vec![]);
    findings.draw("connections closed after a second", Side::Tonic, &tonic, vec![]);
    Ok(())
}
