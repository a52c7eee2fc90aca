//! Servers that have as many streams as they accept, and calls that wait: what it costs until the next call has the
//! slot of one that ends.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use serde::{Deserialize, Serialize};
use test_support::{Bar, Result};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic_etcd::BalancedChannel;

use super::{Job, MANY, NAME, argument, channel, connected, spawn, until};
use crate::findings::{Curve, Findings};
use crate::{job, servers};

/// Each has one stream.
const COUNTS: [usize; 4] = [3, 30, 300, MANY];
/// Calls that wait.
const WAITING: usize = 300;
/// Calls that end one by one, before anything is counted, and those that are.
const WARM_UP: usize = 20;
const FREED: usize = 250;
/// Longer than valgrind takes.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

/// What a process does.
#[derive(Serialize, Deserialize)]
pub(super) struct Run {
    addresses: Vec<String>,
    /// Each byte ends a call.
    ends: String,
}

pub(super) fn rows(found: &mut Findings) {
    let mut points = Vec::new();
    for count in COUNTS {
        let cost = cost(count);
        let few = points.first().map(|(_, few)| *few);
        points.extend(cost.as_ref().ok().map(|cost| (count as f64, *cost)));
        let ratio = cost.as_ref().map_err(Clone::clone).map(|cost| cost / few.unwrap_or(f64::NAN));
        found.add_or_missing(format!("a freed slot of {count} servers, the next call"), cost, "instr.", None);
        if count == MANY {
            let name = format!("a freed slot, {MANY} / {} servers", COUNTS[0]);
            found.add_or_missing(name, ratio, "×", Bar::AtMost(1.5));
        }
    }
    let title = "a call whose server was full".to_owned();
    found.draw(Curve { title, of: "servers", unit: "instr.", points });
}

/// What it costs from the end of a call until the next one is sent, with both calls' parts of that.
fn cost(servers: usize) -> Result<f64> {
    let process = spawn(&Job::ServeSlots(servers));
    let mut addresses = servers::addresses(&process);
    let ends = addresses.pop().expect("where calls are ended");
    let job = argument(&Job::Free(Run { addresses, ends }));
    Ok(job::instructions_within("free_slots", NAME, &job)? / FREED as f64)
}

pub(super) fn job(run: &Run) {
    let mut ends = TcpStream::connect(&run.ends).expect("it listens");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut calls = JoinSet::new();
    let channel = runtime.block_on(async {
        let channel = channel(BalancedChannel::builder().without_keep_alive().wait_limit(WAIT_LIMIT), &run.addresses);
        connected(&channel, run.addresses.len()).await;
        for _ in 0..run.addresses.len() + WAITING {
            let mut client = GreeterClient::new(channel.clone());
            let request = HelloRequest { name: servers::HOLD.to_owned() };
            calls.spawn(async move { client.say_hello(request).await.map(drop) });
        }
        until(|| channel.stats().waiting() == WAITING).await;
        end(&mut calls, &mut ends, WARM_UP).await;
        channel
    });
    free_slots(&runtime, &mut calls, &mut ends);
    assert_eq!(channel.stats().waiting(), WAITING - WARM_UP - FREED, "each slot was used at once");
    std::process::exit(0);
}

/// What is counted: on one thread, everything that the process does meanwhile.
#[inline(never)]
fn free_slots(runtime: &Runtime, calls: &mut Calls, ends: &mut TcpStream) {
    runtime.block_on(end(calls, ends, FREED));
}

type Calls = JoinSet<std::result::Result<(), tonic::Status>>;

/// Ends so many calls, one after the other.
async fn end(calls: &mut Calls, ends: &mut TcpStream, count: usize) {
    for _ in 0..count {
        ends.write_all(&[1]).expect("the servers read");
        calls.join_next().await.expect("a call").expect("it does not panic").expect("it is answered");
        // The next call has the slot by now, or has it in its next turn.
        tokio::task::yield_now().await;
    }
}
