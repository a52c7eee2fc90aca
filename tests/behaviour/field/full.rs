//! An etcd whose quota is used up.

use std::time::Duration;

use etcd_client::Client;
use test_support::Etcd;
use tokio::time::sleep;
use tonic_etcd::{Instance, Registrar};

use crate::support::{PATIENCE, until};

const TTL: Duration = Duration::from_secs(2);

/// F61: who wants out is out, and the other's lease is renewed. 3.5.1 refuses a transaction that only deletes there.
#[tokio::test(flavor = "multi_thread")]
async fn who_wants_out_of_a_full_etcd_is_out() {
    let etcd = tokio::task::spawn_blocking(|| Etcd::builder().arg("--quota-backend-bytes=2097152").start());
    let etcd = etcd.await.unwrap();
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    let registrar = Registrar::builder([etcd.endpoint()]).ttl(TTL).connect_lazy().unwrap();
    let mut registrations = Vec::new();
    for port in 1..=4 {
        registrations.push(registrar.register("s", Instance::new(format!("h:{port}")).unwrap()).unwrap());
    }
    for registration in &registrations {
        registration.ready(PATIENCE).await.unwrap();
    }
    let lease = registrar.lease_id();
    let value = vec![b'x'; 256 * 1024];
    until("it is full", async || {
        let put = admin.kv_client().put("fill", value.clone(), None).await;
        put.is_err_and(|error| error.to_string().contains("database space exceeded")).then_some(())
    })
    .await;
    let leaves = registrations.pop().unwrap();
    registrations[0].pause();
    registrations[1].set_serving(false);
    leaves.deregister().await.unwrap();
    registrations[0].paused(PATIENCE).await.unwrap();
    registrations[1].paused(PATIENCE).await.unwrap();
    let keys = async || {
        let all = etcd_client::GetOptions::new().with_prefix();
        let there = admin.kv_client().get("s/", Some(all)).await.unwrap();
        there.kvs().iter().map(|pair| (pair.key_str().unwrap().to_owned(), Some(pair.lease()))).collect::<Vec<_>>()
    };
    let stays = [("s/h:3".to_owned(), lease)];
    assert_eq!(keys().await, stays);
    sleep(TTL * 2).await;
    assert_eq!(keys().await, stays);
    assert!(registrations[2].is_registered() && registrar.lease_id() == lease);
    // The last one goes with its lease.
    let last = registrations.pop().unwrap();
    drop(registrations);
    last.deregister().await.unwrap();
    assert!(keys().await.is_empty());
}
