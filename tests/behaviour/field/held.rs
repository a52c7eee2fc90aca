//! Requests that are held back, over connections that are well: they end none of them.

use std::time::Duration;

use test_support::{FrameProxy, Rule};
use tokio::time::{Instant, sleep};
use tonic_etcd::{EtcdOptions, Instance, Registrar, Resolver};

use crate::support::{PATIENCE, World, until};

/// Longer than the 5.5 s between two pings, and than many request timeouts.
const LONG: Duration = Duration::from_secs(15);
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_closes_no_connection_that_is_well() {
    tokio::join!(puts_are_held(), lists_are_held(), watches_are_not_answered());
}

async fn puts_are_held() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    let options = EtcdOptions::from([proxy.endpoint()]).request_timeout(SHORT);
    let registrar = Registrar::builder(options).connect_lazy().unwrap();
    let first = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    first.ready(PATIENCE).await.unwrap();
    proxy.rule(Rule::hold().method("Put"));
    proxy.rule(Rule::hold().method("Txn"));
    let _second = registrar.register("s", Instance::new("h:2").unwrap()).unwrap();
    sleep(LONG).await;
    assert_eq!(proxy.connections(), 1);
}

async fn lists_are_held() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    let options = EtcdOptions::from([proxy.endpoint()]).request_timeout(SHORT);
    let resolver = Resolver::builder(options).connect_lazy().unwrap();
    let well = resolver.resolve("well").unwrap();
    well.ready(PATIENCE).await.unwrap();
    proxy.rule(Rule::hold().method("Range"));
    let _held = resolver.resolve("held").unwrap();
    sleep(LONG).await;
    assert_eq!(proxy.connections(), 1, "{:?}", well.last_error());
    assert!(well.last_error().is_none(), "{:?}", well.last_error());
}

async fn watches_are_not_answered() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    proxy.rule(Rule::drop_all().method("Watch").requests().containing("mute"));
    let resolver = Resolver::connect_lazy([proxy.endpoint()]).unwrap();
    let mut mute = Vec::new();
    for number in 0..6 {
        mute.push(resolver.resolve(format!("mute{number}")).unwrap());
        sleep(Duration::from_secs(2)).await;
    }
    sleep(Duration::from_secs(8)).await;
    assert_eq!(proxy.connections(), 1);
}

/// A connection that is given up here is not said to be broken by others.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_frozen_etcd_is_that_it_was_not_heard() {
    let world = World::start().await;
    let registrar = Registrar::builder([world.etcd.endpoint()]).ttl(Duration::from_secs(9)).connect_lazy().unwrap();
    let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    let resolution = world.resolver().await.resolve("s").unwrap();
    resolution.ready(PATIENCE).await.unwrap();
    world.etcd.freeze();
    let why = async || registration.state().why().map(ToString::to_string);
    let first = until("why", why).await;
    assert!(first.contains(&world.etcd.endpoint()), "{first}");
    let frozen = Instant::now();
    let mut said = vec![first];
    while frozen.elapsed() < Duration::from_secs(12) {
        said.extend(registration.state().why().map(ToString::to_string));
        said.extend(resolution.last_error().map(|error| error.to_string()));
        sleep(Duration::from_millis(100)).await;
    }
    said.dedup();
    assert!(!said.iter().any(|said| said.contains("broken pipe")), "{said:#?}");
    world.etcd.thaw();
}
