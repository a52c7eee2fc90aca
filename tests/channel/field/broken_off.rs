//! A request that fails while the head of its answer is there already.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame};
use tokio::sync::Notify;
use tonic::codegen::Bytes;

use super::recorded::Stock;
use crate::support::{builder, over, ready, until};

/// A message of no length, and once it is let go an error.
struct Failing {
    begun: bool,
    go: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Body for Failing {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if !std::mem::replace(&mut self.begun, true) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 5])))));
        }
        std::task::ready!(self.go.as_mut().poll(cx));
        Poll::Ready(Some(Err(tonic::Status::data_loss("half of it is missing"))))
    }
}

/// F44: the head of the answer and the request's failure come between two polls of the call; the handler must not see an orderly
/// end.
#[tokio::test]
async fn half_a_request_that_failed_never_looks_whole() {
    let stock = Stock::start();
    let channel = over(builder(), [&stock.address]);
    ready(&channel, 1).await;
    let servers = channel.clone();
    let go = Arc::new(Notify::new());
    let waited = go.clone();
    let body = Failing { begun: false, go: Box::pin(async move { waited.notified().await }) };
    let request = http::Request::post("http://x/grpc.testing.TestService/FullDuplexCall");
    let call = tower::ServiceExt::oneshot(channel, request.body(tonic::body::Body::new(body)).unwrap());
    tokio::pin!(call);
    // Its request is sent; then its task is busy with something else for a moment.
    while servers.servers()[0].in_flight() == 0 {
        assert!(std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await.is_pending());
        tokio::task::yield_now().await;
    }
    until("the call to arrive", || stock.calls() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    go.notify_one();
    assert_eq!(call.await.map(drop).unwrap_err().code(), tonic::Code::DataLoss);
    until("the end to come", || stock.ended().len() == 1).await;
    assert!(matches!(stock.ended()[..], [(1, Some(_))]), "half of it looked whole: {:?}", stock.ended());
}
