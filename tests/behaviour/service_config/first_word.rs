//! Calls that begin before the first word of etcd, or of the cache.

use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::{Code, Request};
use tonic_etcd::{BalancedChannel, Resolver};

use super::{channel, document, holds, shows};
use crate::channel::{greet, server};
use crate::support::{World, naming, servers_are, until};

/// Nothing listens there.
const NOBODY: &str = "127.0.0.1:1";

/// The wait for the first word of the config is no part of the call's deadline: it outlives it ten times.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_the_first_word_ends_at_its_deadline() {
    let resolver = Resolver::connect_lazy([NOBODY]).unwrap();
    let channel = channel(&resolver, "s");
    let mut request = Request::new(HelloRequest::default());
    request.set_timeout(Duration::from_millis(100));
    let began = Instant::now();
    let status = GreeterClient::new(channel).say_hello(request).await.unwrap_err();
    let lasted = began.elapsed();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(lasted < Duration::from_millis(500), "a deadline of 100 ms ended after {lasted:?}");
}

/// A folder with the cache file of the servers of "s" alone, as a release without service configs has left it.
async fn folder_with_servers_alone(world: &World) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let address = server();
    world.put("s/one", &naming(&address)).await;
    let resolver = Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    servers_are(&resolution, &[&address]).await;
    holds(&folder.path().join("s%2F.cache"), &address).await;
    folder
}

/// etcd is down, the servers are cached and their config is not, as after an update of the program: while etcd stays down, each call
/// waits a second anew.
#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_is_down_not_every_call_waits_a_second_for_a_config_that_is_not_cached() {
    let world = World::start().await;
    let folder = folder_with_servers_alone(&world).await;
    world.etcd.kill();
    let resolver = Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
    let channel = channel(&resolver, "s");
    greet(&channel).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let mut lasted = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        greet(&channel).await.unwrap();
        lasted.push(began.elapsed());
    }
    assert!(lasted.iter().all(|lasted| *lasted < Duration::from_millis(500)), "the calls took {lasted:?}");
}

/// As before, where calls have half a second: all fail, although the server is well. Without the config all are OK.
#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_is_down_calls_with_a_short_deadline_reach_cached_servers() {
    let world = World::start().await;
    let folder = folder_with_servers_alone(&world).await;
    world.etcd.kill();
    for takes_config in [false, true] {
        let resolver = Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
        let builder = BalancedChannel::builder().timeout(Duration::from_millis(500));
        let builder = if takes_config { builder.service_config_from_etcd() } else { builder };
        let channel = builder.build(&resolver.resolve("s").unwrap()).unwrap();
        until("the cached server", async || (channel.servers().len() == 1).then_some(())).await;
        sleep(Duration::from_secs(2)).await;
        for number in 0..5 {
            let result = greet(&channel).await;
            assert!(result.is_ok(), "takes config: {takes_config}, call {number}: {result:?}");
        }
    }
}

/// etcd is down, and everything comes from the cache, 300 ms after the start. The document's timeout counts from the begin of the call
/// and not from when the document is known, as in grpc-go and grpc-java: calls that waited for it fail without being sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waited_for_the_document_has_the_documents_time() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    world.put("s/one", &naming(&server())).await;
    world.put("tonic-etcd/config/s", &document("0.2s")).await;
    let resolver = || Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
    let before = channel(&resolver(), "s");
    shows(&before, "the document", |status| status.text().is_some()).await;
    greet(&before).await.unwrap();
    holds(&folder.path().join("tonic-etcd%2Fconfig%2Fs.cache"), "\"0.2s\"").await;
    until("the servers' file", async || folder.path().join("s%2F.cache").exists().then_some(())).await;
    drop(before);
    sleep(Duration::from_millis(500)).await;
    world.etcd.kill();
    let cold = channel(&resolver(), "s");
    let first = greet(&cold).await;
    assert!(first.is_ok(), "{first:?}");
}
