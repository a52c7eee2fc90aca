//! A set that is never the same for long.

use test_support::Bar;

use crate::findings::{Findings, explain};
use crate::outcome::{Outcome, Sample};
use crate::world::{Result, Server, Side, World};

/// Three processes replace all of their addresses each second.
const PROCESSES: usize = 3;
const EACH: &str = "67";
const SECONDS: u64 = 20;
const TONIC_SECONDS: u64 = 6;

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let args = ["--listeners", EACH, "--replace-per-second", EACH, "--propagation-ms", "500"];
    let servers = world.servers(PROCESSES, &["churn"], &args)?;
    let before = replaced(&servers);
    let seconds = SECONDS.to_string();
    let ours = world.run(Side::Ours, "churn", &["--seconds", &seconds, "--usage"])?;
    let rate = (replaced(&servers) - before) as f64 / SECONDS as f64;
    let seconds = TONIC_SECONDS.to_string();
    let tonic = world.run(Side::Tonic, "churn", &["--seconds", &seconds, "--usage"])?;
    explain(&ours);
    findings.figure("endpoints replaced", rate, "/s", Bar::AtLeast(190.0));
    findings.ours("failed calls in 20 s", ours.failed as f64, "", Bar::Equal(0.0));
    findings.ours("hanging calls", ours.hanging as f64, "", Bar::Equal(0.0));
    findings.ours("answered calls", ours.throughput(), "calls/s", None);
    growth(findings, &ours, "memory", |sample| sample.memory_kb);
    growth(findings, &ours, "tasks", |sample| sample.tasks);
    growth(findings, &ours, "file descriptors", |sample| sample.files);
    findings.tonic("failed calls in 6 s", tonic.failed as f64, "");
    findings.tonic("answered calls", tonic.throughput(), "calls/s");
    Ok(())
}

/// What it is at the end, against what it was after five seconds.
fn growth(findings: &mut Findings, outcome: &Outcome, name: &str, what: impl Fn(&Sample) -> u64 + Copy) {
    let early = outcome.sampled(what, 4_500, 5_500);
    let late = outcome.sampled(what, SECONDS * 1_000 - 1_000, SECONDS * 1_000);
    findings.ours(&format!("{name} at 5 s"), early, if name == "memory" { "kB" } else { "" }, None);
    findings.ours(&format!("{name}, 20 s / 5 s"), late / early, "×", Bar::AtMost(1.1));
}

/// Addresses replaced so far.
fn replaced(servers: &[Server]) -> usize {
    let lines = |server: &Server| server.process.lines().iter().filter(|line| line.starts_with("replaced ")).count();
    servers.iter().map(lines).sum()
}
