//! Calls that wait, and calls that fail at once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::{Code, Request};
use tonic_etcd::{ConnectivityState, WaitForReady};

use crate::peer::{Peer, Script};
use crate::support::{PATIENCE, builder, changing, greet, greeted_by, over, server_of, told, until};

#[tokio::test]
async fn a_call_waits_for_the_first_word_of_the_directory() {
    let (channel, set) = changing(builder());
    let peer = Peer::start(Script::Greet).await;
    let call = tokio::spawn(async move { greeted_by(&channel).await });
    set.add(peer.address);
    assert_eq!(call.await.unwrap(), peer.address.to_string());
}

#[tokio::test]
async fn an_empty_set_fails_at_once_unless_the_call_waits_for_ready() {
    let (channel, set) = changing(builder());
    set.remove("nobody"); // the directory has spoken: there is none
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "no server of \"greeter\": none is registered");

    let mut request = Request::new(HelloRequest { name: "world".into() });
    request.extensions_mut().insert(WaitForReady(true));
    let mut client = GreeterClient::new(channel.clone());
    let call = tokio::spawn(async move { client.say_hello(request).await });
    let peer = Peer::start(Script::Greet).await;
    set.add(peer.address);
    assert_eq!(call.await.unwrap().unwrap().into_inner().message, "Hello world");
}

#[tokio::test]
async fn servers_that_cannot_be_connected_fail_calls_at_once_and_say_why() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let channel = over(builder(), [&closed]);
    let mut connectivity = channel.states();
    while connectivity.next().await != Some(ConnectivityState::TransientFailure) {}
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    for part in ["\"greeter\"", "1 known, 0 ready", "1 failing", "refused"] {
        assert!(status.message().contains(part), "{part}: {status}");
    }
    assert!(told(&status).contains(&format!("last error: {closed}: ")), "{}", told(&status));
}

#[tokio::test]
async fn whoever_accepts_and_says_nothing_is_never_called() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let channel = over(builder().connect_timeout(Duration::from_millis(200)), [&address]);
    let status = greet(&channel).await.unwrap_err();
    assert!(status.message().contains("SETTINGS"), "{status}");
    let good = Peer::start(Script::Greet).await;
    let channel = over(builder(), [&address, &good.address]);
    for _ in 0..20 {
        assert_eq!(greeted_by(&channel).await, good.address.to_string());
    }
}

#[tokio::test]
async fn waiting_has_a_limit_and_a_deadline() {
    let (channel, _set) = changing(builder().wait_limit(Duration::from_millis(50)));
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("not resolved yet"), "{status}");

    let (channel, _set) = changing(builder().wait_for_ready(true).timeout(Duration::from_millis(50)));
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn the_deadline_ends_a_call_and_its_stream_and_is_told_to_the_server() {
    let silent = Peer::start(Script::Silence).await;
    let channel = over(builder(), [&silent.address]);
    let mut request = Request::new(HelloRequest { name: "world".into() });
    request.set_timeout(Duration::from_millis(300));
    let status = GreeterClient::new(channel.clone()).say_hello(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(server_of(&status), silent.address.to_string());
    let told = silent.seen.header(0, "grpc-timeout").unwrap();
    let text = told.to_str().unwrap();
    let (digits, unit) = text.split_at(text.len() - 1);
    let units = [("n", 1), ("u", 1_000), ("m", 1_000_000)];
    let nanos = digits.parse::<u64>().unwrap() * units.iter().find(|known| known.0 == unit).unwrap().1;
    assert!(nanos > 0 && nanos <= 315_000_000, "what remains, and up to 5 % more: {text}");
    until("the stream to be reset", || silent.seen.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_dropped_call_resets_its_stream() {
    let silent = Peer::start(Script::Silence).await;
    let channel = over(builder(), [&silent.address]);
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { greet(&channel).await }
    });
    until("the call to arrive", || silent.seen.calls() == 1).await;
    call.abort();
    until("the stream to be reset", || silent.seen.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[test]
fn calls_fail_when_the_runtime_of_the_channel_has_ended() {
    let make = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (make(), make());
    let peer = second.block_on(Peer::start(Script::Greet));
    let channel = first.block_on(async { over(builder().wait_for_ready(true), [&peer.address]) });
    second.block_on(async {
        greeted_by(&channel).await;
        let mut connectivity = channel.states();
        let waiting =
            tokio::spawn(async move { while connectivity.next().await != Some(ConnectivityState::Shutdown) {} });
        first.shutdown_background();
        tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
        let status = greet(&channel).await.unwrap_err();
        assert!(status.message().contains("runtime"), "{status}");
    });
}

#[tokio::test]
async fn a_call_outlives_the_last_clone_of_its_channel() {
    let peer = Peer::start(Script::Greet).await;
    let request = http::Request::post("http://x/helloworld.Greeter/SayHello").body(tonic::body::Body::empty()).unwrap();
    let answer = tower::ServiceExt::oneshot(over(builder(), [&peer.address]), request).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn the_deadline_holds_for_a_reader_that_is_slower_than_its_server() {
    let flood = Peer::start(Script::Flood).await;
    let channel = over(builder().timeout(Duration::from_millis(200)), [&flood.address]);
    let request = http::Request::post("http://x/flood/it").body(tonic::body::Body::empty()).unwrap();
    let mut body = tower::ServiceExt::oneshot(channel, request).await.unwrap().into_body();
    let end = tokio::time::timeout(PATIENCE, async {
        loop {
            let frame = std::future::poll_fn(|cx| http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)).await;
            if let Err(status) = frame.expect("no end but the deadline's") {
                return status;
            }
            tokio::task::yield_now().await; // there is always more by now
        }
    });
    assert_eq!(end.await.expect("the deadline").code(), Code::DeadlineExceeded);
}
