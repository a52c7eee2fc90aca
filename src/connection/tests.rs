//! A connection against a scripted HTTP/2 server on the other end of a pipe.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{self, SendResponse};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;

use super::*;

pub(super) type Server = server::Connection<DuplexStream, Bytes>;

/// A body that is fed from outside.
pub(super) struct Fed(mpsc::UnboundedReceiver<Bytes>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

pub(super) fn fed() -> (mpsc::UnboundedSender<Bytes>, Fed) {
    let (feed, body) = mpsc::unbounded_channel();
    (feed, Fed(body))
}

fn whole(data: &'static [u8]) -> Fed {
    let (feed, body) = fed();
    feed.send(Bytes::from_static(data)).unwrap();
    body
}

pub(super) fn head() -> Request<()> {
    Request::post("http://server/service/method").body(()).unwrap()
}

pub(super) async fn pair(options: &Options, builder: &server::Builder) -> (Connection, Server) {
    let (ours, theirs) = duplex(1 << 16);
    let serve = async {
        let mut server: Server = builder.handshake(theirs).await.unwrap();
        // The greeting is over once the client has all of the server's.
        let once = std::future::poll_fn(|cx| {
            drop(server.poll_closed(cx));
            Poll::Ready(())
        });
        once.await;
        server
    };
    let (connection, server) = tokio::join!(
        Connection::handshake(ours, options, options.connect_timeout, Arc::<tokio::sync::Notify>::default()),
        serve
    );
    (connection.unwrap(), server)
}

/// Runs the server; gives each request to `answer` in a task of its own.
pub(super) fn serve<F, A>(mut server: Server, answer: A) -> tokio::task::JoinHandle<()>
where
    A: Fn(Request<h2::RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while let Some(Ok((request, respond))) = server.accept().await {
            tokio::spawn(answer(request, respond));
        }
    })
}

/// Starts an exchange, and gives what becomes of it.
pub(super) fn exchange(
    connection: &Connection,
    body: Fed,
) -> impl Future<Output = Result<Response<RecvBody>, Failure>> + use<> {
    let slot = connection.reserve().expect("room for an exchange");
    let mut exchange = connection.exchange(slot, head(), body).unwrap_or_else(|(failure, _)| panic!("{failure}"));
    async move {
        let (parts, stream) = std::future::poll_fn(|cx| exchange.poll_head(cx)).await?.into_parts();
        Ok(Response::from_parts(parts, exchange.into_response_body(stream, |_, _| {}).0))
    }
}

async fn collect(mut answer: RecvBody) -> Result<(Vec<u8>, Option<HeaderMap>), Failure> {
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(part) => data.extend_from_slice(&part),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((data, trailers))
}

/// Echoes the request, then a trailer.
pub(super) async fn echo(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    let mut out = respond.send_response(Response::new(()), false).unwrap();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        let mut rest = data;
        while !rest.is_empty() {
            out.reserve_capacity(rest.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| out.poll_capacity(cx)).await else { return };
            let room = room.min(rest.len());
            out.send_data(rest.split_to(room), false).unwrap();
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    drop(out.send_trailers(trailers));
}

pub(super) fn server() -> server::Builder {
    server::Builder::new()
}

#[tokio::test]
async fn an_exchange_goes_out_and_comes_back() {
    let (connection, peer) = pair(&Options::default(), &server()).await;
    serve(peer, echo);
    let response = exchange(&connection, whole(b"hello")).await.unwrap();
    let (data, trailers) = collect(response.into_body()).await.unwrap();
    assert_eq!((data.as_slice(), trailers.unwrap()["grpc-status"].as_bytes()), (&b"hello"[..], &b"0"[..]));
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn messages_larger_than_every_window_pass_both_ways() {
    let options = Options { stream_window: 1 << 16, connection_window: 1 << 17, ..Options::default() };
    let (connection, peer) = pair(&options, server().initial_window_size(1 << 14)).await;
    serve(peer, echo);
    let (feed, body) = fed();
    let exchange = exchange(&connection, body);
    let message: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    feed.send(message.clone().into()).unwrap();
    feed.send(message[..17].to_vec().into()).unwrap();
    drop(feed);
    let (data, _) = collect(exchange.await.unwrap().into_body()).await.unwrap();
    assert_eq!(data.len(), message.len() + 17);
    assert!(data.starts_with(&message) && data.ends_with(&message[..17]));
}

#[tokio::test]
async fn answers_may_come_before_the_request_has_ended() {
    let (connection, peer) = pair(&Options::default(), &server()).await;
    serve(peer, echo);
    let (feed, body) = fed();
    let mut answer = exchange(&connection, body).await.unwrap().into_body();
    for round in 0..10_u8 {
        feed.send(vec![round; 3].into()).unwrap();
        let frame = std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), vec![round; 3]);
    }
    drop(feed);
    assert!(collect(answer).await.unwrap().1.is_some());
}

