//! Fleets under load, simulated with a seed: what shares the cost of their calls gives the servers.
//! PURE.

mod shares;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use crate::balance::policy::simulated::{WeightedLoad, by_latency, by_load, draw, median};
use crate::balance::runtime::nanos::Nanos;
use crate::balance::subchannel::cost::{Cost, Fleet};

/// What a server does with a call.
#[derive(Clone, Copy)]
enum Does {
    /// OK after about so long.
    Ok(Duration),
    /// Fails so many of a hundred calls after the first time, and takes the second for an OK one.
    Fails(u64, Duration, Duration),
    Hangs,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    LeastRequest,
    PeakEwma,
}

const POLICIES: [Policy; 2] = [Policy::LeastRequest, Policy::PeakEwma];

struct Server {
    cost: Cost,
    weight: u32,
    in_flight: usize,
    does: Does,
    /// It stands still until then.
    still: Duration,
    asked: Duration,
}

impl Server {
    fn new(weight: u32, does: Does) -> Self {
        let (still, asked) = (Duration::ZERO, Duration::ZERO);
        Self { cost: Cost::default(), weight, in_flight: 0, does, still, asked }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    ends: Duration,
    began: Duration,
    caller: usize,
    server: usize,
    is_ok: bool,
}

/// Workers that call one after the other, each without a pause.
struct World {
    policy: Policy,
    servers: Vec<Server>,
    fleet: Fleet,
    now: Duration,
    random: u64,
    /// How long a caller waits before it gives up.
    patience: Option<Duration>,
    /// The next to end on top.
    calls: BinaryHeap<Reverse<Call>>,
    idle: BTreeSet<usize>,
    /// Servers stand still for so long, one of them about so often.
    stalls: Option<(Duration, Duration)>,
    /// So much longer takes a call of a server that was idle for 10 ms: its memory is cold, its
    /// threads sleep.
    cold: Duration,
    next_stall: Duration,
    /// Which server each call went to, and when.
    picked: Vec<(Duration, usize)>,
}

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

const SECOND: Duration = Duration::from_secs(1);

impl World {
    fn new(policy: Policy, workers: usize, servers: &[(u32, Does)]) -> Self {
        Self {
            policy,
            servers: servers.iter().map(|(weight, does)| Server::new(*weight, *does)).collect(),
            fleet: Fleet::default(),
            now: us(1),
            random: 0x9e37_79b9_7f4a_7c15,
            patience: None,
            calls: BinaryHeap::new(),
            idle: (0..workers).collect(),
            stalls: None,
            cold: Duration::ZERO,
            next_stall: SECOND,
            picked: Vec::new(),
        }
    }

    fn pick(&mut self) -> usize {
        let weights: Vec<_> = self.servers.iter().map(|server| u64::from(server.weight)).collect();
        let sum: u64 = weights.iter().sum();
        let mut state = self.random;
        let random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let sample = |random: u64| {
            let mut point = random % sum;
            weights.iter().position(|weight| match point.checked_sub(*weight) {
                Some(left) => {
                    point = left;
                    false
                }
                None => true,
            })
        };
        let (a, b) = draw(self.servers.len(), |random| sample(random).unwrap(), random);
        self.random = state;
        let standing = |server: &Server| WeightedLoad {
            load: server.in_flight as u64 + server.cost.penalties(|| self.now),
            weight: u64::from(server.weight),
        };
        let (first, second) = (&self.servers[a], &self.servers[b]);
        let is_second = match self.policy {
            Policy::LeastRequest => by_load(standing(first), standing(second)),
            Policy::PeakEwma => by_latency(
                (standing(first), first.cost.latency_estimate(self.now)),
                (standing(second), second.cost.latency_estimate(self.now)),
                || median(self.servers.iter().map(|server| server.cost.latency_estimate(self.now))),
            ),
        };
        if is_second { b } else { a }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn start(&mut self, caller: usize) {
        let picked = self.pick();
        self.picked.push((self.now, picked));
        let jitter = 700 + self.random(600);
        let about = |time: Duration| time * jitter as u32 / 1000;
        let (chance, does) = (self.random(100), self.servers[picked].does);
        let (takes, ok) = match does {
            Does::Fails(percent, fails, _) if chance < percent => (about(fails), false),
            Does::Ok(takes) | Does::Fails(_, _, takes) => (about(takes), true),
            Does::Hangs => (Duration::from_secs(3600), false),
        };
        let (takes, is_ok) = match self.patience {
            Some(patience) if patience < takes => (patience, false),
            _ => (takes, ok),
        };
        let is_cold = self.now > self.servers[picked].asked + us(10_000);
        let takes = if is_cold { takes + self.cold } else { takes };
        self.servers[picked].asked = self.now;
        self.servers[picked].in_flight += 1;
        self.servers[picked].cost.sent(Nanos::new(self.now));
        self.calls.push(Reverse(Call {
            ends: self.now.max(self.servers[picked].still) + takes,
            began: self.now,
            caller,
            server: picked,
            is_ok,
        }));
    }

    /// Lets one server stand still from now on.
    fn stall(&mut self) {
        let Some((time, often)) = self.stalls else { return };
        if self.now < self.next_stall {
            return;
        }
        self.next_stall = self.now + often * (500 + self.random(1_000)) as u32 / 1_000;
        let which = self.random(self.servers.len() as u64) as usize;
        self.servers[which].still = self.now + time;
        let late = |Reverse(call): Reverse<Call>| {
            let later = if call.server == which { time } else { Duration::ZERO };
            Reverse(Call { ends: call.ends + later, ..call })
        };
        self.calls = std::mem::take(&mut self.calls).into_iter().map(late).collect();
    }

    /// Runs until then.
    fn until(&mut self, end: Duration) {
        while self.now < end {
            self.stall();
            while let Some(caller) = self.idle.pop_first() {
                self.start(caller);
            }
            let Some(Reverse(Call { ends: at, began, caller, server, is_ok })) = self.calls.pop() else { return };
            self.now = at;
            self.servers[server].in_flight -= 1;
            let age = at.saturating_sub(began);
            let all = self.servers.iter().map(|server| (&server.cost, server.in_flight));
            let cost = &self.servers[server].cost;
            let peers = || self.fleet.peers_of(cost, at, all);
            cost.head_settled();
            if is_ok {
                cost.answered(Nanos::new(age), Nanos::new(at));
                cost.succeeded(Nanos::new(age), peers);
            } else {
                cost.failed(age, age, at, &peers());
            }
            self.idle.insert(caller);
        }
    }

    fn calls(&mut self, count: usize) {
        while self.picked.len() < count {
            self.until(self.now + us(200));
        }
    }

    /// The share of one server's calls among those that began from then on, and how many those are.
    fn share(&self, server: usize, since: Duration) -> (f64, usize) {
        let calls: Vec<_> = self.picked.iter().filter(|(at, _)| *at >= since).collect();
        let own = calls.iter().filter(|(_, picked)| *picked == server).count();
        (own as f64 / calls.len().max(1) as f64, calls.len())
    }
}
