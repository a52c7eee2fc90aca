//! Streams that the server resets, before the head of an answer and after it.

use h2::Reason;

use super::*;
use crate::connection::proof::raw::RST_STREAM;

#[tokio::test]
async fn before_the_head_refused_is_refused_and_nothing_else_is() {
    for (reason, kind) in [
        (Reason::REFUSED_STREAM, FailureKind::Refused),
        (Reason::CANCEL, FailureKind::Reset(Reason::CANCEL)),
        (Reason::INTERNAL_ERROR, FailureKind::Reset(Reason::INTERNAL_ERROR)),
    ] {
        let (connection, mut peer) = Peer::greeted(&Options::default()).await;
        let exchange = begin(&connection);
        peer.requests(1).await;
        peer.reset(1, reason).await;
        assert_eq!(failure(exchange).await.kind, kind);
        assert_eq!(connection.in_flight(), 0);
    }
}

#[tokio::test]
async fn after_the_head_nothing_is_refused() {
    for reason in [Reason::REFUSED_STREAM, Reason::CANCEL] {
        let (connection, mut peer) = Peer::greeted(&Options::default()).await;
        let exchange = begin(&connection);
        peer.requests(1).await;
        peer.answer(1, 0).await;
        let answer = head(exchange).await.unwrap();
        peer.reset(1, reason).await;
        assert_eq!(end(answer).await.unwrap_err().kind, FailureKind::Reset(reason));
    }
}

#[tokio::test]
async fn a_goaway_below_a_call_that_was_answered_refuses_nothing() {
    let (connection, mut peer) = Peer::greeted(&Options::default()).await;
    let exchange = begin(&connection);
    peer.requests(1).await;
    peer.answer(1, 0).await;
    let answer = head(exchange).await.unwrap();
    peer.goaway(0, Reason::NO_ERROR, "").await;
    assert_eq!(end(answer).await.unwrap_err().kind, FailureKind::Lost);
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled() {
    let (connection, mut peer) = Peer::greeted(&Options::default()).await;
    drop(begin(&connection));
    assert_eq!(peer.wait_for(RST_STREAM).await.stream, 1);
}
