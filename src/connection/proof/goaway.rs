//! GOAWAY, the server's and our own, and the end.

use h2::Reason;

use super::*;
use crate::connection::proof::raw::{DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS};

const ALL: u32 = (1 << 31) - 1;

/// A peer that has seen two calls, of ids 1 and 3.
async fn with_two_calls() -> (Connection, Peer, Exchange<String>, Exchange<String>) {
    let (connection, mut peer) = Peer::greeted(&Options::default()).await;
    let (one, three) = (begin(&connection), begin(&connection));
    peer.requests(2).await;
    (connection, peer, one, three)
}

#[tokio::test]
async fn before_a_call_is_sent_it_is_not_sent() {
    for reason in [Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let (connection, mut peer) = Peer::greeted(&Options::default()).await;
        let slot = connection.reserve().unwrap();
        peer.goaway(0, reason, "").await;
        over(&connection).await;
        assert!(connection.reserve().is_none());
        let head = Request::post("http://server/service/method").body(()).unwrap();
        let (failure, body) = connection.exchange(slot, head, "body".to_owned()).err().expect("refused");
        assert_eq!((failure.kind, body.as_str()), (FailureKind::NotSent, "body"));
    }
}

#[tokio::test]
async fn between_a_call_and_the_write_of_its_head_it_is_refused_and_never_written() {
    let (connection, mut peer) = Peer::greeted(&Options::default()).await;
    peer.goaway(0, Reason::NO_ERROR, "").await;
    let exchange = begin(&connection); // the driver has had no turn since
    assert_eq!(failure(exchange).await.kind, FailureKind::Refused);
    drop(connection);
    while let Some(Raw { kind, .. }) = peer.next().await {
        assert_ne!(kind, HEADERS);
    }
}

#[tokio::test]
async fn calls_beyond_the_last_id_are_refused_and_others_go_on() {
    let kinds = [
        (Reason::NO_ERROR, "", FailureKind::Refused),
        (Reason::ENHANCE_YOUR_CALM, "too_many_pings", FailureKind::Refused),
        (Reason::ENHANCE_YOUR_CALM, "too_many_resets", FailureKind::GoAwayError(Reason::ENHANCE_YOUR_CALM)),
        (Reason::INTERNAL_ERROR, "", FailureKind::GoAwayError(Reason::INTERNAL_ERROR)),
    ];
    for (reason, debug, kind) in kinds {
        let (connection, mut peer, one, three) = with_two_calls().await;
        peer.goaway(1, reason, debug).await;
        assert_eq!(failure(three).await.kind, kind);
        let ConnectionState::Draining(end) = over(&connection).await else { panic!("calls are in flight") };
        let kind = if debug == "too_many_pings" { CloseKind::TooManyPings } else { CloseKind::GoAway };
        assert_eq!(end.kind, kind);
        peer.answer(1, END_STREAM).await;
        end_of(one).await.unwrap();
    }
}

async fn end_of(exchange: Exchange<String>) -> Result<(), Failure> {
    crate::connection::proof::end(head(exchange).await?).await
}

#[tokio::test]
async fn a_graceful_server_says_goaway_twice() {
    let (connection, mut peer, one, mut three) = with_two_calls().await;
    peer.goaway(ALL, Reason::NO_ERROR, "").await;
    over(&connection).await;
    let waits = poll_fn(|cx| Poll::Ready(three.poll_head(cx).is_pending())).await;
    assert!(waits, "it may still be processed");
    peer.goaway(1, Reason::NO_ERROR, "").await;
    assert_eq!(failure(three).await.kind, FailureKind::Refused);
    peer.answer(1, END_STREAM).await;
    end_of(one).await.unwrap();
}

/// F31: what ends with the connection after a GOAWAY names that GOAWAY, also where both come at once.
#[tokio::test]
async fn goaway_and_at_once_the_end() {
    for (reason, debug, kind) in [
        (Reason::NO_ERROR, "", FailureKind::Refused),
        (Reason::ENHANCE_YOUR_CALM, "too_many_resets", FailureKind::GoAwayError(Reason::ENHANCE_YOUR_CALM)),
    ] {
        let (connection, mut peer, one, three) = with_two_calls().await;
        peer.goaway(1, reason, debug).await;
        drop(peer);
        let lost = failure(one).await;
        assert_eq!(lost.kind, FailureKind::Lost, "it may have been processed");
        assert!(lost.to_string().contains("after a GOAWAY") && lost.to_string().contains(debug), "{lost}");
        assert_eq!(failure(three).await.kind, kind);
        let mut states = connection.states();
        let closed = states.wait_for(|state| matches!(state, ConnectionState::Closed(_))).await.unwrap().clone();
        assert!(matches!(closed, ConnectionState::Closed(end) if end.is_goaway() && end.to_string().contains(debug)));
    }
}

#[tokio::test]
async fn the_end_without_a_goaway_tells_nothing() {
    let (_connection, peer, one, three) = with_two_calls().await;
    drop(peer);
    for exchange in [one, three] {
        let lost = failure(exchange).await;
        assert_eq!(lost.kind, FailureKind::Lost);
        assert!(!lost.to_string().contains("GOAWAY"), "{lost}");
    }
}

/// F31: our own GOAWAY is no reset and no loss. h2 takes 100 empty frames of data in a connection's life.
#[tokio::test]
async fn our_own_over_empty_frames() {
    let (connection, mut peer, one, three) = with_two_calls().await;
    peer.answer(1, 0).await;
    let answer = head(one).await.unwrap();
    for _ in 0..100 {
        peer.send(DATA, 0, 1, &[]).await;
    }
    peer.send(SETTINGS, 0, 0, &[]).await;
    while peer.next().await.expect("100 are borne").kind != SETTINGS {}
    peer.send(DATA, 0, 1, &[]).await;
    let kind = FailureKind::LocalGoAway(Reason::ENHANCE_YOUR_CALM);
    assert_eq!(crate::connection::proof::end(answer).await.unwrap_err().kind, kind);
    assert_eq!(failure(three).await.kind, kind);
    assert!(
        matches!(over(&connection).await, ConnectionState::Draining(end) | ConnectionState::Closed(end) if !end.is_goaway())
    );
}

/// F31: our own GOAWAY over headers that nobody can read.
#[tokio::test]
async fn our_own_over_headers() {
    let (_connection, mut peer, one, three) = with_two_calls().await;
    peer.send(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).await;
    let kind = FailureKind::LocalGoAway(Reason::PROTOCOL_ERROR);
    assert_eq!((failure(one).await.kind, failure(three).await.kind), (kind, kind));
}
