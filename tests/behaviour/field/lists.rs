//! Lists and watches that hang beside each other, and members that say nothing.

use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use test_support::{FrameProxy, Rule};
use tokio::time::timeout;
use tonic_etcd::{ResolutionState, Resolver};

use crate::support::{PATIENCE, World, resolved, servers_are, until};

/// How long connecting and one request may take, by default, and a little more.
const SAID: Duration = Duration::from_millis(7_500);

/// F2: a relist hangs while the watch is well: events are seen as they come.
#[tokio::test(flavor = "multi_thread")]
async fn a_relist_that_hangs_holds_up_no_event() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    world.put("s/1", "h:1").await;
    let resolution = Resolver::connect_lazy([proxy.endpoint()]).unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    let lists = proxy.streams("Range");
    // A break is followed by a list, which is then held.
    proxy.rule(Rule::hold().method("Range").responses());
    world.etcd.kill();
    world.etcd.start_again();
    until("a relist", async || (proxy.streams("Range") > lists).then_some(())).await;
    world.put("s/2", "h:2").await;
    world.delete("s/1").await;
    let seen = timeout(Duration::from_secs(10), servers_are(&resolution, &["h:2"])).await;
    assert!(seen.is_ok(), "events wait for the list: {resolution:?}");
    assert_eq!(resolution.state(), ResolutionState::Current);
    // What the list said is older, and takes nothing back.
    proxy.clear();
    world.put("s/3", "h:3").await;
    servers_are(&resolution, &["h:2", "h:3"]).await;
}

/// F2: where no watch can be opened, `Current` is what a list has just said, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_watch_a_list_is_current_for_a_moment() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    world.put("s/1", "h:1").await;
    proxy.rule(Rule::hold().method("Watch").requests());
    let resolution = Resolver::connect_lazy([proxy.endpoint()]).unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    assert_eq!(resolution.state(), ResolutionState::Current);
    until("stale", async || matches!(resolution.state(), ResolutionState::Stale { .. }).then_some(())).await;
    let error = until("what went wrong", async || resolution.last_error()).await.to_string();
    assert!(error.contains("not created within 5000 ms"), "{error}");
    proxy.clear();
    world.put("s/2", "h:2").await;
    servers_are(&resolution, &["h:1", "h:2"]).await;
    assert_eq!(resolution.state(), ResolutionState::Current);
}

/// F3: the only member accepts, and answers nothing: said within the time to connect and that of a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_says_nothing_is_said() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", mute.local_addr().unwrap());
    let world = World::start().await;
    let silent = FrameProxy::to(world.etcd.address());
    // This one greets, and answers pings.
    silent.rule(Rule::hold().method("Range"));
    for endpoint in [endpoint, silent.endpoint()] {
        let resolution = Resolver::connect_lazy([endpoint.clone()]).unwrap().resolve("s").unwrap();
        let error = resolution.ready(SAID).await.unwrap_err();
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(source.contains(&endpoint), "{endpoint}: {error:?}");
        assert!(resolution.last_error().is_some());
    }
}

/// F3: a page that is slow is told from a member that is silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_late_is_waited_for_where_etcd_answers() {
    let world = World::start().await;
    let proxy = FrameProxy::to(world.etcd.address());
    world.put("s/1", "a-server-of-its-own:1").await;
    // The answer that carries the key, and not the one that counts.
    proxy.rule(Rule::delay(Duration::from_secs(8)).method("Range").responses().containing("a-server-of-its-own:1"));
    let resolution = Resolver::connect_lazy([proxy.endpoint()]).unwrap().resolve("s").unwrap();
    resolution.ready(PATIENCE).await.unwrap();
    resolved(&resolution, "the server", |snapshot| snapshot.len() == 1).await;
    assert!(resolution.last_error().is_none(), "{:?}", resolution.last_error());
    assert_eq!(proxy.connections(), 1);
}
