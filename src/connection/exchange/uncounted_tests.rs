//! A stream that counts nowhere, against a scripted HTTP/2 server.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::sync::mpsc;

use crate::connection::tests::{echo, exchange, fed, head, pair, serve, server};
use crate::connection::{ConnectionState, FailureKind, KeepAlive, Options, Reason, UncountedBody};

/// The next data of a body, or nothing at its end.
async fn next(body: &mut UncountedBody) -> Option<Vec<u8>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.unwrap().into_data().map_or_else(|_| b"trailers".to_vec(), |data| data.to_vec()))
}

#[tokio::test]
async fn it_takes_one_stream_of_the_server_and_counts_nowhere() {
    let (connection, peer) = pair(&Options::default(), server().max_concurrent_streams(2)).await;
    serve(peer, echo);
    let uncounted = connection.open_uncounted(head(), Bytes::from_static(b"hello")).unwrap();
    assert_eq!((connection.in_flight(), connection.begun(), connection.available_streams()), (0, 0, 1));
    let mut body = uncounted.response().await.unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap(), b"hello");
    assert_eq!((next(&mut body).await.unwrap(), next(&mut body).await), (b"trailers".to_vec(), None));
    assert!(!connection.0.shared.has_progress.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!((connection.in_flight(), connection.begun(), connection.available_streams()), (0, 0, 1));
    let (_feed, body_of_call) = fed();
    let _call = exchange(&connection, body_of_call);
    assert_eq!((connection.in_flight(), connection.begun(), connection.has_capacity()), (1, 1, false));
    drop(body);
    assert_eq!(connection.available_streams(), 1);
}

#[tokio::test]
async fn dropping_it_resets_the_stream_and_leaves_the_connection_to_close() {
    let (connection, peer) = pair(&Options::default(), &server()).await;
    let (told, mut tell) = mpsc::unbounded_channel();
    let server = serve(peer, move |_request, mut respond| {
        let told = told.clone();
        async move {
            let mut out = respond.send_response(Response::new(()), false).unwrap();
            told.send(std::future::poll_fn(|cx| out.poll_reset(cx)).await.ok()).unwrap();
        }
    });
    let body = connection.open_uncounted(head(), Bytes::new()).unwrap().response().await.unwrap();
    drop(connection);
    drop(body);
    assert_eq!(tell.recv().await, Some(Some(Reason::CANCEL)));
    server.await.unwrap();
}

#[tokio::test]
async fn a_closing_connection_opens_none() {
    let (connection, _peer) = pair(&Options::default(), &server()).await;
    connection.retire();
    let failure = connection.open_uncounted(head(), Bytes::new()).err().unwrap();
    assert_eq!(failure.kind, FailureKind::NotSent);
    assert_eq!(connection.available_streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_pinged_for_it() {
    let keep_alive = KeepAlive::new(Duration::from_millis(500), Duration::from_millis(500));
    let options = Options { keep_alive: Some(keep_alive), ..Options::default() };
    let (connection, _frozen) = pair(&options, &server()).await;
    let uncounted = connection.open_uncounted(head(), Bytes::new()).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((&*connection.states().borrow(), connection.last_ping()), (&ConnectionState::Ready, None));
    drop(uncounted);
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_found_while_something_is_awaited_of_it() {
    let keep_alive = KeepAlive::new(Duration::from_millis(500), Duration::from_millis(500));
    let options = Options { keep_alive: Some(keep_alive), ..Options::default() };
    let (connection, _frozen) = pair(&options, &server()).await;
    let _uncounted = connection.open_uncounted(head(), Bytes::new()).unwrap();
    connection.set_awaited(true);
    let reason = tokio::time::timeout(Duration::from_secs(3), connection.closing()).await.unwrap();
    assert!(reason.to_string().contains("keep-alive"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn it_is_open_once_exchanges_leave_it_a_stream() {
    let (connection, peer) = pair(&Options::default(), server().max_concurrent_streams(1)).await;
    serve(peer, echo);
    let (feed, body) = fed();
    let call = exchange(&connection, body);
    let mut uncounted = connection.open_uncounted(head(), Bytes::new()).unwrap();
    let mut opened = std::pin::pin!(uncounted.opened());
    assert!(tokio::time::timeout(Duration::from_secs(60), opened.as_mut()).await.is_err(), "a call has the stream");
    drop(feed);
    drop(call.await.unwrap());
    tokio::time::timeout(Duration::from_secs(60), opened).await.unwrap();
    uncounted.response().await.unwrap();
}
