//! The workers: closed loops over one channel, whosever it is.

use std::time::{Duration, Instant};

use greeter_proto::bench::streams_client::StreamsClient;
use greeter_proto::bench::{Chunk, DownloadRequest};
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::{Channel, HelloRequest};
use tokio::task::JoinSet;
use tonic::Request;

use crate::job::{Deadline, Load, Until};

/// A deadline that no call here ever reaches.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// What all workers have done.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) done: u64,
    /// How long each call took; none for streams.
    pub(crate) calls: Vec<Duration>,
}

/// `Until`, once it has begun.
#[derive(Clone, Copy)]
enum End {
    At(Instant),
    After(u64),
}

impl End {
    /// Looks only now and then: a small message passes in the time that a few looks at the clock take.
    fn reached_by_stream(self, done: u64) -> bool {
        done.is_multiple_of(16) && self.reached(done)
    }

    fn reached(self, done: u64) -> bool {
        match self {
            Self::At(when) => Instant::now() >= when,
            Self::After(enough) => done >= enough,
        }
    }
}

/// Runs that many workers at once until all are done.
pub(crate) async fn run<C: Channel>(channel: &C, load: Load, deadline: Deadline, workers: usize, until: Until) -> Work {
    let end = match until {
        Until::Passed(duration) => End::At(Instant::now() + duration),
        Until::Done(enough) => End::After(enough),
    };
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let channel = channel.clone();
        match load {
            Load::Unary => running.spawn(unary(channel, deadline, false, end)),
            Load::UnaryWithFailures => running.spawn(unary(channel, deadline, true, end)),
            Load::Download(size) => running.spawn(download(channel, size, end)),
            Load::Upload(size) => running.spawn(upload(channel, size, end)),
        };
    }
    let mut all = Work::default();
    while let Some(work) = running.join_next().await {
        let work = work.expect("a worker whose calls succeed");
        all.done += work.done;
        all.calls.extend(work.calls);
    }
    all
}

async fn unary<C: Channel>(channel: C, deadline: Deadline, may_fail: bool, end: End) -> Work {
    let mut client = GreeterClient::new(channel);
    let mut work = Work::default();
    while !end.reached(work.done) {
        let began = Instant::now();
        let mut request = Request::new(HelloRequest { name: "world".to_owned() });
        match deadline {
            Deadline::None | Deadline::OfChannel => {}
            Deadline::Equal => request.set_timeout(DEADLINE),
            Deadline::Differing => request.set_timeout(Duration::from_micros(fastrand::u64(1_000_000..10_000_000))),
        }
        if let Err(status) = client.say_hello(request).await {
            assert!(may_fail, "a call failed: {status}");
        }
        work.calls.push(began.elapsed());
        work.done += 1;
    }
    work
}

async fn download<C: Channel>(channel: C, size: u32, end: End) -> Work {
    let mut client = StreamsClient::new(channel);
    let mut stream = client.download(DownloadRequest { size }).await.expect("a stream").into_inner();
    let mut done = 0;
    while !end.reached_by_stream(done) {
        let chunk = stream.message().await.expect("no error").expect("no end");
        assert_eq!(chunk.payload.len(), size as usize);
        done += 1;
    }
    Work { done, calls: Vec::new() }
}

async fn upload<C: Channel>(channel: C, size: u32, end: End) -> Work {
    let mut client = StreamsClient::new(channel);
    let chunk = Chunk { payload: vec![0; size as usize].into() };
    let chunks = (0..).take_while(move |sent| !end.reached_by_stream(*sent)).map(move |_| chunk.clone());
    let reply = client.upload(tokio_stream::iter(chunks)).await.expect("an answer");
    Work { done: reply.into_inner().chunks, calls: Vec::new() }
}
