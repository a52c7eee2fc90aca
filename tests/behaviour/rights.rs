//! Rights on some keys of a registrar, which etcd gives and takes away.

use std::time::Duration;

use etcd_client::{Client, GetOptions};
use tonic_etcd::{EtcdOptions, Instance, Registrar, RegistrationState};

use crate::support::{PATIENCE, World, until};

const TTL: Duration = Duration::from_secs(3);

fn at(address: &str) -> Instance {
    Instance::new(address).unwrap()
}

fn registrar(world: &World) -> Registrar {
    let options = EtcdOptions::new([world.etcd.endpoint()]).user("user", "userpw");
    Registrar::builder(options).ttl(TTL).build().unwrap()
}

async fn keys(root: &Client) -> Vec<String> {
    let answer = root.kv_client().get("s/", Some(GetOptions::new().with_prefix())).await.unwrap();
    answer.kvs().iter().map(|pair| pair.key_str().unwrap().to_owned()).collect()
}

/// What was registered is being updated, and in etcd, whatever was refused before.
#[tokio::test]
async fn what_stands_is_updated_also_where_a_key_is_refused() {
    let world = World::start().await;
    let root = world.protect("s/h:1").await;
    let registrar = registrar(&world);
    let both = at("h:1").with_address("h:2").unwrap();
    let mut registration = registrar.register("s", both).await.unwrap();
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
