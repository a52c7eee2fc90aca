//! Calls that end in odd ways, and a channel that ends before its responses.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tonic::Code;
use tonic_etcd::Route;
use tower::Service as _;

use super::{ATTEMPTS, CALLS, STARTED, by_status, check, recorder};
use crate::peer::{Peer, Script};
use crate::support::{SAY_HELLO, builder, changing, greet, over, ready, repeating, until};

#[tokio::test]
async fn a_call_that_is_polled_outside_of_a_runtime_counts_as_its_caller_is_told() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Silence).await;
    let channel = over(builder().metrics(metrics), [&peer.address]);
    ready(&channel, 1).await;
    let own = channel.clone();
    let outside = move || {
        let polled = pin!(greet(&own)).poll(&mut Context::from_waker(Waker::noop()));
        polled.map(|result| result.map_or_else(|status| status.code(), |_| Code::Ok))
    };
    assert_eq!(std::thread::spawn(outside).join().unwrap(), Poll::Ready(Code::Internal));
    assert_eq!(by_status(&recorder, CALLS), [("INTERNAL".to_owned(), 1)].into());
    check(&channel, &recorder);
}

#[tokio::test]
async fn a_call_whose_route_is_a_mistake_counts_once_it_is_polled() {
    let (recorder, metrics) = recorder();
    let (channel, _set) = changing(builder().metrics(metrics));
    let call = || {
        let mut request = http::Request::new(tonic::body::Body::empty());
        request.extensions_mut().insert(Route::to("version", "v2"));
        channel.clone().call(request)
    };
    drop(call());
    assert_eq!(recorder.values(STARTED, &[]).value, 0.0);
    call().await.unwrap_err();
    assert_eq!(by_status(&recorder, CALLS), [("INTERNAL".to_owned(), 1)].into());
    check(&channel, &recorder);
}

#[tokio::test]
async fn a_channel_that_is_gone_counts_no_servers_though_a_response_of_it_is_kept() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::HeadOnly).await;
    let channel = over(builder().metrics(metrics), [&peer.address]);
    ready(&channel, 1).await;
    until("the server to count", || recorder.values("tonic_etcd.channel.servers", &[("state", "ready")]).value == 1.0)
        .await;
    let request = http::Request::post(SAY_HELLO).header("content-type", "application/grpc");
    let response = channel.clone().call(request.body(tonic::body::Body::empty()).unwrap()).await.unwrap();
    drop(channel);
    until("the servers to go", || recorder.values("tonic_etcd.channel.servers", &[]).value == 0.0).await;
    assert_eq!(recorder.count(CALLS, &[]), 0);
    drop(response);
    assert_eq!(by_status(&recorder, CALLS), [("CANCELLED".to_owned(), 1)].into());
}

#[tokio::test]
async fn a_call_that_is_dropped_during_a_pause_has_that_as_its_delay() {
    let (recorder, metrics) = recorder();
    let script = Script::Status(14, vec![("grpc-retry-pushback-ms", "600000")]);
    let peer = Peer::start(script).await;
    let channel = over(repeating().metrics(metrics).timeout(Duration::from_secs(1_200)), [&peer.address]);
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { greet(&channel).await.map(drop) }
    });
    until("the first attempt to end", || recorder.count(ATTEMPTS, &[]) == 1).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let delay = recorder.values("grpc.client.call.retry_delay", &[]);
    assert_eq!(delay.count, 1);
    assert!(delay.value >= 0.03, "{delay:?}");
    check(&channel, &recorder);
}
