//! Requests whose own stream fails or panics.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use greeter_proto::testing::StreamingOutputCallRequest;
use greeter_proto::testing::test_service_client::TestServiceClient;
use http_body::{Body, Frame};
use tokio::sync::Notify;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::Bytes;
use tonic::{Code, Status};
use tonic_etcd::BalancedChannel;

use super::recorded::{Stock, rich};
use crate::support::{builder, over, ready, until};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const PATH: &str = "/grpc.testing.TestService/FullDuplexCall";

/// One message, and once it is let go a panic.
fn panicking(go: Arc<Notify>) -> impl Stream<Item = StreamingOutputCallRequest> {
    let end = futures(async move {
        go.notified().await;
        panic!("on purpose");
    });
    tokio_stream::once(StreamingOutputCallRequest::default()).chain(end)
}

/// A stream of one item.
fn futures<F: Future>(future: F) -> impl Stream<Item = F::Output> {
    struct Once<F>(Pin<Box<F>>);
    impl<F: Future> Stream for Once<F> {
        type Item = F::Output;
        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
            self.0.as_mut().poll(cx).map(Some)
        }
    }
    Once(Box::pin(future))
}

/// A message of no length, and once it is let go this error.
struct Failing {
    begun: bool,
    go: Pin<Box<dyn Future<Output = ()> + Send>>,
    error: fn() -> BoxError,
}

impl Failing {
    fn new(go: Arc<Notify>, error: fn() -> BoxError) -> Self {
        Self { begun: false, go: Box::pin(async move { go.notified().await }), error }
    }
}

impl Body for Failing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if !std::mem::replace(&mut self.begun, true) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 5])))));
        }
        std::task::ready!(self.go.as_mut().poll(cx));
        Poll::Ready(Some(Err((self.error)())))
    }
}

async fn channel(stock: &Stock) -> BalancedChannel {
    let channel = over(builder(), [&stock.address]);
    ready(&channel, 1).await;
    channel
}

/// Neither a success nor a failure, and the server has seen that the request broke off.
async fn assert_reset(stock: &Stock, channel: &BalancedChannel) {
    until("the reset to come", || stock.ended().len() == 1).await;
    assert!(matches!(stock.ended()[..], [(1, Some(_))]), "no orderly end: {:?}", stock.ended());
    let servers = channel.servers();
    assert_eq!((servers[0].attempts(), servers[0].failures(), servers[0].in_flight()), (0, 0, 0));
}

fn assert_panicked(status: &Status) {
    assert_eq!((status.code(), status.message()), (Code::Internal, "the request's stream panicked"));
}

/// F44: beside the answer.
#[tokio::test]
async fn a_request_that_panics_after_the_answer_began_ends_the_call() {
    let stock = Stock::start();
    let channel = channel(&stock).await;
    let go = Arc::new(Notify::new());
    let mut client = TestServiceClient::new(channel.clone());
    let mut answers = client.full_duplex_call(panicking(go.clone())).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    go.notify_one();
    assert_panicked(&answers.message().await.unwrap_err());
    assert_reset(&stock, &channel).await;
    client.empty_call(greeter_proto::testing::Empty {}).await.unwrap();
}

/// F44: in the caller's own task.
#[tokio::test]
async fn a_request_that_panics_before_the_answer_ends_the_call() {
    let stock = Stock::start();
    let channel = channel(&stock).await;
    let mut client = TestServiceClient::new(channel.clone());
    let requests = futures(async { panic!("on purpose") });
    assert_panicked(&client.streaming_input_call(requests).await.unwrap_err());

    let go = Arc::new(Notify::new());
    let stream = panicking(go.clone()).map(|_| greeter_proto::testing::StreamingInputCallRequest::default());
    let call = tokio::spawn(async move { client.streaming_input_call(stream).await });
    until("the call to arrive", || stock.calls() >= 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await; // and its message
    go.notify_one();
    assert_panicked(&call.await.unwrap().unwrap_err());
    until("the reset to come", || stock.ended().iter().any(|(count, error)| *count == 1 && error.is_some())).await;
    assert_eq!((channel.servers()[0].attempts(), channel.servers()[0].failures()), (0, 0));
}

/// F44: the end of `is_end_stream` is the body's too.
#[tokio::test]
async fn a_body_that_panics_over_its_end_ends_the_call() {
    /// Whoever makes a `tonic::body::Body` of it asks once.
    struct Bad(AtomicUsize);
    impl Body for Bad {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
        fn is_end_stream(&self) -> bool {
            assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "on purpose");
            false
        }
    }
    let stock = Stock::start();
    let request =
        http::Request::post(format!("http://x{PATH}")).body(tonic::body::Body::new(Bad(AtomicUsize::new(0)))).unwrap();
    let status = tower::ServiceExt::oneshot(channel(&stock).await, request).await.map(drop).unwrap_err();
    assert_panicked(&status);
}

/// F44: before and after the answer has begun.
#[tokio::test]
async fn a_request_that_fails_with_a_status_ends_the_call_with_it() {
    let cases: [(fn() -> BoxError, Status); 2] =
        [(|| Box::new(rich(9, "my own")), rich(9, "my own")), (|| "no status".into(), Status::unknown("no status"))];
    for (error, status) in cases {
        let stock = Stock::start();
        let channel = channel(&stock).await;
        let go = Arc::new(Notify::new());
        let body = tonic::body::Body::new(Failing::new(go.clone(), error));
        let request = http::Request::post(format!("http://x{PATH}")).body(body).unwrap();
        let mut answer = tower::ServiceExt::oneshot(channel.clone(), request).await.unwrap().into_body();
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await.unwrap();
        next().await.unwrap(); // its message
        go.notify_one();
        let told = next().await.unwrap_err();
        assert_eq!((told.code(), told.message(), told.details()), (status.code(), status.message(), status.details()));
        assert_eq!(told.metadata().len(), status.metadata().len());
        assert_reset(&stock, &channel).await;

        go.notify_one(); // at once
        let body = tonic::body::Body::new(Failing::new(go.clone(), error));
        let path = "http://x/grpc.testing.TestService/StreamingInputCall";
        let request = http::Request::post(path).body(body).unwrap();
        let told = tower::ServiceExt::oneshot(channel.clone(), request).await.map(drop).unwrap_err();
        assert_eq!((told.code(), told.message(), told.details()), (status.code(), status.message(), status.details()));
    }
}

/// F44: what tonic's own encoder refuses is a status.
#[tokio::test]
async fn a_message_that_is_too_large_ends_the_call_with_tonics_status() {
    let stock = Stock::start();
    let channel = channel(&stock).await;
    let go = Arc::new(Notify::new());
    let waited = go.clone();
    let large = futures(async move {
        waited.notified().await;
        let payload = greeter_proto::testing::Payload { body: vec![0; 1000].into(), ..Default::default() };
        StreamingOutputCallRequest { payload: Some(payload), ..Default::default() }
    });
    let requests = tokio_stream::once(StreamingOutputCallRequest::default()).chain(large);
    let mut client = TestServiceClient::new(channel.clone()).max_encoding_message_size(100);
    let mut answers = client.full_duplex_call(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    go.notify_one();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_reset(&stock, &channel).await;
}
