//! A call that is begun on one runtime and read on another.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Body;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use tonic_etcd::{BalancedChannel, ResponseBody};
use tower::Service;

use super::scripted::{Answer, Scripted};
use crate::peer::{Peer, Script};
use crate::support::{PATIENCE, builder, over, ready};

/// A runtime that drives a channel over one server, whose answers have no end.
fn start() -> (Runtime, Peer, BalancedChannel) {
    let own = driven();
    let (peer, channel) = own.block_on(async {
        let peer = Peer::start(Script::Flood).await;
        let channel = over(builder().timeout(Duration::from_secs(20)), [&peer.address]);
        ready(&channel, 1).await;
        (peer, channel)
    });
    (own, peer, channel)
}

fn driven() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn call(mut channel: BalancedChannel) -> ResponseBody {
    let request = Request::post("http://x/helloworld.Greeter/Stream").body(tonic::body::Body::empty()).unwrap();
    channel.call(request).await.unwrap().into_body()
}

async fn next(body: &mut ResponseBody) -> Result<(), Status> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
    frame.expect("it has no end").map(drop)
}

fn another() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The runtime that a call was begun on ends; its answer is read on the channel's.
#[test]
fn an_answer_with_a_deadline_outlives_the_runtime_that_it_began_on() {
    let (own, _peer, channel) = start();
    let other = another();
    let mut body = other.block_on(call(channel));
    drop(other);
    own.block_on(async {
        for _ in 0..20_000 {
            next(&mut body).await.unwrap();
        }
    });
}

/// The same read outside of all runtimes: an error where nothing would tell of the deadline, and no panic.
#[test]
fn an_answer_with_a_deadline_is_read_outside_of_runtimes_too() {
    let (_own, _peer, channel) = start();
    let other = another();
    let mut body = other.block_on(call(channel));
    drop(other);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match Pin::new(&mut body).poll_frame(&mut cx) {
            std::task::Poll::Ready(Some(Err(status))) => break status,
            std::task::Poll::Ready(None) => panic!("it has no end"),
            _ => assert!(Instant::now() < end),
        }
    };
    assert_eq!(status.code(), Code::Internal, "{status:?}");
}

/// Nobody drives the runtime that a call was begun on: the deadline comes all the same.
#[test]
fn a_deadline_comes_on_the_runtime_that_an_answer_is_read_on() {
    let own = driven();
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))]);
    let endless = Answer::Http { status: 200, headers, body: Bytes::new(), ends: false };
    let (_scripted, channel) = own.block_on(async {
        let scripted = Scripted::start(endless).await;
        let channel = over(builder().timeout(Duration::from_secs(1)), [&scripted.address]);
        ready(&channel, 1).await;
        (scripted, channel)
    });
    let other = another();
    let mut body = other.block_on(call(channel));
    let read = async { timeout(PATIENCE, next(&mut body)).await.expect("its end").unwrap_err() };
    assert_eq!(own.block_on(read).code(), Code::DeadlineExceeded);
}
