//! Who is ejected, and how it comes back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic_etcd::policy::{LeastRequest, PeakEwma, RoundRobin};
use tonic_etcd::{OutlierDetection, ServerState};

use crate::peer::{Peer, Script};
use crate::support::{builder, greet, over, ready, shared, states, until};

/// F30: calls that are in flight when their server is ejected fail later, while it is out and once it is back.
#[tokio::test]
async fn late_failures_do_not_eject_a_server_again() {
    let second = Duration::from_secs(1);
    let late = |time| Script::After(time, Box::new(Script::Status(14, vec![])));
    let script = Arc::new(Mutex::new(late(second / 2)));
    let failing = Peer::start(Script::Now(script.clone())).await;
    let good = [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await];
    let detection = OutlierDetection::default().ejection_time(second, second);
    let channel = over(
        builder().outlier_detection(detection).policy(RoundRobin::new()),
        [&failing.address, &good[0].address, &good[1].address],
    );
    ready(&channel, 3).await;
    let mut calls = JoinSet::new();
    let start = |calls: &mut JoinSet<()>, count: usize| {
        for _ in 0..3 * count {
            let channel = channel.clone();
            calls.spawn(async move { drop(greet(&channel).await) });
        }
    };
    // Some fail while it is out, some when it is back, and the last eject it.
    start(&mut calls, 6);
    until("the first calls to be there", || failing.seen.calls() == 6).await;
    *script.lock().unwrap() = late(second * 3 / 2);
    start(&mut calls, 6);
    until("the next calls to be there", || failing.seen.calls() == 12).await;
    *script.lock().unwrap() = Script::Status(14, vec![]);
    let state = || states(&channel)[&failing.address.to_string()];
    while state() != ServerState::Ejected {
        let _ = greet(&channel).await; // it may be the failing one
    }
    *script.lock().unwrap() = Script::Greet;
    until("it to come back", || state() == ServerState::Ready).await;
    let before = failing.seen.calls();
    for _ in 0..100 {
        greet(&channel).await.unwrap();
        assert_eq!(state(), ServerState::Ready);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(failing.seen.calls() - before >= 30);
    calls.join_all().await;
    sleep(second / 5).await;
    assert_eq!(state(), ServerState::Ready, "it is well, and stays");
}

/// F36: failures in a row are compared with what the peers do.
#[tokio::test]
async fn what_all_servers_answer_alike_ejects_nobody() {
    let script = Arc::new(Mutex::new(Script::Status(5, vec![])));
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(Peer::start(Script::Now(script.clone())).await);
    }
    let detection = OutlierDetection::default().interval(Duration::from_millis(200)).failure_percentage(None, 1);
    for policy in [shared(RoundRobin::new()), shared(LeastRequest::new()), shared(PeakEwma::new())] {
        let channel =
            over(builder().outlier_detection(detection).policy(policy), peers.iter().map(|peer| &peer.address));
        ready(&channel, 3).await;
        for _ in 0..100 {
            greet(&channel).await.unwrap_err();
            assert!(states(&channel).values().all(|state| *state == ServerState::Ready));
        }
    }
}

/// F30: a call of a server that is ejected meanwhile ends as the server says.
#[tokio::test]
async fn calls_of_an_ejected_server_end_as_they_would() {
    let told = Arc::new(Notify::new());
    let script = Arc::new(Mutex::new(Script::GreetLater(told.clone())));
    let (failing, good) = (Peer::start(Script::Now(script.clone())).await, Peer::start(Script::Greet).await);
    let channel = over(
        builder().outlier_detection(OutlierDetection::default()).policy(RoundRobin::new()),
        [&failing.address, &good.address],
    );
    ready(&channel, 2).await;
    let mut calls = JoinSet::new();
    for _ in 0..2 {
        let channel = channel.clone();
        calls.spawn(async move { greet(&channel).await });
    }
    until("the call to be there", || failing.seen.calls() == 1).await;
    *script.lock().unwrap() = Script::Status(14, vec![]);
    while states(&channel)[&failing.address.to_string()] != ServerState::Ejected {
        let _ = greet(&channel).await; // it may be the failing one
    }
    told.notify_one();
    assert!(calls.join_all().await.iter().all(Result::is_ok));
}
