//! Review of issue 17: faults of health checks, as callers see them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tonic_etcd::ServerState;

use super::limits::begin;
use super::peer::{Answer, NOT_SERVING, Peer, SERVING};
use super::{checking, is, only};
use crate::field::watched::{Watched, waiting};
use crate::support::{builder, greet, over, ready, until};

const GREETER: &str = r#"{"healthCheckConfig": {"serviceName": "helloworld.Greeter"}}"#;

/// One call waits: one further connection is enough for it (`Published::grow`: "if fewer are being made than calls wait").
#[tokio::test]
async fn one_waiting_call_gets_one_further_connection_while_its_health_is_awaited() {
    let peer = Peer::limited(Answer::OnlyFirst(SERVING), Some(2)).await;
    let channel = over(checking().connections_per_server(10), [&peer.address]);
    ready(&channel, 1).await;
    let _calls = begin(&channel, &peer, 1).await;
    let _waits = waiting(&channel, 1, true).await;
    until("a further connection", || peer.seen.connections() >= 2).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(peer.seen.connections(), 2, "one call waits");
}

/// The same where the further connections are unhealthy.
#[tokio::test]
async fn one_waiting_call_gets_no_ten_unhealthy_connections() {
    let peer = Peer::limited(Answer::ByConnection(SERVING, NOT_SERVING), Some(2)).await;
    let channel = over(checking().connections_per_server(10), [&peer.address]);
    ready(&channel, 1).await;
    let _calls = begin(&channel, &peer, 1).await;
    let _waits = waiting(&channel, 1, true).await;
    until("a further connection", || peer.seen.connections() >= 2).await;
    sleep(Duration::from_millis(300)).await;
    assert!(peer.seen.connections() <= 3, "{} connections for one call", peer.seen.connections());
}

/// Calls use all streams when a document turns health checks on: the server was never asked, and is not unhealthy.
#[tokio::test]
async fn a_full_server_that_could_not_be_asked_is_not_unhealthy() {
    let peer = Peer::limited(Answer::Says(SERVING), Some(2)).await;
    let (documents, updates) = watch::channel::<Arc<str>>("{}".into());
    let builder = builder().service_config_updates(updates).connect_timeout(Duration::from_millis(300));
    let channel = over(builder, [&peer.address]);
    ready(&channel, 1).await;
    let calls = begin(&channel, &peer, 2).await;
    let waits = waiting(&channel, 3, false).await;
    documents.send_replace(GREETER.into());
    sleep(Duration::from_millis(1_000)).await;
    assert_eq!(peer.seen.watches(), 0, "it could not be asked");
    let state = (only(&channel).state(), only(&channel).last_error().map(ToOwned::to_owned));
    peer.hold_calls(false);
    let mut results = Vec::new();
    for Watched { task, .. } in calls.into_iter().chain(waits) {
        results.push(task.await.unwrap());
    }
    assert_eq!(state.0, ServerState::Ready, "{state:?} {results:?}");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// Calls take such a head (`outcome.rs`: "OK in the head of a response that goes on is no status").
#[tokio::test]
async fn ok_in_the_head_of_a_watch_that_goes_on_is_no_status() {
    let peer = Peer::start(Answer::SaysAfterOk(SERVING)).await;
    let channel = over(checking(), [&peer.address]);
    until("it to be asked", || peer.seen.watches() >= 1).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(only(&channel).state(), ServerState::Ready, "{:?}", only(&channel).last_error());
}

/// An address with several servers behind it: the first connection is unhealthy, the second one serves. A document lowers the
/// number of connections.
#[tokio::test]
async fn a_lower_number_of_connections_keeps_the_healthy_one() {
    let scaling = |most: u32| -> Arc<str> {
        format!(r#"{{"connectionScaling": {{"maxConnectionsPerSubchannel": {most}}}}}"#).into()
    };
    let (documents, updates) = watch::channel(scaling(2));
    let peer = Peer::limited(Answer::Says(SERVING), Some(2)).await;
    let channel = over(checking().service_config_updates(updates), [&peer.address]);
    ready(&channel, 1).await;
    let calls = begin(&channel, &peer, 2).await;
    peer.hold_calls(false);
    for call in calls {
        call.task.await.unwrap().unwrap();
    }
    assert_eq!(only(&channel).connections(), 2);
    peer.answer(Answer::ByConnection(NOT_SERVING, SERVING));
    until("the first to be unhealthy", || only(&channel).connections() == 1).await;
    greet(&channel).await.unwrap();
    documents.send_replace(scaling(1));
    until("the document", || channel.service_config().text() == Some(&*scaling(1))).await;
    sleep(Duration::from_millis(300)).await;
    greet(&channel).await.unwrap();
    is(&channel, ServerState::Ready).await;
}

/// A server that tells its health without an end holds up nothing else of the runtime.
#[test]
fn a_flood_of_answers_does_not_stop_the_runtime() {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let longest = |answer| {
        let peer = servers.block_on(Peer::start(answer));
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let channel = over(checking(), [&peer.address]);
            ready(&channel, 1).await;
            let mut longest = Duration::ZERO;
            let end = tokio::time::Instant::now() + Duration::from_secs(1);
            while tokio::time::Instant::now() < end {
                let began = tokio::time::Instant::now();
                sleep(Duration::from_millis(1)).await;
                longest = longest.max(began.elapsed());
            }
            greet(&channel).await.unwrap();
            longest
        })
    };
    let (one, many) = (longest(Answer::Says(SERVING)), longest(Answer::SaysWithoutEnd(SERVING)));
    assert!(many < one + Duration::from_millis(100), "the runtime stood still for {many:?}, and {one:?} without them");
}

