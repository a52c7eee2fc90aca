//! Who is woken while calls wait for a server.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tonic_etcd::{ConnectivityState, ServerState};

use super::watched::{finished, polls, refusing, waiting};
use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, over, states, until};

/// F33: calls that wait for ready are not woken by servers that fail to be connected.
#[tokio::test]
async fn failed_attempts_to_connect_wake_nobody_who_waits_for_ready() {
    let down: Vec<_> = (0..100).map(|_| refusing()).collect();
    let channel = over(builder(), down.iter().map(|(_, address)| address));
    let calls = waiting(&channel, 500, true).await;
    sleep(Duration::from_millis(100)).await; // all have seen that the runtime runs
    let before = polls(&calls);
    until("all to have failed", || states(&channel).values().all(|state| *state == ServerState::TransientFailure))
        .await;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(polls(&calls), before, "nobody was woken");
}

/// F33: nor are those that fail fast, until waiting has become vain: then once.
#[tokio::test]
async fn failed_attempts_to_connect_wake_nobody_while_another_server_may_come() {
    let down: Vec<_> = (0..100).map(|_| refusing()).collect();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap();
    let addresses = down.iter().map(|(_, address)| address).chain([&silent_at]);
    let channel = over(builder().connect_timeout(Duration::from_secs(8)), addresses);
    let calls = waiting(&channel, 500, false).await;
    sleep(Duration::from_millis(100)).await; // all have seen that the runtime runs
    let before = polls(&calls);
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!((finished(&calls), polls(&calls)), (0, before), "nobody was woken");
    until("all to fail", || finished(&calls) == calls.len()).await;
    assert_eq!(polls(&calls), before + calls.len());
    for call in calls {
        let status = call.task.await.unwrap().unwrap_err();
        assert!(status.message().contains("101 known, 0 ready, 0 ejected, 0 connecting, 101 failing"), "{status}");
    }
}

/// F33: a server that becomes ready wakes as many as it takes, among servers that fail.
#[tokio::test]
async fn a_server_that_becomes_ready_wakes_those_that_it_takes() {
    let down: Vec<_> = (0..20).map(|_| refusing()).collect();
    let (channel, set) = changing(builder());
    down.iter().for_each(|(_, address)| set.add(*address));
    let calls = waiting(&channel, 200, true).await;
    sleep(Duration::from_millis(100)).await; // all have seen that the runtime runs
    let before = polls(&calls[3..]);
    let peer = Peer::limited(Script::Silence, Some(3)).await;
    set.add(peer.address);
    until("its room to be taken", || peer.seen.calls() == 3).await;
    sleep(Duration::from_millis(300)).await;
    // On a busy machine a turn may be late, and goes to the next as well.
    let woken = polls(&calls[3..]) - before;
    assert!(woken <= 12, "{woken} of the others were woken");
    let good = Peer::start(Script::Greet).await;
    set.add(good.address);
    until("all others to end", || finished(&calls) == calls.len() - 3).await;
}

/// F33: what is said of the servers is as new as what went wrong, although nobody was woken for it.
#[tokio::test]
async fn the_reason_is_the_last_one() {
    let (socket, address) = refusing();
    let channel = over(builder().connect_timeout(Duration::from_millis(50)), [&address]);
    let mut connectivity = channel.states();
    while connectivity.next().await != Some(ConnectivityState::TransientFailure) {}
    let status = greet(&channel).await.unwrap_err();
    assert!(status.message().contains("refused"), "{status}");
    let _silent = socket.listen(16).unwrap();
    loop {
        let status = greet(&channel).await.unwrap_err();
        if status.message().contains("SETTINGS") || status.message().contains("no HTTP/2 connection") {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// F33: a stream of the channel's state tells each change, and nothing else.
#[tokio::test]
async fn connectivity_follows_while_servers_fail() {
    let down: Vec<_> = (0..50).map(|_| refusing()).collect();
    let (channel, set) = changing(builder());
    let mut connectivity = channel.states();
    assert_eq!(connectivity.next().await, Some(ConnectivityState::Connecting));
    down.iter().for_each(|(_, address)| set.add(*address));
    assert_eq!(connectivity.next().await, Some(ConnectivityState::TransientFailure));
    let peer = Peer::start(Script::Greet).await;
    set.add(peer.address);
    while connectivity.next().await != Some(ConnectivityState::Ready) {}
    channel.wait_until_ready(Duration::from_secs(5)).await.unwrap();
    set.remove(&peer.address);
    while connectivity.next().await != Some(ConnectivityState::TransientFailure) {}
    let status = greet(&channel).await.unwrap_err();
    assert!(status.message().contains("50 failing"), "{status}");
}
