//! What becomes of calls when partitions, subsets and routes change under them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic_etcd::policy::{Call, LeastRequest, Pick, Picker, ReadySet};
use tonic_etcd::{BalancedChannel, Instance, OutlierDetection, Policy, Route, ServerState, WaitForReady};

use super::{call_with, greeters, put, status_of};
use crate::peer::{Peer, Script, speak};
use crate::support::{builder, changing, greet, ready, states, until};

const SOON: Duration = Duration::from_secs(3);

fn blue(instance: Instance) -> Instance {
    instance.with_metadata("lane", "blue")
}

fn lane(value: &str) -> impl FnOnce(Instance) -> Instance {
    move |instance| instance.with_metadata("lane", value)
}

fn start(channel: &BalancedChannel, route: Route, wait_for_ready: bool) -> JoinHandle<Result<String, Status>> {
    let channel = channel.clone();
    tokio::spawn(async move {
        let mut request = tonic::Request::new(greeter_proto::HelloRequest { name: "world".into() });
        request.extensions_mut().insert(route);
        request.extensions_mut().insert(WaitForReady(wait_for_ready));
        let response = greeter_proto::greeter_client::GreeterClient::new(channel).say_hello(request).await?;
        Ok(response.extensions().get::<tonic_etcd::ServedBy>().unwrap().address().to_string())
    })
}

/// A canary with one stream, which is taken by a first call.
async fn full_canary() -> (Peer, Vec<Peer>, BalancedChannel, crate::support::Set, JoinHandle<Result<String, Status>>) {
    let full = Peer::limited(Script::GreetLater(Arc::new(Notify::new())), Some(1)).await;
    let stable = greeters(1).await;
    let (channel, set) = changing(builder().route_key("lane"));
    put(&set, &full, blue);
    put(&set, &stable[0], |instance| instance);
    ready(&channel, 2).await;
    let first = start(&channel, Route::to("lane", "blue"), false);
    until("the first to arrive", || full.seen.calls() == 1).await;
    (full, stable, channel, set, first)
}

/// A call that may go to the default servers waits for a stream of its canary; the canary is deregistered.
#[tokio::test]
async fn a_queued_or_default_call_falls_back_when_its_partition_goes() {
    let (full, stable, channel, set, _first) = full_canary().await;
    let waiting = start(&channel, Route::to("lane", "blue").or_default(), false);
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    set.remove(&full.address);
    let served_by = timeout(SOON, waiting).await.expect("it hangs").unwrap();
    assert_eq!(served_by.unwrap(), stable[0].address.to_string());
}

/// The same with wait for ready.
#[tokio::test]
async fn a_queued_or_default_call_that_waits_for_ready_falls_back_when_its_partition_goes() {
    let (full, stable, channel, set, _first) = full_canary().await;
    let waiting = start(&channel, Route::to("lane", "blue").or_default(), true);
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    set.remove(&full.address);
    let served_by = timeout(SOON, waiting).await.expect("it hangs").unwrap();
    assert_eq!(served_by.unwrap(), stable[0].address.to_string());
}

/// The canary is not deregistered, but dies.
#[tokio::test]
async fn a_queued_or_default_call_falls_back_when_its_servers_die() {
    let (full, stable, channel, _set, _first) = full_canary().await;
    let waiting = start(&channel, Route::to("lane", "blue").or_default(), false);
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    drop(full);
    let served_by = timeout(SOON, waiting).await.expect("it hangs").unwrap();
    assert_eq!(served_by.unwrap(), stable[0].address.to_string());
}

/// There are servers of the route alone, and they are being connected: the strict call waits for them, the call that may go
/// elsewhere too must not be worse off.
#[tokio::test]
async fn an_or_default_call_waits_for_its_connecting_servers_if_there_are_no_default_ones() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (channel, set) = changing(builder().route_key("lane"));
    set.put("a", blue(Instance::new(address).unwrap()));
    until("it to be listed", || channel.servers().len() == 1).await;
    let strict = start(&channel, Route::to("lane", "blue"), false);
    let lenient = start(&channel, Route::to("lane", "blue").or_default(), false);
    sleep(Duration::from_millis(100)).await;
    let (tcp, _) = listener.accept().await.unwrap();
    tokio::spawn(speak(tcp, Script::Greet, None, Arc::default()));
    assert_eq!(strict.await.unwrap().unwrap(), address.to_string());
    assert_eq!(lenient.await.unwrap().unwrap(), address.to_string());
}

/// The same call, which waits for ready: it waits where no server ever comes.
#[tokio::test]
async fn an_or_default_call_that_waits_for_ready_gets_its_own_server_when_that_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (channel, set) = changing(builder().route_key("lane"));
    set.put("a", blue(Instance::new(address).unwrap()));
    until("it to be listed", || channel.servers().len() == 1).await;
    let lenient = start(&channel, Route::to("lane", "blue").or_default(), true);
    sleep(Duration::from_millis(100)).await;
    let (tcp, _) = listener.accept().await.unwrap();
    tokio::spawn(speak(tcp, Script::Greet, None, Arc::default()));
    ready(&channel, 1).await;
    assert_eq!(timeout(SOON, lenient).await.expect("it hangs").unwrap().unwrap(), address.to_string());
}

