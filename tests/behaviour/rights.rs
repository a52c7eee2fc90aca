//! Rights on some keys of a registrar, which etcd gives and takes away.

use std::time::Duration;

use etcd_client::{Client, EventType, GetOptions, Permission, RoleRevokePermissionOptions, WatchOptions};
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;
use tonic_etcd::{EtcdOptions, Instance, Registrar, Registration, RegistrationState};

use crate::support::{PATIENCE, World, until};

const TTL: Duration = Duration::from_secs(3);

fn at(address: &str) -> Instance {
    Instance::new(address).unwrap()
}

fn registrar(world: &World) -> Registrar {
    let options = EtcdOptions::new([world.etcd.endpoint()]).user("user", "userpw");
    Registrar::builder(options).ttl(TTL).connect_lazy().unwrap()
}

async fn registered(registrar: &Registrar, address: &str) -> Registration {
    let registration = registrar.register("s", at(address)).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    registration
}

/// From here on this key alone may be written, of all that could be.
async fn permit_only(root: &Client, key: &str) {
    let mut auth = root.auth_client();
    auth.role_grant_permission("role", Permission::read_write(key)).await.unwrap();
    let prefix = RoleRevokePermissionOptions::new().with_prefix();
    auth.role_revoke_permission("role", "s/", Some(prefix)).await.unwrap();
}

async fn keys(root: &Client) -> Vec<String> {
    let answer = root.kv_client().get("s/", Some(GetOptions::new().with_prefix())).await.unwrap();
    answer.kvs().iter().map(|pair| pair.key_str().unwrap().to_owned()).collect()
}

/// etcd 3.7 does not renew a lease any more under which a key stands that the role may not write.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_costs_its_own_key_alone() {
    let world = World::start().await;
    let root = world.protect("s/").await;
    let registrar = registrar(&world);
    let taken = registered(&registrar, "h:1").await;
    let stays = registered(&registrar, "h:2").await;
    let mut watch = root.watch_client();
    let mut events = watch.watch("s/h:2", Some(WatchOptions::new())).await.unwrap();
    permit_only(&root, "s/h:2").await;
    // Each of its leases has to be renewed meanwhile.
    let end = Instant::now() + TTL * 2;
    while Instant::now() < end {
        assert!(stays.is_registered() && registrar.health().is_live(), "{stays:?}");
        sleep(Duration::from_millis(20)).await;
    }
    let stands = async || matches!(stays.state(), RegistrationState::Registered).then_some(());
    until("registered", stands).await;
    let by_hand = root.kv_client().delete("s/h:2", None).await.unwrap().header().unwrap().revision();
    let deleted = loop {
        let message = events.next().await.unwrap().unwrap();
        let mut deletions = message.events().iter().filter(|event| event.event_type() == EventType::Delete);
        if let Some(deletion) = deletions.next() {
            break deletion.kv().unwrap().mod_revision();
        }
    };
    assert_eq!(deleted, by_hand, "it did not go before it was deleted by hand");
    drop(taken);
}

/// It goes with its lease, which the others have left.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_deleted_any_more_leaves_all_the_same() {
    let world = World::start().await;
    let root = world.protect("s/").await;
    let registrar = registrar(&world);
    let leaves = registered(&registrar, "h:1").await;
    let stays = registered(&registrar, "h:2").await;
    permit_only(&root, "s/h:2").await;
    leaves.deregister_within(PATIENCE).await.unwrap();
    assert_eq!(keys(&root).await, ["s/h:2"]);
    stays.ready(PATIENCE).await.unwrap();
    assert!(stays.is_registered());
}

/// What was registered is being updated, and in etcd, whatever was refused before.
#[tokio::test]
async fn what_stands_is_updated_also_where_a_key_is_refused() {
    let world = World::start().await;
    let root = world.protect("s/h:1").await;
    let registrar = registrar(&world);
    let both = at("h:1").with_address("h:2").unwrap();
    let mut registration = registrar.register("s", both).unwrap();
    let refused =
        async || registration.state().why().is_some_and(tonic_etcd::Error::is_permission_denied).then_some(());
    until("refused", refused).await;
    registration.update(|_| Instance::new("h:1")).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    registration.update(|_| Instance::new("h:2")).unwrap();
    let refused =
        async || registration.state().why().is_some_and(tonic_etcd::Error::is_permission_denied).then_some(());
    until("refused", refused).await;
    assert!(matches!(registration.state(), RegistrationState::Updating { .. }), "{:?}", registration.state());
    assert_eq!(keys(&root).await, ["s/h:1"]);
}
