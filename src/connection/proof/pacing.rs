//! F31: resets of calls that the server has answered nothing on.

use std::task::Context;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;

use super::*;
use crate::connection::proof::raw::{ACK, DATA, HEADERS, RST_STREAM, SETTINGS};
use crate::connection::resets::pacer::MAX_UNREAD_RESETS;

/// A body that ends in an error, or in trailers that HTTP/2 forbids.
struct Broken(bool);

impl Body for Broken {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        let forbidden = HeaderMap::from_iter([(CONNECTION, HeaderValue::from_static("close"))]);
        Poll::Ready(Some(if self.0 { Err("broken".to_owned()) } else { Ok(Frame::trailers(forbidden)) }))
    }
}

/// F31: calls whose requests cannot be sent to their end are paced like those that are dropped.
#[tokio::test(start_paused = true)]
async fn calls_whose_requests_break_off_are_paced_too() {
    for (fails, kind) in [(true, FailureKind::RequestBody), (false, FailureKind::InvalidRequest)] {
        let (connection, mut peer) = Peer::greeted(&without_keep_alive()).await;
        for _ in 0..25 {
            let slot = connection.reserve().unwrap();
            let head = Request::post("http://server/service/method").body(()).unwrap();
            let mut call = connection.exchange(slot, head, Broken(fails)).map_err(|(failure, _)| failure).unwrap();
            let failure = poll_fn(|cx| call.poll_head(cx)).await.unwrap_err();
            assert_eq!(failure.kind, kind);
        }
        assert_eq!(seen(&mut peer).await.0, odd(0, MAX_UNREAD_RESETS));
    }
}

fn without_keep_alive() -> Options {
    Options { keep_alive: None, ..Options::default() }
}

/// Begins so many calls, waits until the peer has seen them, and drops them.
async fn cancelled(connection: &Connection, peer: &mut Peer, count: usize) {
    let calls: Vec<_> = (0..count).map(|_| begin(connection)).collect();
    peer.requests(count).await;
    drop(calls);
}

/// The streams that are reset until nothing has come for a while, and how many SETTINGS came.
async fn seen(peer: &mut Peer) -> (Vec<u32>, usize) {
    let (mut resets, mut settings) = (Vec::new(), 0);
    while let Ok(Some(frame)) = tokio::time::timeout(Duration::from_secs(1), peer.next()).await {
        match frame.kind {
            RST_STREAM => resets.push(frame.stream),
            SETTINGS => settings += 1,
            _ => {}
        }
    }
    (resets, settings)
}

fn odd(from: usize, to: usize) -> Vec<u32> {
    (from..to).map(|i| 2 * i as u32 + 1).collect()
}

/// F31: at most 8 are under way until SETTINGS that were sent after the streams were opened are acknowledged; then all go.
#[tokio::test(start_paused = true)]
async fn the_others_wait_for_an_acknowledgement() {
    let (connection, mut peer) = Peer::greeted(&without_keep_alive()).await;
    cancelled(&connection, &mut peer, 2_000).await;
    assert_eq!(seen(&mut peer).await, (odd(0, MAX_UNREAD_RESETS), 1));
    assert_eq!(connection.in_flight(), 2_000 - MAX_UNREAD_RESETS, "each keeps its slot");
    peer.send(SETTINGS, ACK, 0, &[]).await;
    let (resets, settings) = seen(&mut peer).await;
    assert_eq!(resets, odd(MAX_UNREAD_RESETS, 2_000), "in order");
    assert!(settings <= 1, "{settings}");
    assert_eq!(connection.in_flight(), 0);
}

/// F31: an answer shows that all streams before it were accepted; it needs no SETTINGS.
#[tokio::test(start_paused = true)]
async fn an_answer_to_a_later_call_frees_them_all() {
    let (connection, mut peer) = Peer::greeted(&without_keep_alive()).await;
    cancelled(&connection, &mut peer, 25).await;
    assert_eq!(seen(&mut peer).await.0.len(), MAX_UNREAD_RESETS);
    let later = begin(&connection);
    assert_eq!(peer.wait_for(HEADERS).await.stream, 51);
    peer.answer(51, 0).await;
    let _answer = head(later).await.unwrap();
    // Any turn of the driver will do: here one that the next dropped call asks for.
    drop(begin(&connection));
    assert_eq!(seen(&mut peer).await.0.len(), 25 - MAX_UNREAD_RESETS + 1);
    assert_eq!(connection.in_flight(), 1);
}

