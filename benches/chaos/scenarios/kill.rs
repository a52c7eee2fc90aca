//! A server that is gone from one moment to the next, and stays in etcd until its lease ends.

use test_support::{Bar, Signal};

use crate::findings::{Findings, explain};
use crate::outcome::Outcome;
use crate::world::{Result, Side, World};

const SECONDS: [&str; 2] = ["--seconds", "4"];
const KILL_AT_MS: u64 = 1_000;

/// What came of it: the client's run, who was killed, and when.
struct Killed {
    outcome: Outcome,
    address: String,
    at_ms: u64,
}

pub(super) fn repeatable(world: &World, findings: &mut Findings) -> Result<()> {
    for (side, args) in [(Side::Ours, &["--repeatable"][..]), (Side::Tonic, &[])] {
        let killed = kill(world, &format!("kill-{}", side.name()), side, args)?;
        let failed = killed.outcome.failed as f64;
        match side {
            Side::Ours => {
                explain(&killed.outcome);
                findings.ours("failed calls", failed, "", Bar::Equal(0.0));
                findings.ours("hanging calls", killed.outcome.hanging as f64, "", Bar::Equal(0.0));
                findings.ours("slowest call", killed.outcome.slowest_ms, "ms", None);
            }
            Side::Tonic => findings.tonic("failed calls", failed, ""),
        }
        findings.draw("kill -9 of one of 3", side, &killed.outcome, vec![(killed.at_ms, "kill".into())]);
    }
    Ok(())
}

pub(super) fn undeclared(world: &World, findings: &mut Findings) -> Result<()> {
    let killed = kill(world, "kill-undeclared", Side::Ours, &["--watch-in-flight"])?;
    let outcome = &killed.outcome;
    let named = |text: &str| text.contains(&killed.address);
    let well = outcome.failures.iter().filter(|failure| failure.code == "Unavailable" && named(&failure.text));
    let well: u64 = well.map(|failure| failure.count).sum();
    if let Some(in_flight) = outcome.in_flight_at(&killed.address, killed.at_ms) {
        findings.ours("calls in flight at the killed server, at most", in_flight as f64, "", None);
        findings.ours("failed calls", outcome.failed as f64, "", Bar::AtMost(in_flight as f64));
    } else {
        findings.missing("failed calls", "nobody said how many calls were in flight");
    }
    if well < outcome.failed {
        explain(outcome);
    }
    let other = outcome.failed - well;
    findings.ours("failed in another way than UNAVAILABLE naming the server", other as f64, "", Bar::Equal(0.0));
    findings.ours("hanging calls", outcome.hanging as f64, "", Bar::Equal(0.0));
    Ok(())
}

fn kill(world: &World, service: &str, side: Side, args: &[&str]) -> Result<Killed> {
    let servers = world.servers(3, &[service], &[])?;
    let client = world.client(side, service, &[&SECONDS[..], args].concat())?;
    client.sleep_until(KILL_AT_MS);
    let at_ms = client.elapsed_ms();
    servers[0].process.signal(Signal::KILL);
    Ok(Killed { outcome: client.outcome()?, address: servers[0].address.clone(), at_ms })
}
