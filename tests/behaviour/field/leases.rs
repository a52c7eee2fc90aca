//! Slow requests beside leases.

use std::time::Duration;

use etcd_client::{Client, GetOptions};
use test_support::{Cluster, Etcd, FrameProxy, Proxy, Rule};
use tokio::time::{Instant, sleep};
use tonic_etcd::{EtcdOptions, Instance, Registrar, Registration};

use super::{as_root, calls, protect};
use crate::support::PATIENCE;

/// How long requests are held.
const HELD: Duration = Duration::from_secs(12);
const TTL: Duration = Duration::from_secs(3);

fn at(port: usize) -> Instance {
    Instance::new(format!("h:{port}")).unwrap()
}

/// Looks on for as long as requests are held: the key stands under its lease all the time. Reads that need no majority.
async fn stands(client: &Client, registration: &Registration, lease: i64) {
    let end = Instant::now() + HELD;
    while Instant::now() < end {
        let read = client.kv_client().get("s/h:1", Some(GetOptions::new().with_serializable())).await.unwrap();
        assert_eq!(read.kvs().first().map(etcd_client::KeyValue::lease), Some(lease), "the first key is gone");
        assert!(registration.is_registered(), "{:?}", registration.state());
        sleep(Duration::from_millis(50)).await;
    }
}

/// F6: commits stall for 12 s, and a second registration waits for one: the first one's lease is renewed all the time, over
/// the stream and the connection that it has.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_stall_cost_no_lease() {
    tokio::join!(commits_stall(false), commits_stall(true));
}

async fn commits_stall(with_user: bool) {
    let builder = Etcd::builder().pace(100, 15_000).arg("--bcrypt-cost=4");
    let cluster = tokio::task::spawn_blocking(move || Cluster::start_with(&builder, 3)).await.unwrap();
    let leader = cluster.leader();
    let client = if with_user {
        protect(cluster.member(leader)).await
    } else {
        Client::connect([cluster.member(leader).endpoint()], None).await.unwrap()
    };
    let checks = calls(cluster.member(leader), "Authenticate");
    let proxy = Proxy::to(cluster.member(leader).address());
    let options = if with_user { as_root([proxy.endpoint()]) } else { EtcdOptions::from([proxy.endpoint()]) };
    let registrar = Registrar::builder(options).ttl(Duration::from_secs(5)).connect_lazy().unwrap();
    let first = registrar.register("s", at(1)).unwrap();
    first.ready(PATIENCE).await.unwrap();
    let lease = first.lease_id().unwrap();
    let followers = (0..3).filter(|member| *member != leader);
    followers.clone().for_each(|member| cluster.member(member).freeze());
    let second = registrar.register("s", at(2)).unwrap();
    stands(&client, &first, lease).await;
    followers.for_each(|member| cluster.member(member).thaw());
    second.ready(PATIENCE).await.unwrap();
    assert_eq!(first.lease_id(), Some(lease));
    assert_eq!(calls(cluster.member(leader), "LeaseKeepAlive"), 1);
    assert_eq!(proxy.connections(), 1);
    assert!(calls(cluster.member(leader), "Authenticate") - checks <= 1);
}

/// F6: puts and password checks are held for 12 s, which is four times the lease's life.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_held_cost_no_lease() {
    let etcd = Etcd::start();
    let root = protect(&etcd).await;
    let proxy = FrameProxy::to(etcd.address());
    let registrar = Registrar::builder(as_root([proxy.endpoint()])).ttl(TTL).connect_lazy().unwrap();
    let first = registrar.register("s", at(1)).unwrap();
    first.ready(PATIENCE).await.unwrap();
    let lease = first.lease_id().unwrap();
    proxy.rule(Rule::hold().method("Put"));
    proxy.rule(Rule::hold().method("Txn"));
    proxy.rule(Rule::hold().method("Authenticate"));
    let second = registrar.register("s", at(2)).unwrap();
    stands(&root, &first, lease).await;
    assert_eq!((proxy.connections(), proxy.streams("Authenticate")), (1, 1));
    assert_eq!(proxy.streams("LeaseKeepAlive"), 1);
    proxy.clear();
    second.ready(PATIENCE).await.unwrap();
    assert_eq!(first.lease_id(), Some(lease));
    first.deregister().await.unwrap();
}
