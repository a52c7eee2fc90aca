//! What people put around a channel: interceptors, tower's layers, deadlines, tasks of their own.

use std::time::Duration;

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{Empty, StreamingInputCallRequest};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::service::InterceptorLayer;
use tonic::{Code, Request, Status};
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;
use tower::util::MapRequestLayer;

use crate::cases::ask;
use crate::channel::{balanced, with_timeout};
use crate::server::{Fleet, Tested};
use crate::suite::{PATIENCE, until};

const INITIAL: &str = "x-grpc-test-echo-initial";
/// Never reached by a call that is answered at once.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

/// A client's stream that never ends: its call waits for as long as it may.
fn endless() -> impl tokio_stream::Stream<Item = StreamingInputCallRequest> {
    tokio_stream::pending()
}

#[expect(clippy::unnecessary_wraps)] // an interceptor is of this shape
fn sign(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert(INITIAL, "signed".parse().unwrap());
    Ok(request)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interceptor_adds_to_calls() {
    let fleet = Fleet::start(2);
    let mut client = TestServiceClient::with_interceptor(balanced(&fleet), sign);
    let answer = client.empty_call(Empty {}).await.unwrap();
    assert_eq!(answer.metadata().get(INITIAL).unwrap(), "signed");
    let mut answers = client.full_duplex_call(tokio_stream::iter([ask(1, 1)])).await.unwrap();
    assert_eq!(answers.metadata().get(INITIAL).unwrap(), "signed");
    assert_eq!(answers.get_mut().message().await.unwrap().unwrap().payload.unwrap().body.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interceptor_refuses_calls_before_they_are_sent() {
    let fleet = Fleet::start(2);
    let refuse = |_: Request<()>| Err(Status::permission_denied("not you"));
    let mut client = TestServiceClient::with_interceptor(balanced(&fleet), refuse);
    let status = client.empty_call(Empty {}).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "not you"));
    assert!(fleet.servers.iter().all(|server| server.calls() == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn towers_layers_stack_on_it() {
    let fleet = Fleet::start(2);
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(LONG))
        .layer(InterceptorLayer::new(sign))
        .layer(MapRequestLayer::new(|request: tonic::codegen::http::Request<_>| request))
        .service(balanced(&fleet));
    let mut client = TestServiceClient::new(service);
    assert_eq!(client.empty_call(Empty {}).await.unwrap().metadata().get(INITIAL).unwrap(), "signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_around_it_ends_calls_at_the_server_too() {
    let fleet = Fleet::start(2);
    TestServiceClient::new(balanced(&fleet)).empty_call(Empty {}).await.unwrap(); // it is up
    let calls = || fleet.servers.iter().map(Tested::calls).sum::<usize>();
    let service = ServiceBuilder::new().layer(TimeoutLayer::new(SHORT)).service(balanced(&fleet));
    let mut client = TestServiceClient::new(service);
    // The first may spend its time on connecting.
    while calls() < 2 {
        let ended = timeout(PATIENCE, client.streaming_input_call(endless())).await.expect("it ends");
        assert!(ended.unwrap_err().to_string().contains("timed out"));
    }
    until("the calls end", || fleet.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_call_that_is_not_answered() {
    let fleet = Fleet::start(2);
    let mut client = TestServiceClient::new(balanced(&fleet));
    let mut request = Request::new(endless());
    request.set_timeout(SHORT);
    let status = timeout(PATIENCE, client.streaming_input_call(request)).await.expect("it ends").unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    until("the call ends", || fleet.open() == 0).await;
    client.empty_call(Empty {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_holds_to_the_end_of_the_stream() {
    let fleet = Fleet::start(2);
    let mut client = TestServiceClient::new(balanced(&fleet));
    client.empty_call(Empty {}).await.unwrap();
    let mut request = Request::new(tokio_stream::iter([ask(1, 1)]).chain(tokio_stream::pending()));
    request.set_timeout(Duration::from_millis(500));
    let mut answers = client.full_duplex_call(request).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let status = timeout(PATIENCE, answers.message()).await.expect("it ends").unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    until("the call ends", || fleet.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_channels_deadline_and_the_calls_own_the_shorter_holds() {
    let fleet = Fleet::start(2);
    for (of_channel, of_call) in [(SHORT, None), (SHORT, Some(LONG * 10)), (LONG * 10, Some(SHORT))] {
        let mut client = TestServiceClient::new(with_timeout(&fleet, of_channel));
        let mut request = Request::new(endless());
        if let Some(of_call) = of_call {
            request.set_timeout(of_call);
        }
        let status = timeout(PATIENCE, client.streaming_input_call(request)).await.expect("it ends").unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_share_it() {
    let fleet = Fleet::start(2);
    let client = TestServiceClient::new(balanced(&fleet));
    let mut tasks = JoinSet::new();
    for _ in 0..200 {
        let mut client = client.clone();
        tasks.spawn(async move { client.empty_call(Empty {}).await });
    }
    tasks.join_all().await.into_iter().for_each(|answer| drop(answer.unwrap()));
    assert_eq!(fleet.servers.iter().map(Tested::calls).sum::<usize>(), 200, "none was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_outlive_the_channel_that_started_them() {
    let fleet = Fleet::start(2);
    let mut client = TestServiceClient::new(balanced(&fleet));
    let (send, messages) = tokio::sync::mpsc::channel(1);
    send.send(ask(3, 1)).await.unwrap();
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut answers = client.full_duplex_call(messages).await.unwrap().into_inner();
    drop(client);
    for _ in 0..3 {
        assert_eq!(answers.message().await.unwrap().unwrap().payload.unwrap().body.len(), 3);
        send.send(ask(3, 1)).await.unwrap();
    }
    drop(send);
    assert!(answers.message().await.unwrap().is_some());
    assert!(answers.message().await.unwrap().is_none());
}

#[test]
fn a_runtime_may_end_under_open_calls() {
    for _ in 0..20 {
        let server = tokio::runtime::Runtime::new().unwrap();
        let fleet = server.block_on(async { Fleet::start(2) });
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut open = Vec::new();
        runtime.block_on(async {
            let mut client = TestServiceClient::new(balanced(&fleet));
            for _ in 0..10 {
                let messages = tokio_stream::iter([ask(1, 1)]).chain(tokio_stream::pending());
                let mut answers = client.full_duplex_call(messages).await.unwrap().into_inner();
                answers.message().await.unwrap();
                open.push(answers);
            }
        });
        drop(runtime);
        for mut answers in open {
            assert!(tokio::runtime::Runtime::new().unwrap().block_on(answers.message()).is_err());
        }
    }
}
