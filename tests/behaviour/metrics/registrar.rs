//! What is told of registrations and their lease.

use std::time::Duration;

use test_support::Recorder;
use tokio::runtime;
use tonic_etcd::{Instance, Registrar, RegistrarStats};

use crate::metrics::{ended, shows, until_metrics};
use crate::support::{PATIENCE, World, naming, until};

const LEASES_LOST: &str = "tonic_etcd.registrar.leases_lost{}";
const REPAIRED: &str = "tonic_etcd.registrar.keys_repaired{service=s}";
const RENEWALS: &str = "tonic_etcd.registrar.renewal.duration{}";

fn registrar(etcd: &str, recorder: &Recorder) -> Registrar {
    Registrar::builder([etcd]).ttl(Duration::from_secs(3)).metrics(recorder.clone()).connect_lazy().unwrap()
}

fn at(address: &str) -> Instance {
    Instance::new(address).unwrap()
}

fn registered(service: &str, state: &str) -> String {
    format!("tonic_etcd.registrar.registered{{service={service},state={state}}}")
}

/// Waits until the recorder says what `stats()` says, and gives that.
async fn same(registrar: &Registrar, recorder: &Recorder) -> RegistrarStats {
    let is_same = |stats: &RegistrarStats| {
        let registrations: usize = stats.registered().map(|(.., count)| count).sum();
        stats.registered().all(|(service, state, count)| recorder.value(&registered(service, state)) == count as f64)
            && recorder.sum("tonic_etcd.registrar.registered") == registrations as f64
            && recorder.value(LEASES_LOST) == stats.leases_lost() as f64
            && recorder.sum("tonic_etcd.registrar.keys_repaired") == stats.keys_repaired() as f64
            && recorder.values(RENEWALS).len() as u64 == stats.renewal_duration().count()
    };
    let what = format!("{:?}\n{}", registrar.stats(), recorder.text());
    until(&what, async || Some(registrar.stats()).filter(is_same)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_counted_by_service_and_state() {
    let (world, recorder) = (World::start().await, Recorder::default());
    let registrar = registrar(&world.etcd.endpoint(), &recorder);
    let first = registrar.register("s", at("10.0.0.1:1")).unwrap();
    let second = registrar.register("s", at("10.0.0.2:1")).unwrap();
    let other = registrar.register("t", at("10.0.0.1:1")).unwrap();
    for registration in [&first, &second, &other] {
        registration.ready(PATIENCE).await.unwrap();
    }
    // Who waits for a state finds it counted.
    assert_eq!(recorder.value(&registered("s", "registered")), 2.0);
    second.pause();
    shows(&recorder, &registered("s", "paused"), 1.0).await;
    let stats = same(&registrar, &recorder).await;
    let expected = [("s", "registered", 1), ("s", "paused", 1), ("t", "registered", 1)];
    assert_eq!(stats.registered().collect::<Vec<_>>(), expected);

    // Another instance takes the key.
    let taker = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
    let taker = taker.register("t", at("10.0.0.1:1").with_zone("other")).unwrap();
    shows(&recorder, &registered("t", "held_by_other"), 1.0).await;
    taker.deregister().await.unwrap();
    shows(&recorder, &registered("t", "registered"), 1.0).await;
    assert_eq!(same(&registrar, &recorder).await.keys_repaired(), 0, "it had only waited for its key");

    first.deregister().await.unwrap();
    shows(&recorder, &registered("s", "registered"), 0.0).await;
    drop((second, other));
    registrar.close(PATIENCE).await.unwrap();
    assert_eq!(same(&registrar, &recorder).await.registered().count(), 0);
    drop(registrar);
    ended(&recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_lost_is_counted_and_repairs_no_key() {
    let (world, recorder) = (World::start().await, Recorder::default());
    let registrar = registrar(&world.etcd.endpoint(), &recorder);
    let registration = registrar.register("s", at("10.0.0.1:1").with_address("10.0.0.2:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    until_metrics(&recorder, "renewals", || recorder.values(RENEWALS).len() >= 2).await;
    let stats = same(&registrar, &recorder).await;
    assert_eq!((stats.leases_lost(), stats.keys_repaired()), (0, 0));
    assert!(stats.renewal_duration().sum() > 0.0 && recorder.values(RENEWALS).iter().all(|value| *value < 30.0));

    let lease = registrar.lease_id().unwrap();
    world.admin.lease_client().revoke(lease).await.unwrap();
    shows(&recorder, LEASES_LOST, 1.0).await;
    until("another lease", async || registrar.lease_id().filter(|id| *id != lease)).await;
    registration.ready(PATIENCE).await.unwrap();
    let stats = same(&registrar, &recorder).await;
    assert_eq!((stats.leases_lost(), stats.keys_repaired()), (1, 0), "{}", recorder.text());
    registration.deregister().await.unwrap();
    assert_eq!(same(&registrar, &recorder).await.leases_lost(), 1, "a lease that is given up is not lost");
    drop(registrar);
    ended(&recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_others_delete_or_overwrite_are_counted_as_repaired() {
    let (world, recorder) = (World::start().await, Recorder::default());
    let registrar = registrar(&world.etcd.endpoint(), &recorder);
    let registration = registrar.register("s", at("10.0.0.1:1").with_address("10.0.0.2:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    world.delete("s/10.0.0.1:1").await;
    shows(&recorder, REPAIRED, 1.0).await;
    assert_eq!(world.lease_of("s/10.0.0.1:1").await, registrar.lease_id());
    world.put("s/10.0.0.2:1", &naming("10.0.0.9:1")).await;
    shows(&recorder, REPAIRED, 2.0).await;
    world.delete_prefix("s/").await;
    shows(&recorder, REPAIRED, 4.0).await;
    let stats = same(&registrar, &recorder).await;
    assert_eq!((stats.leases_lost(), stats.keys_repaired()), (0, 4));
    // What its user changes is no repair, nor is what leaves.
    registration.pause();
    shows(&recorder, &registered("s", "paused"), 1.0).await;
    registration.resume();
    registration.ready(PATIENCE).await.unwrap();
    registration.deregister().await.unwrap();
    assert_eq!(same(&registrar, &recorder).await.keys_repaired(), 4, "{}", recorder.text());
    drop(registrar);
    ended(&recorder).await;
}

#[test]
fn registrations_of_a_runtime_that_has_ended_are_not_counted() {
    let recorder = Recorder::default();
    let runtime = runtime::Runtime::new().unwrap();
    let (registrar, registration) = runtime.block_on(async {
        let world = World::start().await;
        let registrar = registrar(&world.etcd.endpoint(), &recorder);
        let registration = registrar.register("s", at("10.0.0.1:1")).unwrap();
        registration.ready(PATIENCE).await.unwrap();
        (registrar, registration)
    });
    assert_eq!(recorder.value(&registered("s", "registered")), 1.0);
    drop(runtime);
    assert_eq!(recorder.sum("tonic_etcd.registrar.registered"), 0.0, "{}", recorder.text());
    assert_eq!(registrar.stats().registered().count(), 0);
    drop((registrar, registration));
    // What the runtime's threads still held may be dropped a moment later.
    let is_left = |_: &usize| {
        std::thread::sleep(Duration::from_millis(10));
        recorder.bound() > 0
    };
    (0..2_000).take_while(is_left).for_each(drop);
    assert_eq!((recorder.bound(), recorder.faults().len()), (0, 0), "{}", recorder.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_and_registrars_that_have_gone_leave_nothing() {
    let recorder = Recorder::default();
    let nobody = "http://127.0.0.1:1";
    let one = registrar(nobody, &recorder);
    for _ in 0..100 {
        let some: Vec<_> =
            (0..100).map(|port| one.register("s", at(&format!("10.0.0.1:{}", port + 1))).unwrap()).collect();
        drop(some);
        until_metrics(&recorder, "all to leave", || recorder.sum("tonic_etcd.registrar.registered") == 0.0).await;
    }
    drop(one);
    for _ in 0..10_000 {
        drop(registrar(nobody, &recorder));
    }
    ended(&recorder).await;
    assert_eq!(recorder.series().len(), 10, "{:?}", recorder.series());
}