/// Picks no server of lane blue.
#[derive(Debug)]
struct NotBlue;

impl Policy for NotBlue {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        if set.servers().iter().any(|server| server.instance().metadata().contains_key("lane")) {
            return Arc::new(Never);
        }
        LeastRequest::new().picker(set)
    }
}

#[derive(Debug)]
struct Never;

impl Picker for Never {
    fn pick(&self, _: &Call<'_>) -> Pick {
        Pick::Wait
    }
}

/// The policy lets a call wait ("until the set changes"), and its partition goes.
#[tokio::test]
async fn a_call_that_its_policy_lets_wait_is_woken_when_its_partition_goes() {
    let peers = greeters(2).await;
    let (channel, set) = changing(builder().route_key("lane").policy(NotBlue));
    put(&set, &peers[0], blue);
    put(&set, &peers[1], |instance| instance);
    ready(&channel, 2).await;
    let strict = start(&channel, Route::to("lane", "blue"), false);
    let lenient = start(&channel, Route::to("lane", "blue").or_default(), false);
    sleep(Duration::from_millis(100)).await;
    assert!(!strict.is_finished() && !lenient.is_finished());
    set.remove(&peers[0].address);
    until("it to go", || states(&channel).len() == 1).await;
    let lenient = timeout(SOON, lenient).await.expect("the lenient call hangs").unwrap();
    assert_eq!(lenient.unwrap(), peers[1].address.to_string());
    timeout(SOON, strict).await.expect("the strict call hangs").unwrap().unwrap_err();
}

/// Servers that come push out those that serve, before they are connected themselves.
#[tokio::test]
async fn a_subset_keeps_its_ready_servers_until_the_new_ones_are_ready() {
    let peers = greeters(2).await;
    let (channel, set) = changing(builder().subset(2).client_id("client"));
    peers.iter().for_each(|peer| put(&set, peer, |instance| instance));
    ready(&channel, 2).await;
    greet(&channel).await.unwrap();
    // They accept connections and say nothing: still starting, or behind a dead network.
    let mut silent = Vec::new();
    for _ in 0..40 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        set.add(listener.local_addr().unwrap());
        silent.push(listener);
    }
    until("all to be listed", || channel.servers().len() == 42).await;
    sleep(Duration::from_millis(50)).await;
    let began = Instant::now();
    let result = greet(&channel).await;
    let took = began.elapsed();
    assert!(
        result.is_ok() && took < Duration::from_secs(1),
        "two healthy servers are registered: {took:?} {:?}",
        result.map(drop)
    );
}

/// With a subset of 1, one server that comes and is silent is enough.
#[tokio::test]
async fn one_silent_server_that_comes_does_not_stop_a_subset_of_one() {
    for attempt in 0..32 {
        let peers = greeters(1).await;
        let (channel, set) = changing(builder().subset(1).client_id(format!("client-{attempt}")));
        put(&set, &peers[0], |instance| instance);
        ready(&channel, 1).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        set.add(listener.local_addr().unwrap());
        until("it to be listed", || channel.servers().len() == 2).await;
        let began = Instant::now();
        let result = greet(&channel).await;
        let took = began.elapsed();
        assert!(result.is_ok() && took < Duration::from_secs(1), "attempt {attempt}: {took:?} {:?}", result.map(drop));
    }
}

/// A server at its limit registers again, in another lane. The call that holds its place ends: who waits in the new lane is woken.
#[tokio::test]
async fn the_end_of_a_call_from_before_wakes_who_waits_in_the_servers_new_partition() {
    let end = Arc::new(Notify::new());
    let script = Arc::new(Mutex::new(Script::GreetLater(end.clone())));
    let peer = Peer::start(Script::Now(script.clone())).await;
    let (channel, set) = changing(builder().route_key("lane").max_in_flight_per_server(1));
    put(&set, &peer, blue);
    ready(&channel, 1).await;
    let first = start(&channel, Route::to("lane", "blue"), false);
    until("the first to arrive", || peer.seen.calls() == 1).await;
    *script.lock().unwrap() = Script::Greet;
    set.remove(&peer.address);
    until("it to go", || channel.servers().is_empty()).await;
    put(&set, &peer, lane("green"));
    ready(&channel, 1).await;
    let second = start(&channel, Route::to("lane", "green"), false);
    sleep(Duration::from_millis(100)).await;
    assert!(!second.is_finished());
    end.notify_one();
    first.await.unwrap().unwrap();
    timeout(SOON, second).await.expect("the server is idle, and the call waits for it").unwrap().unwrap();
}

