//! A member in use that goes silent under a registration, while the others are well: the lease is kept, whatever its life, by
//! renewals at another member.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Permission};
use test_support::Proxy;
use tokio::time::{Instant, sleep};
use tonic_etcd::{EtcdOptions, Instance, Registrar, RegistrarBuilder, Registration};

use crate::support::{PATIENCE, World, until};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Packets to what is in use are swallowed; then the key stands under its lease for as long as is looked at.
async fn keeps_its_lease(root: &Client, builder: RegistrarBuilder, proxies: &[Proxy], before: Duration, ttl: Duration) {
    let registrar = builder.ttl(ttl).connect_lazy().unwrap();
    let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    let lease = registration.lease_id();
    sleep(before).await;
    proxies.iter().filter(|proxy| proxy.open_connections() > 0).for_each(Proxy::stall);
    let stalled = Instant::now();
    while stalled.elapsed() < ttl * 2 {
        let read = root.kv_client().get("s/h:1", None).await.unwrap();
        let (found, after) = (read.kvs().first().map(etcd_client::KeyValue::lease), stalled.elapsed());
        assert_eq!(found, lease, "{ttl:?}: the key is gone after {after:?}: {:?}", registration.state());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(Registration::is_registered(&registration), "{:?}", registration.state());
}

fn three(world: &World) -> Vec<Proxy> {
    (0..3).map(|_| Proxy::to(world.etcd.address())).collect()
}

fn options(proxies: &[Proxy]) -> EtcdOptions {
    EtcdOptions::new(proxies.iter().map(Proxy::endpoint))
}

async fn with_all_rights(ttl: Duration, before: Duration) {
    let world = World::start().await;
    let proxies = three(&world);
    keeps_its_lease(&world.admin, Registrar::builder(options(&proxies)), &proxies, before, ttl).await;
}

/// Without a watch, nothing but renewals finds out that the member is dead.
async fn where_keys_may_not_be_read(ttl: Duration, before: Duration) {
    let world = World::start().await;
    let mut auth = world.admin.auth_client();
    auth.user_add("root", "rootpw", None).await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    auth.role_add("role").await.unwrap();
    auth.role_grant_permission("role", Permission::write("s/").with_prefix()).await.unwrap();
    auth.user_add("user", "userpw", None).await.unwrap();
    auth.user_grant_role("user", "role").await.unwrap();
    auth.auth_enable().await.unwrap();
    let as_root = ConnectOptions::new().with_user("root", "rootpw");
    let root = until("root", async || Client::connect([world.etcd.endpoint()], Some(as_root.clone())).await.ok()).await;
    let proxies = three(&world);
    let builder = Registrar::builder(options(&proxies).user("user", "userpw"));
    keeps_its_lease(&root, builder, &proxies, before, ttl).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_goes_silent_costs_no_lease() {
    tokio::join!(
        with_all_rights(secs(5), Duration::ZERO),
        with_all_rights(secs(5), secs(5)),
        with_all_rights(secs(3), secs(4)),
        where_keys_may_not_be_read(secs(10), Duration::ZERO),
        where_keys_may_not_be_read(secs(15), secs(1)),
    );
}
