//! Which of the ready servers a call goes to.

pub(super) mod ready;
pub(super) mod weights;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;

use crate::balance::policy::ready::{Ready, ReadyServer, weights};
use crate::balance::subchannel::cost;

/// How a channel picks a server for each call. Every policy picks among connected servers alone. An instance that says no weight
/// counts as the mean of the connected ones that say one (gRFC A58). A policy passes over servers that
/// are at their limit of concurrent streams, those that were idle for long and have yet to answer a PING
/// ([`BalancedChannelBuilder::idle_timeout`](crate::balance::BalancedChannelBuilder::idle_timeout)), and those that have just failed the same
/// call.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Policy {
    /// Power of two choices on load (gRFC A48's least request, with weights). Two servers are drawn at random, by weight. The call
    /// goes to the first, unless the second has no more load for its weight even with the call included.
    ///
    /// The load of a server is its calls in flight, and what calls that ended badly go on counting ([`ReadyServer::load`]). The
    /// default: slow servers get fewer calls by themselves, and those that fail at once, hang or panic get a few percent.
    #[default]
    LeastRequest,
    /// Power of two choices on latency times load: a slow server gets next to nothing. The latency is a peak-sensitive moving
    /// average (peak EWMA) of the time to the head of the answer. After Finagle's, but a server counts as slow after some 200 ms or
    /// several slow answers in a row, and not at the first one: of thousands of calls one is always slow. It is forgotten within
    /// some 2 s. Between servers whose latencies differ by less than 3 times, weights and load decide, as with
    /// [`Policy::LeastRequest`]. Latencies below 1 ms are alike: there a turn of the scheduler or a cold cache is what is seen.
    ///
    /// For servers whose calls take alike: one method that is slow by nature speaks against whoever answers it.
    PeakEwma,
    /// One after the other in the order of their addresses. Each channel begins at a server that is drawn at random, so that
    /// many clients do not begin at the same one. Weights and load are not regarded: a server that fails its calls keeps its part
    /// of them until [`Ejection`](crate::balance::Ejection) leaves it out.
    RoundRobin,
    /// One server, as long as it is ready; the others are kept connected, and take over at once. Each channel has an order of
    /// servers of its own, drawn at random by weight (gRFC A62, A113), so that a fleet of clients does not meet at one server. A
    /// server that is at its limit of streams is passed over for the next in order. Load is not regarded: a server that fails its
    /// calls keeps them until [`Ejection`](crate::balance::Ejection) leaves it out.
    PickFirst,
    /// The user's own.
    #[non_exhaustive]
    Custom(Arc<dyn Picker>),
}

impl Policy {
    /// A policy of one's own.
    pub fn custom(picker: impl Picker) -> Self {
        Self::Custom(Arc::new(picker))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeastRequest => "LeastRequest",
            Self::PeakEwma => "PeakEwma",
            Self::RoundRobin => "RoundRobin",
            Self::PickFirst => "PickFirst",
            Self::Custom(_) => "Custom",
        })
    }
}

/// What a policy may go by.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

impl<'a> Call<'a> {
    /// The method: `/package.Service/Method`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The request's metadata.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }
}

/// A policy of one's own: `examples/zone_aware.rs` is one.
///
/// Called in the task of each caller for each attempt: it must not block, and should not lock.
pub trait Picker: Send + Sync + 'static {
    /// The index of the server that the call should go to. Asked where two or more are ready, and perhaps more than once for
    /// an attempt. `servers` stand in the order of their addresses, and are the same until one comes or goes. An index beyond
    /// the last stands for the last; where the chosen one is full, or has failed this call already, the next in order that can takes
    /// the call.
    ///
    /// # Panics
    /// A panic in here is the caller's.
    fn pick(&self, call: &Call<'_>, servers: &[ReadyServer]) -> usize;
}

/// What the policies need between picks.
pub(crate) struct Memory {
    next: AtomicUsize,
    /// Gives each channel an order of its own.
    order: RandomState,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { next: AtomicUsize::new(fastrand::u32(..) as usize), order: RandomState::new() }
    }

    /// Puts the servers, which stand in the order of their addresses, into the one that the policy wants.
    pub(crate) fn arrange(&self, policy: &Policy, servers: &mut [ReadyServer]) {
        if let Policy::PickFirst = policy {
            let weight = weights(servers);
            let rank =
                |server: &ReadyServer| rank(self.order.hash_one(server.address().parsed_authority()), weight(server));
            servers.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        }
    }
}

/// The place of a server that drew so at random: the least is the first, which each is as often as its weight says (weighted
/// sampling after Efraimidis and Spirakis).
fn rank(random: u64, weight: u64) -> f64 {
    let between_0_and_1 = (random >> 11) as f64 / (1_u64 << 53) as f64;
    -between_0_and_1.max(f64::MIN_POSITIVE).ln() / weight as f64
}

/// Where to begin to look for a server that takes the call. `usable` tells which may be asked.
pub(crate) fn pick(
    policy: &Policy,
    memory: &Memory,
    call: &Call<'_>,
    ready: &Ready,
    usable: impl Fn(&ReadyServer) -> bool,
) -> usize {
    let servers = &ready.servers;
    match policy {
        _ if servers.len() < 2 => 0,
        Policy::LeastRequest => two_choices(ready, |a, b| cost::by_load(ready.standing(a), ready.standing(b)), usable),
        Policy::PeakEwma => {
            let known = |server: usize| (ready.standing(server), servers[server].0.server.estimate());
            two_choices(ready, |a, b| cost::by_latency(known(a), known(b)), usable)
        }
        Policy::RoundRobin => memory.next.fetch_add(1, Ordering::Relaxed) % servers.len(),
        Policy::PickFirst => 0,
        Policy::Custom(picker) => picker.pick(call, servers).min(servers.len() - 1),
    }
}

fn two_choices(
    ready: &Ready,
    second_is_better: impl Fn(usize, usize) -> bool,
    usable: impl Fn(&ReadyServer) -> bool,
) -> usize {
    let mut random = |below| fastrand::u64(..below);
    let (a, b) = cost::draw(ready.servers.len(), |random| ready.sample(random), &mut random);
    match (usable(&ready.servers[a]), usable(&ready.servers[b])) {
        (true, false) => a,
        (false, true) => b,
        _ if second_is_better(a, b) => b,
        _ => a,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F49: each server is the first as often as its weight says.
    #[test]
    fn ranks_are_drawn_by_weight() {
        let mut random = fastrand::Rng::with_seed(7);
        let firsts = (0..10_000).filter(|_| rank(random.u64(..), 3) < rank(random.u64(..), 1)).count();
        assert!((7_300..7_700).contains(&firsts), "{firsts}");
        assert!(rank(0, 1).is_finite() && rank(u64::MAX, u64::MAX).is_finite());
    }
}
