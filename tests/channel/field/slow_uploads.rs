//! A caller that sends its request slowly.

use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;
use tonic::Request;
use tonic_etcd::policy::PeakEwma;

use super::codec::Raw;
use crate::peer::{Peer, Script};
use crate::support::{SAY_HELLO, builder, greet, over, ready};

#[tokio::test]
async fn a_caller_that_sends_slowly_does_not_make_its_server_look_slow() {
    let quick = || Script::After(Duration::from_millis(5), Box::new(Script::Greet));
    let peers = [Peer::start(quick()).await, Peer::start(quick()).await];
    let channel = over(builder().policy(PeakEwma::new()), [&peers[0].address, &peers[1].address]);
    ready(&channel, 2).await;
    for _ in 0..50 {
        greet(&channel).await.unwrap();
    }
    let before = [0, 1].map(|peer: usize| peers[peer].seen.calls());
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    let slow = tokio_stream::iter(0..3).then(|_| async {
        sleep(Duration::from_secs(1)).await;
        b"\x0a\x04slow".to_vec()
    });
    grpc.client_streaming(Request::new(slow), PathAndQuery::from_static(SAY_HELLO), Raw).await.unwrap();
    let had = usize::from(peers[1].seen.calls() > before[1]);
    let before = [0, 1].map(|peer: usize| peers[peer].seen.calls());
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        greet(&channel).await.unwrap();
    }
    let [own, other] = [had, 1 - had].map(|peer| peers[peer].seen.calls() - before[peer]);
    assert!(own * 5 >= other, "in the 5 s after a slow upload its server got {own} calls, the other one {other}");
}
