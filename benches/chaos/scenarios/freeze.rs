//! A server that stands still with its connections open, and goes on later.

use test_support::{Bar, Signal};

use crate::findings::{Findings, explain};
use crate::outcome::between;
use crate::world::{Result, Side, World};

const SECONDS: [&str; 2] = ["--seconds", "7"];
const STOP_AT_MS: u64 = 1_000;
const GO_ON_AT_MS: u64 = 4_000;
/// When it should be found out, at last; and when it should be back in the set.
const FOUND_OUT_MS: u64 = 2_500;
const BACK_MS: u64 = 6_000;

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    for (side, args) in [(Side::Ours, &["--repeatable", "--keep-alive-ms", "500"][..]), (Side::Tonic, &[])] {
        let service = format!("freeze-{}", side.name());
        let servers = world.servers(3, &[&service], &[])?;
        let client = world.client(side, &service, &[&SECONDS[..], args].concat())?;
        client.sleep_until(STOP_AT_MS);
        servers[0].process.signal(Signal::STOP);
        client.sleep_until(GO_ON_AT_MS);
        servers[0].process.signal(Signal::CONT);
        let outcome = client.outcome()?;
        let answered = outcome.answered_in();
        let frozen = between(&answered, FOUND_OUT_MS, GO_ON_AT_MS) as f64 * 1e3 / (GO_ON_AT_MS - FOUND_OUT_MS) as f64;
        let back = outcome.answered_by_between(&servers[0].address, BACK_MS, u64::MAX) as f64;
        let share = back * 1e2 / between(&answered, BACK_MS, u64::MAX) as f64;
        let name = "while it stands still";
        if side == Side::Ours {
            explain(&outcome);
            findings.ours("failed calls", outcome.failed as f64, "", Bar::Equal(0.0));
            findings.ours("hanging calls", outcome.hanging as f64, "", Bar::Equal(0.0));
            findings.ours("slowest call", outcome.slowest_ms, "ms", Bar::AtMost(1_500.0));
            findings.ours(name, frozen, "calls/s", None);
            findings.ours("calls at it, two seconds after it goes on", share, "%", Bar::AtLeast(10.0));
        } else {
            findings.tonic("failed calls", outcome.failed as f64, "");
            findings.tonic("slowest call", outcome.slowest_ms, "ms");
            findings.tonic(name, frozen, if frozen == 0.0 { "calls/s, hangs" } else { "calls/s" });
        }
        let events = vec![(STOP_AT_MS, "SIGSTOP".into()), (GO_ON_AT_MS, "SIGCONT".into())];
        findings.draw("SIGSTOP of one of 3, later SIGCONT", side, &outcome, events);
    }
    Ok(())
}
