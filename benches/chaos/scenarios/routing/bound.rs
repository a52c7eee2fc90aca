//! Consistent hash with bounded load: one key has more calls than its server should take.

use std::time::Duration;

use greeter_proto::HelloRequest;
use test_support::Bar;
use tokio::time::sleep;
use tonic::Request;
use tonic_etcd::BalancedChannel;
use tonic_etcd::policy::ConsistentHash;

use super::closed::Callers;
use super::directory::{Directory, instance};
use super::host::{Host, Work};
use crate::findings::Findings;
use crate::scenarios::calls::channel::connected;
use crate::world::{Result, World};

const SERVERS: usize = 8;
const CALLERS: usize = 64;
const TAKES: Duration = Duration::from_millis(10);
const HOT_PERCENT: u32 = 30;
const KEY: &str = "x-key";
const WARM_UP: Duration = Duration::from_secs(1);
const LASTS: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(1);

/// The calls in flight, as the channel counts them.
#[derive(Default)]
struct InFlight {
    /// The most at any server at any look.
    most: usize,
    /// Of all servers and looks.
    sum: usize,
    looks: usize,
}

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let loaded = "8 servers of 10 ms, 64 callers in a closed loop, 8 s, 1 run";
    for factor in [Some(125), None] {
        let (in_flight, failed) = super::block_on(load(factor))?;
        let mean = in_flight.sum as f64 / (in_flight.looks * SERVERS) as f64;
        let ratio = in_flight.most as f64 / mean;
        let bound = factor.map_or_else(|| "no bound".to_owned(), |percent| format!("{percent} %"));
        eprintln!("  {bound}: at most {} in flight at a server, {mean:.2} on average", in_flight.most);
        if factor.is_none() {
            findings.figure(&format!("in flight at the fullest / mean without a bound, {loaded}"), ratio, "×", None);
            continue;
        }
        findings.ours(&format!("in flight at the fullest / mean, {loaded}"), ratio, "×", None);
        let without_one = (in_flight.most as f64 - 1.0) / mean;
        let name = format!("in flight at the fullest, less 1 call, / mean, {loaded}");
        findings.ours(&name, without_one, "×", Bar::AtMost(1.25));
        findings.ours(&format!("failed calls, {loaded}"), failed as f64, "", Bar::Equal(0.0));
    }
    Ok(())
}

async fn load(factor: Option<u32>) -> Result<(InFlight, u64)> {
    let host = Host::start()?;
    let servers = host.servers(SERVERS, || Work::of(TAKES))?;
    let policy = ConsistentHash::by_header(KEY)?;
    let policy = factor.into_iter().fold(policy, ConsistentHash::balance_factor);
    let instances = servers.iter().map(instance).collect::<Result<Vec<_>>>()?;
    let (channel, _directory) = Directory::channel(BalancedChannel::builder().policy(policy), instances)?;
    connected(&channel, SERVERS).await?;
    let callers = Callers::start(&channel, CALLERS, Duration::ZERO, request);
    sleep(WARM_UP).await;
    let began = std::time::Instant::now();
    let mut seen = InFlight::default();
    while began.elapsed() < LASTS {
        sleep(LOOK).await;
        for server in channel.servers() {
            seen.most = seen.most.max(server.in_flight());
            seen.sum += server.in_flight();
        }
        seen.looks += 1;
    }
    Ok((seen, callers.stop().await.failed))
}

/// With the one key, or with one of many.
fn request() -> Request<HelloRequest> {
    let mut request = Request::new(HelloRequest { name: "world".into() });
    let key = if fastrand::u32(..100) < HOT_PERCENT { u64::MAX } else { fastrand::u64(..1_000_000) };
    request.metadata_mut().insert(KEY, key.into());
    request
}
