//! What a resolved instance holds of memory, by a counting allocator: a part of `cargo xtask bench discovery`, in a process
//! of its own because counting makes everything slow.

use std::process::ExitCode;
use std::time::Duration;

use etcd_client::{Client, Txn, TxnOp};
use test_support::{Bar, Etcd, Report};
use tonic_etcd::Resolver;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const INSTANCES: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let etcd = Etcd::start();
    let stored = fill(&etcd).await;
    let resolver = Resolver::connect_lazy([etcd.endpoint()]).expect("a resolver");
    // Connections, buffers and the first watch are not the instances'.
    let warm = resolver.resolve("warm").expect("a resolution");
    warm.ready(PATIENCE).await.expect("resolved");

    let _profiler = dhat::Profiler::builder().testing().build();
    let resolution = resolver.resolve("memory").expect("a resolution");
    assert_eq!(resolution.ready(PATIENCE).await.expect("resolved").len(), INSTANCES);
    settled().await;
    let held = dhat::HeapStats::get().curr_bytes;
    assert_eq!(resolution.snapshot().len(), INSTANCES);

    let per_instance = (held as f64 - stored as f64) / INSTANCES as f64;
    let mut report = Report::new("");
    let name = "10 000 instances, memory held for each beyond its key and value";
    report.add(name, per_instance, "bytes", Bar::AtMost(600.0));
    report.finish()
}

/// Puts the instances, and tells how many bytes their keys and values have.
async fn fill(etcd: &Etcd) -> usize {
    let client = Client::connect([etcd.endpoint()], None).await.expect("etcd is there");
    let pair = |i: usize| {
        let address = format!("10.0.{}.{}:50051", i / 256, i % 256);
        let metadata = format!(r#"{{"weight":{},"zone":"zone-{}","version":"v1"}}"#, 1 + i % 7, i % 3);
        (format!("memory/{address}"), format!(r#"{{"Op":0,"Addr":"{address}","Metadata":{metadata}}}"#))
    };
    let pairs: Vec<(String, String)> = (0..INSTANCES).map(pair).collect();
    for chunk in pairs.chunks(100) {
        let puts = chunk.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None));
        client.kv_client().txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.expect("puts");
    }
    pairs.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// Waits until what the list needed in passing has been freed: until the count stands still.
async fn settled() {
    let (mut last, mut still) = (usize::MAX, 0);
    while still < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = dhat::HeapStats::get().curr_bytes;
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
}
