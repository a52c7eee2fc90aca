//! An etcd in which nothing happens.

use std::time::Duration;

use test_support::{Etcd, GrpcProxy, Proxy};
use tokio::time::timeout;
use tonic_etcd::{EtcdOptions, Resolution, ResolutionState, Resolver};

use super::{as_root, calls, protect};
use crate::support::{PATIENCE, World, naming, servers_are, until};

/// Long enough for two proofs that a quiet stream lives, which are 5 s apart, and for the death of one that is not proven.
const QUIET: Duration = Duration::from_secs(14);

/// F1: current and silent for as long as nothing happens: with a user, without, and behind grpc-proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_etcd_is_left_in_peace() {
    tokio::join!(without_a_user(), with_a_user(), behind_a_grpc_proxy());
}

async fn without_a_user() {
    let world = World::start().await;
    world.put("s/1", &naming("h:1")).await;
    let proxy = Proxy::to(world.etcd.address());
    stays_quiet(&world.etcd, &proxy, EtcdOptions::from([proxy.endpoint()]), 1.0).await;
    world.put("s/2", &naming("h:2")).await;
}

async fn with_a_user() {
    let etcd = Etcd::start();
    let root = protect(&etcd).await;
    root.kv_client().put("s/1", "h:1", None).await.unwrap();
    let proxy = Proxy::to(etcd.address());
    stays_quiet(&etcd, &proxy, as_root([proxy.endpoint()]), 1.0).await;
}

async fn behind_a_grpc_proxy() {
    let world = World::start().await;
    world.put("s/1", "h:1").await;
    let proxy = Proxy::to(world.etcd.address());
    let grpc_proxy = GrpcProxy::to(proxy.address());
    let front = Proxy::to(grpc_proxy.address());
    // grpc-proxy has a stream of its own, for the leader.
    let resolution = stays_quiet(&world.etcd, &front, EtcdOptions::from([front.endpoint()]), 2.0).await;
    assert!(grpc_proxy.errors() <= 1, "{}", grpc_proxy.log());
    world.put("s/2", "h:2").await;
    servers_are(&resolution, &["h:1", "h:2"]).await;
}

async fn stays_quiet(etcd: &Etcd, proxy: &Proxy, options: EtcdOptions, streams: f64) -> Resolution {
    let mut resolution = Resolver::builder(options).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    until("a watch", async || (calls(etcd, "Watch") >= 1).then_some(())).await;
    let seen = |what| (what, calls(etcd, "Watch"), calls(etcd, "Authenticate"), proxy.connections());
    let before = seen("before");
    while timeout(Duration::from_secs(2), resolution.changed()).await.is_ok() {}
    let changed = timeout(QUIET, resolution.changed()).await;
    assert!(changed.is_err(), "{resolution:?}, {:?}", resolution.last_error());
    assert_eq!(resolution.state(), ResolutionState::Current);
    assert_eq!(seen("before"), before, "watches, password checks and connections");
    assert_eq!(etcd.metric("etcd_debugging_mvcc_watch_stream_total"), Some(streams));
    assert!(resolution.last_error().is_none(), "{:?}", resolution.last_error());
    assert!(resolution.ready(PATIENCE).await.is_ok());
    resolution
}
