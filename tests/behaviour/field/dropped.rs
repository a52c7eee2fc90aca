//! What is left behind by those who are dropped, and by hedges.

use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use test_support::{FrameProxy, Proxy, Rule};
use tokio::time::{sleep, timeout};
use tonic_etcd::{Instance, Registrar, Resolver};

use crate::support::{PATIENCE, World, servers_are, until};

/// Neither at an etcd that is well, nor at one that accepts and says nothing.
#[tokio::test]
async fn resolvers_that_are_dropped_leave_nothing() {
    let world = World::start().await;
    let proxy = Proxy::to(world.etcd.address());
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for endpoint in [proxy.endpoint(), format!("http://{}", mute.local_addr().unwrap())] {
        for number in 0..50 {
            let resolver = Resolver::connect_lazy([endpoint.clone()]).unwrap();
            let resolution = resolver.resolve("s").unwrap();
            sleep(Duration::from_millis(number)).await;
            drop((resolution, resolver));
        }
    }
    let gone = async || (metrics.num_alive_tasks() <= before && proxy.open_connections() == 0).then_some(());
    let gone = timeout(Duration::from_secs(2), until("nothing is left", gone)).await;
    assert!(gone.is_ok(), "{} tasks, {} connections", metrics.num_alive_tasks() - before, proxy.open_connections());
}

/// A late request has led to a second member: that connection is closed when nobody uses it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_not_in_use_is_closed() {
    let world = World::start().await;
    world.put("s/1", "h:1").await;
    let (first, second) = (FrameProxy::to(world.etcd.address()), FrameProxy::to(world.etcd.address()));
    let resolver = Resolver::connect_lazy([first.endpoint(), second.endpoint()]).unwrap();
    let one = resolver.resolve("s").unwrap();
    servers_are(&one, &["h:1"]).await;
    let (used, other) = if first.connections() > 0 { (&first, &second) } else { (&second, &first) };
    used.rule(Rule::delay(Duration::from_secs(4)).method("Range").containing("slow"));
    let two = resolver.resolve("slow").unwrap();
    two.ready(PATIENCE).await.unwrap();
    assert_eq!(other.connections(), 1, "a late request is sent to another member");
    used.clear();
    // After 30 s without a request; the patience of `until` is not enough for that.
    sleep(Duration::from_secs(25)).await;
    until("closed", async || (other.open_connections() == 0).then_some(())).await;
    assert_eq!(used.open_connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrar_names_the_member_that_says_nothing() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", mute.local_addr().unwrap());
    let registrar = Registrar::connect_lazy([endpoint.clone()]).unwrap();
    let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    let error = registration.ready(Duration::from_secs(8)).await.unwrap_err();
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    assert!(source.contains(&endpoint), "{error:?}");
}
