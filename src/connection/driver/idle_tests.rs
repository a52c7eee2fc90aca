//! Idle connections to a peer that counts pings as Go's server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, timeout};

use crate::connection::driver::keepalive_tests::{
    ACK, END_HEADERS, GOAWAY, HEADERS, PING, call, frame, greeted_with, next,
};
use crate::connection::*;

const IDLE: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options { idle_timeout: Some(IDLE), keep_alive: None, ..Options::default() }
}

/// Go's default without calls in flight: of pings less than two hours apart the fourth since an answer is too many.
async fn count_pings(mut read: ReadHalf<DuplexStream>, mut write: WriteHalf<DuplexStream>, pings: Arc<AtomicU32>) {
    let (mut since_answer, mut stream) = (0, 1);
    while let Some((kind, flags, payload)) = next(&mut read).await {
        if kind == HEADERS {
            since_answer = 0;
            write.write_all(&frame(HEADERS, END_HEADERS, stream, &[0x88])).await.unwrap(); // :status 200
            stream += 2;
        }
        if kind == PING && flags == 0 {
            pings.fetch_add(1, Ordering::Relaxed);
            since_answer += 1;
            write.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap();
            if since_answer > 3 {
                let said = [&[0, 0, 0, 1, 0, 0, 0, 11], &b"too_many_pings"[..]].concat();
                return write.write_all(&frame(GOAWAY, 0, 0, &said)).await.unwrap();
            }
        }
    }
}

/// Waits until it is idle; it takes nothing then.
async fn be_idle(connection: &Connection) {
    assert!(connection.has_capacity());
    sleep(IDLE + Duration::from_millis(10)).await;
    assert!(!connection.has_capacity() && connection.reserve().is_none() && !connection.is_closing());
}

async fn prove(connection: &Connection) {
    assert!(connection.probe());
    assert!(!connection.probe(), "asked for already");
    let proven = async {
        while !connection.has_capacity() && !connection.is_closing() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), proven).await.unwrap();
}

/// F47: two pings between the answers of two calls, and another connection in place of a third.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_asked_twice_for_each_answer() {
    let (connection, read, write) = greeted_with(&options(), 1 << 20).await;
    let pings = Arc::new(AtomicU32::new(0));
    tokio::spawn(count_pings(read, write, pings.clone()));
    for _ in 0..2 {
        for _ in 0..2 {
            be_idle(&connection).await;
            prove(&connection).await;
            assert!(connection.has_capacity(), "{:?}", connection.states());
        }
        // The peer answers it with a head, and no more.
        let began = timeout(Duration::from_secs(1), call(&connection)).await;
        assert!(began.is_err(), "{began:?}");
    }
    assert_eq!(pings.load(Ordering::Relaxed), 4);
    for _ in 0..2 {
        be_idle(&connection).await;
        prove(&connection).await;
    }
    be_idle(&connection).await;
    prove(&connection).await;
    assert!(connection.is_closing());
    let state = connection.states().borrow().clone();
    assert!(
        matches!(&state, ConnectionState::Draining(end) if end.to_string().contains("as often as servers permit")),
        "{state:?}"
    );
    assert_eq!(pings.load(Ordering::Relaxed), 6);
}

/// F47: a connection that was forgotten is left within a second, and nobody waits where nobody asks.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_does_not_answer_is_left() {
    let (connection, _read, _write) = greeted_with(&options(), 1 << 20).await;
    be_idle(&connection).await;
    sleep(10 * IDLE).await;
    assert!(!connection.is_closing(), "nobody has asked");
    let began = Instant::now();
    prove(&connection).await;
    assert!(connection.is_closing());
    assert!((990..=1050).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

/// F47: what a server says by itself proves as much as the answer to a ping.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_is_heard_needs_no_proof() {
    let (connection, _read, mut write) = greeted_with(&options(), 1 << 20).await;
    be_idle(&connection).await;
    write.write_all(&frame(8, 0, 0, &[0, 0, 0, 1])).await.unwrap(); // a window of one more
    let heard = async {
        while !connection.has_capacity() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), heard).await.unwrap();
    assert!(!connection.probe());
    be_idle(&connection).await;
}

/// Answers each PING for as long as it is told to.
async fn answer_pings(mut read: ReadHalf<DuplexStream>, mut write: WriteHalf<DuplexStream>, pings: Arc<AtomicU32>) {
    while let Some((kind, flags, payload)) = next(&mut read).await {
        if kind == PING && flags == 0 {
            pings.fetch_add(1, Ordering::Relaxed);
            write.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap();
        }
    }
}

/// Nobody calls, and something is awaited: an unhealthy server's word that it serves again.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_on_which_something_is_awaited_is_probed_within_what_servers_permit() {
    for is_idle_before in [false, true] {
        let (connection, read, write) = greeted_with(&options(), 1 << 20).await;
        let pings = Arc::new(AtomicU32::new(0));
        let peer = tokio::spawn(answer_pings(read, write, pings.clone()));
        if is_idle_before {
            be_idle(&connection).await;
        }
        connection.set_awaited(true);
        sleep(Duration::from_secs(60 * 60)).await;
        // Two, and then one in a little more than five minutes.
        let sent = pings.load(Ordering::Relaxed);
        assert!((10..=13).contains(&sent) && !connection.is_closing(), "{sent} {:?}", connection.states());

        connection.set_awaited(false);
        sleep(2 * IDLE).await;
        let sent = pings.load(Ordering::Relaxed);
        sleep(Duration::from_secs(60 * 60)).await;
        assert_eq!(pings.load(Ordering::Relaxed), sent, "nothing is awaited any more");
        peer.abort();
    }
    let (connection, _read, _write) = greeted_with(&options(), 1 << 20).await;
    connection.set_awaited(true);
    let began = Instant::now();
    connection.closing().await;
    assert!(began.elapsed() < IDLE + Duration::from_secs(2), "{:?}", began.elapsed());
}