/// A canary that is ejected is not ready: calls that may go elsewhere do.
#[tokio::test]
async fn or_default_calls_leave_a_canary_that_is_ejected() {
    let canary = Peer::start(Script::Status(13, vec![])).await;
    let stable = greeters(4).await;
    let minute = Duration::from_secs(60);
    let detection = OutlierDetection::default().ejection_time(minute, minute);
    let (channel, set) = changing(builder().route_key("lane").outlier_detection(detection));
    put(&set, &canary, blue);
    stable.iter().for_each(|peer| put(&set, peer, |instance| instance));
    ready(&channel, 5).await;
    for _ in 0..100 {
        greet(&channel).await.unwrap();
    }
    for _ in 0..20 {
        let _ = call_with(&channel, Route::to("lane", "blue").or_default()).await;
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(status_of(&channel, &canary).state(), ServerState::Ejected);
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(call_with(&channel, Route::to("lane", "blue").or_default()).await.is_err());
    }
    assert_eq!(failed, 0, "of 20 calls; four default servers are ready");
}

/// It goes there all the same where there is no other, and waits for its stream as any other call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn or_default_calls_wait_for_a_full_canary_that_is_ejected_if_there_is_no_other_server() {
    let script = Arc::new(Mutex::new(Script::Status(13, vec![])));
    let canary = Peer::limited(Script::Now(script.clone()), Some(1)).await;
    let others = greeters(4).await;
    let minute = Duration::from_secs(60);
    let detection = OutlierDetection::default().ejection_time(minute, minute);
    let (channel, set) = changing(builder().route_key("lane").outlier_detection(detection));
    put(&set, &canary, blue);
    others.iter().for_each(|peer| put(&set, peer, lane("green")));
    ready(&channel, 5).await;
    for _ in 0..100 {
        call_with(&channel, Route::to("lane", "green")).await.unwrap();
    }
    let ejected = || status_of(&channel, &canary).state() == ServerState::Ejected;
    while !ejected() {
        call_with(&channel, Route::to("lane", "blue")).await.unwrap_err();
    }
    let (end, before) = (Arc::new(Notify::new()), canary.seen.calls());
    *script.lock().unwrap() = Script::GreetLater(end.clone());
    let first = start(&channel, Route::to("lane", "blue"), false);
    until("its stream to be taken", || canary.seen.calls() == before + 1).await;
    *script.lock().unwrap() = Script::Greet;
    let waiting = start(&channel, Route::to("lane", "blue").or_default(), false);
    sleep(Duration::from_millis(100)).await;
    // It does not spin: this thread could not be kept busy by both.
    let also = start(&channel, Route::to("lane", "blue").or_default(), false);
    call_with(&channel, Route::to("lane", "green")).await.unwrap();
    assert!(!waiting.is_finished() && !also.is_finished());
    end.notify_one();
    for call in [first, waiting, also] {
        timeout(SOON, call).await.expect("its stream is free").unwrap().unwrap();
    }
}

/// The error of `wait_until_ready` says what is wrong, also if all servers have a route.
#[tokio::test]
async fn wait_until_ready_says_why_servers_with_a_route_are_not_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener); // refuses
    let (channel, set) = changing(builder().route_key("lane"));
    set.put("a", blue(Instance::new(address).unwrap()));
    until("it to fail", || states(&channel).values().any(|state| *state == ServerState::TransientFailure)).await;
    let error = channel.wait_until_ready(Duration::from_millis(200)).await.unwrap_err();
    let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    assert!(text.contains("1 failing") && text.contains(&address.to_string()), "{error}: {text}");
}

/// All canaries drain, or do not match the filter: the status says so.
#[tokio::test]
async fn the_status_of_a_route_says_that_its_servers_drain() {
    let peers = greeters(2).await;
    let (channel, set) = changing(builder().route_key("lane"));
    put(&set, &peers[0], |instance| blue(instance).with_draining(true));
    put(&set, &peers[1], |instance| instance);
    ready(&channel, 1).await;
    let status = call_with(&channel, Route::to("lane", "blue")).await.unwrap_err();
    assert!(!status.message().contains("none is registered"), "{status}");
}

/// A server beyond 16 values: the call that waits is told so.
#[tokio::test]
async fn the_status_of_a_route_beyond_sixteen_says_so() {
    let peers = greeters(17).await;
    let (channel, set) = changing(builder().route_key("lane"));
    for (number, peer) in peers.iter().enumerate() {
        put(&set, peer, lane(&format!("{number:02}")));
    }
    ready(&channel, 16).await;
    until("all to be listed", || channel.servers().len() == 17).await;
    let beyond = channel.servers().into_iter().find(|server| server.state() == ServerState::Idle).unwrap();
    let number = peers.iter().position(|peer| peer.address.to_string() == beyond.address().to_string()).unwrap();
    let status = call_with(&channel, Route::to("lane", format!("{number:02}"))).await.unwrap_err();
    assert!(!status.message().contains("none is registered"), "{status}");
    assert!(beyond.route().is_some(), "it is listed as a default server");
}
