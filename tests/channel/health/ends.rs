//! Streams of the health check that end, and servers without a health service.

use std::time::Duration;

use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use test_support::Log;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tonic_etcd::ServerState;

use super::peer::{Answer, NOT_SERVING, Peer, SERVING};
use super::{checking, is, only};
use crate::support::{changing, greet, over, ready, until};

const OK: u8 = 0;
const UNIMPLEMENTED: u8 = 12;
const UNAVAILABLE: u8 = 14;

struct Polite;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: "Hello world".into() }))
    }
}

#[tokio::test]
async fn a_stock_server_without_the_health_service_counts_as_healthy() {
    let (log, _guard) = Log::begin();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Polite));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = over(checking(), [&address]);
    for _ in 0..10 {
        greet(&channel).await.unwrap();
    }
    assert_eq!(log.warned("health not checked, the server counts as healthy"), 1, "{}", log.text());
    assert_eq!(log.count("UNIMPLEMENTED"), 1, "{}", log.text());
}

#[tokio::test]
async fn who_has_no_health_service_is_asked_once_over_each_connection_and_told_of_once() {
    let (log, _guard) = Log::begin();
    for connections in [1, 2] {
        let peer = Peer::start(Answer::Ends(UNIMPLEMENTED)).await;
        let (channel, set) = changing(checking().connections_per_server(connections));
        set.add(peer.address);
        for round in 1..=3 {
            until("a connection", || peer.seen.connections() == round).await;
            ready(&channel, 1).await;
            greet(&channel).await.unwrap();
            sleep(Duration::from_millis(300)).await;
            assert_eq!((peer.seen.watches(), only(&channel).state()), (round, ServerState::Ready));
            peer.say_goaway();
        }
        assert_eq!(log.warned("health not checked, the server counts as healthy"), connections, "{}", log.text());
    }
}

/// A server that ends each stream in this way, until it is told otherwise.
async fn ends_again_and_again(ends: Answer) {
    let peer = Peer::start(ends).await;
    let channel = over(checking().connect_timeout(Duration::from_secs(1)), [&peer.address]);
    let began = Instant::now();
    until("it to be asked again", || peer.seen.watches() >= 4).await;
    assert!(began.elapsed() >= Duration::from_millis(150), "{ends:?}: {:?}", began.elapsed());
    sleep(Duration::from_millis(1_900).saturating_sub(began.elapsed())).await;
    let (asked, took) = (peer.seen.watches(), began.elapsed());
    // The pauses are 0, 50, 100, 200, 400, 400, … ms, and twice as long at most.
    assert!(asked <= 8 || took > Duration::from_millis(1_950), "{ends:?}: {asked}");
    is(&channel, ServerState::Unhealthy).await;
    peer.says(SERVING);
    ready(&channel, 1).await;
    greet(&channel).await.unwrap();
    assert_eq!(peer.seen.connections(), 1, "{ends:?}");
}

#[tokio::test]
async fn streams_that_end_are_asked_for_again_with_backoff() {
    let ends = [
        Answer::Ends(UNAVAILABLE),
        Answer::Ends(OK),
        Answer::SaysAndEnds(SERVING, OK),
        Answer::SaysAndEnds(SERVING, UNAVAILABLE),
        Answer::Resets(h2::Reason::INTERNAL_ERROR),
        Answer::Resets(h2::Reason::REFUSED_STREAM),
    ];
    let mut servers: JoinSet<()> = ends.into_iter().map(ends_again_and_again).collect();
    while let Some(server) = servers.join_next().await {
        server.unwrap();
    }
}

#[tokio::test]
async fn a_stream_that_has_served_long_is_asked_for_again_at_once() {
    let peer = Peer::start(Answer::Says(SERVING)).await;
    let channel = over(checking(), [&peer.address]);
    ready(&channel, 1).await;
    sleep(Duration::from_millis(1_100)).await;
    peer.answer(Answer::Ends(UNAVAILABLE));
    until("it to be asked again", || peer.seen.watches() >= 2).await;
    is(&channel, ServerState::Unhealthy).await;
    let error = only(&channel).last_error().unwrap().to_owned();
    assert!(error.contains("the health check has ended: Unavailable"), "{error}");
    peer.says(SERVING);
    ready(&channel, 1).await;
    peer.says(NOT_SERVING);
    is(&channel, ServerState::Unhealthy).await;
}

#[tokio::test]
async fn an_answer_that_is_none_is_an_end() {
    let peer = crate::peer::Peer::start(crate::peer::Script::Http(503)).await;
    let channel = over(checking(), [&peer.address]);
    is(&channel, ServerState::Unhealthy).await;
    let peer = crate::peer::Peer::start(crate::peer::Script::Greet).await;
    let channel = over(checking(), [&peer.address]);
    is(&channel, ServerState::Unhealthy).await;
    let error = only(&channel).last_error().unwrap().to_owned();
    assert!(error.contains("the health check has ended: "), "{error}");
    let peer = crate::peer::Peer::start(crate::peer::Script::Flood).await;
    let channel = over(checking(), [&peer.address]);
    is(&channel, ServerState::Unhealthy).await;
}

/// As in the head of a call's response.
#[tokio::test]
async fn ok_in_the_head_of_a_watch_that_goes_on_is_no_status() {
    let peer = Peer::start(Answer::SaysAfterOk(SERVING)).await;
    let channel = over(checking(), [&peer.address]);
    until("it to be asked", || peer.seen.watches() >= 1).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(only(&channel).state(), ServerState::Ready, "{:?}", only(&channel).last_error());
}

/// A proxy, or a maximum age of streams, ends the `Watch` after a while. The server serves all the time, and says so at once.
#[tokio::test]
async fn a_check_that_ends_after_a_while_costs_no_call() {
    let peer = Peer::start(Answer::Says(SERVING)).await;
    let channel = over(checking(), [&peer.address]);
    ready(&channel, 1).await;
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move {
                let end = Instant::now() + Duration::from_secs(3);
                let mut failed = 0;
                while Instant::now() < end {
                    failed += usize::from(greet(&channel).await.is_err());
                    sleep(Duration::from_micros(100)).await;
                }
                failed
            })
        })
        .collect();
    sleep(Duration::from_millis(1_200)).await; // from here on it is asked again at once
    peer.answer(Answer::Renews(SERVING));
    until("it to be asked again", || peer.seen.watches() == 2).await;
    let mut failed = 0;
    for caller in callers {
        failed += caller.await.unwrap();
    }
    assert_eq!((failed, peer.seen.connections(), peer.seen.watches()), (0, 1, 2));
}
