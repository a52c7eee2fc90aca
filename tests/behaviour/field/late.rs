//! Puts that the network holds until their registrations have left.

use std::time::Duration;

use etcd_client::{EventType, WatchOptions};
use test_support::{Etcd, FrameProxy, Rule};
use tokio::time::{sleep, timeout};
use tonic_etcd::{Instance, Registrar, Registration};

use super::{calls, handled};
use crate::support::{PATIENCE, World, until};

/// Longer than the answer to a put is waited for when its registration leaves.
const HELD: Duration = Duration::from_secs(1);

fn at(address: &str) -> Instance {
    Instance::new(address).unwrap()
}

/// A third registration, whose put is on its way.
async fn held(registrar: &Registrar, proxy: &FrameProxy) -> Registration {
    proxy.rule(Rule::delay(HELD).requests().containing("\"Addr\":\"late:1\""));
    let before = proxy.streams("Txn");
    let late = registrar.register("s", at("late:1")).unwrap();
    until("the put is on its way", async || (proxy.streams("Txn") > before).then_some(())).await;
    // Its head has been seen; its message follows at once.
    sleep(Duration::from_millis(50)).await;
    late
}

/// Waits until etcd has dealt with what was held.
async fn has_arrived(proxy: &FrameProxy, etcd: &Etcd) {
    until("what was held goes on", async || (!proxy.late().is_empty()).then_some(())).await;
    until("etcd has dealt with it", async || (calls(etcd, "Txn") == handled(etcd, "Txn")).then_some(())).await;
}

/// It leaves, or is changed, while its put is held: the others move to another lease without being gone for a moment, and the
/// put finds its lease gone.
async fn nothing_comes_of_it(leave: impl AsyncFnOnce(Registration) -> Option<Registration>) {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    let registrar = Registrar::connect_lazy([proxy.endpoint()]).unwrap();
    let mut others = Vec::new();
    for address in ["h:1", "h:2"] {
        others.push(registrar.register("s", at(address)).unwrap());
    }
    for other in &others {
        other.ready(PATIENCE).await.unwrap();
    }
    let first = registrar.lease_id().unwrap();
    let options = WatchOptions::new().with_prefix();
    let mut events = world.admin.watch_client().watch("s/h:", Some(options)).await.unwrap();
    let late = held(&registrar, &proxy).await;
    let left = leave(late).await;
    has_arrived(&proxy, &world.etcd).await;
    until("one lease, and not the first", async || {
        let there = world.leases().await;
        (there.len() == 1 && there[0] != first).then_some(())
    })
    .await;
    assert_eq!(world.lease_of("s/late:1").await, None, "it came after its registration had left");
    for (other, key) in others.iter().zip(["s/h:1", "s/h:2"]) {
        assert!(other.is_registered(), "{:?}", other.state());
        assert_eq!(world.lease_of(key).await, registrar.lease_id());
    }
    while let Ok(message) = timeout(Duration::from_millis(100), events.message()).await {
        let message = message.unwrap().expect("open");
        assert!(message.events().iter().all(|event| event.event_type() == EventType::Put), "{message:?}");
    }
    drop(left);
}

/// F7: a put arrives after its registration has left, is paused, or has another key.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_arrives_after_its_registration_left_is_refused() {
    tokio::join!(
        nothing_comes_of_it(async |late| {
            late.deregister().await.unwrap();
            None
        }),
        nothing_comes_of_it(async |late| {
            late.pause();
            late.paused(PATIENCE).await.unwrap();
            Some(late)
        }),
        nothing_comes_of_it(async |mut late| {
            late.update(|_| at("h:3")).unwrap();
            late.ready(PATIENCE).await.unwrap();
            Some(late)
        }),
    );
}

/// F7: where there is nothing else, revoking the lease is all.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_registration_leaves_with_its_lease() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    let registrar = Registrar::connect_lazy([proxy.endpoint()]).unwrap();
    let late = held(&registrar, &proxy).await;
    late.deregister().await.unwrap();
    assert!(world.leases().await.is_empty());
    has_arrived(&proxy, &world.etcd).await;
    assert_eq!(world.lease_of("s/late:1").await, None);
    assert_eq!((calls(&world.etcd, "LeaseGrant"), calls(&world.etcd, "LeaseRevoke")), (1, 1));
}

/// F7: a lease that is left for another leaves no stream open, over which it was renewed.
#[tokio::test(flavor = "multi_thread")]
async fn leases_that_are_left_leave_no_streams() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    let registrar = Registrar::builder([proxy.endpoint()]).ttl(Duration::from_secs(3)).connect_lazy().unwrap();
    let other = registrar.register("s", at("h:1")).unwrap();
    other.ready(PATIENCE).await.unwrap();
    for _ in 0..3 {
        let (lease, opened) = (registrar.lease_id(), proxy.streams("LeaseKeepAlive"));
        until("it is renewed over a stream", async || (proxy.streams("LeaseKeepAlive") > opened).then_some(())).await;
        let late = held(&registrar, &proxy).await;
        late.deregister().await.unwrap();
        proxy.clear();
        has_arrived(&proxy, &world.etcd).await;
        until("another lease", async || {
            (world.leases().await.len() == 1 && registrar.lease_id() != lease).then_some(())
        })
        .await;
    }
    until("one stream", async || (proxy.open_streams("LeaseKeepAlive") <= 1).then_some(())).await;
    assert!(other.is_registered());
}
