//! h2's own server, and what it bears.

use std::future::Future;

use bytes::Bytes;
use h2::{Reason, client, server};
use http::Response as RecvBody;
use tokio::io::{DuplexStream, duplex};

use crate::connection::proof::{Poll, Request, poll_fn};

type Server = server::Connection<DuplexStream, Bytes>;

async fn pair() -> (client::SendRequest<Bytes>, Server) {
    let (ours, theirs) = duplex(1 << 20);
    let (ours, theirs) = tokio::join!(client::handshake(ours), server::handshake(theirs));
    let (send, connection) = ours.unwrap();
    tokio::spawn(connection);
    (send, theirs.unwrap())
}

fn requests(send: &mut client::SendRequest<Bytes>, count: usize) -> Vec<client::ResponseFuture> {
    let head = || Request::post("http://server/service/method").body(()).unwrap();
    (0..count).map(|_| send.clone().send_request(head(), true).unwrap().0).collect()
}

/// Lets the client write.
async fn written() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// Accepts what has come, and gives the error that ends it.
async fn accepted(server: &mut Server) -> (Vec<server::SendResponse<Bytes>>, Option<h2::Error>) {
    let mut all = Vec::new();
    loop {
        let mut next = std::pin::pin!(server.accept());
        match poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
            Poll::Ready(Some(Ok((_, respond)))) => all.push(respond),
            Poll::Ready(Some(Err(error))) => return (all, Some(error)),
            Poll::Ready(None) | Poll::Pending => return (all, None),
        }
    }
}

/// F31: more than 20 streams that are reset before the server has accepted them end the connection.
#[tokio::test]
async fn streams_reset_before_they_are_accepted_are_counted() {
    for (count, ends) in [(20, false), (21, true)] {
        let (mut send, mut server) = pair().await;
        let calls = requests(&mut send, count);
        written().await;
        drop(calls);
        written().await;
        let (_, error) = accepted(&mut server).await;
        let reason = error.and_then(|error| error.reason());
        assert_eq!(reason, ends.then_some(Reason::ENHANCE_YOUR_CALM), "{count}");
    }
}

/// F31: streams that were accepted are not counted, whether they have an answer or not.
#[tokio::test]
async fn streams_reset_after_they_were_accepted_are_not_counted() {
    for answered in [true, false] {
        let (mut send, mut server) = pair().await;
        let calls = requests(&mut send, 100);
        written().await;
        let (mut responds, error) = accepted(&mut server).await;
        assert_eq!((responds.len(), error.is_none()), (100, true));
        if answered {
            responds.iter_mut().for_each(|respond| _ = respond.send_response(RecvBody::new(()), false).unwrap());
        }
        drop(calls);
        written().await;
        assert!(accepted(&mut server).await.1.is_none());
        let more = requests(&mut send, 1);
        written().await;
        assert_eq!(accepted(&mut server).await.0.len(), 1, "the connection goes on");
        drop(more);
    }
}

/// F31: streams are accepted in their order, so that an answer on one shows that all before it were accepted.
#[tokio::test]
async fn streams_are_accepted_in_their_order() {
    let (mut send, mut server) = pair().await;
    let _calls = requests(&mut send, 30);
    written().await;
    let (responds, _) = accepted(&mut server).await;
    let ids: Vec<_> = responds.iter().map(|respond| respond.stream_id().as_u32()).collect();
    assert_eq!(ids, (0..30).map(|i| 2 * i + 1).collect::<Vec<_>>());
}
