//! What discovery costs beside a raw etcd-client that does the same, in one run: `cargo xtask bench discovery`.
#![allow(clippy::disallowed_types)] // real time is meant

use std::process::ExitCode;
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, Txn, TxnOp, WatchOptions};
use test_support::{Bar, Etcd, Report};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic_etcd::codec::{Codec as _, Detect};
use tonic_etcd::{Instance, Resolver};
use tower::discover::Change;

/// Runs whose median counts.
const RUNS: usize = 7;
/// Puts in a run, and the keys that they fall on.
const PUTS: usize = 2_000;
const KEYS: usize = 100;
/// Instances of the list, and how often it is read in a run.
const INSTANCES: usize = 10_000;
const LISTS: usize = 5;
const RESOLUTIONS: usize = 1_000;
/// Longer than anything here should ever take.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    test_support::raise_fd_limit();
    let etcd = Etcd::start();
    eprintln!("etcd {}, {RUNS} runs of {PUTS} puts", etcd.version());
    let mut report = Report::new("discovery, beside a raw etcd-client");
    changes(&etcd, &mut report).await;
    lists(&etcd, &mut report).await;
    sharing(&mut report).await;
    report.finish()
}

fn naming(address: &str) -> String {
    format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

/// put → change, seen by a raw watch and by `discover()` in one process.
async fn changes(etcd: &Etcd, report: &mut Report) {
    let mut raw_seen = raw_watch(etcd).await;
    let mut our_seen = our_watch(etcd).await;
    let writer = Client::connect([etcd.endpoint()], None).await.expect("etcd is there");
    let (mut p50, mut p99, mut floor, mut ours) = (vec![], vec![], vec![], vec![]);
    for run in 0..=RUNS {
        let (mut raw, mut our) = (Vec::with_capacity(PUTS), Vec::with_capacity(PUTS));
        for put in 0..PUTS {
            let address = format!("h{}:1", run * PUTS + put);
            let key = format!("bench/{}", put % KEYS);
            let began = Instant::now();
            writer.kv_client().put(key, naming(&address), None).await.expect("a put");
            raw.push(seen(&mut raw_seen, &address).await - began);
            our.push(seen(&mut our_seen, &address).await - began);
        }
        // The first run warms up.
        if run > 0 {
            raw.sort();
            our.sort();
            p50.push(percentile(&our, 50) / percentile(&raw, 50));
            p99.push(percentile(&our, 99) / percentile(&raw, 99));
            floor.push(percentile(&raw, 50));
            ours.push(percentile(&our, 50));
        }
    }
    report.add("put to change, raw watch, p50", median(floor), "ms", None);
    report.add("put to change, discover(), p50", median(ours), "ms", None);
    report.add("put to change, p50, discover() / raw watch", median(p50), "×", Bar::AtMost(1.25));
    report.add("put to change, p99, discover() / raw watch", median(p99), "×", Bar::AtMost(1.5));
}

type Seen = mpsc::UnboundedReceiver<(String, Instant)>;

/// When the change to that address was seen.
async fn seen(seen: &mut Seen, wanted: &str) -> Instant {
    loop {
        let (address, when) = tokio::time::timeout(PATIENCE, seen.recv()).await.expect("in time").expect("goes on");
        if address == wanted {
            return when;
        }
    }
}

async fn raw_watch(etcd: &Etcd) -> Seen {
    let client = Client::connect([etcd.endpoint()], None).await.expect("etcd is there");
    let (tell, seen) = mpsc::unbounded_channel();
    let options = WatchOptions::new().with_prefix();
    let mut watch = client.watch_client().watch("bench/", Some(options)).await.expect("a watch");
    tokio::spawn(async move {
        while let Ok(Some(response)) = watch.message().await {
            let when = Instant::now();
            for pair in response.events().iter().filter_map(|event| event.kv()) {
                // The same decoding that the other side has done by now, outside of the time that is taken here.
                let read = Detect.decode(pair.key(), pair.value()).expect("our own record");
                drop(tell.send((read[0].addresses()[0].to_string(), when)));
            }
        }
    });
    seen
}

async fn our_watch(etcd: &Etcd) -> Seen {
    let resolver = Resolver::connect_lazy([etcd.endpoint()]).expect("a resolver");
    let resolution = resolver.resolve("bench").expect("a resolution");
    resolution.ready(PATIENCE).await.expect("resolved");
    let (tell, seen) = mpsc::unbounded_channel();
    let mut discover = resolution.discover();
    tokio::spawn(async move {
        while let Some(Ok(change)) = discover.next().await {
            let when = Instant::now();
            if let Change::Insert(key, _) = change {
                drop(tell.send((key.to_string(), when)));
            }
        }
    });
    seen
}

/// The first snapshot of many instances, and a raw get of the same keys with the same decoder.
async fn lists(etcd: &Etcd, report: &mut Report) {
    let client = Client::connect([etcd.endpoint()], None).await.expect("etcd is there");
    let instances: Vec<usize> = (0..INSTANCES).collect();
    for chunk in instances.chunks(100) {
        let put = |i: &usize| {
            let address = format!("10.0.{}.{}:50051", i / 256, i % 256);
            TxnOp::put(format!("list/{address}"), naming(&address), None)
        };
        let txn = Txn::new().and_then(chunk.iter().map(put).collect::<Vec<_>>());
        client.kv_client().txn(txn).await.expect("puts");
    }
    let resolver = Resolver::connect_lazy([etcd.endpoint()]).expect("a resolver");
    // Both connections are warm.
    let kept = resolver.resolve("warm").expect("a resolution");
    kept.ready(PATIENCE).await.expect("resolved");
    let (mut ratios, mut floor, mut ours) = (vec![], vec![], vec![]);
    for run in 0..=RUNS {
        let (mut raw, mut our) = (vec![], vec![]);
        for _ in 0..LISTS {
            raw.push(raw_list(&client).await);
            our.push(our_list(&resolver).await);
        }
        let (raw, our) = (median(raw), median(our));
        if run > 0 {
            ratios.push(our / raw);
            floor.push(raw);
            ours.push(our);
        }
    }
    report.add("10 000 instances, raw get and parsing", median(floor), "ms", None);
    report.add("10 000 instances, first snapshot", median(ours), "ms", None);
    report.add("10 000 instances, first snapshot / raw get and parsing", median(ratios), "×", Bar::AtMost(1.5));
}

async fn raw_list(client: &Client) -> f64 {
    let began = Instant::now();
    let mut kv = client.kv_client().max_decoding_message_size(i32::MAX as usize);
    let response = kv.get("list/", Some(GetOptions::new().with_prefix())).await.expect("a list");
    let decode = |pair: &etcd_client::KeyValue| Detect.decode(pair.key(), pair.value()).expect("our own record");
    let read: Vec<Vec<Instance>> = response.kvs().iter().map(decode).collect();
    let elapsed = began.elapsed();
    assert_eq!(read.len(), INSTANCES);
    elapsed.as_secs_f64() * 1e3
}

async fn our_list(resolver: &Resolver) -> f64 {
    let began = Instant::now();
    let resolution = resolver.resolve("list").expect("a resolution");
    let snapshot = resolution.ready(PATIENCE).await.expect("resolved");
    let elapsed = began.elapsed();
    assert_eq!(snapshot.len(), INSTANCES);
    elapsed.as_secs_f64() * 1e3
}

/// Many resolutions of one service, alone in an etcd.
async fn sharing(report: &mut Report) {
    let etcd = Etcd::start();
    let resolver = Resolver::connect_lazy([etcd.endpoint()]).expect("a resolver");
    let mut resolutions = Vec::new();
    for _ in 0..RESOLUTIONS {
        resolutions.push(resolver.resolve("shared").expect("a resolution"));
    }
    for resolution in &resolutions {
        resolution.ready(PATIENCE).await.expect("resolved");
    }
    // A change that all of them see proves that the watch stands.
    let writer = Client::connect([etcd.endpoint()], None).await.expect("etcd is there");
    writer.kv_client().put("shared/1", "h:1", None).await.expect("a put");
    for resolution in &mut resolutions {
        while resolution.snapshot().is_empty() {
            resolution.changed().await.expect("goes on");
        }
    }
    let watches = etcd.metric("etcd_debugging_mvcc_watcher_total").unwrap_or(f64::NAN);
    report.add("1 000 resolutions of one service, watches in etcd", watches, "", Bar::Equal(1.0));
}
