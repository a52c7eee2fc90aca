//! Servers that are asked for their health (gRFC A17).

mod apart;
mod config;
mod ends;
mod further;
mod limits;
mod load;
mod peer;
mod silent;
mod tap;

use std::sync::Arc;
use std::time::Duration;

use test_support::Log;
use tokio::runtime;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic_etcd::policy::{LeastRequest, PickFirst, Picker, Policy, ReadySet};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, ConnectivityState, ServerState, ServerStatus};

use self::peer::{Answer, NOT_SERVING, Peer, SERVICE_UNKNOWN, SERVING, UNKNOWN};
use crate::support::{builder, changing, greet, greeted_by, over, ready, states, told, until};

/// A channel that asks for the greeter's health.
fn checking() -> BalancedChannelBuilder {
    builder().health_check("helloworld.Greeter")
}

fn only(channel: &BalancedChannel) -> ServerStatus {
    let servers = channel.servers();
    assert_eq!(servers.len(), 1);
    servers[0].clone()
}

async fn is(channel: &BalancedChannel, state: ServerState) {
    let is = || channel.servers().iter().any(|server| server.state() == state);
    until(&format!("the server to be {state:?}"), is).await;
}

#[tokio::test]
async fn calls_wait_for_the_first_answer_and_go_to_a_server_that_serves() {
    let peer = Peer::start(Answer::Silence).await;
    let channel = over(checking(), [&peer.address]);
    until("it to be asked", || peer.seen.open_watches() == 1).await;
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { greeted_by(&channel).await }
    });
    sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished() && peer.seen.calls() == 0);
    assert_eq!(
        (only(&channel).state(), only(&channel).connections(), channel.state()),
        (ServerState::Connecting, 0, ConnectivityState::Connecting)
    );
    peer.says(SERVING);
    assert_eq!(waiting.await.unwrap(), peer.address.to_string());
    let server = only(&channel);
    assert_eq!((server.state(), server.connections(), server.in_flight()), (ServerState::Ready, 1, 0));
    assert_eq!((peer.seen.connections(), peer.seen.watches()), (1, 1));
}

#[tokio::test]
async fn a_server_that_does_not_serve_gets_no_call_until_it_does() {
    let peer = Peer::start(Answer::Says(SERVING)).await;
    let channel = over(checking(), [&peer.address]);
    for (status, name) in
        [(NOT_SERVING, "NOT_SERVING"), (SERVICE_UNKNOWN, "SERVICE_UNKNOWN"), (UNKNOWN, "UNKNOWN"), (77, "UNKNOWN")]
    {
        ready(&channel, 1).await;
        greet(&channel).await.unwrap();
        let calls = peer.seen.calls();
        peer.says(status);
        is(&channel, ServerState::Unhealthy).await;
        assert_eq!(channel.state(), ConnectivityState::TransientFailure);
        assert_eq!((only(&channel).connections(), peer.seen.calls()), (0, calls));
        let failed = greet(&channel).await.unwrap_err();
        let text = told(&failed);
        assert_eq!(failed.code(), Code::Unavailable);
        assert!(
            failed.message().contains("1 known, 0 ready, 0 ejected, 0 connecting, 0 failing, 1 unhealthy"),
            "{failed}"
        );
        let reason = format!("{}: the health service says {name} (asked for \"helloworld.Greeter\")", peer.address);
        assert!(text.contains(&reason) && !failed.message().contains(&peer.address.to_string()), "{text}");

        let waits = over(checking().wait_for_ready(true), [&peer.address]);
        let waiting = tokio::spawn(async move { greet(&waits).await });
        is(&channel, ServerState::Unhealthy).await;
        peer.says(SERVING);
        waiting.await.unwrap().unwrap();
    }
    assert!(only(&channel).last_error().unwrap().contains("the health service says UNKNOWN"));
}

#[tokio::test]
async fn the_request_is_that_of_the_health_service() {
    for (service, message) in [("helloworld.Greeter", &b"\0\0\0\0\x14\x0a\x12helloworld.Greeter"[..]), ("", &[0; 5])] {
        let peer = Peer::start(Answer::Says(SERVING)).await;
        let plain = builder().health_check(service).user_agent("me");
        for (builder, authority) in
            [(plain.clone(), peer.address.to_string()), (plain.authority("greeter.test"), "greeter.test".to_owned())]
        {
            let channel = over(builder, [&peer.address]);
            ready(&channel, 1).await;
            let (head, sent) = peer.seen.request.lock().unwrap().take().unwrap();
            assert_eq!(sent, message);
            assert_eq!((head.uri.authority().unwrap().as_str(), head.method.as_str()), (&*authority, "POST"));
            let header = |name: &str| head.headers[name].to_str().unwrap().to_owned();
            assert_eq!((header("te"), header("content-type")), ("trailers".to_owned(), "application/grpc".to_owned()));
            assert_eq!(header("user-agent"), "me");
        }
    }
}

#[tokio::test]
async fn a_first_answer_that_does_not_come_keeps_no_call_waiting() {
    let silent = Peer::start(Answer::Silence).await;
    let channel = over(checking().connect_timeout(Duration::from_millis(300)), [&silent.address]);
    let failed = timeout(Duration::from_secs(5), greet(&channel)).await.unwrap().unwrap_err();
    assert!(told(&failed).contains("1 unhealthy; last error"), "{}", told(&failed));
    assert!(told(&failed).contains("no response to the health check within 300 ms"), "{}", told(&failed));
    assert_eq!((only(&channel).state(), silent.seen.open_watches()), (ServerState::Unhealthy, 1));
    silent.says(SERVING);
    ready(&channel, 1).await;
    greet(&channel).await.unwrap();
    assert_eq!((silent.seen.connections(), silent.seen.watches()), (1, 1), "it still counts when it comes");
}

