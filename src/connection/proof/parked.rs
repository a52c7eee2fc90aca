//! What streams cost that wait to be reset.

use std::sync::atomic::Ordering;

use super::*;
use crate::connection::proof::raw::{DATA, HEADERS};

/// F31: a stream that goes on costs no more while calls that were dropped wait for a server that stands still: the server takes
/// them all, answers nothing, and acknowledges nothing yet.
#[tokio::test]
async fn streams_that_wait_are_not_gone_through_for_those_that_go_on() {
    let (connection, mut peer) = Peer::greeted(&Options { keep_alive: None, ..Options::default() }).await;
    let call = begin(&connection);
    peer.wait_for(HEADERS).await;
    peer.answer(1, 0).await;
    let mut answer = head(call).await.unwrap();
    for _ in 0..5 {
        let calls: Vec<_> = (0..1000).map(|_| begin(&connection)).collect();
        peer.requests(calls.len()).await;
        drop(calls);
    }
    let looks = || connection.0.cancelled.checked.load(Ordering::Relaxed);
    for _ in 0..300 {
        peer.send(DATA, 0, 1, &[0]).await;
        poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await.unwrap().unwrap();
    }
    assert_eq!(looks(), 5000, "each once, when it came");
}
