//! A fleet that is restarted as a deployment does it: one server after another, in good order.

use test_support::Bar;

use crate::findings::{Findings, explain};
use crate::world::{Result, Side, World};

const SECONDS: [&str; 2] = ["--seconds", "8"];
const END_MS: u64 = 8_000;

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    for side in [Side::Ours, Side::Tonic] {
        let service = format!("restart-{}", side.name());
        let mut servers = world.servers(3, &[&service], &[])?;
        let client = world.client(side, &service, &SECONDS)?;
        let mut events = Vec::new();
        for number in 1..=3 {
            client.sleep_until(client.elapsed_ms() + 500);
            events.push((client.elapsed_ms(), format!("stop {number}")));
            servers.remove(0).stop()?;
            servers.push(world.server(&[&service], &[])?);
        }
        if client.elapsed_ms() > END_MS {
            return Err("the servers were restarted too slowly: is the machine very busy?".into());
        }
        let outcome = client.outcome()?;
        if side == Side::Ours {
            explain(&outcome);
            findings.ours("failed calls", outcome.failed as f64, "", Bar::Equal(0.0));
            findings.ours("hanging calls", outcome.hanging as f64, "", Bar::Equal(0.0));
            findings.ours("slowest call", outcome.slowest_ms, "ms", None);
        } else {
            findings.tonic("failed calls", outcome.failed as f64, "");
            findings.tonic("slowest call", outcome.slowest_ms, "ms");
        }
        findings.draw("3 servers restarted one after another", side, &outcome, events);
    }
    Ok(())
}
