//! Connections that nobody uses, with a shorter time than the real one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tower::discover::Change;

use crate::{BalancedChannel, Instance, ServerState};

/// Answers each call when it is told to.
#[derive(Clone, Default)]
struct Patient {
    told: Arc<Notify>,
    calls: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Greeter for Patient {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.told.notified().await;
        Ok(Response::new(HelloReply { message: request.into_inner().name }))
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// One server that takes one call over each connection, and a channel to it.
async fn start(unused_after: Duration) -> (Patient, BalancedChannel) {
    let patient = Patient::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = tonic::transport::Server::builder().max_concurrent_streams(1);
    let server = server.add_service(GreeterServer::new(patient.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let insert = Ok::<_, Infallible>(Change::Insert(address, Instance::new(address).unwrap()));
    let builder = BalancedChannel::builder().connections_per_server(3).unused_after(unused_after);
    let channel = builder.build_with_discovery("greeter", tokio_stream::iter([insert])).unwrap();
    (patient, channel)
}

impl Patient {
    /// Begins a call, and waits until it is here.
    async fn begin(&self, channel: &BalancedChannel) -> JoinHandle<Result<(), Status>> {
        let before = self.calls.load(Ordering::SeqCst);
        let mut greeter = GreeterClient::new(channel.clone());
        let call = tokio::spawn(async move { greeter.say_hello(HelloRequest::default()).await.map(drop) });
        until("the call to arrive", || self.calls.load(Ordering::SeqCst) > before).await;
        call
    }
}

fn connections(channel: &BalancedChannel) -> usize {
    let servers = channel.servers();
    assert!(servers[0].connections() == 0 || servers[0].state() == ServerState::Ready);
    servers[0].connections()
}

#[tokio::test]
async fn a_further_connection_that_nobody_uses_closes_and_costs_no_call() {
    let (patient, channel) = start(Duration::from_millis(300)).await;
    let calls = [patient.begin(&channel).await, patient.begin(&channel).await, patient.begin(&channel).await];
    sleep(Duration::from_millis(700)).await;
    assert_eq!(connections(&channel), 3, "all are in use");
    patient.told.notify_waiters();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let since = Instant::now();
    until("all but the first to close", || connections(&channel) == 1).await;
    assert!(since.elapsed() >= Duration::from_millis(250), "a tenth early at most: {:?}", since.elapsed());
    sleep(Duration::from_millis(700)).await;
    assert_eq!(connections(&channel), 1, "the first stays");
    let calls = [patient.begin(&channel).await, patient.begin(&channel).await];
    assert_eq!(connections(&channel), 2, "and another one comes when it is needed");
    patient.told.notify_waiters();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

/// Whoever takes a connection at the moment in which it closes goes on over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_connections_come_and_go() {
    let (patient, channel) = start(Duration::from_millis(1)).await;
    let end = Instant::now() + Duration::from_secs(2);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..4 {
        let (mut greeter, told) = (GreeterClient::new(channel.clone()), patient.told.clone());
        callers.spawn(async move {
            while Instant::now() < end {
                told.notify_one();
                greeter.say_hello(HelloRequest::default()).await.unwrap();
                sleep(Duration::from_millis(caller)).await;
            }
        });
    }
    // Each caller tells once, but one permit is all that is kept.
    let told = patient.told.clone();
    let teller = tokio::spawn(async move {
        loop {
            told.notify_waiters();
            sleep(Duration::from_millis(1)).await;
        }
    });
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    teller.abort();
    until("all to end", || channel.servers()[0].in_flight() == 0).await;
}
