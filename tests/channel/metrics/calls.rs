//! Calls and their attempts by status, with one attempt each.

use std::time::Duration;

use tonic::{Code, Request};

use super::{ATTEMPTS, CALLS, METHOD, RECEIVED, SENT, STARTED, TARGET, by_status, check, recorder};
use crate::peer::{Part, Peer, Script};
use crate::support::{builder, changing, greet, over, ready, until};

#[tokio::test]
async fn a_call_counts_with_its_status_and_the_sizes_of_its_messages() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Greet).await;
    let channel = over(builder().metrics(metrics), [&peer.address]);
    for _ in 0..3 {
        greet(&channel).await.unwrap();
    }
    let labels = [("grpc.method", METHOD), ("grpc.target", TARGET)];
    assert_eq!(recorder.values(STARTED, &labels).value, 3.0);
    for instrument in [ATTEMPTS, CALLS] {
        assert_eq!(recorder.count(instrument, &[labels[0], labels[1], ("grpc.status", "OK")]), 3);
    }
    // A field with its tag and length: "world" and "Hello world".
    assert_eq!(recorder.values(SENT, &labels).value, 3.0 * 7.0);
    assert_eq!(recorder.values(RECEIVED, &labels).value, 3.0 * 13.0);
    check(&channel, &recorder);
}

#[tokio::test]
async fn each_end_of_a_call_has_the_status_that_its_caller_gets() {
    let scripts = [
        Script::Status(5, Vec::new()),
        Script::Status(16, Vec::new()),
        Script::Reset(h2::Reason::INTERNAL_ERROR),
        Script::Break,
        Script::BreakAfter(Part::Head),
        Script::BreakAfter(Part::Message),
        Script::Http(404),
        Script::Http(503),
    ];
    for script in scripts {
        let (recorder, metrics) = recorder();
        let peer = Peer::start(script).await;
        let channel = over(builder().metrics(metrics), [&peer.address]);
        let status = greet(&channel).await.unwrap_err();
        let expected = std::iter::once((super::name(status.code()), 1)).collect();
        assert_eq!(by_status(&recorder, CALLS), expected, "{status}");
        assert_eq!(by_status(&recorder, ATTEMPTS), expected, "{status}");
        check(&channel, &recorder);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled() {
    for script in [Script::Silence, Script::HeadOnly] {
        let (recorder, metrics) = recorder();
        let peer = Peer::start(script).await;
        let channel = over(builder().metrics(metrics), [&peer.address]);
        let call = tokio::spawn({
            let channel = channel.clone();
            async move { greet(&channel).await.map(drop) }
        });
        until("the call to arrive", || peer.seen.calls() == 1).await;
        assert_eq!((recorder.count(ATTEMPTS, &[]), recorder.count(CALLS, &[])), (0, 0));
        assert_eq!(recorder.values(STARTED, &[]).value, 1.0);
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        assert_eq!(recorder.count(CALLS, &[("grpc.status", "CANCELLED")]), 1);
        check(&channel, &recorder);
    }
}

#[tokio::test]
async fn a_call_that_is_not_polled_counts_nowhere() {
    let (recorder, metrics) = recorder();
    let (channel, _set) = changing(builder().metrics(metrics));
    drop(greet(&channel));
    let call = tower::Service::call(&mut channel.clone(), http::Request::new(tonic::body::Body::empty()));
    drop(call);
    assert_eq!(recorder.values(STARTED, &[]).value, 0.0);
    check(&channel, &recorder);
}

#[tokio::test]
async fn a_deadline_ends_call_and_attempt_with_a_server_and_without_one() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::HeadOnly).await;
    let soon = || builder().metrics(metrics.clone()).timeout(Duration::from_millis(30)).wait_for_ready(true);
    let channel = over(soon(), [&peer.address]);
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::DeadlineExceeded);
    check(&channel, &recorder);
    let (other, _set) = changing(soon());
    assert_eq!(greet(&other).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(other.stats().waiting(), 0);
    for instrument in [ATTEMPTS, CALLS] {
        assert_eq!(recorder.count(instrument, &[("grpc.status", "DEADLINE_EXCEEDED")]), 2);
    }
    assert_eq!(recorder.values("tonic_etcd.channel.waiting", &[]).value, 0.0);
    assert!(recorder.count("tonic_etcd.channel.waiting", &[]) >= 2, "the second call has waited");
}

