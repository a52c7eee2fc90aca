//! The check takes one of the streams that the server accepts; and several connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use test_support::Log;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Code;
use tonic_etcd::{BalancedChannel, ServerState};

use super::peer::{Answer, NOT_SERVING, Peer, SERVING};
use super::{checking, is, only};
use crate::field::watched::{Watched, finished, waiting};
use crate::support::{builder, greet, over, ready, told, until};

const GREETER: &str = r#"{"healthCheckConfig": {"serviceName": "helloworld.Greeter"}}"#;

/// Begins so many calls, which the server holds, and waits until they are there.
pub(super) async fn begin(channel: &BalancedChannel, peer: &Peer, count: usize) -> Vec<Watched> {
    peer.hold_calls(true);
    let before = peer.seen.calls();
    let calls = (0..count).map(|_| Watched::greet(channel, false)).collect();
    until("the calls to arrive", || peer.seen.calls() == before + count).await;
    calls
}

#[tokio::test]
async fn calls_have_the_streams_that_the_check_leaves() {
    let peer = Peer::limited(Answer::Says(SERVING), Some(3)).await;
    let channel = over(checking().wait_limit(Duration::from_millis(200)), [&peer.address]);
    ready(&channel, 1).await;
    let calls = begin(&channel, &peer, 2).await;
    assert_eq!(only(&channel).in_flight(), 2);
    let failed = greet(&channel).await.unwrap_err();
    assert!(told(&failed).contains("1 at the limit of streams (2 streams over 1 connections"), "{}", told(&failed));
    assert_eq!(
        (failed.code(), peer.seen.calls()),
        (Code::Unavailable, 2),
        "it waits in the queue, and not in the connection"
    );
    peer.hold_calls(false);
    until("the calls to end", || finished(&calls) == 2).await;
    greet(&channel).await.unwrap();
    assert_eq!(peer.seen.open_watches(), 1);
}

#[tokio::test]
async fn the_channels_own_limit_of_calls_does_not_count_the_check() {
    let peer = Peer::start(Answer::Says(SERVING)).await;
    let channel = over(checking().max_in_flight_per_server(1), [&peer.address]);
    ready(&channel, 1).await;
    let calls = begin(&channel, &peer, 1).await;
    assert_eq!((only(&channel).in_flight(), peer.seen.open_watches()), (1, 1));
    peer.hold_calls(false);
    until("the call to end", || finished(&calls) == 1).await;
    until("nothing to be in flight", || only(&channel).in_flight() == 0).await;
}

#[tokio::test]
async fn a_server_that_takes_one_stream_at_a_time_is_not_asked() {
    let (log, _guard) = Log::begin();
    let peer = Peer::limited(Answer::Says(NOT_SERVING), Some(1)).await;
    let channel = over(checking(), [&peer.address]);
    greet(&channel).await.unwrap();
    assert_eq!((peer.seen.watches(), only(&channel).state()), (0, ServerState::Ready));
    assert_eq!(log.warned("health not checked, the server counts as healthy"), 1, "{}", log.text());
    assert_eq!(log.count("the server accepts one stream at a time"), 1, "{}", log.text());
}

/// SETTINGS with a limit of streams.
fn settings(limit: u32) -> Vec<u8> {
    [&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3][..], &limit.to_be_bytes()].concat()
}

/// A server that accepts ten streams, and one once it was asked for its health. Counts the streams that are reset.
async fn shrinking(listener: TcpListener, resets: Arc<AtomicUsize>) -> std::io::Result<()> {
    let (mut tcp, _) = listener.accept().await?;
    tcp.read_exact(&mut [0; 24]).await?;
    tcp.write_all(&settings(10)).await?;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        tcp.read_exact(&mut vec![0; length]).await?;
        match (head[3], head[4]) {
            (4, 0) => tcp.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await?,
            (1, _) => tcp.write_all(&settings(1)).await?,
            (3, _) => drop(resets.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_server_that_comes_to_take_one_stream_at_a_time_is_asked_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let resets = Arc::<AtomicUsize>::default();
    tokio::spawn(shrinking(listener, resets.clone()));
    let channel = over(checking(), [&address]);
    ready(&channel, 1).await;
    until("the stream to be reset", || resets.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn each_of_several_connections_is_asked_for_itself() {
    let peer = Peer::limited(Answer::Says(SERVING), Some(3)).await;
    let channel = over(checking().connections_per_server(2), [&peer.address]);
    ready(&channel, 1).await;
    let calls = begin(&channel, &peer, 4).await;
    assert_eq!((peer.seen.connections(), peer.seen.open_watches()), (2, 2));
    assert_eq!((only(&channel).connections(), only(&channel).in_flight()), (2, 4));
    peer.says(NOT_SERVING);
    is(&channel, ServerState::Unhealthy).await;
    assert_eq!((only(&channel).connections(), only(&channel).in_flight()), (0, 4));
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::Unavailable);
    peer.hold_calls(false);
    until("the calls to end", || finished(&calls) == 4).await;
    for call in calls {
        call.task.await.unwrap().unwrap();
    }
    peer.says(SERVING);
    until("both connections", || only(&channel).connections() == 2).await;
    greet(&channel).await.unwrap();
}

#[tokio::test]
async fn calls_go_over_the_healthy_ones_of_several_connections() {
    let peer = Peer::limited(Answer::ByConnection(SERVING, NOT_SERVING), Some(3)).await;
    let builder = checking().connections_per_server(2).wait_limit(Duration::from_millis(300));
    let channel = over(builder, [&peer.address]);
    ready(&channel, 1).await;
    let calls = begin(&channel, &peer, 2).await;
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::Unavailable, "the other connection is unhealthy");
    until("the other connection", || peer.seen.open_watches() == 2).await;
    assert_eq!((only(&channel).state(), only(&channel).connections()), (ServerState::Ready, 1));

    peer.answer(Answer::ByConnection(NOT_SERVING, SERVING));
    until("the other one to be healthy", || !matches!(only(&channel).state(), ServerState::Unhealthy)).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!((only(&channel).state(), only(&channel).connections()), (ServerState::Ready, 1));
    let more = begin(&channel, &peer, 2).await;
    assert_eq!((peer.seen.connections(), only(&channel).in_flight()), (2, 4));
    peer.hold_calls(false);
    until("the calls to end", || finished(&calls) + finished(&more) == 4).await;
    for call in calls.into_iter().chain(more) {
        call.task.await.unwrap().unwrap();
    }
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
    sleep(Duration::from_secs(1)).await;
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
