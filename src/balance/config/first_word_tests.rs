//! Calls that wait for the first word of the source of service configs.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tower::discover::Change;

use crate::balance::config::ConfigTexts;
use crate::balance::connectivity::DirectoryStatus;
use crate::balance::pool::source::DiscoverySource;
use crate::policy::{AttemptEnd, Call, Pick, Picker, ReadySet};
use crate::{BalancedChannel, BalancedChannelBuilder, CallTimeout, Instance, Policy};

/// Answers with `INTERNAL`, or never.
struct Peer {
    answers: bool,
}

#[tonic::async_trait]
impl Greeter for Peer {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        if !self.answers {
            std::future::pending::<()>().await;
        }
        Err(Status::internal("answered"))
    }
}

/// Keeps how long attempts have taken their servers.
#[derive(Clone, Debug, Default)]
struct Times(Arc<Mutex<Vec<Duration>>>);

impl Policy for Times {
    fn picker(&self, _: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(self.clone())
    }
}

impl Picker for Times {
    fn pick(&self, _: &Call<'_>) -> Pick {
        Pick::Server(0)
    }

    fn ended(&self, end: &AttemptEnd<'_>) {
        self.0.lock().unwrap().push(end.time_to_end());
    }
}

/// A channel over one server, whose document does not come.
async fn undecided(answers: bool) -> BalancedChannel {
    undecided_with(BalancedChannel::builder(), answers).await
}

async fn undecided_with(builder: BalancedChannelBuilder, answers: bool) -> BalancedChannel {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Peer { answers }));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let insert = Ok::<_, Infallible>(Change::Insert(address, Instance::new(address).unwrap()));
    let directory = DirectoryStatus::new("greeter", None);
    let source = DiscoverySource::new(tokio_stream::iter([insert]), directory.clone());
    let never: ConfigTexts = Box::pin(tokio_stream::pending());
    builder.service_config_from_etcd().start("etcd:///greeter".into(), directory, source, Some(never)).unwrap()
}

async fn timed(channel: &BalancedChannel, request: Request<HelloRequest>) -> (Status, Duration) {
    let began = Instant::now();
    let status = GreeterClient::new(channel.clone()).say_hello(request).await.unwrap_err();
    (status, began.elapsed())
}

/// `CallTimeout`, `timeout` and `grpc-timeout` end a call, whatever it waits for.
#[tokio::test]
async fn a_call_that_waits_for_the_document_ends_with_its_own_deadline() {
    let channel = undecided(false).await;
    let mut by_extension = Request::new(HelloRequest::default());
    by_extension.extensions_mut().insert(CallTimeout(Some(Duration::from_millis(100))));
    let mut by_header = Request::new(HelloRequest::default());
    by_header.set_timeout(Duration::from_millis(100));
    for request in [by_extension, by_header] {
        let (status, took) = timed(&channel, request).await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(took < Duration::from_millis(500), "a call with 100 ms took {took:?}: {status}");
    }
}

/// While the word does not come at all, the wait of 1 s has been made: it does not begin anew with each call.
#[tokio::test]
async fn no_call_waits_for_a_document_that_has_not_come_within_the_time() {
    let channel = undecided(true).await;
    let mut times = Vec::new();
    for _ in 0..4 {
        let (status, took) = timed(&channel, Request::new(HelloRequest::default())).await;
        assert_eq!(status.code(), Code::Internal, "{status}");
        times.push(took);
    }
    assert!(times[1..].iter().all(|took| *took < Duration::from_millis(500)), "{times:?}");
}

/// Hedges, attempt timeouts and latencies count from when the request is sent.
#[tokio::test]
async fn the_wait_for_the_document_is_no_time_of_the_server() {
    let times = Times::default();
    let channel = undecided_with(BalancedChannel::builder().policy(times.clone()), true).await;
    // Connected, before the call begins.
    let connected = Instant::now() + Duration::from_millis(500);
    while channel.stats().connections().open() == 0 && Instant::now() < connected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (status, took) = timed(&channel, Request::new(HelloRequest::default())).await;
    assert_eq!(status.code(), Code::Internal, "{status}");
    let times = times.0.lock().unwrap();
    assert!(times.len() == 1 && times[0] < took / 2, "{times:?} of {took:?}");
}
