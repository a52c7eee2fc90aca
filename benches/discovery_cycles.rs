//! What stays behind of resolutions that are dropped: memory, by a counting allocator, tasks, and watches in etcd. A part of
//! `cargo xtask chaos discovery`, and `cargo xtask bench discovery_cycles` alone.
#![allow(clippy::disallowed_types)] // real time is meant

use std::process::ExitCode;
use std::time::{Duration, Instant};

use etcd_client::Client;
use test_support::{Bar, Etcd, Report};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tonic_etcd::Resolver;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const CYCLES: usize = 10_000;
const AT_ONCE: usize = 50;
/// Services that are resolved in turn; the first of them stays resolved all the time.
const SERVICES: usize = 200;
/// Cycles before anything is counted, twice as many at once: buffers and maps that grow to their peak are then as large as they
/// will be, and that is no leak.
const WARM_UP: usize = 2_000;
/// What holds frames is larger or smaller for a while. The least of so many looks counts, with so many cycles before each.
const LOOKS: usize = 6;
const BEFORE_LOOK: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);
/// What is on its way to its end has so long.
const SETTLE: Duration = Duration::from_secs(10);

/// What there is at a time.
#[derive(Debug, PartialEq)]
struct Held {
    watches: Option<f64>,
    tasks: usize,
    bytes: usize,
    /// Pieces of memory: unlike bytes, they do not move with the size of a buffer.
    blocks: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let etcd = Etcd::start();
    let writer = Client::connect([etcd.endpoint()], None).await.expect("etcd is there");
    for service in 0..SERVICES {
        writer.kv_client().put(format!("cycles{service}/1"), "10.0.0.1:5", None).await.expect("a put");
    }
    // Frees are counted of what was allocated under it alone: everything that is ours begins after it.
    let _profiler = dhat::Profiler::builder().testing().trim_backtraces(Some(2)).build();
    let resolver = Resolver::connect_lazy([etcd.endpoint()]).expect("a resolver");
    let kept = resolver.resolve("cycles0").expect("a resolution");
    kept.ready(PATIENCE).await.expect("resolved");
    cycles(&resolver, WARM_UP, 2 * AT_ONCE).await;
    let before = least(&etcd, &resolver, None).await;
    let began = Instant::now();
    cycles(&resolver, CYCLES, AT_ONCE).await;
    let took = began.elapsed();
    let after = least(&etcd, &resolver, Some(&before)).await;
    assert_eq!(kept.snapshot().len(), 1, "the one that is kept stays");

    let mut report = Report::new("10 000 resolutions, made and dropped");
    let growth = |after: f64, before: f64| after - before;
    let watches = growth(after.watches.unwrap_or(f64::NAN), before.watches.unwrap_or(f64::NAN));
    report.add("watches in etcd before", before.watches.unwrap_or(f64::NAN), "", None);
    report.add("watches in etcd, growth", watches, "", Bar::Equal(0.0));
    report.add("tasks before", before.tasks as f64, "", None);
    report.add("tasks, growth", growth(after.tasks as f64, before.tasks as f64), "", Bar::Equal(0.0));
    let bytes = growth(after.bytes as f64, before.bytes as f64);
    report.add("memory before", before.bytes as f64, "bytes", None);
    report.add("memory, growth", bytes, "bytes", Bar::AtMost(65_536.0));
    let blocks = growth(after.blocks as f64, before.blocks as f64);
    report.add("allocations held before", before.blocks as f64, "", None);
    report.add("allocations held, growth", blocks, "", Bar::AtMost(CYCLES as f64 / 20.0));
    report.add("the cycles took", took.as_secs_f64(), "s", None);
    report.finish()
}

/// So many cycles, some of them at once; each ends at another point of a resolution's life.
async fn cycles(resolver: &Resolver, count: usize, at_once: usize) {
    let mut running = JoinSet::new();
    for number in 0..count {
        if running.len() == at_once {
            running.join_next().await.expect("there is one").expect("a cycle that ends well");
        }
        running.spawn(cycle(resolver.clone(), number));
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("a cycle that ends well");
    }
}

async fn cycle(resolver: Resolver, number: usize) {
    let resolution = resolver.resolve(format!("cycles{}", number % SERVICES)).expect("a resolution");
    match number % 7 {
        // Dropped before anything was asked.
        0 => {}
        // Dropped while it is asked.
        1 => drop(resolution.ready(Duration::from_millis(1)).await),
        _ => drop(resolution.ready(PATIENCE).await.expect("resolved")),
    }
}

/// What there is at the look at which memory is least.
async fn least(etcd: &Etcd, resolver: &Resolver, before: Option<&Held>) -> Held {
    let mut least: Option<Held> = None;
    for _ in 0..LOOKS {
        cycles(resolver, BEFORE_LOOK, AT_ONCE).await;
        let now = settled(etcd, before).await;
        if least.as_ref().is_none_or(|least| now.bytes < least.bytes) {
            least = Some(now);
        }
    }
    least.expect("there was a look")
}

/// Waits until what there was before is there again, or else until nothing changes any more.
async fn settled(etcd: &Etcd, before: Option<&Held>) -> Held {
    let (began, mut last, mut still) = (Instant::now(), held(etcd), 0);
    while began.elapsed() < SETTLE {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = held(etcd);
        still = if now == last { still + 1 } else { 0 };
        last = now;
        let same = |before: &Held| before.watches == last.watches && before.tasks == last.tasks;
        if still >= 3 && before.is_none_or(same) {
            break;
        }
    }
    last
}

fn held(etcd: &Etcd) -> Held {
    let heap = dhat::HeapStats::get();
    Held {
        watches: etcd.metric("etcd_debugging_mvcc_watcher_total"),
        tasks: Handle::current().metrics().num_alive_tasks(),
        bytes: heap.curr_bytes,
        blocks: heap.curr_blocks,
    }
}
