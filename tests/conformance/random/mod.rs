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
use plan::{Kind, Plan};
use server::Planned;

const EXCHANGES: u64 = 5_000;
/// At a time.
const CONCURRENT: usize = 24;
/// For one exchange among so many: only one that hangs takes as long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a stream and of the connection, in bytes; the smallest that HTTP/2 permits a connection.
const WINDOWS: [(u32, u32); 3] = [(65_535, 65_535), (3_000, 65_535), (1 << 20, 2 << 20)];

/// The channel under test and tonic's own, each to servers of its own of one kind.
struct Pair {
    balanced: Transport,
    plain: Endpoint,
    shared: Transport,
}

impl Pair {
    async fn new(fleets: &[Fleet; 2], (stream, connection): (u32, u32)) -> Self {
        let plain = Endpoint::from_shared(format!("http://{}", fleets[1].addresses()[0])).unwrap();
        let plain = plain.initial_stream_window_size(stream).initial_connection_window_size(connection);
        let shared = connected(&plain).await;
        Self { balanced: transport(with_windows(&fleets[0], stream, connection)), plain, shared }
    }

    /// tonic's channel for one exchange. When a client goes away while it still sends, it does not tell the server, and what
    /// the server has not read then fills the connection: nobody else should use that.
    async fn plain(&self, plan: &Plan) -> Transport {
        if plan.cancel.is_some() { connected(&self.plain).await } else { self.shared.clone() }
    }
}

/// tonic's channel, after a first call: it sends before it knows the server's windows, and now and then hangs where those turn
/// out to be smaller than what it has sent.
async fn connected(endpoint: &Endpoint) -> Transport {
    let channel = transport(endpoint.connect_lazy());
    Client::new(channel.clone()).empty_call(Empty {}).await.unwrap();
    channel
}

fn fleets((stream, connection): (u32, u32)) -> [Fleet; 2] {
    let server = Server::builder().initial_stream_window_size(stream).initial_connection_window_size(connection);
    let service = || TestServiceServer::new(Planned).max_decoding_message_size(usize::MAX);
    [2, 1].map(|size| Fleet::serve(size, &server, service))
}

/// Whether an outcome is what the plan itself says, as far as the client did not go away.
fn as_planned(plan: &Plan, outcome: &Outcome) -> bool {
    let Some(End { code, message, metadata }) = &outcome.end else {
        return plan.cancel.is_some() || (plan.code == Code::Ok && outcome.head.is_some());
    };
    let streams = matches!(plan.kind, Kind::ServerStreaming | Kind::BothWays);
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
    let kinds = [fleets(WINDOWS[0]), fleets(WINDOWS[1])];
    let mut pairs = Vec::new();
    for (fleets, window) in kinds.iter().flat_map(|fleets| WINDOWS.map(|window| (fleets, window))) {
        pairs.push(Pair::new(fleets, window).await);
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
    until("the end of each exchange at the servers", || kinds.iter().all(|fleets| fleets[0].open() == 0)).await;
}
