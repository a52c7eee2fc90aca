//! Calls that servers refuse: how many attempts one makes, and what an attempt costs when all servers are known to
//! refuse.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use test_support::{Bar, Result};
use tonic_etcd::policy::RoundRobin;
use tonic_etcd::{BalancedChannel, RetryPolicy};

use crate::calls::client::{attempts, greet, ready, ready_and_still, work};
use crate::calls::{MANY, SERVERS, instructions_within, start};
use crate::findings::{Curve, Findings};
use crate::job::block_on;
use crate::lapse::still;

/// The time that a call has.
const DEADLINE: Duration = Duration::from_secs(2);
/// A call that waits for nothing makes this many: one, and those that follow it at once.
const ATTEMPTS: usize = 5;
/// Calls that are counted.
const CALLS: usize = 300;
/// Servers of which one refuses, callers, and calls of each.
const FLEET: usize = 300;
const CALLERS: usize = 64;
const CALLS_OF_EACH: usize = 300;

/// What a process is told.
#[derive(Serialize, Deserialize)]
pub(super) struct Job {
    addresses: Vec<String>,
}

pub(super) fn rows(found: &mut Findings) {
    let mut points = Vec::new();
    for servers in SERVERS {
        let made = attempts_of_one(servers);
        let name = format!("a call that all of {servers} servers refuse, {} s: attempts", DEADLINE.as_secs());
        found.add(name, made, "", Bar::AtMost(40.0));
        points.push((servers as f64, made));
    }
    let title = format!("attempts of a call that all refuse, in {} s", DEADLINE.as_secs());
    found.draw(Curve { title, of: "servers", unit: "", points });

    // A call tries five servers: three are too few.
    let (few, many) = (cost(SERVERS[1]), cost(MANY));
    for (servers, cost) in [(SERVERS[1], &few), (MANY, &many)] {
        let name = format!("an attempt that one of {servers} servers refuses, all tried: instructions");
        found.add_or_missing(name, cost.clone().map(|cost| cost / 1e3), "k", None);
    }
    // The first pick of a call does not look who refuses: all others do.
    let pick = few.and_then(|few| Ok((many? - few) * ATTEMPTS as f64 / (ATTEMPTS - 1) as f64));
    let name = format!("a pick, all of {MANY} servers tried, beyond one of {}: instructions", SERVERS[1]);
    found.add_or_missing(name, pick.map(|pick| pick / 1e3), "k", Bar::AtMost(100.0));

    let (failed, a_call) = block_on(one_refuses());
    let name = format!("one of {FLEET} servers refuses, {CALLERS} callers");
    found.add(format!("{name}: failed"), failed, "", Bar::Equal(0.0));
    found.add(format!("{name}: attempts a call"), a_call, "", Bar::AtMost(1.05));
}

/// How many attempts a call makes that nobody takes.
fn attempts_of_one(servers: usize) -> f64 {
    let (_process, addresses) = start(&super::Job::Refuse(servers));
    block_on(async {
        let channel = ready(BalancedChannel::builder(), &addresses).await;
        greet(&channel, Some(DEADLINE)).await.expect_err("nobody takes it");
        attempts(&channel) as f64
    })
}

/// The instructions of an attempt, with all that follows it up to the next, once each server has refused one.
fn cost(servers: usize) -> Result<f64> {
    let (_process, addresses) = start(&super::Job::Refuse(servers));
    Ok(instructions_within("make_refused_calls", &super::Job::Refused(Job { addresses }))? / (CALLS * ATTEMPTS) as f64)
}

/// The process that is counted.
pub(super) fn make_calls(job: &Job) {
    let (runtime, _end) = still();
    // Calls that end where they would pause, and a budget that is never empty: then their attempts are known.
    let retry = RetryPolicy::new().budget(u32::MAX, 0.0);
    let builder = BalancedChannel::builder().policy(RoundRobin::new()).retry(retry).wait_limit(Duration::ZERO);
    let servers = job.addresses.len();
    let channel = runtime.block_on(ready_and_still(builder, &job.addresses));
    runtime.block_on(work(&channel, 1, servers / 2)); // each is tried: a call tries more than two that were not
    let before = attempts(&channel);
    make_refused_calls(&runtime, &channel);
    // One more of each call has begun, and has found no server.
    assert_eq!((attempts(&channel) - before) as usize, CALLS * (ATTEMPTS + 1));
}

/// Callgrind counts in here.
#[inline(never)]
fn make_refused_calls(runtime: &tokio::runtime::Runtime, channel: &BalancedChannel) {
    assert_eq!(runtime.block_on(work(channel, 1, CALLS)), CALLS);
}

/// Calls that fail, and attempts a call.
async fn one_refuses() -> (f64, f64) {
    let (_refuses, refusing) = start(&super::Job::Refuse(1));
    let (_serve, serving) = start(&super::Job::Serve(FLEET - 1));
    let addresses = [refusing, serving].concat();
    let channel = ready(BalancedChannel::builder(), &addresses).await;
    let failed = work(&channel, CALLERS, CALLS_OF_EACH).await;
    (failed as f64, attempts(&channel) as f64 / (CALLERS * CALLS_OF_EACH) as f64)
}
