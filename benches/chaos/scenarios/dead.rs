//! Addresses in etcd at which nobody answers, from the start.

use test_support::Bar;

use crate::findings::{Findings, explain};
use crate::outcome::median;
use crate::unreachable::Unreachable;
use crate::world::{Result, Side, World};

const ROUNDS: usize = 5;
const SECONDS: [&str; 2] = ["--seconds", "2"];

pub(super) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let (healthy, mixed) = ("dead-none", "dead-three");
    let _servers = world.servers(3, &[healthy, mixed], &[])?;
    let unreachable = Unreachable::new()?;
    for address in unreachable.addresses() {
        world.put(mixed, &address)?;
    }
    let (mut failed, mut hanging, mut among, mut without) = (0, 0, vec![], vec![]);
    for round in 0..ROUNDS {
        without.push(world.run(Side::Ours, healthy, &SECONDS)?.p99_ms);
        let outcome = world.run(Side::Ours, mixed, &SECONDS)?;
        explain(&outcome);
        failed += outcome.failed;
        hanging += outcome.hanging;
        among.push(outcome.p99_ms);
        if round == 0 {
            findings.draw("3 of 6 addresses dead from the start", Side::Ours, &outcome, vec![]);
        }
    }
    let tonic = world.run(Side::Tonic, mixed, &SECONDS)?;
    findings.draw("3 of 6 addresses dead from the start", Side::Tonic, &tonic, vec![]);
    findings.ours("failed calls", failed as f64, "", Bar::Equal(0.0));
    findings.ours("hanging calls", hanging as f64, "", Bar::Equal(0.0));
    findings.tonic("failed calls", tonic.failed as f64, "");
    findings.tonic("workers that hang at the end, of 64", tonic.hanging as f64, "");
    let ratio = median(among.iter().zip(&without).map(|(among, without)| among / without).collect());
    findings.ours("p99, healthy servers alone", median(without), "ms", None);
    findings.ours("p99", median(among), "ms", None);
    findings.figure("p99, ours / healthy servers alone", ratio, "×", Bar::AtMost(1.5));
    Ok(())
}