#[tokio::test(start_paused = true)]
async fn whoever_accepts_and_says_nothing_is_never_ready() {
    let (ours, _theirs) = duplex(1 << 16);
    let failure =
        Connection::handshake(ours, &Options::default(), Duration::from_secs(5), Arc::<tokio::sync::Notify>::default())
            .await
            .err()
            .unwrap();
    assert_eq!(failure.kind, FailureKind::NotSent);
    assert!(failure.to_string().contains("SETTINGS"), "{failure}");
}

#[tokio::test]
async fn the_servers_limit_is_known() {
    let (connection, peer) = pair(&Options::default(), server().max_concurrent_streams(1)).await;
    serve(peer, echo);
    assert!(connection.has_capacity());
    let (_feed, body) = fed();
    let _exchange = exchange(&connection, body);
    assert!(!connection.has_capacity());
}

#[tokio::test]
async fn dropping_the_answer_resets_the_stream_and_ends_the_request() {
    let (connection, peer) = pair(&Options::default(), &server()).await;
    let (told, mut tell) = mpsc::unbounded_channel();
    serve(peer, move |request, mut respond| {
        let told = told.clone();
        async move {
            let _out = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                if let Err(error) = data {
                    told.send(error.reason()).unwrap();
                    return;
                }
            }
        }
    });
    let (feed, body) = fed();
    let answer = exchange(&connection, body).await.unwrap();
    drop(answer);
    assert_eq!(tell.recv().await, Some(Some(Reason::CANCEL)));
    feed.closed().await;
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_reset_by_the_server_ends_the_request() {
    let (connection, peer) = pair(&Options::default(), &server()).await;
    serve(peer, |_request, mut respond| async move { respond.send_reset(Reason::REFUSED_STREAM) });
    let (feed, body) = fed();
    let failure = exchange(&connection, body).await.err().expect("a reset");
    assert_eq!(failure.kind, FailureKind::Refused);
    feed.closed().await;
}

