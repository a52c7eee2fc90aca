//! Many registrations of one registrar.

use test_support::{FrameProxy, Rule};
use tonic_etcd::{EtcdOptions, Instance, Registrar, RegistrationState};

use super::calls;
use crate::support::{PATIENCE, World, until};

/// F12: 200 are put two dozen at a time, one that is refused among them, under one lease, and leave so.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_registrations_are_put_many_at_a_time() {
    let world = World::start().await;
    let root = world.protect("s/").await;
    let proxy = FrameProxy::to(world.etcd.address());
    let options = EtcdOptions::from([proxy.endpoint()]).user("user", "userpw");
    let registrar = Registrar::builder(options).connect_lazy().unwrap();
    proxy.rule(Rule::hold().responses().method("Txn"));
    let refused = registrar.register("forbidden", Instance::new("h:1").unwrap()).unwrap();
    let mut registrations = Vec::new();
    for port in 1..200 {
        registrations.push(registrar.register("s", Instance::new(format!("h:{port}")).unwrap()).unwrap());
    }
    // They are put, and nobody has heard so yet.
    until("two dozen at a time", async || (proxy.open_streams("Txn") >= 24).then_some(())).await;
    proxy.clear();
    for registration in &registrations {
        registration.ready(PATIENCE).await.unwrap();
    }
    let why = async || match refused.state() {
        RegistrationState::Registering { why: Some(why), .. } => why.is_permission_denied().then_some(()),
        _ => None,
    };
    until("the reason", why).await;
    let last = registrations.pop().unwrap();
    let leaving: Vec<_> = registrations.into_iter().map(|one| tokio::spawn(one.deregister())).collect();
    for left in leaving {
        left.await.unwrap().unwrap();
    }
    let there = root.kv_client().get("s/", Some(etcd_client::GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(there.kvs().iter().map(etcd_client::KeyValue::lease).collect::<Vec<_>>(), [last.lease_id().unwrap()]);
    assert!(last.is_registered());
    assert_eq!(calls(&world.etcd, "LeaseGrant"), 1);
}
