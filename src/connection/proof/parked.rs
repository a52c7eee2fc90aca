//! What streams cost that wait to be reset.

use tokio::time::Instant;

use super::raw::{DATA, HEADERS};
use super::*;

/// How long 300 messages take on a stream that was answered, while so many others wait to be reset: the server takes them all, answers nothing, and
/// acknowledges nothing yet.
async fn messages_beside(parked: usize) -> Duration {
    let (connection, mut peer) = Peer::greeted(&Options { keep_alive: None, ..Options::default() }).await;
    let call = begin(&connection);
    peer.wait_for(HEADERS).await;
    peer.answer(1, 0).await;
    let mut answer = head(call).await.unwrap();
    for _ in 0..parked.div_ceil(1000) {
        let calls: Vec<_> = (0..parked.min(1000)).map(|_| begin(&connection)).collect();
        peer.requests(calls.len()).await;
        drop(calls);
    }
    let mut times = Vec::new();
    for _ in 0..300 {
        let began = Instant::now();
        peer.send(DATA, 0, 1, &[0]).await;
        poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await.unwrap().unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    times[150]
}

/// A stream that goes on costs no more while calls that were dropped wait for a server that stands still: 20 000 are those of
/// ten seconds of 2 000 calls a second.
#[tokio::test]
async fn streams_that_wait_cost_those_that_go_on_nothing() {
    let alone = messages_beside(0).await;
    let beside = messages_beside(20_000).await;
    assert!(beside < alone * 15, "a message takes {beside:?} beside 20 000 streams that wait, {alone:?} alone");
}
