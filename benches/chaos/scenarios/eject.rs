//! A server that is the fastest of all, because it does nothing but fail.

use test_support::Bar;

use crate::findings::Findings;
use crate::outcome::{Outcome, between};
use crate::world::{Result, Side, World};

/// When it should be known.
const KNOWN_MS: u64 = 1_000;

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let _healthy = world.servers(2, &["eject"], &[])?;
    let _failing = world.server(&["eject"], &["--out-of-order"])?;
    let ours = world.run(Side::Ours, "eject", &["--seconds", "6", "--ejection"])?;
    let tonic = world.run(Side::Tonic, "eject", &["--seconds", "6"])?;
    let name = "calls at the failing server after the first second";
    findings.ours(name, share(&ours), "%", Bar::AtMost(2.0));
    findings.ours("failed calls", ours.failed as f64, "", None);
    findings.ours("answered calls", ours.throughput(), "calls/s", None);
    findings.tonic(name, share(&tonic), "%");
    findings.tonic("failed calls", tonic.failed as f64, "");
    findings.tonic("answered calls", tonic.throughput(), "calls/s");
    findings.draw("one of 3 answers UNAVAILABLE at once", Side::Ours, &ours, vec![]);
    findings.draw("one of 3 answers UNAVAILABLE at once", Side::Tonic, &tonic, vec![]);
    Ok(())
}

/// What failed, failed there: nobody else refuses a call.
fn share(outcome: &Outcome) -> f64 {
    let failed = between(&outcome.failed_in, KNOWN_MS, u64::MAX) as f64;
    failed * 1e2 / (failed + between(&outcome.answered_in(), KNOWN_MS, u64::MAX) as f64)
}
