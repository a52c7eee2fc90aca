//! Servers that are all down, and nobody who calls: what an attempt to connect costs that fails.
//!
//! The comparator is as many tasks that do nothing but open a TCP connection and wait: the same system calls at the
//! same pace, with the channel's backoff. It has no order of attempts, no state and no texts; so what is beyond it is
//! what the channel does itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use test_support::{Bar, cpu_time};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tonic_etcd::BalancedChannel;

use super::{Job, MANY, channel, spawn};
use crate::findings::Findings;
use crate::{PATIENCE, heap, job};

/// How long the servers are down.
const LASTS: Duration = Duration::from_secs(8);
/// Each is timed so often, and the median counts.
const ROUNDS: usize = 3;
/// The channel's backoff.
const FIRST_BACKOFF: f64 = 0.1;
const BACKOFF_FACTOR: f64 = 1.6;
const JITTER: f64 = 0.2;

/// What a process does.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum Run {
    /// A channel, and its CPU time.
    Channel,
    /// Bare connects, and their CPU time.
    Bare,
    /// A channel, and what it allocates.
    Allocations,
}

pub(super) fn rows(found: &mut Findings) {
    let of = |run| {
        let mut costs: Vec<(f64, f64)> = (0..ROUNDS).map(|_| cost(run)).collect();
        costs.sort_by(|one, other| one.0.total_cmp(&other.0));
        costs[ROUNDS / 2]
    };
    let ((ours, attempts), (bare, connects)) = (of(Run::Channel), of(Run::Bare));
    let (blocks, failed) = cost(Run::Allocations);
    let name = |what: &str| format!("{MANY} servers down, nobody calls: {what}");
    found.add(name("allocations a failed attempt"), blocks / failed, "", Bar::AtMost(20.0));
    found.add(name("failed attempts in 8 s"), attempts, "", None);
    found.add(name("CPU of 8 s"), ours, "s", None);
    found.add(name("the same, bare connects"), bare, "s", None);
    let each = (ours / attempts) / (bare / connects);
    found.add(name("CPU of an attempt, beside a bare connect"), each, "×", Bar::AtMost(BESIDE_BARE));
}

/// The CPU time of an attempt beside that of a bare connect, at most. Issue 20 asks for 0.4 of what it was at 1bc1184:
/// that was 42 % of a core at least, 3.4 s in 8 s, and bare connects take 0.7 s. So this is 0.4 * 3.4 / 0.7.
const BESIDE_BARE: f64 = 2.0;

/// What it costs, and how many attempts have failed.
fn cost(run: Run) -> (f64, f64) {
    let process = spawn(&Job::Down(run));
    let line = process.wait_line(|_| true, PATIENCE).expect("a cost");
    let (cost, attempts) = line.split_once(' ').expect("two numbers");
    (cost.parse().expect("a number"), attempts.parse().expect("a number"))
}

pub(super) fn job(run: Run) {
    job::block_on(async {
        let (cost, attempts) = match run {
            Run::Channel => {
                let channel = channel(BalancedChannel::builder(), &addresses());
                sleep(LASTS).await;
                (cpu_time().as_secs_f64(), channel.stats().connections().failed())
            }
            Run::Bare => bare().await,
            Run::Allocations => allocations().await,
        };
        println!("{cost} {attempts}");
        // Without what it takes to end them.
        std::process::exit(0);
    });
}

/// Addresses that nobody listens at.
fn addresses() -> Vec<String> {
    (0..MANY).map(|number| format!("127.1.{}.{}:1", number / 250, number % 250 + 1)).collect()
}

/// The blocks that are allocated from when each server has failed, and the attempts since.
async fn allocations() -> (f64, u64) {
    let _profiler = heap::profiler();
    let channel = channel(BalancedChannel::builder(), &addresses());
    let failed = || channel.stats().connections().failed();
    super::until(|| failed() >= MANY as u64).await;
    let (blocks, before) = (heap::allocations(), failed());
    sleep(LASTS).await;
    ((heap::allocations() - blocks) as f64, failed() - before)
}

async fn bare() -> (f64, u64) {
    let end = Instant::now() + LASTS;
    let mut tasks = JoinSet::new();
    for address in addresses() {
        tasks.spawn(async move {
            let mut failed = 0;
            loop {
                let began = Instant::now();
                TcpStream::connect(address.as_str()).await.expect_err("nobody listens");
                failed += 1;
                let backoff = FIRST_BACKOFF * BACKOFF_FACTOR.powi(failed - 1);
                let next = began + Duration::from_secs_f64(backoff * (1.0 + JITTER * (2.0 * fastrand::f64() - 1.0)));
                if next >= end {
                    return failed;
                }
                sleep_until(next).await;
            }
        });
    }
    let failed = tasks.join_all().await.into_iter().sum::<i32>();
    sleep_until(end).await;
    (cpu_time().as_secs_f64(), u64::try_from(failed).expect("a count"))
}