/// A way to a server that can lose its connections silently, as a host that loses its power or a firewall that forgets them does:
/// nothing comes through, and nobody is told. New connections work.
struct Silent {
    address: std::net::SocketAddr,
    lost: watch::Sender<u32>,
}

impl Silent {
    async fn to(server: std::net::SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lost = watch::Sender::new(0);
        let losses = lost.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                let mut loss = losses.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = loss.changed() => std::future::pending().await, // both sockets stay open
                    }
                });
            }
        });
        Self { address, lost }
    }

    fn lose(&self) {
        self.lost.send_modify(|count| *count += 1);
    }
}

/// Whether a call that waits for ready gets through within 10 s after the connection was lost, and the server is well again.
async fn comes_back(
    before: Answer,
    set: impl Fn(tonic_etcd::BalancedChannelBuilder) -> tonic_etcd::BalancedChannelBuilder,
) -> bool {
    let peer = Peer::start(before).await;
    let way = Silent::to(peer.address).await;
    let keep_alive = tonic_etcd::KeepAlive::new(Duration::from_millis(100), Duration::from_millis(200));
    let builder = checking().connect_timeout(Duration::from_millis(300)).keep_alive(keep_alive.unthrottled());
    let channel = over(set(builder).wait_for_ready(true), [&way.address]);
    is(&channel, ServerState::Unhealthy).await;
    way.lose();
    peer.says(SERVING);
    let call = tokio::time::timeout(Duration::from_secs(10), greet(&channel)).await;
    eprintln!("{before:?}: {call:?}, {:?}, {} connections", only(&channel), peer.seen.connections());
    call.is_ok_and(|result| result.is_ok())
}

/// A server says that it does not serve, and its host goes. It comes back at the same address, and serves. Calls wait for it, and
/// keep-alive is on: gRPC's would send its PINGs, for which the open `Watch` is a stream as any other.
#[tokio::test]
async fn an_unhealthy_server_whose_connection_is_lost_silently_is_connected_again() {
    assert!(comes_back(Answer::Says(NOT_SERVING), |builder| builder.keep_alive_while_idle(true)).await, "while idle");
    assert!(comes_back(Answer::Says(NOT_SERVING), |builder| builder).await);
}

/// The same for a server that was frozen before its first answer.
#[tokio::test]
async fn a_server_that_never_answered_its_check_is_connected_again_once_its_connection_is_lost() {
    assert!(comes_back(Answer::Silence, |builder| builder.keep_alive_while_idle(true)).await, "while idle");
    assert!(comes_back(Answer::Silence, |builder| builder).await);
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
                let end = tokio::time::Instant::now() + Duration::from_secs(3);
                let mut failed = 0;
                while tokio::time::Instant::now() < end {
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
