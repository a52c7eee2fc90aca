//! A service that nobody serves yet, and a call that waits for its first server.

use std::time::Duration;

use test_support::Bar;

use crate::findings::Findings;
use crate::outcome::median;
use crate::world::{Result, Side, World};

const TIMES: usize = 20;
/// A channel that hangs costs its limit each time.
const TONIC_TIMES: usize = 5;
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let server = world.server(&["first-server"], &[])?;
    let ours = times(world, Side::Ours, &server.address, TIMES, &["--wait-for-ready"])?;
    let tonic = times(world, Side::Tonic, &server.address, TONIC_TIMES, &[])?;
    findings.ours("calls that succeeded, of 20", ours.len() as f64, "", Bar::Equal(TIMES as f64));
    findings.ours("put to answer, median", median(ours.clone()), "ms", Bar::AtMost(20.0));
    findings.ours("put to answer, slowest", ours.iter().copied().fold(f64::NAN, f64::max), "ms", Bar::AtMost(200.0));
    findings.tonic("calls that succeeded, of 5", tonic.len() as f64, "");
    if !tonic.is_empty() {
        findings.tonic("put to answer, median", median(tonic), "ms");
    }
    Ok(())
}

/// Milliseconds of each call that succeeded.
fn times(world: &World, side: Side, address: &str, times: usize, args: &[&str]) -> Result<Vec<f64>> {
    let service = format!("first-{}", side.name());
    let count = times.to_string();
    let client = world.tool(side, &service, &[&["--first", &count, "--address", address], args].concat())?;
    if !client.wait(LIMIT)?.success() {
        return Err(client.failed("did not end well").into());
    }
    let lines = client.lines();
    let took = lines.iter().filter_map(|line| line.strip_prefix("first ")?.parse().ok());
    Ok(took.filter(|ms: &f64| ms.is_finite()).collect())
}
