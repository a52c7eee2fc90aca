//! A client process: one channel, warmed up, one load, and its figures on stdout.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use greeter_proto::Channel;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tonic::transport::{Channel as Tonic, Endpoint};
use tonic_etcd::{BalancedChannel, Instance, OutlierDetection, RetryPolicy, ServerState, ServerStatus, SlowStart};
use tower::discover::Change;

use crate::fleet::block_on;
use crate::job::{Deadline, Figures, Job, Setting, Side};
use crate::load::{self, DEADLINE};
use crate::recorder::Adding;
use crate::sets::FirstServerPreferred;

/// Longer than reaching every server should ever take, under valgrind too.
const PATIENCE: Duration = Duration::from_secs(60);
const METHOD: &str = "helloworld.Greeter/SayHello";
const ANOTHER_METHOD: &str = "helloworld.Greeter/Another";
const HEALTH_CHECK: &str = r#"{"healthCheckConfig": {"serviceName": "helloworld.Greeter"}}"#;

pub(crate) fn run(job: &Job) {
    let figures = block_on(job.single_thread, async {
        let endpoint = |address: &String| Endpoint::from_shared(format!("http://{address}")).expect("an address");
        match job.side {
            Side::Ours => ours(job).await,
            Side::Balanced => tonic(Tonic::balance_list(job.servers.iter().map(endpoint)), job).await,
            Side::Plain => tonic(endpoint(&job.servers[0]).connect().await.expect("a connection"), job).await,
            Side::Volo => panic!("volo-grpc's client is another program"),
        }
    });
    println!("{}", serde_json::to_string(&figures).expect("figures are JSON"));
}

async fn ours(job: &Job) -> Figures {
    let sets = Arc::new(AtomicU64::new(0));
    let channel = channel(job, &sets);
    // Of very many servers it would take too many calls to reach each.
    let ready = async {
        let is_ready = |server: &ServerStatus| server.state() == ServerState::Ready;
        while channel.servers().iter().filter(|server| is_ready(server)).count() < job.servers.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("every server becomes ready");
    measure(channel, job, || sets.load(Ordering::Relaxed)).await
}

fn channel(job: &Job, sets: &Arc<AtomicU64>) -> BalancedChannel {
    let insert = |address: &String| {
        let instance = Instance::new(address.as_str()).expect("an address");
        let is_away = job.servers.last() == Some(address);
        let instance = match job.setting {
            Setting::Selection => instance.with_zone(if is_away { "b" } else { "a" }),
            _ => instance,
        };
        Ok::<_, Infallible>(Change::Insert(address.clone(), instance))
    };
    let changes: Vec<_> = job.servers.iter().map(insert).collect();
    let mut builder = BalancedChannel::builder();
    if let Deadline::OfChannel = job.deadline {
        builder = builder.timeout(DEADLINE);
    }
    let policy = FirstServerPreferred { first: job.servers[0].clone(), sets: sets.clone() };
    let builder = match job.setting {
        Setting::Nothing => builder,
        Setting::OneConnection => builder.connections_per_server(1),
        Setting::ServiceConfig => builder.service_config(service_config(100)),
        Setting::Selection => {
            builder.zone("a").subset(job.servers.len()).slow_start(SlowStart::new(Duration::from_secs(10)))
        }
        Setting::HealthCheck => builder.service_config(HEALTH_CHECK),
        Setting::FirstServerPreferred => builder.policy(policy),
        Setting::OutlierDetection => builder.policy(policy).outlier_detection(OutlierDetection::default()),
        Setting::Declared => builder.retry(RetryPolicy::new().repeatable(METHOD)),
        Setting::DeclaredWithHedging => builder.retry(with_hedging(METHOD)),
        Setting::Undeclared => builder.retry(RetryPolicy::new().repeatable(ANOTHER_METHOD)),
        Setting::UndeclaredWithHedging => builder.retry(with_hedging(ANOTHER_METHOD)),
        Setting::Recorder => builder.metrics(Adding),
    };
    builder.build_with_discovery("greeter", tokio_stream::iter(changes)).expect("a runtime")
}

/// A document with so many methods, METHOD among them.
fn service_config(methods: usize) -> String {
    let entry = |service: &str, method: &str| {
        format!(
            r#"{{"name": [{{"service": "{service}", "method": "{method}"}}], "timeout": "3600s", "waitForReady": true}}"#
        )
    };
    let (service, method) = METHOD.split_once('/').expect("a service and a method");
    let others = (1..methods).map(|number| entry(&format!("shop{}.Orders", number % 10), &format!("Method{number}")));
    let entries: Vec<String> = others.chain([entry(service, method)]).collect();
    format!(r#"{{"methodConfig": [{}]}}"#, entries.join(", "))
}

fn with_hedging(method: &str) -> RetryPolicy {
    RetryPolicy::new().repeatable(method).hedge_after(DEADLINE / 2).attempt_timeout(DEADLINE * 3 / 4)
}

/// A channel of tonic does not tell which servers it is connected to: it calls until each has answered.
async fn tonic(channel: Tonic, job: &Job) -> Figures {
    let expected = if job.side == Side::Plain { 1 } else { job.servers.len() };
    let reached = tokio::time::timeout(PATIENCE, reach(&channel, expected)).await;
    reached.unwrap_or_else(|_| panic!("{} calls {expected} servers", job.side.name()));
    measure(channel, job, || 0).await
}

async fn measure<C: Channel>(channel: C, job: &Job, sets: impl Fn() -> u64) -> Figures {
    load::run(&channel, job.load, job.deadline, job.workers, job.warm_up).await;

    let (began, cpu, sets_before) = (Instant::now(), test_support::cpu_time(), sets());
    let mut work = load::run(&channel, job.load, job.deadline, job.workers, job.until).await;
    let (elapsed, cpu) = (began.elapsed(), test_support::cpu_time().saturating_sub(cpu));
    let sets = sets() - sets_before;
    work.calls.sort_unstable();
    let percentile = |percent| work.calls.get(work.calls.len() * percent / 100).copied().unwrap_or_default();
    Figures { done: work.done, elapsed, cpu, p50: percentile(50), p99: percentile(99), sets }
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
