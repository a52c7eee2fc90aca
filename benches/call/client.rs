//! A client process: one channel, warmed up, one load, and its figures on stdout.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use greeter_proto::Channel;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tonic::transport::{Channel as Tonic, Endpoint};
use tonic_etcd::{BalancedChannel, Instance};
use tower::discover::Change;

use crate::job::{Figures, Job, Side};
use crate::load;

/// Longer than reaching every server should ever take, under valgrind too.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
pub(crate) async fn run(job: &Job) {
    let endpoint = |address: &String| Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let figures = match job.side {
        Side::Ours => measure(ours(&job.servers), job).await,
        Side::Balanced => measure(Tonic::balance_list(job.servers.iter().map(endpoint)), job).await,
        Side::Plain => measure(endpoint(&job.servers[0]).connect().await.expect("a connection"), job).await,
    };
    println!("{}", serde_json::to_string(&figures).expect("figures are JSON"));
}

fn ours(servers: &[String]) -> BalancedChannel {
    let insert = |address: &String| {
        let instance = Instance::new(address.as_str()).expect("an address");
        Ok::<_, Infallible>(Change::Insert(address.clone(), instance))
    };
    let changes: Vec<_> = servers.iter().map(insert).collect();
    BalancedChannel::builder().build_with_discovery("greeter", tokio_stream::iter(changes)).expect("a runtime")
}

async fn measure<C: Channel>(channel: C, job: &Job) -> Figures {
    let expected = if job.side == Side::Plain { 1 } else { job.servers.len() };
    let reached = tokio::time::timeout(PATIENCE, reach(&channel, expected)).await;
    reached.unwrap_or_else(|_| panic!("{} calls {expected} servers", job.side.name()));
    load::run(&channel, job.load, job.workers, job.warm_up).await;

    let (began, cpu) = (Instant::now(), test_support::cpu_time());
    let mut work = load::run(&channel, job.load, job.workers, job.until).await;
    let (elapsed, cpu) = (began.elapsed(), test_support::cpu_time().saturating_sub(cpu));
    work.calls.sort_unstable();
    let percentile = |percent| work.calls.get(work.calls.len() * percent / 100).copied().unwrap_or_default();
    Figures { done: work.done, elapsed, cpu, p50: percentile(50), p99: percentile(99) }
}

/// Calls until that many servers have answered.
async fn reach<C: Channel>(channel: &C, expected: usize) {
    let mut client = GreeterClient::new(channel.clone());
    let mut answered = BTreeSet::new();
    while answered.len() < expected {
        let reply = client.say_hello(HelloRequest { name: "world".to_owned() }).await.expect("an answer");
        answered.insert(reply.into_inner().message);
    }
}
