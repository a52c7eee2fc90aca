//! Callers in this process: closed loops over one channel, until they are stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use greeter_proto::Channel;
use greeter_proto::HelloRequest;
use greeter_proto::bench::DownloadRequest;
use greeter_proto::bench::streams_client::StreamsClient;
use greeter_proto::greeter_client::GreeterClient;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use tonic::Status;

/// How long a call may go on after the end before it is dropped.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unary,
    /// A stream of the server that has one message, read to its end.
    Stream,
}

/// Dropped, their calls are dropped.
pub(super) struct Callers {
    tasks: JoinSet<()>,
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

/// Calls that ended so.
#[derive(Debug, Default)]
pub(super) struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
    /// Dropped by their caller.
    given_up: AtomicU64,
    /// The longest time that an answered call took, in microseconds.
    slowest: AtomicU64,
}

impl Callers {
    /// Each caller gives up a call after `patience`, if there is one.
    pub(super) fn start(channel: &impl Channel, callers: usize, kind: Kind, patience: Option<Duration>) -> Self {
        let (over, counts) = (Arc::<AtomicBool>::default(), Arc::<Counts>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            tasks.spawn(work(channel.clone(), kind, patience, over.clone(), counts.clone()));
        }
        Self { tasks, over, counts }
    }

    pub(super) fn answered(&self) -> u64 {
        self.counts.answered.load(Ordering::Relaxed)
    }

    /// The longest time that an answered call took.
    pub(super) fn slowest(&self) -> Duration {
        Duration::from_micros(self.counts.slowest.load(Ordering::Relaxed))
    }

    /// Ends them; calls under way may end, some time.
    pub(super) async fn stop(mut self) {
        self.over.store(true, Ordering::Relaxed);
        // What is left after it is dropped.
        let _ = timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

async fn work<C: Channel>(
    channel: C,
    kind: Kind,
    patience: Option<Duration>,
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
) {
    while !over.load(Ordering::Relaxed) {
        let (call, began) = (call(&channel, kind), Instant::now());
        let ended = match patience {
            None => Ok(call.await),
            Some(patience) => timeout(patience, call).await,
        };
        let count = match ended {
            Ok(Ok(())) => {
                counts.slowest.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
                &counts.answered
            }
            Ok(Err(_)) => &counts.failed,
            Err(_) => &counts.given_up,
        };
        count.fetch_add(1, Ordering::Relaxed);
        // Calls that end without waiting would keep the thread for themselves.
        yield_now().await;
    }
}

/// One call, to its end.
pub(super) async fn call<C: Channel>(channel: &C, kind: Kind) -> Result<(), Status> {
    match kind {
        Kind::Unary => greet(channel).await,
        Kind::Stream => {
            let mut client = StreamsClient::new(channel.clone());
            let mut chunks = client.download(DownloadRequest { size: 0 }).await?.into_inner();
            while chunks.message().await?.is_some() {}
            Ok(())
        }
    }
}

pub(super) async fn greet<C: Channel>(channel: &C) -> Result<(), Status> {
    let request = HelloRequest { name: "world".into() };
    GreeterClient::new(channel.clone()).say_hello(request).await.map(|_| ())
}
