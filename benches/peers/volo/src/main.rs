//! A client on volo-grpc, as a peer of `cargo xtask bench call`: it takes a job as the bench's own clients do, and prints the
//! same figures. Unary calls only, with volo's defaults: a random server for each call.

#[path = "../../../call/job.rs"]
#[allow(dead_code)] // what the bench's other programs use
mod job;

mod generated {
    #![allow(warnings)]
    include!(concat!(env!("OUT_DIR"), "/volo_gen.rs"));
}

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use generated::volo_gen::helloworld::{GreeterClient, GreeterClientBuilder, HelloRequest};
use job::{Figures, Job, Load, Until};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use volo::discovery::StaticDiscover;
use volo::loadbalance::random::WeightedRandomBalance;

/// What all workers have done.
#[derive(Default)]
struct Work {
    done: u64,
    calls: Vec<Duration>,
}

/// `Until`, once it has begun.
#[derive(Clone, Copy)]
enum End {
    At(Instant),
    After(u64),
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, job] = &arguments[..] else { panic!("called with `client JOB`") };
    assert_eq!(command, "client");
    let job: Job = serde_json::from_str(job).expect("a job");
    assert!(matches!(job.load, Load::Unary), "this client makes unary calls alone");
    let mut runtime = if job.single_thread { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let figures = runtime.enable_all().build().expect("a runtime").block_on(measure(&job));
    println!("{}", serde_json::to_string(&figures).expect("figures are JSON"));
}

async fn measure(job: &Job) -> Figures {
    let servers: Vec<SocketAddr> = job.servers.iter().map(|address| address.parse().expect("an address")).collect();
    let client = GreeterClientBuilder::new("greeter")
        .load_balance(WeightedRandomBalance::new()) // the default, for this discovery
        .discover(StaticDiscover::from(servers))
        .build();
    run(&client, job.workers, job.warm_up).await;

    let (began, cpu) = (Instant::now(), test_support::cpu_time());
    let mut work = run(&client, job.workers, job.until).await;
    let (elapsed, cpu) = (began.elapsed(), test_support::cpu_time().saturating_sub(cpu));
    work.calls.sort_unstable();
    let percentile = |percent| work.calls.get(work.calls.len() * percent / 100).copied().unwrap_or_default();
    Figures { done: work.done, elapsed, cpu, p50: percentile(50), p99: percentile(99), sets: 0 }
}

/// Runs that many workers at once until all are done.
async fn run(client: &GreeterClient, workers: usize, until: Until) -> Work {
    let end = match until {
        Until::Passed(duration) => End::At(Instant::now() + duration),
        Until::Done(enough) => End::After(enough),
    };
    let mut running = JoinSet::new();
    for _ in 0..workers {
        running.spawn(unary(client.clone(), end));
    }
    let mut all = Work::default();
    while let Some(work) = running.join_next().await {
        let work = work.expect("a worker whose calls succeed");
        all.done += work.done;
        all.calls.extend(work.calls);
    }
    all
}

async fn unary(client: GreeterClient, end: End) -> Work {
    let mut work = Work::default();
    while !end.is_reached(work.done) {
        let began = Instant::now();
        let request = HelloRequest { name: "world".into(), ..Default::default() };
        client.say_hello(request).await.expect("an answer");
        work.calls.push(began.elapsed());
        work.done += 1;
    }
    work
}

impl End {
    fn is_reached(self, done: u64) -> bool {
        match self {
            Self::At(when) => Instant::now() >= when,
            Self::After(enough) => done >= enough,
        }
    }
}
