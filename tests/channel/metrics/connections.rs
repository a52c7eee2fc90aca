//! Connections and servers.

use std::sync::Arc;

use tokio::sync::Notify;
use tonic_etcd::{OutlierDetection, ServerState};

use super::recorder;
use crate::peer::{Peer, Script};
use crate::raw::goaway_once_told;
use crate::support::{Lowest, builder, changing, greet, over, ready, until};

const OPEN: &str = "grpc.subchannel.open_connections";
const SUCCEEDED: &str = "grpc.subchannel.connection_attempts_succeeded";
const FAILED: &str = "grpc.subchannel.connection_attempts_failed";
const ENDED: &str = "grpc.subchannel.disconnections";
const ERROR: &str = "grpc.disconnect_error";

#[tokio::test]
async fn connections_count_from_their_attempt_to_their_end() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Greet).await;
    let (channel, set) = changing(builder().metrics(metrics));
    set.add(peer.address);
    ready(&channel, 1).await;
    assert_eq!((recorder.values(OPEN, &[]).value, recorder.values(SUCCEEDED, &[]).value), (1.0, 1.0));
    assert_eq!((channel.stats().connections().open(), channel.stats().connections().succeeded()), (1, 1));
    set.remove(&peer.address);
    until("the connection to be counted", || recorder.values(ENDED, &[]).value == 1.0).await;
    assert_eq!(recorder.values(ENDED, &[(ERROR, "subchannel shutdown")]).value, 1.0);
    assert_eq!(recorder.values(OPEN, &[]).value, 0.0);
    let stats = channel.stats();
    assert_eq!(stats.connections().disconnections().collect::<Vec<_>>(), [("subchannel shutdown", 1)]);
    assert_eq!(stats.connections().open(), 0);
}

#[tokio::test]
async fn attempts_that_fail_count() {
    let (recorder, metrics) = recorder();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let channel = over(builder().metrics(metrics), [&address]);
    until("an attempt to fail", || channel.stats().connections().failed() > 0).await;
    until("the state", || channel.stats().servers(ServerState::TransientFailure) == 1).await;
    assert!(recorder.values(FAILED, &[]).value >= 1.0);
    assert_eq!(recorder.values(SUCCEEDED, &[]).value, 0.0);
    let failing = [("state", "transient_failure")];
    assert_eq!(recorder.values("tonic_etcd.channel.servers", &failing).value, 1.0);
    assert_eq!(recorder.values("tonic_etcd.channel.servers", &[]).value, 1.0, "it is in one state");
}

#[tokio::test]
async fn a_goaway_counts_with_its_code() {
    for (code, label) in [(0, "GOAWAY NO_ERROR"), (11, "GOAWAY ENHANCE_YOUR_CALM"), (77, "GOAWAY INTERNAL_ERROR")] {
        let (recorder, metrics) = recorder();
        let told = Arc::new(Notify::new());
        told.notify_one();
        let (address, _) = goaway_once_told(told, code).await;
        let channel = over(builder().metrics(metrics), [&address]);
        ready(&channel, 1).await;
        let call = tokio::spawn({
            let channel = channel.clone();
            async move { greet(&channel).await.map(drop) }
        });
        until("the GOAWAY", || recorder.values(ENDED, &[(ERROR, label)]).value >= 1.0).await;
        call.abort();
        drop(call.await);
    }
}

#[tokio::test]
async fn a_server_that_closes_is_no_error_that_is_known() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Break).await;
    let channel = over(builder().metrics(metrics), [&peer.address]);
    greet(&channel).await.unwrap_err();
    until("the end to be counted", || recorder.values(ENDED, &[]).value >= 1.0).await;
    let seven = ["unknown", "connection reset", "socket error"].map(|label| recorder.values(ENDED, &[(ERROR, label)]));
    assert!(seven.iter().any(|values| values.value >= 1.0), "{:?}", recorder.series(ENDED));
    assert_eq!(recorder.values(ENDED, &[(ERROR, "subchannel shutdown")]).value, 0.0);
}

#[tokio::test]
async fn ejections_count_by_what_has_found_the_outlier() {
    let (recorder, metrics) = recorder();
    let (failing, good) = (Peer::start(Script::Status(13, Vec::new())).await, Peer::start(Script::Greet).await);
    let detection = OutlierDetection::default().consecutive_failures(Some(3));
    let builder = builder().policy(Lowest).metrics(metrics).outlier_detection(detection);
    let (channel, set) = changing(builder);
    set.add(failing.address);
    ready(&channel, 1).await;
    let method = [("grpc.lb.outlier_detection.detection_method", "consecutive_failures")];
    let (enforced, unenforced) =
        ("grpc.lb.outlier_detection.ejections_enforced", "grpc.lb.outlier_detection.ejections_unenforced");
    for _ in 0..6 {
        greet(&channel).await.unwrap_err();
    }
    until("the only server to be spared", || channel.stats().unenforced_ejections() > 0).await;
    assert_eq!(recorder.values(enforced, &[]).value, 0.0);
    let reason = [method[0], ("grpc.lb.outlier_detection.unenforced_reason", "max_ejection_overflow")];
    assert_eq!(recorder.values(unenforced, &reason).value, 1.0, "once, however often it was looked at");
    set.add(good.address);
    until("the ejection", || channel.stats().ejections() == 1 && channel.stats().servers(ServerState::Ejected) == 1)
        .await;
    assert_eq!(recorder.values(enforced, &method).value, 1.0);
    assert_eq!(recorder.values("tonic_etcd.channel.servers", &[("state", "ejected")]).value, 1.0);
}