/// F31: one of those that wait is answered itself.
#[tokio::test(start_paused = true)]
async fn an_answer_to_one_that_waits_frees_those_before_it() {
    let (connection, mut peer) = Peer::greeted(&without_keep_alive()).await;
    cancelled(&connection, &mut peer, 25).await;
    assert_eq!(seen(&mut peer).await.0.len(), MAX_UNREAD_RESETS);
    peer.answer(41, 0).await;
    let (resets, _) = seen(&mut peer).await;
    assert!(odd(MAX_UNREAD_RESETS, 21).iter().all(|stream| resets.contains(stream)), "{resets:?}");
}

/// F31: what has been answered needs no pacing.
#[tokio::test(start_paused = true)]
async fn answered_calls_are_reset_at_once() {
    let (connection, mut peer) = Peer::greeted(&without_keep_alive()).await;
    let mut answers = Vec::new();
    for i in 0..50 {
        let call = begin(&connection);
        peer.requests(1).await;
        peer.answer(2 * i + 1, 0).await;
        answers.push(head(call).await.unwrap());
    }
    drop(answers);
    assert_eq!(connection.in_flight(), 0);
    assert_eq!(seen(&mut peer).await, (odd(0, 50), 0));
}

/// F31: a server that never shows that it reads keeps a connection that nobody holds for 10 s at most.
#[tokio::test(start_paused = true)]
async fn streams_that_wait_keep_no_connection_open() {
    let (connection, mut peer) = Peer::greeted(&without_keep_alive()).await;
    cancelled(&connection, &mut peer, 25).await;
    let shared = std::sync::Arc::downgrade(&connection.0.shared);
    drop(connection);
    let ended = async { while peer.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the connection is closed");
    tokio::task::yield_now().await;
    assert!(shared.upgrade().is_none(), "nothing is left of it");
}

/// F31: keep-alive ends the connection to a server that stands still for good, and all streams with it.
#[tokio::test(start_paused = true)]
async fn streams_that_wait_end_with_the_connection() {
    let (connection, mut peer) = Peer::greeted(&Options::default()).await;
    cancelled(&connection, &mut peer, 25).await;
    assert!(matches!(over(&connection).await, ConnectionState::Closed(end) if end.kind == CloseKind::Unresponsive));
    tokio::task::yield_now().await;
    assert_eq!(connection.in_flight(), 0);
    drop(connection.reserve());
}

/// F31: small frames that come late for calls that were cancelled, more than h2's default allows in a connection's life, and more
/// than 64 MiB of it.
#[tokio::test]
async fn small_frames_that_come_late_use_nothing_up() {
    let (connection, mut peer) = Peer::greeted(&without_keep_alive()).await;
    for i in 0..100 {
        let call = begin(&connection);
        peer.requests(1).await;
        peer.answer(2 * i + 1, 0).await;
        drop(head(call).await.unwrap());
        peer.wait_for(RST_STREAM).await;
        for _ in 0..3000 {
            peer.send(DATA, 0, 2 * i + 1, &[0]).await;
        }
    }
    let call = begin(&connection);
    peer.requests(1).await;
    peer.answer(201, 0).await;
    assert!(head(call).await.is_ok());
}

/// F31: ids are counted: the connection is replaced before h2 refuses.
#[tokio::test]
async fn a_connection_whose_ids_are_nearly_used_up_takes_no_more() {
    let options = Options { max_exchanges: 4, ..Options::default() };
    let (connection, mut peer) = Peer::greeted(&options).await;
    let calls: Vec<_> = (0..4).map(|_| begin(&connection)).collect();
    assert!(!connection.is_closing());
    let (late, last) = (connection.reserve(), begin(&connection));
    assert!(connection.reserve().is_none());
    assert!(matches!(over(&connection).await, ConnectionState::Draining(end) if end.to_string().contains("ids")));
    // Whoever had a place already may still send.
    let head_of = Request::post("http://server/service/method").body(()).unwrap();
    let late = connection.exchange(late.unwrap(), head_of, String::new()).map_err(|(failure, _)| failure).unwrap();
    peer.requests(6).await;
    for (i, call) in calls.into_iter().chain([last, late]).enumerate() {
        peer.answer(2 * i as u32 + 1, 0).await;
        assert!(head(call).await.is_ok());
    }
}
