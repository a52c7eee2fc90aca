//! One stream: a request on its way out, an answer on its way back.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response, request, response};
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::cutter::Cutter;
use super::queue::{Inlet, Item, Outlet, queue};
use super::rule::Direction;
use super::state::Stream;

/// The last segment of the path.
pub(super) fn method(request: &Request<RecvStream>) -> &str {
    request.uri().path().rsplit('/').next().unwrap_or_default()
}

/// Carries a stream to its end: the answer's, or a reset by either side.
pub(super) async fn carry(
    stream: Stream,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
) {
    let stream = Arc::new(stream);
    let (requests, requests_out) = queue(&stream, Direction::Requests);
    let (responses, responses_out) = queue(&stream, Direction::Responses);
    let (asked, answer) = oneshot::channel();
    let way_out = WayOut { upstream, asked: Some(asked), refused: &responses };
    // Readers never end by themselves.
    tokio::select! {
        biased;
        () = read_request(request, &requests) => {}
        () = way_out.write(requests_out) => {}
        () = read_response(answer, &responses) => {}
        () = write_response(respond, responses_out, &requests) => {}
    }
}

async fn read_request(request: Request<RecvStream>, requests: &Inlet<request::Parts>) {
    let (head, mut body) = request.into_parts();
    let end = body.is_end_stream();
    requests.put(Item::Head { head, end, dropped: false });
    if !end {
        let _ = read_body(&mut body, requests).await; // who writes the answer sees a reset, also a later one
    }
    pending::<()>().await;
}

async fn read_response(answer: oneshot::Receiver<ResponseFuture>, responses: &Inlet<response::Parts>) {
    let Ok(answer) = answer.await else { return pending().await };
    let read = async {
        let (head, mut body) = answer.await?.into_parts();
        let end = body.is_end_stream();
        responses.put(Item::Head { head, end, dropped: false });
        if end { Ok(()) } else { read_body(&mut body, responses).await }
    };
    match read.await {
        Err(error) if error.is_reset() => responses.put(Item::Reset(error.reason().unwrap_or(Reason::CANCEL))),
        // The target leaves, and has not taken this stream.
        Err(error) if error.is_go_away() && error.reason() == Some(Reason::NO_ERROR) => {
            responses.put(Item::Reset(Reason::REFUSED_STREAM));
        }
        // Where the connection is lost, the client's is about to be.
        Err(_) | Ok(()) => {}
    }
    pending::<()>().await;
}

async fn read_body<H>(body: &mut RecvStream, inlet: &Inlet<H>) -> Result<(), h2::Error> {
    let mut cutter = Cutter::default();
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len()); // fails only when the stream has ended
        cutter.add(&data);
        while let Some(message) = cutter.next() {
            inlet.put(Item::Message(message));
        }
    }
    if let Some(rest) = cutter.rest() {
        inlet.put(Item::Message(rest));
    }
    inlet.put(Item::End(body.trailers().await?));
    Ok(())
}

/// To the target.
struct WayOut<'a> {
    upstream: SendRequest<Bytes>,
    /// Tells who reads the answer that there will be one.
    asked: Option<oneshot::Sender<ResponseFuture>>,
    refused: &'a Inlet<response::Parts>,
}

impl WayOut<'_> {
    /// Returns when the stream has been reset.
    async fn write(mut self, mut requests: Outlet<request::Parts>) {
        let (mut unsent, mut sink) = (None, None);
        loop {
            match requests.next().await {
                Item::Head { head, dropped: true, .. } => unsent = Some(head),
                Item::Head { head, end, .. } => sink = self.open(head, end).await,
                Item::Reset(reason) => return reset(sink, reason).await,
                item => {
                    if let Some(head) = unsent.take() {
                        sink = self.open(head, false).await;
                    }
                    if let Some(sink) = &mut sink {
                        send(sink, item);
                    }
                }
            }
        }
    }

    async fn open(&mut self, head: request::Parts, end: bool) -> Option<SendStream<Bytes>> {
        let request = Request::from_parts(head, ());
        let ready = self.upstream.clone().ready().await;
        let Ok((answer, sink)) = ready.and_then(|mut upstream| upstream.send_request(request, end)) else {
            self.refused.put(Item::Reset(Reason::REFUSED_STREAM));
            return None;
        };
        let _ = self.asked.take()?.send(answer);
        Some(sink)
    }
}

/// To the client.
enum WayBack {
    Unopened(SendResponse<Bytes>),
    Open(SendStream<Bytes>),
}

/// Returns when the answer is complete, or has been reset.
async fn write_response(
    respond: SendResponse<Bytes>,
    mut responses: Outlet<response::Parts>,
    requests: &Inlet<request::Parts>,
) {
    let (mut way, mut unsent) = (WayBack::Unopened(respond), None);
    loop {
        let item = tokio::select! {
            biased;
            reason = way.reset_by_client() => {
                requests.put(Item::Reset(reason));
                return pending().await; // until the target has been told
            }
            item = responses.next() => item,
        };
        let end = matches!(item, Item::End(_) | Item::Head { end: true, .. });
        match item {
            Item::Head { head, dropped: true, .. } => unsent = Some(head),
            Item::Head { head, end, .. } => way.open(head, end),
            Item::Reset(reason) => return way.reset(reason).await,
            item => {
                if let Some(head) = unsent.take() {
                    way.open(head, false);
                }
                if let WayBack::Open(sink) = &mut way {
                    send(sink, item);
                }
            }
        }
        if end {
            return;
        }
    }
}

impl WayBack {
    fn open(&mut self, head: response::Parts, end: bool) {
        let Self::Unopened(respond) = self else { return };
        if let Ok(sink) = respond.send_response(Response::from_parts(head, ()), end) {
            *self = Self::Open(sink);
        }
    }

    async fn reset(self, reason: Reason) {
        match self {
            Self::Unopened(mut respond) => respond.send_reset(reason),
            Self::Open(sink) => reset(Some(sink), reason).await,
        }
    }

    async fn reset_by_client(&mut self) -> Reason {
        poll_fn(|cx| {
            let reset = match self {
                Self::Unopened(respond) => respond.poll_reset(cx),
                Self::Open(sink) => sink.poll_reset(cx),
            };
            match reset {
                Poll::Ready(Ok(reason)) => Poll::Ready(reason),
                Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending, // an error is the connection's, and ends it
            }
        })
        .await
    }
}

/// Fails only on a stream that has been reset, whose reader tells.
fn send<H>(sink: &mut SendStream<Bytes>, item: Item<H>) {
    let _ = match item {
        Item::Message(message) => sink.send_data(message, false),
        Item::End(Some(trailers)) => sink.send_trailers(trailers),
        Item::End(None) => sink.send_data(Bytes::new(), true),
        Item::Head { .. } | Item::Reset(_) => Ok(()),
    };
}

/// h2 forgets what it has not written yet when it resets a stream: the connection's task writes first.
async fn reset(sink: Option<SendStream<Bytes>>, reason: Reason) {
    let Some(mut sink) = sink else { return };
    for _ in 0..4 {
        yield_now().await;
    }
    sink.send_reset(reason);
}