/// The answer comes while the program does something else, and lies in the socket when its time is over.
#[test]
fn a_runtime_that_stands_still_does_not_make_a_server_unhealthy() {
    let servers = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peer = servers.block_on(Peer::start(Answer::Silence));
    let (log, _guard) = Log::begin();
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let channel = over(checking().connect_timeout(Duration::from_millis(500)), [&peer.address]);
        until("it to be asked", || peer.seen.open_watches() == 1).await;
        peer.says(SERVING);
        std::thread::sleep(Duration::from_millis(800));
        greet(&channel).await.unwrap();
        assert_eq!(log.count("server unhealthy"), 0, "{}", log.text());
    });
}

/// A policy that counts the sets that it is given.
#[derive(Clone, Debug, Default)]
struct Sets(Arc<std::sync::atomic::AtomicUsize>);

impl Policy for Sets {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        LeastRequest::new().picker(set)
    }
}

#[tokio::test]
async fn policies_see_healthy_servers_alone_and_no_set_twice() {
    let (one, other) = (Peer::start(Answer::Says(SERVING)).await, Peer::start(Answer::Silence).await);
    let sets = Sets::default();
    let built = || sets.0.load(std::sync::atomic::Ordering::SeqCst);
    let channel = over(checking().policy(sets.clone()), [&one.address, &other.address]);
    ready(&channel, 1).await;
    assert_eq!(built(), 1);
    for (status, state, count) in [
        (NOT_SERVING, ServerState::Unhealthy, 1),
        (SERVICE_UNKNOWN, ServerState::Unhealthy, 1),
        (SERVING, ServerState::Ready, 2),
        (SERVING, ServerState::Ready, 2),
        (NOT_SERVING, ServerState::Unhealthy, 3),
    ] {
        other.says(status);
        until("the state", || states(&channel)[&other.address.to_string()] == state).await;
        until("the set", || built() == count).await;
        sleep(Duration::from_millis(20)).await;
        assert_eq!(built(), count, "after {status}");
    }
}

#[tokio::test]
async fn changes_are_logged_and_neither_answers_nor_calls() {
    let (log, _guard) = Log::begin();
    let peer = Peer::start(Answer::Says(NOT_SERVING)).await;
    let channel = over(checking(), [&peer.address]);
    is(&channel, ServerState::Unhealthy).await;
    peer.says(SERVICE_UNKNOWN);
    until("the reason", || only(&channel).last_error().unwrap().contains("SERVICE_UNKNOWN")).await;
    peer.says(SERVING);
    ready(&channel, 1).await;
    greet(&channel).await.unwrap();
    assert_eq!((log.count(" INFO "), log.count(" WARN ")), (2, 0), "{}", log.text());
    assert_eq!((log.count("server unhealthy"), log.count("server healthy again")), (1, 1), "{}", log.text());
}

#[tokio::test]
async fn a_server_that_changes_again_and_again_does_not_fill_the_log() {
    let (log, _guard) = Log::begin();
    let peer = Peer::start(Answer::Says(SERVING)).await;
    let channel = over(checking(), [&peer.address]);
    for _ in 0..10 {
        ready(&channel, 1).await;
        peer.says(NOT_SERVING);
        is(&channel, ServerState::Unhealthy).await;
        peer.says(SERVING);
    }
    ready(&channel, 1).await;
    assert_eq!(log.count(" INFO "), 10, "five times: {}", log.text());
}

#[tokio::test]
async fn nobody_is_asked_under_pick_first_or_without_the_setting() {
    let (log, _guard) = Log::begin();
    let peer = Peer::start(Answer::Says(NOT_SERVING)).await;
    let shared: Arc<dyn Policy> = Arc::new(PickFirst::new());
    for (builder, logged) in [(builder(), 0), (checking().policy(PickFirst::new()), 1), (checking().policy(shared), 2)]
    {
        let channel = over(builder, [&peer.address]);
        greet(&channel).await.unwrap();
        assert_eq!((only(&channel).state(), peer.seen.watches()), (ServerState::Ready, 0));
        assert_eq!(log.count("health not checked, the policy does without"), logged);
    }
    let (channel, set) = changing(checking());
    set.add(peer.address);
    is(&channel, ServerState::Unhealthy).await;
}

/// A server that tells its health without an end holds up nothing else of the runtime.
#[test]
fn a_flood_of_answers_does_not_stop_the_runtime() {
    let servers = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let longest = |answer| {
        let peer = servers.block_on(Peer::start(answer));
        runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let channel = over(checking(), [&peer.address]);
            ready(&channel, 1).await;
            let mut longest = Duration::ZERO;
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                let began = Instant::now();
                sleep(Duration::from_millis(1)).await;
                longest = longest.max(began.elapsed());
            }
            greet(&channel).await.unwrap();
            longest
        })
    };
    let (one, many) = (longest(Answer::Says(SERVING)), longest(Answer::SaysWithoutEnd(SERVING)));
    assert!(many < one + Duration::from_millis(100), "the runtime stood still for {many:?}, and {one:?} without them");
}
