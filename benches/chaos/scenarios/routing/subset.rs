//! A few of many servers: how many connections are made, and to whom?

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use greeter_proto::HelloRequest;
use test_support::Bar;
use tokio::task::yield_now;
use tokio::time::sleep;
use tonic::Request;
use tonic::transport::Uri;
use tonic_etcd::{BalancedChannel, Instance, RetryPolicy, SelectionReason, ServerStatus};

use super::closed::Callers;
use super::directory::{Directory, instance};
use super::host::{Host, Server, Work};
use crate::findings::Findings;
use crate::scenarios::calls::channel::connected;
use crate::world::{Result, World};

const SUBSET: usize = 20;
const LISTENERS: usize = 500;
const REPLACED: usize = 100;
const CALLERS: usize = 16;
/// Of each caller, between two calls.
const PAUSE: Duration = Duration::from_millis(2);
/// From the death of a server to its replacement, and from there to the next one.
const STEP: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(1);
const METHOD: &str = "/helloworld.Greeter/SayHello";

const CLIENTS: usize = 1_000;
const SERVERS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(10);

/// Half of them are killed, and leave the directory a step later; the others leave it, and end a step later. Half of
/// either are of the subset.
pub(in crate::scenarios) fn replaced(_world: &World, findings: &mut Findings) -> Result<()> {
    let (most, failed, calls) = super::block_on(replace())?;
    let loaded =
        "16 callers in a closed loop with pauses of 2 ms, 15 s, half of the replaced servers in the subset, 1 run";
    let beyond = most.saturating_sub(SUBSET);
    findings.ours(&format!("connections beyond 20, most, {loaded}"), beyond as f64, "", Bar::AtMost(10.0));
    findings.ours(&format!("failed calls, {loaded}"), failed as f64, "", Bar::Equal(0.0));
    findings.ours(&format!("answered calls, {loaded}"), calls as f64, "", Bar::AtLeast(1_000.0));
    Ok(())
}

/// The most connections at one time, the failed calls, and the answered ones.
async fn replace() -> Result<(usize, u64, u64)> {
    let host = Host::start()?;
    let mut servers = host.servers(LISTENERS, Work::default)?;
    let instances = servers.iter().map(instance).collect::<Result<Vec<_>>>()?;
    let builder = BalancedChannel::builder().subset(SUBSET).retry(RetryPolicy::new().repeatable(METHOD));
    let (channel, directory) = Directory::channel(builder, instances)?;
    connected(&channel, SUBSET).await?;
    let request = || Request::new(HelloRequest { name: "world".into() });
    let callers = Callers::start(&channel, CALLERS, PAUSE, request);
    let mut most = 0;
    for number in 0..REPLACED {
        let (of_subset, is_killed) = (number % 2 == 0, number % 4 < 2);
        let start = fastrand::usize(..servers.len());
        let mut places = (start..servers.len()).chain(0..start);
        let chosen = places.find(|place| !of_subset || servers[*place].open() > 0);
        let chosen = chosen.ok_or("no server has a connection")?;
        if is_killed {
            servers[chosen].kill();
            most = most.max(watch(&servers, STEP).await);
        }
        let new = host.server(Work::default())?;
        directory.insert(instance(&new)?);
        directory.remove(&instance(&servers[chosen])?);
        servers.push(new); // the other one counts until it is gone
        most = most.max(watch(&servers, STEP).await);
        servers.swap_remove(chosen);
    }
    let ended = callers.stop().await;
    eprintln!("  at most {most} connections at one time, {} at the end", open(&servers));
    Ok((most, ended.failed, ended.answered))
}

/// The most connections at one time, from now on.
async fn watch(servers: &[Server], lasts: Duration) -> usize {
    let (began, mut most) = (Instant::now(), 0);
    while began.elapsed() < lasts {
        sleep(LOOK).await;
        most = most.max(open(servers));
    }
    most
}

fn open(servers: &[Server]) -> usize {
    servers.iter().map(Server::open).sum()
}

/// No server is there: what is counted is which ones each client wants to connect to.
pub(in crate::scenarios) fn spread(_world: &World, findings: &mut Findings) -> Result<()> {
    let clients = super::block_on(choose())?;
    let (fullest, mean) =
        (clients.values().max().copied().unwrap_or_default(), (CLIENTS * SUBSET) as f64 / SERVERS as f64);
    let chosen: usize = clients.values().sum();
    findings.ours("servers that a client chooses, mean", chosen as f64 / CLIENTS as f64, "", Bar::Equal(SUBSET as f64));
    let name = "clients of the fullest server / mean, 1 000 clients with the ids client-0 to client-999";
    findings.ours(name, fullest as f64 / mean, "×", Bar::AtMost(1.25));
    let least = if clients.len() < SERVERS { 0 } else { clients.values().min().copied().unwrap_or_default() };
    findings.ours("clients of the emptiest server / mean", least as f64 / mean, "×", None);
    Ok(())
}

/// How many clients choose each server.
async fn choose() -> Result<BTreeMap<String, usize>> {
    let servers = (0..SERVERS).map(|server| Ok(Instance::new(format!("10.0.0.{server}:50051"))?));
    let servers = servers.collect::<Result<Vec<_>>>()?;
    let mut clients = BTreeMap::new();
    for client in 0..CLIENTS {
        // Connects to nobody, and takes forever.
        let connector = tower::service_fn(|_: Uri| {
            std::future::pending::<std::result::Result<tokio::io::DuplexStream, Infallible>>()
        });
        let builder =
            BalancedChannel::builder().connector(connector).subset(SUBSET).client_id(format!("client-{client}"));
        let (channel, _directory) = Directory::channel(builder, servers.iter().cloned())?;
        let began = Instant::now();
        while channel.servers().len() < SERVERS {
            if began.elapsed() > PATIENCE {
                return Err(format!("a channel has {} of its servers", channel.servers().len()).into());
            }
            yield_now().await;
        }
        let is_chosen = |server: &ServerStatus| server.selection() == SelectionReason::Selected;
        for server in channel.servers().iter().filter(|server| is_chosen(server)) {
            *clients.entry(server.address().to_string()).or_default() += 1;
        }
    }
    Ok(clients)
}
