//! Keep-alive against a peer that counts pings as Go's server does, and one that freezes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::time::{Instant, sleep, timeout};

use crate::connection::*;

pub(crate) const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A body that never ends.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Pending
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) async fn next(read: &mut ReadHalf<DuplexStream>) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    read.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], payload))
}

/// A connection to a peer that has greeted.
async fn greeted(keep_alive: KeepAlive) -> (Connection, ReadHalf<DuplexStream>, WriteHalf<DuplexStream>) {
    greeted_with(&Options { keep_alive: Some(keep_alive), ..Options::default() }, 1 << 20).await
}

/// The same, where so many bytes may be on their way.
pub(crate) async fn greeted_with(
    options: &Options,
    on_their_way: usize,
) -> (Connection, ReadHalf<DuplexStream>, WriteHalf<DuplexStream>) {
    let (ours, theirs) = duplex(on_their_way);
    let (mut read, mut write) = split(theirs);
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    write.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    let room = Arc::<tokio::sync::Notify>::default();
    let connection = Connection::handshake(ours, options, options.connect_timeout, room).await.unwrap();
    read.read_exact(&mut [0; 24]).await.unwrap();
    (connection, read, write)
}

/// Waits for the head of an answer, and if it comes for the end of the answer.
pub(crate) async fn call(connection: &Connection) -> Result<(), Failure> {
    let head = Request::post("http://server/service/method").body(()).unwrap();
    let slot = connection.reserve().expect("the connection takes calls");
    let mut exchange = connection.exchange(slot, head, Endless).map_err(|(failure, _)| failure)?;
    let stream = std::future::poll_fn(|cx| exchange.poll_head(cx)).await?.into_body();
    let mut answer = exchange.into_response_body(stream, |_, _| {}).0;
    match std::future::poll_fn(|cx| std::pin::Pin::new(&mut answer).poll_frame(cx)).await {
        Some(Err(failure)) => Err(failure),
        _ => Ok(()),
    }
}

/// Go's default: three pings less than five minutes apart since the last answer, and the next is too many.
async fn count_pings(mut read: ReadHalf<DuplexStream>, mut write: WriteHalf<DuplexStream>, pings: Arc<AtomicU32>) {
    let (mut answered, mut strikes, mut last) = (true, 0, None::<Instant>);
    while let Some((kind, flags, payload)) = next(&mut read).await {
        if kind == HEADERS {
            write.write_all(&frame(HEADERS, END_HEADERS, 1, &[0x88])).await.unwrap(); // :status 200
        }
        if kind == PING && flags == 0 {
            pings.fetch_add(1, Ordering::Relaxed);
            write.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap();
            if std::mem::take(&mut answered) {
                strikes = 0;
            } else if last.is_some_and(|last| last.elapsed() < Duration::from_secs(300)) {
                strikes += 1;
            }
            last = Some(Instant::now());
            if strikes > 2 {
                let said = [&[0, 0, 0, 1, 0, 0, 0, 11], &b"too_many_pings"[..]].concat();
                write.write_all(&frame(GOAWAY, 0, 0, &said)).await.unwrap();
                return;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_silent_for_hours_survives_a_server_that_counts_pings() {
    let (connection, read, write) = greeted(KeepAlive::default()).await;
    let pings = Arc::new(AtomicU32::new(0));
    tokio::spawn(count_pings(read, write, pings.clone()));
    let hours = timeout(Duration::from_secs(3 * 3600), call(&connection)).await;
    assert!(hours.is_err(), "the stream ended: {hours:?}");
    assert!((30..40).contains(&pings.load(Ordering::Relaxed)), "two, then one in five minutes: {pings:?}");
    assert_eq!(*connection.states().borrow(), ConnectionState::Ready);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_pinged_too_often_all_the_same_is_told_from_others_who_want_calm() {
    let (connection, read, write) = greeted(KeepAlive::default().unthrottled()).await;
    tokio::spawn(count_pings(read, write, Arc::default()));
    call(&connection).await.unwrap_err();
    let end = |state: &ConnectionState| matches!(state, ConnectionState::Draining(end) | ConnectionState::Closed(end) if end.kind == CloseKind::TooManyPings);
    connection.states().wait_for(end).await.unwrap();

    let (connection, _read, mut write) = greeted(KeepAlive::default()).await;
    let said = [&[0, 0, 0, 0, 0, 0, 0, 11], &b"too_many_resets"[..]].concat();
    write.write_all(&frame(GOAWAY, 0, 0, &said)).await.unwrap();
    let mut states = connection.states();
    let state = states
        .wait_for(|state| matches!(state, ConnectionState::Draining(_) | ConnectionState::Closed(_)))
        .await
        .unwrap()
        .clone();
    assert!(
        matches!(&state, ConnectionState::Draining(end) | ConnectionState::Closed(end) if end.kind != CloseKind::TooManyPings),
        "{state:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_ping_whose_answer_is_lost_does_not_end_the_watch() {
    let keep_alive = KeepAlive::new(Duration::from_millis(500), Duration::from_millis(500));
    let (connection, mut read, mut write) = greeted(keep_alive).await;
    let pinged = async { while next(&mut read).await.expect("a ping").0 != PING {} };
    let last_words = async {
        pinged.await;
        write.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await.unwrap();
        Instant::now()
    };
    let (failure, last_words) = tokio::join!(call(&connection), last_words);
    assert_eq!(failure.unwrap_err().kind, FailureKind::Lost);
    assert!(last_words.elapsed() <= Duration::from_millis(1010), "{:?}", last_words.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_frozen_server_is_found_out_by_calls_that_give_up() {
    let (connection, _read, _write) = greeted(KeepAlive::default()).await;
    let began = Instant::now();
    while !connection.is_closing() {
        assert!(began.elapsed() < Duration::from_secs(60), "never found out");
        let gave_up = timeout(Duration::from_millis(100), call(&connection)).await.is_err();
        assert!(gave_up || connection.is_closing());
        sleep(Duration::from_millis(900)).await;
    }
}

/// F48: a server that does not even read, so that no ping can be written, is found out within the interval and two timeouts.
#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_is_found_out_in_time() {
    let keep_alive = KeepAlive::new(Duration::from_secs(2), Duration::from_secs(1));
    let options = Options { keep_alive: Some(keep_alive), ..Options::default() };
    let (connection, _read, _write) = greeted_with(&options, 100).await;
    let began = Instant::now();
    let failures = tokio::join!(call(&connection), call(&connection), call(&connection));
    for failure in [failures.0, failures.1, failures.2] {
        assert_eq!(failure.unwrap_err().kind, FailureKind::Lost);
    }
    assert!(began.elapsed() <= Duration::from_millis(4_020), "{:?}", began.elapsed());
}
