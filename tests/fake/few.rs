//! Members that admit one stream, or two: what stays open has connections of its own, and requests find room.

use tonic_etcd::{Instance, Registrar, Resolver};

use crate::server::Fake;
use crate::support::{PATIENCE, TTL, servers_are, until};

async fn a_registrar_works_with(streams: u32) {
    let fake = Fake::start_with(Some(streams)).await;
    let registrar = Registrar::builder([fake.endpoint()]).ttl(TTL).connect_lazy().unwrap();
    let first = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    first.ready(PATIENCE).await.unwrap();
    let lease = first.lease_id();
    until("renewals", || fake.rpcs(|rpcs| rpcs.renew.seen.len() >= 2)).await;
    let second = registrar.register("s", Instance::new("h:2").unwrap()).unwrap();
    second.ready(PATIENCE).await.unwrap();
    assert_eq!(first.lease_id(), lease);
    second.deregister().await.unwrap();
    first.deregister().await.unwrap();
}

async fn a_resolver_works_with(streams: u32) {
    let fake = Fake::start_with(Some(streams)).await;
    let resolver = Resolver::connect_lazy([fake.endpoint()]).unwrap();
    let first = resolver.resolve("a").unwrap();
    first.ready(PATIENCE).await.unwrap();
    until("a watch", || fake.rpcs(|rpcs| !rpcs.watch.seen.is_empty())).await;
    let second = resolver.resolve("b").unwrap();
    second.ready(PATIENCE).await.unwrap();
    fake.store(|store| {
        store.put("a/1", "h:1");
        store.put("b/1", "h:2");
    });
    servers_are(&first, &["h:1"]).await;
    servers_are(&second, &["h:2"]).await;
}

#[tokio::test]
async fn a_member_that_admits_few_streams_serves_all_the_same() {
    tokio::join!(
        a_registrar_works_with(1),
        a_registrar_works_with(2),
        a_registrar_works_with(3),
        a_resolver_works_with(1),
        a_resolver_works_with(2),
    );
}
