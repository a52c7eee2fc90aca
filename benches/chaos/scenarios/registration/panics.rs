//! A check of the user's that panics.

use std::thread;
use std::time::{Duration, Instant};

use test_support::{Bar, Etcd, Signal};

use crate::findings::{Findings, explain};
use crate::world::{Result, Server, Side, World};

const SERVERS: usize = 3;
const SECONDS: [&str; 2] = ["--seconds", "5"];
const PANICS_AT_MS: u64 = 1_000;
const PASSES_AT_MS: u64 = 3_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// F63: the check of one of 3 servers panics for two seconds, under 64 callers.
pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let etcd = Etcd::start();
    let args = ["--service", "f63", "--check-ms", "100", "--propagation-ms", "0"];
    let start = |_| Server::registered(world.process("serve", &etcd.endpoint(), &args)?);
    let servers = (0..SERVERS).map(start).collect::<Result<Vec<_>>>()?;
    let panicking = &servers[0].process;
    let client = world.client_of(&etcd.endpoint(), Side::Ours, "f63", &SECONDS)?;
    // How long it takes until there are so many keys.
    let until = |keys: usize| -> Result<f64> {
        let began = Instant::now();
        while world.count(&etcd, "f63/")? != keys && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    };
    client.sleep_until(PANICS_AT_MS);
    panicking.signal(Signal::USR1);
    findings.ours("its key is gone after", until(SERVERS - 1)?, "ms", Bar::AtMost(1_000.0));
    client.sleep_until(PASSES_AT_MS);
    panicking.signal(Signal::USR1);
    findings.ours("its key is back after", until(SERVERS)?, "ms", Bar::AtMost(1_000.0));
    let outcome = client.outcome()?;
    explain(&outcome);
    findings.ours("calls", outcome.answered as f64, "", None);
    findings.ours("failed calls", outcome.failed as f64, "", Bar::Equal(0.0));
    findings.ours("hanging calls", outcome.hanging as f64, "", Bar::Equal(0.0));
    let warned = panicking.errors().iter().filter(|line| line.contains(" WARN ")).count();
    findings.ours("its warnings", warned as f64, "", Bar::Equal(1.0));
    let ended = servers.iter().filter(|server| server.process.status().is_some()).count();
    findings.ours("servers that ended", ended as f64, "", Bar::Equal(0.0));
    let events = vec![(PANICS_AT_MS, "panics".into()), (PASSES_AT_MS, "passes".into())];
    findings.draw("a check of one of 3 panics", Side::Ours, &outcome, events);
    Ok(())
}
