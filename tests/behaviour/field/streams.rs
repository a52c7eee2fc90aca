//! Watches that share streams, and one of them that is not answered.

use std::time::Duration;

use test_support::{FrameProxy, Rule};
use tokio::time::Instant;
use tonic_etcd::{Instance, Registrar, Resolver};

use crate::support::{PATIENCE, World, servers_are, until};

/// F9: the watch of one key is never answered: it is tried ever more slowly, and nothing else is touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_not_answered_touches_nothing_else() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    proxy.rule(Rule::drop_all().method("Watch").requests().containing("s/h:99"));
    let registrar = Registrar::builder([proxy.endpoint()]).ttl(Duration::from_secs(4)).connect_lazy().unwrap();
    let mut registrations = Vec::new();
    for port in [99, 1, 2, 3] {
        registrations.push(registrar.register("s", Instance::new(format!("h:{port}")).unwrap()).unwrap());
    }
    for registration in &registrations {
        registration.ready(PATIENCE).await.unwrap();
    }
    until("the other watches", async || (world.watches() == 3).then_some(())).await;
    let (began, lease) = (Instant::now(), registrations[0].lease_id());
    // Three tries: at once, after 6 s and after 13 s.
    while began.elapsed() < Duration::from_secs(15) {
        // The other keys are looked after all the time.
        world.delete("s/h:1").await;
        until("the repair", async || world.lease_of("s/h:1").await.filter(|own| Some(*own) == lease)).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    assert!(proxy.streams("Watch") <= 4, "{} watch streams", proxy.streams("Watch"));
    assert_eq!((proxy.connections(), proxy.streams("LeaseKeepAlive")), (1, 1));
    assert_eq!(world.watches(), 3, "the others are where they were");
    assert_eq!(registrations[0].lease_id(), lease);
}

/// F9: the same for one service of a resolver.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_watch_is_not_answered_costs_the_others_nothing() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    proxy.rule(Rule::drop_all().method("Watch").requests().containing("mute/"));
    let resolver = Resolver::connect_lazy([proxy.endpoint()]).unwrap();
    let mute = resolver.resolve("mute").unwrap();
    let mut others = Vec::new();
    for number in 0..10 {
        others.push(resolver.resolve(format!("s{number}")).unwrap());
    }
    until("the other watches", async || (world.watches() == 10).then_some(())).await;
    let late = async || mute.last_error().filter(|error| error.to_string().contains("not created"));
    until("what is wrong with the one", late).await;
    for (number, other) in others.iter().enumerate() {
        world.put(&format!("s{number}/1"), "h:1").await;
        servers_are(other, &["h:1"]).await;
        assert!(other.last_error().is_none(), "{:?}", other.last_error());
    }
    assert_eq!(proxy.connections(), 1);
    // It is tried again, and answered one day.
    proxy.clear();
    world.put("mute/1", "h:7").await;
    servers_are(&mute, &["h:7"]).await;
}

/// Watches of one resolver share a stream, and one that is dropped is canceled there.
#[tokio::test(flavor = "multi_thread")]
async fn watches_share_a_stream_and_leave_it_alone() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    let resolver = Resolver::connect_lazy([proxy.endpoint()]).unwrap();
    let mut resolutions = Vec::new();
    for number in 0..100 {
        resolutions.push(resolver.resolve(format!("s{number}")).unwrap());
    }
    until("all watches", async || (world.watches() == 100).then_some(())).await;
    assert_eq!((proxy.connections(), proxy.streams("Watch")), (1, 1));
    resolutions.truncate(10);
    until("the ones that are left", async || (world.watches() == 10).then_some(())).await;
    for (number, resolution) in resolutions.iter().enumerate() {
        world.put(&format!("s{number}/1"), "h:1").await;
        servers_are(resolution, &["h:1"]).await;
    }
    assert_eq!(proxy.streams("Watch"), 1);
    resolutions.clear();
    until("no stream", async || (proxy.open_streams("Watch") == 0).then_some(())).await;
    assert_eq!(world.watches(), 0);
}
