//! A server that is back from an ejection.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic_etcd::policy::RoundRobin;
use tonic_etcd::{OutlierDetection, ServerState};

use crate::peer::{Peer, Script};
use crate::support::{builder, greet, over, ready, states, until};

/// F30: what `OutlierDetection` says of a server that is back: its next failure ejects it again, its next success clears it.
#[tokio::test]
async fn a_success_ends_probation() {
    let script = Arc::new(Mutex::new(Script::Status(14, vec![])));
    let failing = Peer::start(Script::Now(script.clone())).await;
    let good = [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await];
    let detection = OutlierDetection::default().ejection_time(Duration::from_millis(300), Duration::from_secs(300));
    let channel = over(
        builder().outlier_detection(detection).policy(RoundRobin::new()),
        [&failing.address, &good[0].address, &good[1].address],
    );
    ready(&channel, 3).await;
    let state = || states(&channel)[&failing.address.to_string()];
    while state() != ServerState::Ejected {
        let _ = greet(&channel).await; // it may be the failing one
    }
    *script.lock().unwrap() = Script::Greet;
    until("it to come back", || state() == ServerState::Ready).await;
    let before = failing.seen.calls();
    while failing.seen.calls() < before + 1000 {
        greet(&channel).await.unwrap();
    }
    *script.lock().unwrap() = Script::Status(5, vec![]);
    while greet(&channel).await.is_ok() {}
    *script.lock().unwrap() = Script::Greet;
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        assert_eq!(state(), ServerState::Ready, "1000 calls went well, and one found nothing");
        sleep(Duration::from_millis(2)).await;
    }
}
