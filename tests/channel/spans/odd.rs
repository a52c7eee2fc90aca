//! Spans of calls that change their subscriber, have one that panics, or end in odd ways.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic_etcd::RetryPolicy;
use tower::Service as _;
use tracing::Subscriber;
use tracing::span::{Id, Record};
use tracing_subscriber::layer::{self, Layer, SubscriberExt as _};

use super::head_of_greeting;
use super::record::Recorder;
use crate::attempts::{self, Servers, unavailable};
use crate::peer::Script;
use crate::support::{SAY_HELLO, greet, over, ready, repeating};

#[tokio::test]
async fn a_call_that_is_polled_under_another_subscriber_keeps_its_own() {
    let servers = Servers::start([unavailable(), Script::Greet]).await;
    let mut channel = servers.channel(attempts::repeating()).await;
    let (recorder, guard) = Recorder::begin();
    let request = http::Request::post(SAY_HELLO).header("content-type", "application/grpc");
    let call = channel.call(request.body(tonic::body::Body::new("\0\0\0\0\x03\x0a\x01x".to_owned())).unwrap());
    drop(guard);
    let (other, _guard) = Recorder::begin();
    drop(call.await.unwrap());
    assert!(other.spans().is_empty(), "{:#?}", other.spans());
    let (call, attempts) = recorder.call();
    assert_eq!(attempts.len(), 2);
    assert_eq!(call.events, ["call failed, repeating it"]);
    assert!(call.is_closed && attempts.iter().all(|attempt| attempt.is_closed));
}

/// A subscriber that panics when a span gets a status.
struct Panicking;

impl<S: Subscriber> Layer<S> for Panicking {
    fn on_record(&self, _: &Id, _: &Record<'_>, _: layer::Context<'_, S>) {
        panic!("the subscriber was told to panic");
    }
}

#[tokio::test]
async fn a_subscriber_that_panics_costs_no_call() {
    let servers = Servers::start([Script::Greet]).await;
    let channel = servers.channel(RetryPolicy::new()).await;
    let (_recorder, _guard) = Recorder::begin();
    let panicking = tracing_subscriber::registry().with(Panicking);
    let _guard = tracing::subscriber::set_default(panicking);
    tokio::spawn(async move { greet(&channel).await.map(drop) }).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_outside_of_a_runtime_ends_with_its_status() {
    let servers = Servers::start([Script::Greet]).await;
    let channel = servers.channel(RetryPolicy::new()).await;
    let (recorder, _guard) = Recorder::begin();
    let request = http::Request::post(SAY_HELLO).body(tonic::body::Body::empty()).unwrap();
    let mut call = channel.clone().call(request);
    let outside = move || match std::pin::Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result.map(drop),
        Poll::Pending => panic!("it goes on"),
    };
    let status = std::thread::spawn(outside).join().unwrap().unwrap_err();
    let (call, attempts) = recorder.call();
    assert_eq!(call.status(), ("INTERNAL", "ERROR"));
    assert_eq!(call.field("otel.status_description"), status.message());
    assert!(call.is_closed && attempts.is_empty());
}

#[tokio::test]
async fn a_response_that_was_held_back_and_has_no_status_ends_as_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            respond.send_response(head, false).unwrap().send_data(Bytes::from_static(b"\0\0\0\0\0"), true).unwrap();
        }
    });
    let channel = over(repeating(), [&address]);
    ready(&channel, 1).await;
    let (recorder, _guard) = Recorder::begin();
    drop(head_of_greeting(&channel).await);
    let (call, attempts) = recorder.call();
    assert_eq!(attempts[0].status(), ("UNKNOWN", "ERROR"));
    assert_eq!(call.status(), ("UNKNOWN", "ERROR"));
}