#[tokio::test]
async fn a_goaway_tells_what_was_never_processed() {
    let (connection, mut peer) = pair(&Options::default(), &server()).await;
    let mut states = connection.states();
    let (_feed, body) = fed();
    let first = exchange(&connection, body);
    let first = tokio::spawn(first);
    let (_request, mut respond) = peer.accept().await.unwrap().unwrap();
    peer.abrupt_shutdown(Reason::NO_ERROR);
    let drive = tokio::spawn(async move { while peer.accept().await.is_some() {} });
    states.wait_for(|state| matches!(state, ConnectionState::Draining(_) | ConnectionState::Closed(_))).await.unwrap();
    assert!(connection.is_closing());
    assert!(connection.reserve().is_none());
    let unlucky = StreamPermit(connection.0.shared.clone());
    let (failure, _body) =
        connection.exchange(unlucky, head(), whole(b"late")).err().expect("refused before it is sent");
    assert_eq!(failure.kind, FailureKind::NotSent);
    drop(respond.send_response(Response::new(()), true));
    drop(first.await);
    drive.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silence_with_calls_in_flight_is_found_out_and_without_is_not() {
    let keep_alive = KeepAlive::new(Duration::from_millis(500), Duration::from_millis(500));
    let options = Options { keep_alive: Some(keep_alive), ..Options::default() };
    let (connection, _frozen) = pair(&options, &server()).await;
    let mut states = connection.states();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*states.borrow_and_update(), ConnectionState::Ready, "an idle connection is left alone");
    let exchange = exchange(&connection, whole(b"hello"));
    let failure = exchange.await.err().expect("nobody answers");
    assert_eq!(failure.kind, FailureKind::Lost);
    assert!(
        matches!(&*states.borrow(), ConnectionState::Closed(end) if end.to_string().contains("keep-alive")),
        "{states:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn silence_is_counted_from_the_last_sign_of_life() {
    let keep_alive = KeepAlive::new(Duration::from_secs(20), Duration::from_secs(10));
    let options = Options { keep_alive: Some(keep_alive), ..Options::default() };
    let (connection, mut peer) = pair(&options, &server()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answers = async {
        let (_, mut respond) = peer.accept().await.unwrap().unwrap();
        let stream = respond.send_response(Response::new(()), false).unwrap();
        drop(tokio::time::timeout(Duration::from_secs(1), peer.accept()).await); // it is written meanwhile
        stream
    };
    let (answer, _frozen) = tokio::join!(exchange(&connection, whole(b"hello")), answers);
    let frozen = tokio::time::Instant::now();
    let failure = collect(answer.unwrap().into_body()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Lost);
    assert!(frozen.elapsed() <= keep_alive.interval + keep_alive.timeout, "{:?}", frozen.elapsed());
}

#[tokio::test]
async fn the_connection_closes_when_nobody_holds_it_and_its_calls_have_ended() {
    let (connection, peer) = pair(&Options::default(), &server()).await;
    let served = serve(peer, echo);
    let (feed, body) = fed();
    let answer = exchange(&connection, body).await.unwrap();
    drop(connection);
    feed.send(Bytes::from_static(b"still here")).unwrap();
    drop(feed);
    assert_eq!(collect(answer.into_body()).await.unwrap().0, b"still here");
    served.await.unwrap();
}

/// The handle of a finished stream is kept for the next request. It must keep nothing open.
#[tokio::test(start_paused = true)]
async fn a_kept_stream_holds_no_connection_open() {
    for drained in [false, true] {
        let (connection, mut peer) = pair(&Options::default(), &server()).await;
        let (leave, mut left) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let mut draining = false;
            while let Some(Ok((request, respond))) = std::future::poll_fn(|cx| {
                if !draining && Pin::new(&mut left).poll(cx).is_ready() {
                    draining = true;
                    peer.graceful_shutdown();
                }
                peer.poll_accept(cx)
            })
            .await
            {
                tokio::spawn(echo(request, respond));
            }
        });
        for _ in 0..3 {
            let response = exchange(&connection, whole(b"hello")).await.unwrap();
            assert!(collect(response.into_body()).await.unwrap().1.is_some());
            assert!(connection.0.shared.finished.is_any());
        }
        let began = tokio::time::Instant::now();
        if drained {
            leave.send(()).unwrap();
            connection.closing().await;
            serving.await.unwrap();
            assert!(!connection.0.shared.finished.is_any());
        } else {
            let shared = connection.0.shared.clone();
            drop(connection);
            serving.await.unwrap();
            assert!(!shared.finished.is_any());
            drop(leave);
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

/// Beside another call no handle is kept: the driver runs for that call anyway.
#[tokio::test]
async fn a_stream_that_ends_beside_another_is_not_kept() {
    let (connection, peer) = pair(&Options::default(), &server()).await;
    serve(peer, echo);
    let (_feed, body) = fed();
    let open = exchange(&connection, body);
    let response = exchange(&connection, whole(b"hello")).await.unwrap();
    assert!(collect(response.into_body()).await.unwrap().1.is_some());
    assert!(!connection.0.shared.finished.is_any());
    drop(open);
}
