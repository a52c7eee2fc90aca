//! A call that a server takes: what it costs with few servers and with many, by policy.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use test_support::{Bar, Result};
use tonic_etcd::policy::{
    ConsistentHash, HashKey, LeastRequest, PeakEwma, PickFirst, Random, RoundRobin, WeightedRoundRobin,
};
use tonic_etcd::{BalancedChannel, Policy};

use crate::calls::client::{ready_and_still, work};
use crate::calls::{FEW, MANY, SERVERS, instructions_within, start};
use crate::findings::{Curve, Findings};
use crate::lapse::still;

/// Calls that are counted.
const CALLS: usize = 1_536;
/// How many make them at the same time.
const WORKERS: [usize; 2] = [1, 64];
/// So many servers that 64 calls at a time seldom share a connection: those that do share a write too, and cost less.
const SOME: usize = 300;
/// Of the curve over callers.
const CALLERS: [usize; 4] = [1, 8, 64, 512];
/// The first call over a connection costs more than those that follow, and peak EWMA looks at the others for a server that has had
/// none: each has had one before. Where servers are drawn, one in fifty has not.
const WARM_UP_FACTOR: usize = 4;
const WARM_UP: usize = 640;

/// The built-in ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    LeastRequest,
    PeakEwma,
    WeightedRoundRobin,
    RoundRobin,
    Random,
    ConsistentHash,
    PickFirst,
}

const KINDS: [Kind; 7] = [
    Kind::LeastRequest,
    Kind::PeakEwma,
    Kind::WeightedRoundRobin,
    Kind::RoundRobin,
    Kind::Random,
    Kind::ConsistentHash,
    Kind::PickFirst,
];

/// What a process is told.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Job {
    addresses: Vec<String>,
    policy: Kind,
    workers: usize,
}

impl Kind {
    fn policy(self) -> Arc<dyn Policy> {
        match self {
            Self::LeastRequest => Arc::new(LeastRequest::new()),
            Self::PeakEwma => Arc::new(PeakEwma::new()),
            Self::WeightedRoundRobin => Arc::new(WeightedRoundRobin::new()),
            Self::RoundRobin => Arc::new(RoundRobin::new()),
            Self::Random => Arc::new(Random::new()),
            Self::ConsistentHash => {
                Arc::new(ConsistentHash::by(|_| Some(HashKey::of(fastrand::u64(..).to_le_bytes()))))
            }
            Self::PickFirst => Arc::new(PickFirst::new()),
        }
    }
}

pub(super) fn rows(found: &mut Findings) {
    let (_few, few) = start(&super::Job::Serve(FEW));
    let (_some, some) = start(&super::Job::Serve(SOME));
    let (_many, many) = start(&super::Job::Serve(MANY));
    for policy in KINDS {
        for workers in WORKERS {
            let job = |addresses: &Vec<String>| Job { addresses: addresses.clone(), policy, workers };
            let costs = cost(&job(&few)).and_then(|few| Ok((few, cost(&job(&many))?)));
            let who = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
            let name = format!("a call, {policy:?}, {who}, instructions");
            if workers > 1 {
                let ratio = costs.clone().and_then(|(_, many)| Ok(many / cost(&job(&some))?));
                found.add_or_missing(format!("{name}, {MANY} / {SOME} servers"), ratio, "×", None);
            }
            let (few, many) = (costs.clone().map(|(few, _)| few / 1e3), costs.clone().map(|(_, many)| many / 1e3));
            found.add_or_missing(format!("{name}, {FEW} servers"), few, "k", None);
            found.add_or_missing(format!("{name}, {MANY} servers"), many, "k", None);
            let ratio = costs.map(|(few, many)| many / few);
            found.add_or_missing(format!("{name}, {MANY} / {FEW} servers"), ratio, "×", Bar::AtMost(1.1));
        }
    }
    let mut points = Vec::new();
    for servers in SERVERS {
        let (_process, addresses) = start(&super::Job::Serve(servers));
        let job = Job { addresses, policy: Kind::LeastRequest, workers: 1 };
        points.extend(cost(&job).ok().map(|cost| (servers as f64, cost)));
    }
    let title = "instructions of a call, LeastRequest, 1 worker".to_owned();
    found.draw(Curve { title, of: "servers", unit: "", points });
    let (_process, addresses) = start(&super::Job::Serve(SERVERS[1]));
    let mut points = Vec::new();
    for workers in CALLERS {
        let job = Job { addresses: addresses.clone(), policy: Kind::LeastRequest, workers };
        points.extend(cost(&job).ok().map(|cost| (workers as f64, cost)));
    }
    let title = format!("instructions of a call, LeastRequest, {} servers", SERVERS[1]);
    found.draw(Curve { title, of: "callers", unit: "", points });
}

/// The instructions of a call.
fn cost(job: &Job) -> Result<f64> {
    Ok(instructions_within("make_taken_calls", &super::Job::Taken(job.clone()))? / CALLS as f64)
}

/// The process that is counted.
pub(super) fn make_calls(job: &Job) {
    let (runtime, _end) = still();
    let builder = BalancedChannel::builder().policy(job.policy.policy());
    let channel = runtime.block_on(ready_and_still(builder, &job.addresses));
    let warm_up = WARM_UP + WARM_UP_FACTOR * job.addresses.len();
    assert_eq!(runtime.block_on(work(&channel, job.workers, warm_up / job.workers)), 0);
    make_taken_calls(&runtime, &channel, job.workers);
}

/// Callgrind counts in here.
#[inline(never)]
fn make_taken_calls(runtime: &tokio::runtime::Runtime, channel: &BalancedChannel, workers: usize) {
    assert_eq!(runtime.block_on(work(channel, workers, CALLS / workers)), 0);
}
