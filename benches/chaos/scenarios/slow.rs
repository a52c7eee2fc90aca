//! One slow server among fast ones: how much of what the fast ones can do is left?

use test_support::Bar;

use crate::findings::{Findings, explain};
use crate::outcome::{Outcome, median};
use crate::world::{Result, Side, World};

const ROUNDS: usize = 9;
const SECONDS: [&str; 2] = ["--seconds", "1.5"];

#[derive(Default)]
struct Rounds {
    throughput: Vec<f64>,
    p99: Vec<f64>,
    /// Of the slow server.
    share: Vec<f64>,
}

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let (all, fast) = ("slow-all", "slow-fast");
    let _fast = world.servers(3, &[all, fast], &[])?;
    let slow = world.server(&[all], &["--delay-ms", "20"])?;
    let peak = ["--policy", "peak-ewma"];
    let (mut alone, mut ours, mut ewma, mut tonic) = <(Rounds, Rounds, Rounds, Rounds)>::default();
    for _ in 0..ROUNDS {
        alone.add(&world.run(Side::Ours, fast, &SECONDS)?, &slow.address);
        ours.add(&world.run(Side::Ours, all, &SECONDS)?, &slow.address);
        ewma.add(&world.run(Side::Ours, all, &[&SECONDS[..], &peak].concat())?, &slow.address);
        tonic.add(&world.run(Side::Tonic, all, &SECONDS)?, &slow.address);
    }
    let calls = |rounds: &Rounds| median(rounds.throughput.clone());
    findings.ours("the 3 fast servers alone", calls(&alone), "calls/s", None);
    findings.ours("with the slow one", calls(&ours), "calls/s", None);
    findings.ours("with the slow one, peak EWMA", calls(&ewma), "calls/s", None);
    findings.tonic("with the slow one", calls(&tonic), "calls/s");
    let ratio = |a: &[f64], b: &[f64]| median(a.iter().zip(b).map(|(a, b)| a / b).collect());
    let against = |a: &Rounds, b: &Rounds| ratio(&a.throughput, &b.throughput);
    findings.figure("ours / the fast alone", against(&ours, &alone), "×", Bar::AtLeast(0.7));
    findings.figure("ours / tonic's own", against(&ours, &tonic), "×", Bar::AtLeast(3.0));
    findings.figure("ours with peak EWMA / the fast alone", against(&ewma, &alone), "×", Bar::AtLeast(0.85));
    let p99 = |rounds: &Rounds| median(rounds.p99.clone());
    findings.ours("p99, the 3 fast servers alone", p99(&alone), "ms", None);
    findings.ours("p99", p99(&ours), "ms", None);
    findings.ours("p99, peak EWMA", p99(&ewma), "ms", None);
    findings.tonic("p99", p99(&tonic), "ms");
    let tail = ratio(&ewma.p99, &alone.p99);
    findings.figure("p99, ours with peak EWMA / the fast alone", tail, "×", Bar::AtMost(2.0));
    for (name, rounds) in [("ours", ours), ("ours, peak EWMA", ewma), ("tonic's own", tonic)] {
        findings.figure(&format!("calls at the slow one, {name}"), median(rounds.share) * 1e2, "%", None);
    }
    Ok(())
}

impl Rounds {
    fn add(&mut self, outcome: &Outcome, slow: &str) {
        explain(outcome);
        self.throughput.push(outcome.throughput());
        self.p99.push(outcome.p99_ms);
        self.share.push(outcome.share_of(slow));
    }
}
