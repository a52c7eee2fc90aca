//! More calls than the own zone can take, beside zones that have room: how much stays, and at which price?

use std::time::Duration;

use test_support::Bar;
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder};

use super::directory::{Directory, instance};
use super::host::{Host, Work};
use super::open;
use crate::findings::Findings;
use crate::outcome::median;
use crate::scenarios::calls::channel::connected;
use crate::world::{Result, World};

const RUNS: usize = 5;
const SERVERS: usize = 4;
/// What a server does at once, and how long each call takes: 3 200 calls per second.
const SLOTS: usize = 32;
const TAKES: Duration = Duration::from_millis(10);
const PER_SECOND: u32 = 6_000;
const LASTS: Duration = Duration::from_secs(10);

/// One load.
struct Found {
    /// The part of the calls that the own zone got.
    share: f64,
    p99_ms: f64,
    failed: usize,
}

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let (mut zoned, mut blind) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        // One after the other in each run, so that a slow moment of the machine is nobody's own.
        blind.push(super::block_on(load(BalancedChannel::builder()))?);
        zoned.push(super::block_on(load(BalancedChannel::builder().zone("a").zone_busy(SLOTS)))?);
    }
    let middle = |runs: &[Found], what: fn(&Found) -> f64| median(runs.iter().map(what).collect());
    let loaded = "open loop of 6 000 calls/s for 10 s, median of 5";
    let share = |found: &Found| found.share;
    findings.ours(&format!("share of the own zone, {loaded}"), middle(&zoned, share), "", Bar::AtLeast(0.45));
    findings.figure(&format!("share of the same server, zone-blind, {loaded}"), middle(&blind, share), "", None);
    let p99 = |found: &Found| found.p99_ms;
    findings.ours(&format!("p99, {loaded}"), middle(&zoned, p99), "ms", None);
    findings.figure(&format!("p99, zone-blind, {loaded}"), middle(&blind, p99), "ms", None);
    let ratios = zoned.iter().zip(&blind).map(|(zoned, blind)| zoned.p99_ms / blind.p99_ms);
    let name = format!("p99 / zone-blind p99 of the same run, {loaded}");
    findings.ours(&name, median(ratios.collect()), "×", Bar::AtMost(1.5));
    let failed: usize = zoned.iter().map(|found| found.failed).sum();
    findings.ours(&format!("failed calls, {loaded}, all runs"), failed as f64, "", Bar::Equal(0.0));
    Ok(())
}

async fn load(builder: BalancedChannelBuilder) -> Result<Found> {
    let host = Host::start()?;
    let servers = host.servers(SERVERS, || Work::of(TAKES).slots(SLOTS))?;
    let zones = ["a", "b", "c", "d"];
    let instances = servers.iter().zip(zones).map(|(server, zone)| Ok(instance(server)?.with_zone(zone)));
    let (channel, _directory) = Directory::channel(builder, instances.collect::<Result<Vec<_>>>()?)?;
    connected(&channel, SERVERS).await?;
    let taken = open::calls(&channel, PER_SECOND, LASTS).await?;
    let all: u64 = servers.iter().map(super::host::Server::calls).sum();
    let (share, p99_ms) = (servers[0].calls() as f64 / all as f64, taken.p99_ms());
    eprintln!("  own share {share:.3}, median {:.1} ms, p99 {p99_ms:.1} ms", taken.median_ms());
    Ok(Found { share, p99_ms, failed: taken.failed })
}
