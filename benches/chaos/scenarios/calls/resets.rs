//! Calls that are dropped by their callers: what does it cost the other calls of the connection?

use std::time::Duration;

use greeter_proto::Channel;
use greeter_proto::bench::streams_client::StreamsClient;
use greeter_proto::bench::{Chunk, DownloadRequest};
use test_support::{Bar, Signal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic_etcd::BalancedChannel;

use super::callers::greet;
use super::channel;
use crate::findings::Findings;
use crate::world::{Result, Server, Side, World};

/// So many calls are dropped at once.
const DROPPED: [usize; 3] = [25, 64, 500];
/// How long the server stands still, and when the calls are dropped meanwhile.
const STILL: Duration = Duration::from_millis(600);
const DROP_AFTER: Duration = Duration::from_millis(200);
/// So many streams are cancelled one after another.
const CANCELLED: usize = 20_000;
/// Between two chunks of the stream that goes on beside.
const BEAT: Duration = Duration::from_millis(20);
/// What comes late may come.
const AFTER: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(5);

/// What broke.
#[derive(Default)]
struct Broken {
    streams: usize,
    connections: usize,
    calls: usize,
}

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    let mut broken = Broken::default();
    super::block_on(async {
        for count in DROPPED {
            let server = world.peer(&[])?;
            let channel = channel::ours(BalancedChannel::builder(), [&server.address])?;
            still(&server, &channel, count, &mut broken).await?;
        }
        Ok(())
    })?;
    broken.report(findings, Side::Ours, "25, 64, 500 calls dropped at once");
    let mut broken = Broken::default();
    super::block_on(async {
        for count in DROPPED {
            let server = world.peer(&[])?;
            let channel = channel::tonic(&[server.address.parse()?])?;
            still(&server, &channel, count, &mut broken).await?;
        }
        Ok(())
    })?;
    broken.report(findings, Side::Tonic, "25, 64, 500 calls dropped at once");
    let mut broken = Broken::default();
    super::block_on(async {
        let server = world.peer(&[])?;
        let channel = channel::ours(BalancedChannel::builder(), [&server.address])?;
        one_after_another(&server, &channel, &mut broken).await
    })?;
    broken.report(findings, Side::Ours, "20 000 streams cancelled one after another");
    Ok(())
}

impl Broken {
    fn report(&self, findings: &mut Findings, side: Side, what: &str) {
        for (name, count) in [
            ("streams that broke beside", self.streams),
            ("connections that ended", self.connections),
            ("other calls that failed", self.calls),
        ] {
            let name = format!("{what}: {name}");
            match side {
                Side::Ours => findings.ours(&name, count as f64, "", Bar::Equal(0.0)),
                Side::Tonic => findings.tonic(&name, count as f64, ""),
            }
        }
    }

    /// What happened on a connection with this stream.
    async fn count(&mut self, server: &Server, channel: &impl Channel, beside: Beside) {
        sleep(AFTER).await;
        if let Err(why) = beside.end().await {
            eprintln!("  the stream beside: {why}");
            self.streams += 1;
        }
        if !matches!(timeout(LIMIT, greet(channel)).await, Ok(Ok(()))) {
            self.calls += 1;
        }
        sleep(Duration::from_millis(100)).await; // the process looks at its connections every 20 ms
        let accepted =
            server.process.lines().iter().filter_map(|line| line.strip_prefix("accepted ")?.parse().ok()).max();
        self.connections += accepted.unwrap_or(0_usize).saturating_sub(1);
    }
}

/// The calls are dropped while the server stands still.
async fn still(server: &Server, channel: &impl Channel, count: usize, broken: &mut Broken) -> Result<()> {
    let beside = Beside::start(channel).await?;
    server.process.signal(Signal::STOP);
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let channel = channel.clone();
        calls.spawn(async move { greet(&channel).await });
    }
    sleep(DROP_AFTER).await;
    calls.abort_all();
    sleep(STILL.saturating_sub(DROP_AFTER)).await;
    server.process.signal(Signal::CONT);
    broken.count(server, channel, beside).await;
    Ok(())
}

/// Each stream has many small messages; one of them is read.
async fn one_after_another(server: &Server, channel: &impl Channel, broken: &mut Broken) -> Result<()> {
    let beside = Beside::start(channel).await?;
    let mut client = StreamsClient::new(channel.clone());
    for _ in 0..CANCELLED {
        let cancelled = async { client.download(DownloadRequest { size: 8 }).await?.into_inner().message().await };
        match timeout(LIMIT, cancelled).await {
            Ok(Ok(Some(_))) => {}
            Ok(ended) => {
                if broken.calls == 0 {
                    eprintln!("  a stream that was to be cancelled: {ended:?}");
                }
                broken.calls += 1;
            }
            Err(_) => return Err("a stream says nothing".into()),
        }
    }
    broken.count(server, channel, beside).await;
    Ok(())
}

/// A stream that goes on, chunk after chunk.
pub(super) struct Beside {
    chunks: JoinHandle<u64>,
    end: mpsc::Sender<()>,
    reply: JoinHandle<std::result::Result<u64, tonic::Status>>,
}

impl Beside {
    pub(super) async fn start(channel: &impl Channel) -> Result<Self> {
        timeout(LIMIT, greet(channel)).await??;
        let (chunks, receiver) = mpsc::channel(1);
        let mut client = StreamsClient::new(channel.clone());
        let stream = ReceiverStream::new(receiver);
        let reply = tokio::spawn(async move { Ok(client.upload(stream).await?.into_inner().chunks) });
        let (end, mut ended) = mpsc::channel(1);
        let chunks = tokio::spawn(async move {
            let mut sent = 0;
            while timeout(BEAT, ended.recv()).await.is_err() && chunks.send(Chunk::default()).await.is_ok() {
                sent += 1;
            }
            sent
        });
        sleep(5 * BEAT).await;
        Ok(Self { chunks, end, reply })
    }

    /// Every chunk that was sent must have come.
    pub(super) async fn end(self) -> Result<()> {
        self.end.send(()).await.or(Err("it ended before its time"))?;
        let sent = timeout(LIMIT, self.chunks).await??;
        let come = timeout(LIMIT, self.reply).await???;
        if sent == come { Ok(()) } else { Err(format!("{come} of {sent} chunks have come").into()) }
    }
}
