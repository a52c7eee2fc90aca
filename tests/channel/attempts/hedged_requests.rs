//! Which requests can be sent twice.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use tokio::sync::mpsc;
use tonic::Status;
use tonic_etcd::BalancedChannel;
use tower::ServiceExt as _;

use super::{SOON, Servers, costs, repeating};
use crate::peer::Script;
use crate::support::{SAY_HELLO, builder, until};

/// A body whose frames come one by one.
struct Slow(mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

fn call(
    channel: &BalancedChannel,
) -> (mpsc::UnboundedSender<Bytes>, tokio::task::JoinHandle<Result<StatusCode, Status>>) {
    let (frames, body) = mpsc::unbounded_channel();
    let request = Request::post(SAY_HELLO)
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(Slow(body)))
        .unwrap();
    let channel = channel.clone();
    (frames, tokio::spawn(async move { Ok(channel.oneshot(request).await?.status()) }))
}

/// A message with the name "world".
fn message() -> Bytes {
    Bytes::from_static(b"\0\0\0\0\x07\x0a\x05world")
}

#[tokio::test]
async fn a_hedge_waits_until_the_whole_request_was_read() {
    let servers = Servers::start([Script::Silence, Script::Greet]).await;
    let channel = servers.channel(repeating().hedge_after(SOON)).await;
    let (frames, call) = call(&channel);
    frames.send(message().slice(..6)).unwrap();
    until("the call to arrive", || servers.calls()[0] == 1).await;
    tokio::time::sleep(SOON * 4).await;
    assert_eq!(servers.calls(), [1, 0]);
    frames.send(message().slice(6..)).unwrap();
    drop(frames);
    assert_eq!(call.await.unwrap().unwrap(), StatusCode::OK);
    assert_eq!((servers.calls(), costs(&channel).0), (vec![1, 1], vec![0, 1]));
}

#[tokio::test]
async fn a_request_that_is_not_kept_is_sent_once() {
    for size in [2, 100] {
        let servers = Servers::start([Script::Silence, Script::Greet]).await;
        let policy = repeating().hedge_after(SOON).attempt_timeout(SOON);
        let channel = servers.channel_of(builder().retry(policy).replay_limit(10).timeout(SOON * 5)).await;
        let (frames, call) = call(&channel);
        for part in message().chunks(size) {
            frames.send(Bytes::copy_from_slice(part)).unwrap();
        }
        drop(frames);
        assert_eq!(call.await.unwrap().unwrap_err().code(), tonic::Code::DeadlineExceeded);
        until("the call to arrive", || servers.calls() == [1, 0]).await;
    }
}
