//! Canaries: servers that get calls with their route, or a share of those without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use greeter_proto::HelloRequest;
use test_support::Bar;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Request;
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, Instance, RetryPolicy, Route, Split};

use super::closed::{self, Callers};
use super::directory::{Directory, instance};
use super::host::{Host, Server, Work};
use crate::findings::Findings;
use crate::scenarios::calls::channel::connected;
use crate::world::{Result, World};

const SERVERS: usize = 20;
const CANARIES: usize = 2;
const CALLERS: usize = 8;
/// Of each caller.
const CALLS: usize = 500;
const SPLIT_CALLS: usize = 20_000;
const METHOD: &str = "/helloworld.Greeter/SayHello";
/// Before the canaries die, from then until they leave the directory, and after that.
const STEP: Duration = Duration::from_secs(1);

/// Servers, the first of which are canaries.
struct Fleet {
    servers: Vec<Server>,
    instances: Vec<Instance>,
    channel: BalancedChannel,
    directory: Directory,
    _host: Host,
}

impl Fleet {
    async fn start(builder: BalancedChannelBuilder, describe: impl Fn(Instance) -> Instance) -> Result<Self> {
        let host = Host::start()?;
        let servers = host.servers(SERVERS, Work::default)?;
        let instances = servers.iter().enumerate().map(|(number, server)| {
            let instance = instance(server)?;
            Ok(if number < CANARIES { describe(instance) } else { instance })
        });
        let instances = instances.collect::<Result<Vec<_>>>()?;
        let (channel, directory) = Directory::channel(builder, instances.iter().cloned())?;
        connected(&channel, SERVERS).await?;
        Ok(Self { servers, instances, channel, directory, _host: host })
    }

    /// How many calls have reached a canary, and all servers.
    fn calls(&self) -> (u64, u64) {
        let sum = |servers: &[Server]| servers.iter().map(Server::calls).sum();
        (sum(&self.servers[..CANARIES]), sum(&self.servers))
    }
}

pub(in crate::scenarios) fn route(_world: &World, findings: &mut Findings) -> Result<()> {
    super::block_on(async {
        let builder = BalancedChannel::builder().route_key("lane").retry(RetryPolicy::new().repeatable(METHOD));
        let fleet = Fleet::start(builder, |instance| instance.with_metadata("lane", "blue")).await?;
        let loaded = "4 000 calls, 8 callers in a closed loop, 1 run";
        let (canary, failed_routed) = share(&fleet, CALLERS, CALLS, || routed(false)).await;
        findings.ours(&format!("calls with the route that reach a canary, {loaded}"), canary, "%", Bar::Equal(100.0));
        let (canary, failed) = share(&fleet, CALLERS, CALLS, plain).await;
        findings.ours(&format!("calls without a route that reach a canary, {loaded}"), canary, "%", Bar::Equal(0.0));
        findings.ours("failed calls, both", (failed_routed + failed) as f64, "", Bar::Equal(0.0));
        killed(&fleet, findings).await
    })
}

/// Under calls that may go to the default servers too.
async fn killed(fleet: &Fleet, findings: &mut Findings) -> Result<()> {
    let callers = Callers::start(&fleet.channel, CALLERS, Duration::ZERO, || routed(true));
    sleep(STEP).await;
    let before = callers.ended();
    let (at_canaries, all) = fleet.calls();
    fleet.servers[..CANARIES].iter().for_each(Server::kill);
    sleep(STEP).await;
    fleet.instances[..CANARIES].iter().for_each(|instance| fleet.directory.remove(instance));
    sleep(STEP).await;
    let ended = callers.stop().await;
    let (at_canaries_after, all_after) = fleet.calls();
    eprintln!("  {} calls at canaries after their end", at_canaries_after - at_canaries);
    let loaded =
        "or_default, 8 callers in a closed loop, repeatable, both killed after 1 s and removed after 2 s, 3 s, 1 run";
    findings.ours(&format!("failed calls, {loaded}"), ended.failed as f64, "", Bar::Equal(0.0));
    findings.ours(&format!("answered calls before, {loaded}"), before.answered as f64, "", Bar::AtLeast(100.0));
    let others = (all_after - all) - (at_canaries_after - at_canaries);
    findings.ours(&format!("calls at the default servers after, {loaded}"), others as f64, "", Bar::AtLeast(100.0));
    Ok(())
}

pub(in crate::scenarios) fn split(_world: &World, findings: &mut Findings) -> Result<()> {
    super::block_on(async {
        let builder = BalancedChannel::builder().route_key("version").split(Split::new("version").to("v2", 5));
        let fleet = Fleet::start(builder, |instance| instance.with_version("v2")).await?;
        let (canary, failed) = share(&fleet, CALLERS, SPLIT_CALLS / CALLERS, plain).await;
        let loaded = "20 000 calls, 8 callers in a closed loop, 1 run";
        findings.ours(&format!("calls that reach a canary, {loaded}"), canary, "%", None);
        let off = (canary - 5.0).abs();
        findings.ours(&format!("beside the 5 % of the split, {loaded}"), off, "points", Bar::AtMost(0.6));
        findings.ours(&format!("failed calls, {loaded}"), failed as f64, "", Bar::Equal(0.0));
        Ok(())
    })
}

/// The part of the calls, in percent, that reach a canary, and how many calls fail.
async fn share<F>(fleet: &Fleet, callers: usize, calls: usize, request: F) -> (f64, u64)
where
    F: Fn() -> Request<HelloRequest> + Clone + Send + Sync + 'static,
{
    let before = fleet.calls();
    let (mut tasks, failed) = (JoinSet::new(), Arc::<AtomicU64>::default());
    for _ in 0..callers {
        let (channel, request, failed) = (fleet.channel.clone(), request.clone(), failed.clone());
        tasks.spawn(async move {
            failed.fetch_add(closed::some(&channel, calls, request).await, Ordering::Relaxed);
        });
    }
    while tasks.join_next().await.is_some() {}
    let after = fleet.calls();
    ((after.0 - before.0) as f64 * 100.0 / (after.1 - before.1) as f64, failed.load(Ordering::Relaxed))
}

fn plain() -> Request<HelloRequest> {
    Request::new(HelloRequest { name: "world".into() })
}

fn routed(or_default: bool) -> Request<HelloRequest> {
    let route = Route::to("lane", "blue");
    let mut request = plain();
    request.extensions_mut().insert(if or_default { route.or_default() } else { route });
    request
}
