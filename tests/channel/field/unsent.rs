//! Calls that are not sent: nobody processed them, no time is left, no runtime is there.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::testing::StreamingOutputCallRequest;
use greeter_proto::testing::test_service_client::TestServiceClient;
use tokio::runtime::{Builder, Runtime};
use tonic::{Code, Request};
use tonic_etcd::{BalancedChannel, Instance, RetryPolicy};

use super::recorded::Stock;
use crate::peer::{Peer, Script};
use crate::raw::goaway_with;
use crate::support::{SAY_HELLO, builder, greet, over, ready, repeating};

/// F54 (b): also where the method is declared, a call that may end connections is risked twice and no more.
#[tokio::test]
async fn a_call_over_which_two_connections_end_is_unavailable() {
    for builder in [builder(), repeating()] {
        for reason in [h2::Reason::PROTOCOL_ERROR, h2::Reason::ENHANCE_YOUR_CALM, h2::Reason::INTERNAL_ERROR] {
            let mut servers = Vec::new();
            for _ in 0..4 {
                servers.push(goaway_with(0, reason.into()).await);
            }
            let channel = over(builder.clone(), servers.iter().map(|(address, _)| address));
            let status = greet(&channel).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().starts_with("not processed"), "{status}");
            let calls: usize = servers.iter().map(|(_, calls)| calls.load(Ordering::SeqCst)).sum();
            assert_eq!(calls, 2, "{reason}");
        }
    }
}

/// F54 (c): a timeout of zero, in every unit, and the channel's.
#[tokio::test]
async fn a_timeout_of_nothing_is_not_sent() {
    let peer = Peer::start(Script::Greet).await;
    let channel = over(builder(), [&peer.address]);
    ready(&channel, 1).await;
    for text in ["0n", "0u", "0m", "0S", "0M", "0H", "00000000S"] {
        let mut request = Request::new(HelloRequest::default());
        request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
        let status = GreeterClient::new(channel.clone()).say_hello(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{text}: {status}");
    }
    let status = greet(&over(builder().timeout(Duration::ZERO), [&peer.address])).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(peer.seen.calls(), 0);
}

/// F54 (c): time that has passed before an attempt, and between attempts.
#[tokio::test]
async fn a_deadline_that_has_passed_is_never_sent() {
    let peer = Peer::start(Script::Status(14, vec![])).await;
    let retry = RetryPolicy::new().repeatable(SAY_HELLO).backoff(Duration::ZERO, Duration::ZERO).budget(100_000, 1.0);
    let channel = over(builder().retry(retry), [&peer.address]);
    ready(&channel, 1).await;
    for micros in (0..2000).step_by(10) {
        let mut request = Request::new(HelloRequest::default());
        request.set_timeout(Duration::from_nanos(1 + micros * 1000));
        GreeterClient::new(channel.clone()).say_hello(request).await.unwrap_err();
    }
    for head in peer.seen.heads.lock().unwrap().iter() {
        let told = &head.headers["grpc-timeout"];
        assert!(!told.as_bytes().starts_with(b"0"), "{told:?}");
    }
}

/// Wakes a thread, which has no runtime.
struct Thread(std::thread::Thread);

impl Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn without_runtime<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Thread(std::thread::current())));
    let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn assert_says_so(status: &tonic::Status) {
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(status.message().contains("tokio runtime"), "{status}");
}

/// F54 (d): with a server that is ready, one that is full, and none at all, with a deadline and without.
#[test]
fn calls_outside_of_a_runtime_fail_and_say_why() {
    let runtime = runtime();
    let peer = runtime.block_on(Peer::start(Script::Greet));
    for timeout in [None, Some(Duration::from_secs(20))] {
        let make = || timeout.map_or_else(builder, |timeout| builder().timeout(timeout));
        let channel = runtime.block_on(async {
            let channel = over(make(), [&peer.address]);
            ready(&channel, 1).await;
            channel
        });
        assert_says_so(&without_runtime(greet(&channel)).unwrap_err());
        let (empty, _set) = runtime.block_on(async { crate::support::changing(make()) });
        assert_says_so(&without_runtime(greet(&empty)).unwrap_err());
    }
}

/// F54 (d): a call that began inside of one.
#[test]
fn calls_that_leave_their_runtime_fail_and_say_why() {
    let runtime = runtime();
    let peer = runtime.block_on(Peer::start(Script::Silence));
    let channel = runtime.block_on(async { over(builder().timeout(Duration::from_secs(20)), [&peer.address]) });
    let mut call = Box::pin(greet(&channel));
    runtime.block_on(async {
        ready(&channel, 1).await;
        let first = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending()));
        assert!(first.await);
    });
    assert_says_so(&without_runtime(call).unwrap_err());
}

/// F54 (d): an answer is read without one, and ends with its deadline; or says why not, where that takes a new timer.
#[test]
fn answers_are_read_outside_of_a_runtime() {
    let runtime = runtime();
    let stock = runtime.block_on(async { Stock::start() });
    for timeout in [None, Some(Duration::from_secs(1))] {
        let make = || timeout.map_or_else(builder, |timeout| builder().timeout(timeout));
        let mut answers = runtime.block_on(async {
            let channel = over(make(), [&stock.address]);
            let requests = tokio_stream::pending::<StreamingOutputCallRequest>();
            let answers = TestServiceClient::new(channel).full_duplex_call(requests).await.unwrap();
            let mut answers = answers.into_inner();
            answers.message().await.unwrap().unwrap();
            answers
        });
        if timeout.is_some() {
            let status = without_runtime(answers.message()).unwrap_err();
            if status.code() != Code::DeadlineExceeded {
                assert_says_so(&status);
            }
        } else {
            let mut next = Box::pin(answers.message());
            let pending = next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
            assert!(pending);
        }
    }
}

/// F54 (d): a runtime whose timers are off.
#[test]
fn calls_on_a_runtime_without_timers_fail_and_say_why() {
    let runtime = runtime();
    let timeless = Builder::new_current_thread().enable_io().build().unwrap();
    let error = timeless.block_on(async { try_over("127.0.0.1:1") }).unwrap_err();
    assert!(error.to_string().contains("timers"), "{error}");

    let silent = runtime.block_on(Peer::start(Script::Silence));
    let channel = runtime.block_on(async {
        let channel = over(builder().timeout(Duration::from_secs(20)), [&silent.address]);
        ready(&channel, 1).await;
        channel
    });
    assert_says_so(&timeless.block_on(greet(&channel)).unwrap_err());
    let (empty, _set) = runtime.block_on(async { crate::support::changing(builder()) });
    assert_says_so(&timeless.block_on(greet(&empty)).unwrap_err());
    let failing = runtime.block_on(Peer::start(Script::Status(14, vec![("grpc-retry-pushback-ms", "20")])));
    let channel = runtime.block_on(async {
        let channel = over(repeating(), [&failing.address]);
        ready(&channel, 1).await;
        channel
    });
    assert_says_so(&timeless.block_on(greet(&channel)).unwrap_err());
}

fn try_over(address: &str) -> Result<BalancedChannel, tonic_etcd::Error> {
    let insert = tower::discover::Change::Insert(0, Instance::new(address).unwrap());
    builder().build_with_discovery(
        "greeter",
        Pin::from(Box::new(tokio_stream::iter([Ok::<_, std::convert::Infallible>(insert)]))),
    )
}
