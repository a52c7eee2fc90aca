//! A server on h2 alone, for headers that tonic's server does not send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::support::until;

/// What it answers, but for `FullDuplexCall`, which it echoes.
#[derive(Clone)]
pub(crate) enum Answer {
    /// A message, and these.
    Trailers(HeaderMap),
    /// Messages of this size without an end, as far as the window lets them pass; a message to `EmptyCall`.
    Endless { chunk: usize },
    /// An answer of any HTTP server; the body goes on without an end where it is to.
    Http { status: u16, headers: HeaderMap, body: Bytes, ends: bool },
}

pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
    task: AbortHandle,
}

#[derive(Default)]
struct Counts {
    calls: AtomicUsize,
    stalled: AtomicUsize,
}

/// A stream without room for so long counts as full.
const STALL: Duration = Duration::from_millis(300);

impl Scripted {
    pub(crate) async fn start(answer: Answer) -> Self {
        let mut builder = server::Builder::new();
        builder.max_header_list_size(1 << 24);
        Self::built(builder, answer).await
    }

    /// Its SETTINGS say nothing of headers.
    pub(crate) async fn silent(answer: Answer) -> Self {
        Self::built(server::Builder::new(), answer).await
    }

    async fn built(builder: server::Builder, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::<Counts>::default();
        let counted = counts.clone();
        let serve = async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (builder, answer, counted) = (builder.clone(), answer.clone(), counted.clone());
                tokio::spawn(async move {
                    let Ok(mut connection) = builder.handshake(tcp).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(play(request, respond, answer.clone(), counted.clone()));
                    }
                });
            }
        };
        Self { address, counts, task: tokio::spawn(serve).abort_handle() }
    }

    pub(crate) fn calls(&self) -> usize {
        self.counts.calls.load(SeqCst)
    }

    /// Waits until so many streams have found no room.
    pub(crate) async fn stalled(&self, count: usize) {
        until("streams to be full", || self.counts.stalled.load(SeqCst) >= count).await;
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn play(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, answer: Answer, counts: Arc<Counts>) {
    let grpc = || Response::builder().header("content-type", "application/grpc");
    let (head, mut body) = request.into_parts();
    if head.uri.path().ends_with("FullDuplexCall") {
        let Ok(mut out) = respond.send_response(grpc().body(()).unwrap(), false) else { return };
        while let Some(Ok(data)) = body.data().await {
            drop(body.flow_control().release_capacity(data.len()));
            drop(out.send_data(data, false));
        }
        return;
    }
    while let Some(Ok(data)) = body.data().await {
        drop(body.flow_control().release_capacity(data.len()));
    }
    counts.calls.fetch_add(1, SeqCst);
    match answer {
        Answer::Endless { .. } if head.uri.path().ends_with("EmptyCall") => {
            let Ok(mut out) = respond.send_response(grpc().body(()).unwrap(), false) else { return };
            drop(out.send_data(Bytes::from_static(&[0; 5]), false));
            drop(out.send_trailers(
                [("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))].into_iter().collect(),
            ));
        }
        Answer::Endless { chunk } => {
            let Ok(mut out) = respond.send_response(grpc().body(()).unwrap(), false) else { return };
            // A message of field 15 that nobody knows, of exactly this size.
            let length = (chunk - 5) as u32;
            let payload = length - 4;
            let start = [0x7a, (payload % 128) as u8 | 128, (payload / 128 % 128) as u8 | 128, (payload >> 14) as u8];
            let mut message = [&[0][..], &length.to_be_bytes(), &start].concat();
            message.resize(chunk, 0);
            let message = Bytes::from(message);
            loop {
                out.reserve_capacity(chunk);
                while out.capacity() < chunk {
                    let waits = std::future::poll_fn(|cx| out.poll_capacity(cx));
                    let waited = if let Ok(waited) = timeout(STALL, waits).await {
                        waited
                    } else {
                        counts.stalled.fetch_add(1, SeqCst);
                        std::future::poll_fn(|cx| out.poll_capacity(cx)).await
                    };
                    if !matches!(waited, Some(Ok(_))) {
                        return;
                    }
                }
                if out.send_data(message.clone(), false).is_err() {
                    return;
                }
            }
        }
        Answer::Trailers(trailers) => {
            let Ok(mut out) = respond.send_response(grpc().body(()).unwrap(), false) else { return };
            drop(out.send_data(Bytes::from_static(&[0; 5]), false));
            drop(out.send_trailers(trailers));
        }
        Answer::Http { status, headers, body, ends } => {
            let mut response = Response::builder().status(status).body(()).unwrap();
            *response.headers_mut() = headers;
            let over = ends && body.is_empty();
            let Ok(mut out) = respond.send_response(response, over) else { return };
            if !over {
                drop(out.send_data(body, ends));
            }
            if !ends {
                drop(std::future::poll_fn(|cx| out.poll_reset(cx)).await);
            }
        }
    }
}
