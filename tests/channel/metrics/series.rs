//! How many series there are, and that they go with their channels.

use http::uri::PathAndQuery;
use tonic::Request;

use super::{ATTEMPTS, CALLS, STARTED, check, recorder};
use crate::peer::{Peer, Script};
use crate::support::{builder, greet, over, ready, until};

#[tokio::test]
async fn methods_that_are_made_up_are_one_series() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Status(12, Vec::new())).await;
    let channel = over(builder().metrics(metrics), [&peer.address]);
    ready(&channel, 1).await;
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    for method in 0..1_000 {
        grpc.ready().await.unwrap();
        let path = PathAndQuery::try_from(format!("/a.B/Method{method}")).unwrap();
        grpc.unary(Request::new(vec![1_u8]), path, crate::field::codec::Raw).await.unwrap_err();
    }
    let other = r#"grpc.method="other",grpc.target="discover:///greeter""#;
    assert_eq!(recorder.series(STARTED), [other]);
    for instrument in [ATTEMPTS, CALLS] {
        assert_eq!(recorder.series(instrument), [format!("{other},grpc.status=\"UNIMPLEMENTED\"")]);
    }
    assert_eq!(recorder.values(STARTED, &[]).value, 1_000.0);
    check(&channel, &recorder);
}

#[tokio::test]
async fn methods_beyond_a_thousand_are_other() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Status(12, Vec::new())).await;
    let channel = over(builder().metrics(metrics), [&peer.address]);
    ready(&channel, 1).await;
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    for method in 0..1_010 {
        grpc.ready().await.unwrap();
        let name: &'static str = format!("Method{method}").leak();
        let mut request = Request::new(vec![1_u8]);
        request.extensions_mut().insert(tonic::GrpcMethod::new("a.B", name));
        let path = PathAndQuery::try_from(format!("/a.B/{name}")).unwrap();
        grpc.unary(request, path, crate::field::codec::Raw).await.unwrap_err();
    }
    assert_eq!(recorder.series(STARTED).len(), 1_001);
    assert_eq!(recorder.values(STARTED, &[("grpc.method", "other")]).value, 10.0);
    check(&channel, &recorder);
}

#[tokio::test]
async fn a_recorder_that_panics_costs_its_recordings_alone() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Greet).await;
    recorder.set_panics(true);
    let channel = over(builder().metrics(metrics.clone()), [&peer.address]);
    greet(&channel).await.unwrap();
    assert!(recorder.is_empty(), "nothing could be bound");
    recorder.set_panics(false);
    let other = over(builder().metrics(metrics), [&peer.address]);
    greet(&other).await.unwrap();
    check(&other, &recorder);
    recorder.set_panics(true);
    greet(&other).await.unwrap();
    for channel in [&channel, &other] {
        let stats = channel.stats();
        let calls: u64 = stats.method(super::METHOD).unwrap().calls().map(|(_, calls)| calls.count()).sum();
        assert_eq!(calls, stats.method(super::METHOD).unwrap().attempts_started());
    }
    assert_eq!(recorder.count(CALLS, &[]), 1);
    drop((channel, other)); // each series panics
    until("the series to go", || recorder.live() == 0).await;
}

#[tokio::test]
async fn channels_that_are_gone_leave_no_series_bound() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Greet).await;
    let mut known = None;
    for _ in 0..5 {
        let channel = over(builder().metrics(metrics.clone()), [&peer.address]);
        greet(&channel).await.unwrap();
        drop(channel);
        until("the series to go", || recorder.live() == 0).await;
        assert_eq!(*known.get_or_insert(recorder.len()), recorder.len(), "the labels are the same");
    }
    for _ in 0..10_000 {
        drop(over(builder().metrics(metrics.clone()), [&peer.address]));
        tokio::task::yield_now().await;
    }
    until("the series to go", || recorder.live() == 0).await;
    assert_eq!(known, Some(recorder.len()));
    for gauge in ["tonic_etcd.channel.servers", "tonic_etcd.channel.waiting", "grpc.subchannel.open_connections"] {
        assert_eq!(recorder.values(gauge, &[]).value, 0.0, "{gauge}: each channel has taken its share back");
    }
}
