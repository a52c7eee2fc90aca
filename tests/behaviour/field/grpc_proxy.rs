//! etcd's grpc-proxy, which chooses the ids of watches itself.

use std::time::Duration;

use test_support::GrpcProxy;
use tokio::time::sleep;
use tonic_etcd::Resolver;

use crate::support::{PATIENCE, World, servers_are};

/// Its etcd is slow for longer than a creation may take while six services are about to be watched: none of them is watched as
/// another.
#[tokio::test(flavor = "multi_thread")]
async fn services_behind_a_grpc_proxy_are_seen_after_its_etcd_was_slow() {
    let world = World::start().await;
    let proxy = GrpcProxy::to(world.etcd.address());
    let resolver = Resolver::connect_lazy([proxy.endpoint()]).unwrap();
    let first = resolver.resolve("first").unwrap();
    first.ready(PATIENCE).await.unwrap();
    let mut resolutions = Vec::new();
    for number in 0..6 {
        let resolution = resolver.resolve(format!("s{number}")).unwrap();
        resolution.ready(PATIENCE).await.unwrap();
        resolutions.push(resolution);
    }
    world.etcd.freeze();
    sleep(Duration::from_secs(6)).await;
    world.etcd.thaw();
    for number in 0..6 {
        world.put(&format!("s{number}/1"), "h:1").await;
    }
    for resolution in &resolutions {
        servers_are(resolution, &["h:1"]).await;
    }
    // And each by a watch of its own.
    for number in 0..6 {
        world.put(&format!("s{number}/2"), "h:2").await;
    }
    for resolution in &resolutions {
        servers_are(resolution, &["h:1", "h:2"]).await;
    }
}
