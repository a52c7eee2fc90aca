//! Calls that may go to the default servers, and calls that must not.

use std::sync::Arc;
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Status};
use tonic_etcd::{BalancedChannel, Instance, Route, ServerState, WaitForReady};

use super::{call_with, calls, greeters, put};
use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, ready, states, until};

fn blue(instance: Instance) -> Instance {
    instance.with_metadata("lane", "blue")
}

fn or_default() -> Route {
    Route::to("lane", "blue").or_default()
}

fn spawned(channel: &BalancedChannel, route: Route, for_ready: bool) -> JoinHandle<Result<(), Status>> {
    let channel = channel.clone();
    tokio::spawn(async move {
        let mut request = Request::new(HelloRequest { name: "world".into() });
        request.extensions_mut().insert(route);
        request.extensions_mut().insert(WaitForReady(for_ready));
        GreeterClient::new(channel).say_hello(request).await.map(drop)
    })
}

/// A call that waits in the queue of a full canary goes to the default servers when that is gone.
#[tokio::test]
async fn a_call_that_waits_for_a_full_canary_falls_back_when_it_dies() {
    let canary = Peer::limited(Script::Silence, Some(1)).await;
    let stable = greeters(1).await;
    let (channel, set) = changing(builder().route_key("lane").wait_limit(Duration::from_secs(2)));
    put(&set, &canary, blue);
    put(&set, &stable[0], |instance| instance);
    ready(&channel, 2).await;
    let held = spawned(&channel, or_default(), false);
    until("it to be full", || canary.seen.calls() == 1).await;
    let waiting = spawned(&channel, or_default(), false);
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    let address = canary.address.to_string();
    drop(canary);
    until("it to be gone", || states(&channel)[&address] != ServerState::Ready).await;
    assert!(held.await.unwrap().is_err(), "that one was lost on it");
    // A call that begins now is served …
    call_with(&channel, or_default()).await.unwrap();
    // … and so must be the one that has waited.
    waiting.await.unwrap().unwrap();
}

/// The same where the canary's record is removed (its long call goes on).
#[tokio::test]
async fn a_call_that_waits_for_a_full_canary_falls_back_when_it_is_taken_away() {
    let canary = Peer::limited(Script::Silence, Some(1)).await;
    let stable = greeters(1).await;
    let (channel, set) = changing(builder().route_key("lane").wait_limit(Duration::from_secs(2)));
    put(&set, &canary, blue);
    put(&set, &stable[0], |instance| instance);
    ready(&channel, 2).await;
    let _held = spawned(&channel, or_default(), false);
    until("it to be full", || canary.seen.calls() == 1).await;
    let waiting = spawned(&channel, or_default(), false);
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    set.remove(&canary.address);
    until("it to be gone", || states(&channel).len() == 1).await;
    waiting.await.unwrap().unwrap();
}

/// A strict route never goes to just any server, also on a channel that has no route key at all.
#[tokio::test]
async fn a_strict_route_on_a_channel_without_route_keys_is_a_mistake() {
    let production = greeters(1).await;
    let (channel, set) = changing(builder());
    put(&set, &production[0], |instance| instance);
    ready(&channel, 1).await;
    let result = call_with(&channel, Route::to("lane", "test")).await;
    assert_eq!(calls(&production), [0], "{result:?}");
    assert_eq!(result.unwrap_err().code(), Code::Internal);
}

/// The table: "none can be used, and at least one is in state Connecting: waits". A call with a route sees both parts.
#[tokio::test]
async fn a_call_that_may_fall_back_waits_while_servers_of_its_route_connect() {
    let begin = Arc::new(Notify::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap(); // it accepts, and sends no SETTINGS before it is told to
    tokio::spawn({
        let begin = begin.clone();
        async move {
            begin.notified().await;
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(crate::peer::speak(tcp, Script::Greet, None, Arc::default()));
            }
        }
    });
    let (channel, set) = changing(builder().route_key("lane"));
    set.put("canary", blue(Instance::new(address).unwrap()));
    until("it to connect", || states(&channel).values().any(|state| *state == ServerState::Connecting)).await;
    let (strict, lenient) =
        (spawned(&channel, Route::to("lane", "blue"), false), spawned(&channel, or_default(), false));
    sleep(Duration::from_millis(200)).await;
    begin.notify_one();
    strict.await.unwrap().unwrap();
    lenient.await.unwrap().unwrap();
}

/// One that waits for ready takes the first server that it may go to.
#[tokio::test]
async fn a_call_that_waits_for_ready_and_may_fall_back_takes_the_server_of_its_route_when_that_comes() {
    let peers = greeters(2).await;
    let (channel, set) = changing(builder().route_key("lane"));
    put(&set, &peers[1], |instance| instance.with_metadata("lane", "green"));
    ready(&channel, 1).await;
    let waiting = spawned(&channel, or_default(), true);
    sleep(Duration::from_millis(100)).await;
    put(&set, &peers[0], blue);
    ready(&channel, 2).await;
    call_with(&channel, or_default()).await.unwrap();
    timeout(Duration::from_secs(5), waiting).await.expect("it still waits").unwrap().unwrap();
}

/// A runtime that is driven during calls alone sees what has come meanwhile before it says that there is none.
#[test]
fn a_strict_call_after_a_pause_sees_the_server_that_was_registered_in_it() {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peers = servers.block_on(greeters(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (channel, set) = runtime.block_on(async { changing(builder().route_key("lane")) });
    put(&set, &peers[0], |instance| instance);
    runtime.block_on(ready(&channel, 1));
    runtime.block_on(greet(&channel)).unwrap();
    put(&set, &peers[1], blue);
    std::thread::sleep(Duration::from_millis(200));
    let server = runtime.block_on(call_with(&channel, Route::to("lane", "blue"))).unwrap();
    assert_eq!(server, peers[1].address.to_string());
}

/// The same without routes, for comparison: the call waits.
#[test]
fn control_a_call_after_a_pause_sees_the_server_that_was_registered_in_it() {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peers = servers.block_on(greeters(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (channel, set) = runtime.block_on(async { changing(builder()) });
    put(&set, &peers[0], |instance| instance);
    runtime.block_on(ready(&channel, 1));
    set.remove(&peers[0].address);
    runtime.block_on(until("it to go", || states(&channel).is_empty()));
    put(&set, &peers[1], blue);
    std::thread::sleep(Duration::from_millis(200));
    runtime.block_on(greet(&channel)).unwrap();
}

/// It need not pause for that, however many servers its route has.
#[tokio::test]
async fn a_call_that_the_servers_of_its_route_refuse_falls_back_at_once() {
    let mut own = Vec::new();
    for _ in 0..20 {
        own.push(Peer::start(Script::Reset(h2::Reason::REFUSED_STREAM)).await);
    }
    let default = Peer::start(Script::Greet).await;
    let (channel, set) = changing(builder().route_key("lane").wait_limit(Duration::ZERO));
    own.iter().for_each(|peer| put(&set, peer, blue));
    put(&set, &default, |instance| instance);
    ready(&channel, 21).await;
    assert_eq!(call_with(&channel, or_default()).await.unwrap(), default.address.to_string());
    assert_eq!(calls(&own).iter().sum::<usize>(), 5);
    assert_eq!(call_with(&channel, Route::to("lane", "blue")).await.unwrap_err().code(), Code::Unavailable);
}
