//! A fleet that is restarted as a deployment does it, again and again, at its own addresses.

use test_support::Bar;

use crate::findings::{Findings, explain};
use crate::world::{Result, Side, World};

const SERVERS: usize = 5;
const ROUNDS: usize = 3;
const SECONDS: u64 = 30;

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    for side in [Side::Ours, Side::Tonic] {
        let service = format!("rolling-{}", side.name());
        let mut servers = world.servers(SERVERS, &[&service], &[])?;
        let seconds = SECONDS.to_string();
        let client = world.client(side, &service, &["--seconds", &seconds])?;
        client.sleep_until(500);
        let mut events = Vec::new();
        for round in 1..=ROUNDS {
            events.push((client.elapsed_ms(), format!("round {round}")));
            for _ in 0..SERVERS {
                let oldest = servers.remove(0);
                let address = oldest.address.clone();
                oldest.stop()?;
                servers.push(world.server(&[&service], &["--listen", &address])?);
            }
        }
        if client.elapsed_ms() > SECONDS * 1_000 {
            return Err("the servers were restarted too slowly: is the machine very busy?".into());
        }
        let outcome = client.outcome()?;
        if side == Side::Ours {
            explain(&outcome);
            findings.figure("restarts", (SERVERS * ROUNDS) as f64, "", None);
            findings.ours("calls", outcome.answered as f64, "", None);
            findings.ours("failed calls", outcome.failed as f64, "", Bar::Equal(0.0));
            findings.ours("hanging calls", outcome.hanging as f64, "", Bar::Equal(0.0));
            findings.ours("slowest call", outcome.slowest_ms, "ms", None);
        } else {
            findings.tonic("calls", outcome.answered as f64, "");
            findings.tonic("failed calls", outcome.failed as f64, "");
            findings.tonic("slowest call", outcome.slowest_ms, "ms");
        }
        findings.draw("5 servers restarted in turn, 3 rounds", side, &outcome, events);
    }
    Ok(())
}
