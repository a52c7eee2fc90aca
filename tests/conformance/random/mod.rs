//! Five thousand random exchanges through `BalancedChannel`, each of which must end as it does through tonic's own channel.

mod exchange;
mod plan;
mod server;

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use greeter_proto::testing::Empty;
use greeter_proto::testing::test_service_server::TestServiceServer;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Endpoint, Server};

use crate::cases::{Client, Transport, transport};
use crate::channel::with_windows;
use crate::server::Fleet;
use crate::suite::until;
use exchange::{End, Outcome, entries, run};
use plan::{CallKind, Plan};
use server::Planned;

const EXCHANGES: u64 = 5_000;
/// At a time.
const CONCURRENT: usize = 24;
/// For one exchange among so many: only one that hangs takes as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a stream and of the connection, in bytes; the smallest that HTTP/2 permits a connection.
const WINDOWS: [(u32, u32); 3] = [(65_535, 65_535), (16_000, 65_535), (1 << 20, 2 << 20)];

/// Servers of one kind, a part of them for each channel.
struct Kind {
    balanced: Fleet,
    plain: Fleet,
    /// How many calls a connection may have.
    at_a_time: Option<u32>,
}

impl Kind {
    fn new((stream, connection): (u32, u32), at_a_time: Option<u32>) -> Self {
        let server = Server::builder().initial_stream_window_size(stream).initial_connection_window_size(connection);
        let server = server.max_concurrent_streams(at_a_time);
        let service = || TestServiceServer::new(Planned).max_decoding_message_size(usize::MAX);
        let [balanced, plain] = [2, 1].map(|size| Fleet::serve(size, &server, service));
        Self { balanced, plain, at_a_time }
    }
}

/// The channel under test and tonic's own, to servers of one kind.
struct Pair {
    balanced: Transport,
    plain: Endpoint,
    /// What calls that leave nothing behind may share.
    shared: Option<Transport>,
}

impl Pair {
    async fn new(kind: &Kind, (stream, connection): (u32, u32)) -> Self {
        let plain = Endpoint::from_shared(format!("http://{}", kind.plain.addresses()[0])).unwrap();
        let plain = plain.initial_stream_window_size(stream).initial_connection_window_size(connection);
        // One call at a time is what tonic's channel now and then hangs with.
        let shared = if kind.at_a_time.is_none() { Some(connected(&plain).await) } else { None };
        Self { balanced: transport(with_windows(&kind.balanced, stream, connection)), plain, shared }
    }

    /// tonic's channel for one exchange. When a client goes away while it still sends, it does not tell the server, and what
    /// the server has not read then fills the connection: nobody else should use that.
    async fn plain(&self, plan: &Plan) -> Transport {
        match &self.shared {
            Some(shared) if plan.cancel.is_none() => shared.clone(),
            _ => connected(&self.plain).await,
        }
    }
}

/// tonic's channel, after a first call: it sends before it knows the server's windows, and now and then hangs where those turn
/// out to be smaller than what it has sent.
async fn connected(endpoint: &Endpoint) -> Transport {
    let channel = transport(endpoint.connect_lazy());
    Client::new(channel.clone()).empty_call(Empty {}).await.unwrap();
    channel
}

/// Whether an outcome is what the plan itself says, as far as the client did not go away.
fn as_planned(plan: &Plan, outcome: &Outcome) -> bool {
    let Some(End { code, message, metadata }) = &outcome.end else {
        return plan.cancel.is_some() || (plan.code == Code::Ok && outcome.head.is_some());
    };
    let streams = matches!(plan.kind, CallKind::ServerStreaming | CallKind::BothWays);
    (*code, message) == (plan.code, &plan.message)
        && entries(&plan.metadata_map()).iter().all(|entry| metadata.contains(entry))
        && (!streams || outcome.messages.iter().eq(&plan.answers.iter().copied().map(Ok).collect::<Vec<_>>()))
}

async fn same(seed: u64, pairs: &[Pair]) {
    let plan = Plan::new(seed);
    let pair = &pairs[(seed % pairs.len() as u64) as usize];
    let again = format!("once more: EXCHANGES_SEED={seed} EXCHANGES=1; {plan:?}");
    let ends = async |whose, channel| {
        let ended = timeout(PATIENCE, run(channel, &plan)).await;
        ended.unwrap_or_else(|_| panic!("it hangs on {whose} channel; {again}"))
    };
    let own = pair.plain(&plan).await;
    let (balanced, own) = tokio::join!(ends("the balanced", &pair.balanced), ends("tonic's own", &own));
    assert!(balanced == own, "not as on tonic's own channel\n{balanced:?}\n{own:?}\n{again}");
    assert!(as_planned(&plan, &balanced), "not as planned\n{balanced:?}\n{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_exchanges_end_as_through_tonics_own_channel() {
    let number = |name| env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let (first, count) = (number("EXCHANGES_SEED"), number("EXCHANGES").unwrap_or(EXCHANGES));
    let first = first.unwrap_or_else(|| fastrand::u64(..1 << 48));
    eprintln!("EXCHANGES_SEED={first} EXCHANGES={count}"); // seen when it fails
    // Servers that take one call at a time: the others wait their turn.
    let kinds = [Kind::new(WINDOWS[0], None), Kind::new(WINDOWS[1], None), Kind::new(WINDOWS[2], Some(1))];
    let mut pairs = Vec::new();
    for (kind, window) in kinds.iter().flat_map(|kind| WINDOWS.map(|window| (kind, window))) {
        pairs.push(Pair::new(kind, window).await);
    }
    let pairs: Arc<[Pair]> = pairs.into();
    let next = Arc::new(AtomicU64::new(first));
    let mut workers = JoinSet::new();
    for _ in 0..CONCURRENT {
        let (pairs, next) = (pairs.clone(), next.clone());
        workers.spawn(async move {
            loop {
                let seed = next.fetch_add(1, Relaxed);
                if seed >= first + count {
                    break;
                }
                same(seed, &pairs).await;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        if let Err(failed) = ended {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
    until("the end of each exchange at the servers", || kinds.iter().all(|kind| kind.balanced.open() == 0)).await;
}
