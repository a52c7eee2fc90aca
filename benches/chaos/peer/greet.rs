//! The services of a peer.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use greeter_proto::bench::streams_server::Streams;
use greeter_proto::bench::{Chunk, DownloadRequest, UploadReply};
use greeter_proto::greeter_server::Greeter;
use greeter_proto::{HelloReply, HelloRequest};
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_stream::{Stream, StreamExt as _, iter, once};
use tonic::{Code, Request, Response, Status, Streaming};

use super::conduct::{Fault, Switch};
use super::log::Arrivals;

pub(crate) const ASK_FOR_TEXT: &str = "text of ";
pub(crate) const TEXT_CODE: Code = Code::FailedPrecondition;
/// In a response to a call that had attempts before: how many.
pub(crate) const ATTEMPTS_BEFORE: &str = "attempts-before";
/// Chunks of up to this size are small: each is sent in a frame of its own.
const SMALL: u32 = 64;
/// tokio's timer counts in steps of this.
const TICK: Duration = Duration::from_millis(1);

type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

#[derive(Clone)]
pub(super) struct Me {
    number: u8,
    switch: Arc<Switch>,
    arrivals: Arc<Arrivals>,
}

impl Me {
    pub(super) fn new(number: u8, switch: Arc<Switch>, arrivals: Arc<Arrivals>) -> Self {
        Self { number, switch, arrivals }
    }

    /// Notes the call, and does with it what the peer is told to.
    async fn answer(&self) -> Result<(), Status> {
        self.arrivals.note(self.number);
        let conduct = self.switch.get();
        match conduct.next_fault() {
            None => {
                pass(conduct.delay).await;
                Ok(())
            }
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Status(code)) => Err(Status::new(code, "as it was told")),
            // As a panic, and without the hook that would print it.
            Some(Fault::Panic) => resume_unwind(Box::new("as it was told")),
        }
    }
}

#[tonic::async_trait]
impl Greeter for Me {
    /// Whoever greets with [`ASK_FOR_TEXT`], a number and a text has so much of it as the status of the call, at once.
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let before = request.metadata().get("grpc-previous-rpc-attempts").cloned();
        let name = request.into_inner().name;
        if let Some((count, text)) = name.strip_prefix(ASK_FOR_TEXT).and_then(|wanted| wanted.split_once(' ')) {
            return Err(Status::new(TEXT_CODE, text.repeat(count.parse().unwrap_or_default())));
        }
        self.answer().await?;
        let mut response = Response::new(HelloReply { message: format!("Hello {name}") });
        if let Some(before) = before {
            response.metadata_mut().insert(ATTEMPTS_BEFORE, before);
        }
        Ok(response)
    }
}

#[tonic::async_trait]
impl Streams for Me {
    type DownloadStream = Chunks;

    /// With size 0 one chunk, as the peer answers; else small or large ones without an end.
    async fn download(&self, request: Request<DownloadRequest>) -> Result<Response<Chunks>, Status> {
        let size = request.get_ref().size;
        let chunk = Chunk { payload: vec![0; size as usize].into() };
        let chunks: Chunks = match size {
            0 => {
                let me = self.clone();
                Box::pin(once(()).then(move |()| {
                    let me = me.clone();
                    async move { me.answer().await.map(|()| Chunk::default()) }
                }))
            }
            1..=SMALL => {
                let chunks = iter(std::iter::repeat(chunk)).then(|chunk| async {
                    yield_now().await;
                    Ok(chunk)
                });
                Box::pin(chunks)
            }
            _ => Box::pin(iter(std::iter::repeat(chunk)).map(Ok)),
        };
        Ok(Response::new(chunks))
    }

    async fn upload(&self, request: Request<Streaming<Chunk>>) -> Result<Response<UploadReply>, Status> {
        let (mut stream, mut chunks) = (request.into_inner(), 0);
        while stream.message().await?.is_some() {
            chunks += 1;
        }
        Ok(Response::new(UploadReply { chunks }))
    }
}

/// What is shorter than the timer can tell is passed by waiting in turns.
async fn pass(delay: Duration) {
    if delay >= TICK {
        return sleep(delay).await;
    }
    let began = Instant::now();
    while began.elapsed() < delay {
        yield_now().await;
    }
}
