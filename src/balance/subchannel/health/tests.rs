//! What no test from outside can do: another service while the channel lives, and a shorter time for unused connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tower::discover::Change;

use crate::balance::subchannel::health::CheckedHealth;
use crate::{BalancedChannel, BalancedChannelBuilder, Instance, ServerState};

/// Answers at once, but a call named `wait` when it is told to.
#[derive(Clone, Default)]
struct Patient {
    told: Arc<Notify>,
    calls: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Greeter for Patient {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let name = request.into_inner().name;
        if name == "wait" {
            self.told.notified().await;
        }
        Ok(Response::new(HelloReply { message: name }))
    }
}

/// A server that takes two streams over each connection, and a channel to it.
async fn start(builder: BalancedChannelBuilder) -> (HealthReporter, Patient, BalancedChannel) {
    let (reporter, health) = health_reporter();
    let patient = Patient::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = tonic::transport::Server::builder().max_concurrent_streams(2);
    let server = server.add_service(health).add_service(GreeterServer::new(patient.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let insert = Ok::<_, Infallible>(Change::Insert(address, Instance::new(address).unwrap()));
    let channel = builder.build_with_discovery("greeter", tokio_stream::iter([insert])).unwrap();
    (reporter, patient, channel)
}

async fn greet(channel: &BalancedChannel, name: &str) -> Result<(), Status> {
    GreeterClient::new(channel.clone()).say_hello(HelloRequest { name: name.to_owned() }).await.map(drop)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn is(channel: &BalancedChannel, state: ServerState) {
    let is = || channel.servers().iter().any(|server| server.state() == state);
    until(&format!("the server to be {state:?}"), is).await;
}

fn ask_for(channel: &BalancedChannel, service: Option<&str>) {
    channel
        .0
        .shared
        .connect_context
        .health
        .service
        .send_replace(service.map_or(CheckedHealth::None, |service| CheckedHealth::Of(service.into())));
}

#[tokio::test]
async fn another_service_counts_at_once_and_keeps_a_server_until_it_has_answered() {
    for connections in [1, 2] {
        let (reporter, patient, channel) = start(BalancedChannel::builder().connections_per_server(connections)).await;
        reporter.set_service_status("well", ServingStatus::Serving).await;
        reporter.set_service_status("ill", ServingStatus::NotServing).await;
        is(&channel, ServerState::Ready).await;
        for (service, state) in [
            (Some("well"), ServerState::Ready),
            (Some("ill"), ServerState::Unhealthy),
            (Some("other"), ServerState::Unhealthy),
            (None, ServerState::Ready),
            (Some("ill"), ServerState::Unhealthy),
            (Some("well"), ServerState::Ready),
            (Some(""), ServerState::Ready),
        ] {
            ask_for(&channel, service);
            is(&channel, state).await;
        }
        let calls = patient.calls.load(Ordering::SeqCst);
        for round in 0..50 {
            ask_for(&channel, [Some("well"), None, Some("")][round % 3]);
            for _ in 0..3 {
                greet(&channel, "").await.unwrap();
            }
            assert_eq!(channel.servers()[0].state(), ServerState::Ready);
        }
        assert_eq!(patient.calls.load(Ordering::SeqCst), calls + 150);
    }
}

#[tokio::test]
async fn a_further_connection_that_is_only_asked_for_its_health_closes() {
    let builder = BalancedChannel::builder().connections_per_server(2).unused_after(Duration::from_millis(200));
    let (_reporter, patient, channel) = start(builder.health_check("")).await;
    is(&channel, ServerState::Ready).await;
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { greet(&channel, "wait").await })
        })
        .collect();
    until("both calls", || patient.calls.load(Ordering::SeqCst) == 2).await;
    assert_eq!(channel.servers()[0].connections(), 2, "each takes one call beside its check");
    until("the calls to end", || {
        patient.told.notify_waiters();
        calls.iter().all(tokio::task::JoinHandle::is_finished)
    })
    .await;
    until("the further one to close", || channel.servers()[0].connections() == 1).await;
    greet(&channel, "").await.unwrap();
}
