//! Servers whose health changes under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinSet;
use tonic_etcd::{BalancedChannel, ServerState};

use super::checking;
use super::peer::{Answer, NOT_SERVING, Peer, SERVING};
use crate::support::{greet, over, ready, states, until};

/// Callers who call one after the other, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    callers: JoinSet<()>,
}

impl Load {
    fn on(channel: &BalancedChannel, callers: usize) -> Self {
        let mut load = Self { stop: Arc::default(), done: Arc::default(), callers: JoinSet::new() };
        for _ in 0..callers {
            let (channel, stop, done) = (channel.clone(), load.stop.clone(), load.done.clone());
            load.callers.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    greet(&channel).await.unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        load
    }

    /// Waits for so many more calls.
    async fn more(&self, calls: usize) {
        let before = self.done.load(Ordering::SeqCst);
        until("more calls", || self.done.load(Ordering::SeqCst) >= before + calls).await;
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(caller) = self.callers.join_next().await {
            caller.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_serving_loses_no_call_and_gets_none_after() {
    let (one, other) = (Peer::start(Answer::Says(SERVING)).await, Peer::start(Answer::Says(SERVING)).await);
    let channel = over(checking(), [&one.address, &other.address]);
    ready(&channel, 2).await;
    let load = Load::on(&channel, 16);
    for _ in 0..5 {
        let before = one.seen.calls();
        until("calls to both", || one.seen.calls() > before + 20).await;
        one.says(NOT_SERVING);
        until("it to be unhealthy", || states(&channel)[&one.address.to_string()] == ServerState::Unhealthy).await;
        load.more(50).await; // each caller has ended the call that it had then
        let calls = one.seen.calls();
        load.more(200).await;
        assert_eq!(one.seen.calls(), calls, "calls that began after");
        one.says(SERVING);
        ready(&channel, 2).await;
    }
    load.end().await;
}

#[tokio::test]
async fn calls_in_flight_go_on_when_their_server_stops_serving() {
    let peer = Peer::start(Answer::Says(SERVING)).await;
    let channel = over(checking(), [&peer.address]);
    ready(&channel, 1).await;
    peer.hold_calls(true);
    let load = Load::on(&channel, 8);
    until("the calls", || peer.seen.calls() == 8).await;
    load.stop.store(true, Ordering::SeqCst);
    peer.says(NOT_SERVING);
    until("it to be unhealthy", || states(&channel).values().all(|state| *state == ServerState::Unhealthy)).await;
    assert_eq!(channel.servers()[0].in_flight(), 8);
    peer.hold_calls(false);
    load.end().await;
    assert_eq!((peer.seen.calls(), peer.seen.connections()), (8, 1));
}

#[cfg(feature = "tonic-health")]
mod stock {
    use std::net::SocketAddr;
    use std::time::Duration;

    use greeter_proto::greeter_server::{Greeter, GreeterServer};
    use greeter_proto::{HelloReply, HelloRequest};
    use tokio::net::TcpListener;
    use tokio::time::sleep;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status};
    use tonic_health::ServingStatus;
    use tonic_health::server::{HealthReporter, health_reporter};

    use super::*;

    struct Counting(Arc<AtomicUsize>);

    #[tonic::async_trait]
    impl Greeter for Counting {
        async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
            self.0.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(1)).await;
            Ok(Response::new(HelloReply { message: "Hello world".into() }))
        }
    }

    /// tonic's own server with its own health service.
    async fn start() -> (SocketAddr, HealthReporter, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reporter, health) = health_reporter();
        let calls = Arc::<AtomicUsize>::default();
        let server = tonic::transport::Server::builder().add_service(health);
        let server = server.add_service(GreeterServer::new(Counting(calls.clone())));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (address, reporter, calls)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stock_servers_with_the_health_service_are_called_as_they_say() {
        let [(one, first, calls), (other, second, _)] = [start().await, start().await];
        let channel = over(checking(), [&one, &other]);
        let state = |address: SocketAddr| states(&channel).get(&address.to_string()).copied();
        until("the unknown services", || {
            state(one) == Some(ServerState::Unhealthy) && state(other) == Some(ServerState::Unhealthy)
        })
        .await;
        for reporter in [&first, &second] {
            reporter.set_service_status("helloworld.Greeter", ServingStatus::Serving).await;
        }
        ready(&channel, 2).await;
        let load = Load::on(&channel, 16);
        load.more(100).await;
        first.set_service_status("helloworld.Greeter", ServingStatus::NotServing).await;
        until("it to be unhealthy", || state(one) == Some(ServerState::Unhealthy)).await;
        load.more(50).await; // as above
        let begun = calls.load(Ordering::SeqCst);
        assert!(begun > 0);
        load.more(200).await;
        assert_eq!(calls.load(Ordering::SeqCst), begun);
        first.set_service_status("helloworld.Greeter", ServingStatus::Serving).await;
        until("calls to it", || calls.load(Ordering::SeqCst) > begun).await;
        load.end().await;
    }
}
