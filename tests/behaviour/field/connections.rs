//! How many connections there are, and how dead streams are found.

use std::time::Duration;

use test_support::{FrameProxy, Proxy, Rule};
use tokio::time::timeout;
use tonic_etcd::{Resolution, ResolutionState, Resolver};

use crate::support::{PATIENCE, World, servers_are, until};

/// F10: a hundred resolvers whose etcd is started again make one connection each, or one and a half.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_etcd_costs_each_resolver_one_connection() {
    let world = World::start().await;
    let proxy = Proxy::to(world.etcd.address());
    let mut resolutions = Vec::new();
    for _ in 0..100 {
        resolutions.push(Resolver::connect_lazy([proxy.endpoint()]).unwrap().resolve("s").unwrap());
    }
    for resolution in &resolutions {
        resolution.ready(PATIENCE).await.unwrap();
    }
    assert_eq!(proxy.connections(), 100);
    until("the watches", async || (world.watches() == 100).then_some(())).await;
    world.etcd.kill();
    world.etcd.start_again();
    let before = proxy.connections();
    world.put("s/1", "h:1").await;
    for resolution in &resolutions {
        servers_are(resolution, &["h:1"]).await;
    }
    let made = proxy.connections() - before;
    assert!(made <= 150, "{made} connections");
}

/// A watch stream that is dead is found within 8 s, in three ways; where its connection lives, that stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_watch_stream_is_found_within_eight_seconds() {
    tokio::join!(etcd_is_stopped(), packets_are_swallowed(), one_stream_is_dead());
}

/// How long it may take, and what a busy machine adds.
const FOUND: Duration = Duration::from_secs(11);

async fn resolve(world: &World, endpoint: String) -> Resolution {
    world.put("s/1", "h:1").await;
    let resolution = Resolver::connect_lazy([endpoint]).unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    until("a watch", async || (world.watches() == 1).then_some(())).await;
    resolution
}

async fn goes_stale(resolution: &Resolution) {
    let stale = async || matches!(resolution.state(), ResolutionState::Stale { .. }).then_some(());
    assert!(timeout(FOUND, until("stale", stale)).await.is_ok(), "{resolution:?}");
}

async fn etcd_is_stopped() {
    let world = World::start().await;
    let resolution = resolve(&world, world.etcd.endpoint()).await;
    world.etcd.freeze();
    goes_stale(&resolution).await;
    world.etcd.thaw();
    world.put("s/2", "h:2").await;
    servers_are(&resolution, &["h:1", "h:2"]).await;
}

async fn packets_are_swallowed() {
    let world = World::start().await;
    let proxy = Proxy::to(world.etcd.address());
    let resolution = resolve(&world, proxy.endpoint()).await;
    proxy.stall();
    goes_stale(&resolution).await;
    proxy.resume();
    world.put("s/2", "h:2").await;
    servers_are(&resolution, &["h:1", "h:2"]).await;
}

async fn one_stream_is_dead() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    let resolution = resolve(&world, proxy.endpoint()).await;
    proxy.rule(Rule::drop_all().method("Watch").open_now());
    world.put("s/2", "h:2").await;
    let seen = timeout(FOUND, servers_are(&resolution, &["h:1", "h:2"])).await;
    assert!(seen.is_ok(), "{resolution:?}");
    assert_eq!((proxy.connections(), proxy.streams("Watch")), (1, 2), "another stream on the same connection");
    until("current", async || (resolution.state() == ResolutionState::Current).then_some(())).await;
}
