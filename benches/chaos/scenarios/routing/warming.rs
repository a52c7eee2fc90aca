//! A server that is slow in its first seconds joins others: how many calls are slow because of it?

use std::time::Duration;

use test_support::Bar;
use tokio::time::sleep;
use tonic_etcd::policy::{LeastRequest, WeightedRoundRobin};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, SlowStart};

use super::directory::{Directory, instance};
use super::host::{Host, Work};
use super::open;
use crate::findings::Findings;
use crate::outcome::median;
use crate::scenarios::calls::channel::connected;
use crate::world::{Result, World};

const RUNS: usize = 3;
const SERVERS: usize = 3;
const TAKES: Duration = Duration::from_millis(2);
const COLD_TAKES: Duration = Duration::from_millis(200);
const COLD_FOR: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_millis(100);
const PER_SECOND: u32 = 2_000;
/// The server joins after the first second.
const JOINS_AT: Duration = Duration::from_secs(1);
const LASTS: Duration = Duration::from_secs(8);

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let builder = BalancedChannel::builder;
    for (policy, builder, bar) in [
        ("weighted round robin", builder().policy(WeightedRoundRobin::new()), 0.4),
        ("least request", builder().policy(LeastRequest::new()), 1.0),
    ] {
        let loaded = format!("{policy}, open loop of 2 000 calls/s for 8 s, median of 3");
        let (mut with, mut without, mut failed) = (Vec::new(), Vec::new(), 0);
        for _ in 0..RUNS {
            for (builder, slow) in
                [(builder.clone().slow_start(SlowStart::new(WINDOW)), &mut with), (builder.clone(), &mut without)]
            {
                let taken = super::block_on(join(builder))?;
                slow.push(taken.longer_than(SLOW) as f64);
                failed += taken.failed;
            }
        }
        eprintln!("  {policy}: {with:?} with slow start, {without:?} without");
        let ratios = with.iter().zip(&without).map(|(with, without)| with / without).collect();
        findings.ours(&format!("calls over 100 ms, {loaded}"), median(with), "", None);
        findings.ours(&format!("calls over 100 ms without slow start, {loaded}"), median(without), "", None);
        findings.ours(&format!("calls over 100 ms / without, {loaded}"), median(ratios), "×", Bar::AtMost(bar));
        findings.ours(&format!("failed calls, {policy}, all runs"), failed as f64, "", Bar::Equal(0.0));
    }
    Ok(())
}

/// The calls from before the server joins until after it has become fast.
async fn join(builder: BalancedChannelBuilder) -> Result<open::Taken> {
    let host = Host::start()?;
    let servers = host.servers(SERVERS, || Work::of(TAKES))?;
    let instances = servers.iter().map(instance).collect::<Result<Vec<_>>>()?;
    let (channel, directory) = Directory::channel(builder, instances)?;
    connected(&channel, SERVERS).await?;
    let joining = async {
        sleep(JOINS_AT).await;
        let new = host.server(Work::of(TAKES).cold(COLD_FOR, COLD_TAKES))?;
        directory.insert(instance(&new)?);
        Ok(new)
    };
    let (taken, new) = tokio::join!(open::calls(&channel, PER_SECOND, LASTS), joining);
    let new: Result<super::host::Server> = new;
    eprintln!("  {} calls at the new server", new?.calls());
    taken
}