#[tokio::test]
async fn the_wait_for_a_server_belongs_to_the_attempt() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Greet).await;
    let (channel, set) = changing(builder().metrics(metrics));
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { greet(&channel).await.unwrap() }
    });
    until("the call to wait", || channel.stats().waiting() == 1).await;
    let pause = Duration::from_millis(50);
    tokio::time::sleep(pause).await;
    set.add(peer.address);
    call.await.unwrap();
    for instrument in [ATTEMPTS, CALLS] {
        let labels = [("grpc.status", "OK")];
        assert!(recorder.values(instrument, &labels).value >= pause.as_secs_f64(), "{instrument}");
    }
    assert_eq!(channel.stats().waiting(), 0);
    check(&channel, &recorder);
}

#[tokio::test]
async fn a_stream_that_is_left_is_cancelled_and_has_received_what_was_read() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Flood).await;
    let channel = over(builder().metrics(metrics), [&peer.address]);
    ready(&channel, 1).await;
    let mut body = {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/a.B/Watch");
        let codec = crate::field::codec::Raw;
        grpc.server_streaming(Request::new(vec![1_u8, 2, 3]), path, codec).await.unwrap().into_inner()
    };
    let read = body.message().await;
    drop(body);
    assert!(read.is_ok(), "{read:?}");
    assert_eq!(recorder.count(CALLS, &[("grpc.status", "CANCELLED"), ("grpc.method", "other")]), 1);
    assert_eq!(recorder.values(SENT, &[]).value, 3.0);
    assert_eq!(recorder.count(RECEIVED, &[("grpc.status", "CANCELLED")]), 1);
    check(&channel, &recorder);
}

/// Sends the head of its answer at once, and each piece of the request back.
async fn echo() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let (head, mut body) =
                    (http::Response::builder().header("content-type", "application/grpc"), request.into_body());
                let mut out = respond.send_response(head.body(()).unwrap(), false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    out.send_data(data, false).unwrap();
                }
                let ok = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                out.send_trailers(ok).unwrap();
            });
        }
    });
    address
}

#[tokio::test]
async fn the_messages_of_a_stream_count_in_both_directions() {
    let (recorder, metrics) = recorder();
    let channel = over(builder().metrics(metrics), [&echo().await]);
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let (path, codec) = (http::uri::PathAndQuery::from_static("/a.B/Echo"), crate::field::codec::Raw);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut responses = grpc.streaming(Request::new(stream), path, codec).await.unwrap().into_inner();
    for length in [10, 0, 20_000] {
        requests.send(vec![7_u8; length]).await.unwrap();
        assert_eq!(responses.message().await.unwrap().unwrap().len(), length);
    }
    assert_eq!(recorder.count(ATTEMPTS, &[]), 0);
    drop(requests);
    assert_eq!(responses.message().await.unwrap(), None);
    let ok = [("grpc.status", "OK"), ("grpc.method", "other")];
    assert_eq!((recorder.values(SENT, &ok).value, recorder.values(RECEIVED, &ok).value), (20_010.0, 20_010.0));
    check(&channel, &recorder);
}

#[tokio::test]
async fn a_request_that_fails_has_the_status_of_its_own_body() {
    let (recorder, metrics) = recorder();
    let peer = Peer::start(Script::Silence).await;
    let channel = over(builder().metrics(metrics), [&peer.address]);
    let mut body = http_body_of([Ok(message(10)), Err(tonic::Status::data_loss("gone"))]);
    *body.uri_mut() = "/a.B/Put".parse().unwrap();
    let status = tower::Service::call(&mut channel.clone(), body).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    for instrument in [ATTEMPTS, CALLS] {
        assert_eq!(recorder.count(instrument, &[("grpc.status", "DATA_LOSS")]), 1, "{instrument}");
    }
    assert_eq!(recorder.values(SENT, &[]).value, 10.0);
    check(&channel, &recorder);
}

fn message(length: u32) -> bytes::Bytes {
    [&[0][..], &length.to_be_bytes(), &vec![7; length as usize]].concat().into()
}

fn http_body_of<const N: usize>(frames: [Result<bytes::Bytes, tonic::Status>; N]) -> http::Request<tonic::body::Body> {
    struct Frames(std::vec::IntoIter<Result<bytes::Bytes, tonic::Status>>);
    impl http_body::Body for Frames {
        type Data = bytes::Bytes;
        type Error = tonic::Status;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>> {
            std::task::Poll::Ready(self.0.next().map(|frame| frame.map(http_body::Frame::data)))
        }
    }
    http::Request::new(tonic::body::Body::new(Frames(Vec::from(frames).into_iter())))
}
