//! Changes of a service, one after the other, out of `discover()`: what one costs among few keys, and among many.
//!
//! Each change gives the server of a key another address: an insert and a remove. The writer is outside of the process that is
//! counted, and writes once that process has seen the last change.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use etcd_client::{Client, Txn, TxnOp};
use serde::{Deserialize, Serialize};
use test_support::{Bar, Etcd, Result};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use tonic_etcd::{ChangeStream, Resolver};
use tower::discover::Change;

use crate::findings::{Curve, Findings};
use crate::job::{block_on, instructions_within};
use crate::{PATIENCE, heap, job};

pub(crate) const NAME: &str = "changes";
const KEYS: [usize; 5] = [3, 30, 300, 3_000, 10_000];
/// Changes before anything is counted, and those that are.
const WARM_UP: usize = 50;
const CHANGES: usize = 300;

/// What a process is told.
#[derive(Serialize, Deserialize)]
struct Job {
    etcd: String,
    service: String,
    keys: usize,
    /// Where each change that was seen is told, by a byte.
    seen: String,
    /// Whether it says on stdout how much it has allocated.
    counts_allocations: bool,
}

/// What a change costs.
#[derive(Clone, Copy)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

pub(crate) fn rows(found: &mut Findings) {
    let etcd = Etcd::start();
    let costs: Vec<Result<Cost>> = KEYS.iter().map(|keys| cost(&etcd, *keys)).collect();
    let last = KEYS.len() - 1;
    for (what, of) in [("instructions", instructions as fn(Cost) -> f64), ("allocations", |cost| cost.allocations)] {
        let value = |place: usize| costs[place].clone().map(of);
        found.add_or_missing(format!("a change among {} keys, {what}", KEYS[0]), value(0), "", None);
        found.add_or_missing(format!("a change among {} keys, {what}", KEYS[last]), value(last), "", None);
        let ratio = value(0).and_then(|few| Ok(value(last)? / few));
        let name = format!("a change, {what}, {} / {} keys", KEYS[last], KEYS[0]);
        found.add_or_missing(name, ratio, "×", Bar::AtMost(1.1));
    }
    let points =
        KEYS.iter().zip(&costs).filter_map(|(keys, cost)| Some((*keys as f64, instructions(*cost.as_ref().ok()?))));
    let title = "instructions of a change out of discover()".to_owned();
    found.draw(Curve { title, of: "registrations", unit: "", points: points.collect() });
}

fn instructions(cost: Cost) -> f64 {
    cost.instructions
}

/// What a change costs among so many keys: in one process instructions are counted, in another one allocations.
fn cost(etcd: &Etcd, keys: usize) -> Result<Cost> {
    let (etcd, service) = (etcd.endpoint(), format!("changes{keys}"));
    let counted = |counts_allocations, count: fn(&str) -> Result<f64>| {
        // Also takes back what the writer of the last process has changed: a put that changes nothing is never seen.
        block_on(put(&etcd, &service, keys));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let seen = listener.local_addr().expect("its address").to_string();
        let job = Job { etcd: etcd.clone(), service: service.clone(), keys, seen, counts_allocations };
        std::thread::scope(|scope| {
            scope.spawn(|| write(&etcd, &service, keys, &listener));
            let count = count(&serde_json::to_string(&job).expect("a job is JSON"));
            // The writer may still wait for a process that never came.
            drop(TcpStream::connect(&job.seen));
            Ok::<_, test_support::Error>(count? / CHANGES as f64)
        })
    };
    let instructions = counted(false, |job| instructions_within("see_changes", NAME, job))?;
    let allocations = counted(true, |job| {
        let line = job::spawn(NAME, job).wait_line(|_| true, PATIENCE)?;
        Ok(line.parse().expect("a number"))
    })?;
    Ok(Cost { instructions, allocations })
}

fn naming(address: &str) -> String {
    format!(r#"{{"Op":0,"Addr":"{address}","Metadata":{{"weight":100,"zone":"a"}}}}"#)
}

fn key(service: &str, number: usize) -> String {
    format!("{service}/{number:05}")
}

async fn put(etcd: &str, service: &str, keys: usize) {
    let client = Client::connect([etcd], None).await.expect("etcd is there");
    let numbers: Vec<usize> = (0..keys).collect();
    for chunk in numbers.chunks(100) {
        let puts = chunk.iter().map(|number| {
            TxnOp::put(key(service, *number), naming(&format!("10.0.{}.{}:50051", number / 256, number % 256)), None)
        });
        client.kv_client().txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.expect("puts");
    }
}

/// Makes a change for each byte, until the process that sends them has ended.
fn write(etcd: &str, service: &str, keys: usize, listener: &TcpListener) {
    block_on(async {
        let client = Client::connect([etcd], None).await.expect("etcd is there");
        let (mut process, _) = listener.accept().expect("the process that is counted");
        for change in 0.. {
            if process.read(&mut [0]).is_ok_and(|read| read == 1) {
                // All over the keys.
                let number = change * 7_919 % keys;
                let address = naming(&format!("10.1.{}.{}:50051", change / 256, change % 256));
                client.kv_client().put(key(service, number), address, None).await.expect("a put");
            } else {
                return;
            }
        }
    });
}

/// The process that is counted.
pub(crate) fn job(argument: &str) {
    let job: Job = serde_json::from_str(argument).expect("a job");
    let mut writer = TcpStream::connect(&job.seen).expect("the writer listens");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut discover = runtime.block_on(async {
        let resolver = Resolver::connect_lazy([job.etcd.as_str()]).expect("a resolver");
        let resolution = resolver.resolve(job.service.as_str()).expect("a resolution");
        resolution.ready(PATIENCE).await.expect("resolved");
        let mut discover = resolution.discover();
        for _ in 0..job.keys {
            discover.next().await;
        }
        changes(&mut discover, &mut writer, WARM_UP).await;
        discover
    });
    let profiler = job.counts_allocations.then(heap::profiler);
    see_changes(&runtime, &mut discover, &mut writer);
    if profiler.is_some() {
        println!("{}", heap::allocations());
    }
    // Without what it takes to free many keys.
    std::process::exit(0);
}

/// What is counted: on one thread, everything that the process does meanwhile.
#[inline(never)]
fn see_changes(runtime: &Runtime, discover: &mut ChangeStream, writer: &mut TcpStream) {
    runtime.block_on(changes(discover, writer, CHANGES));
}

/// Sees so many changes, one after the other.
async fn changes(discover: &mut ChangeStream, writer: &mut TcpStream, count: usize) {
    for _ in 0..count {
        writer.write_all(&[1]).expect("the writer reads");
        while let Some(Ok(change)) = discover.next().await {
            if let Change::Remove(_) = change {
                break;
            }
        }
    }
}
