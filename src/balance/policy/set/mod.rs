//! The servers that a policy may choose from: `server.rs` is one of them, `weights.rs` makes
//! weights comparable, `testing.rs` builds sets without a channel.

pub(super) mod server;
pub mod testing;
pub(crate) mod weights;

use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::balance::policy::set::server::ReadyServer;
use crate::balance::policy::set::weights::Weights;

/// The servers that calls may go to, in the order of their addresses: those that are connected and
/// not ejected. If all connected servers are ejected, it has those.
///
/// A set does not change; a change of servers or weights makes a new set. The loads in it are live.
/// It holds no connection open. Cheap to clone.
#[derive(Clone)]
pub struct ReadySet(Arc<Inner>);

/// What all clones of a set share. Built once for each set, and never changed.
struct Inner {
    /// Not empty, in the order of addresses.
    servers: Box<[ReadyServer]>,
    /// `None` if all weights are equal, which is the common case and the cheaper one.
    weights: Option<EffectiveWeights>,
    seed: u64,
    /// Of the channel: all its sets have the same.
    notifier: PickNotifier,
}

/// Weights that differ, in the order of the servers.
struct EffectiveWeights {
    /// At least 1 each.
    each: Box<[u64]>,
    /// The sum of the weights up to and with each server.
    sums: Box<[u64]>,
}

impl ReadySet {
    /// `servers` is in the order of addresses, and not empty.
    pub(crate) fn new(servers: Box<[ReadyServer]>, seed: u64, notifier: PickNotifier) -> Self {
        let weights = Weights::of(servers.iter().map(|server| server.instance().weight()));
        let each: Box<[u64]> = servers.iter().map(|server| weights.effective(server.instance().weight())).collect();
        let sum = |sum: &mut u64, weight: &u64| {
            *sum = sum.saturating_add(*weight);
            Some(*sum)
        };
        let differ = each.windows(2).any(|pair| pair[0] != pair[1]);
        let weights = differ.then(|| EffectiveWeights { sums: each.iter().scan(0, sum).collect(), each });
        Self(Arc::new(Inner { servers, weights, seed, notifier }))
    }

    /// The servers, in the order of their addresses.
    pub fn servers(&self) -> &[ReadyServer] {
        &self.0.servers
    }

    /// How many servers there are; at least one.
    #[allow(clippy::len_without_is_empty)] // a set is never empty
    pub fn len(&self) -> usize {
        self.0.servers.len()
    }

    /// The effective weight of a server, by its index; at least 1, and 1 for an index out of range.
    ///
    /// Only the ratio to the other weights of the same set has a meaning. It follows from the
    /// instances: an instance without a weight counts as the mean of those in the set that have one
    /// (gRFC A58). If all weights are equal, each is 1.
    pub fn weight(&self, server: usize) -> u64 {
        self.0.weights.as_ref().and_then(|weights| weights.each.get(server)).copied().unwrap_or(1)
    }

    /// Draws a server by weight and returns its index: `random` is a random number, uniform over
    /// all of `u64`, such as `fastrand::u64(..)`.
    pub fn draw(&self, random: u64) -> usize {
        let below = |limit: u64| ((u128::from(random) * u128::from(limit)) >> 64) as u64;
        match &self.0.weights {
            None => below(self.len() as u64) as usize,
            Some(weights) => {
                let point = below(weights.sums.last().copied().unwrap_or(1));
                weights.sums.partition_point(|sum| *sum <= point)
            }
        }
    }

    /// A random number that the channel drew once. All sets of a channel have the same, so that
    /// what a policy derives from it, such as an order of servers, stays when servers come and go.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Lets calls that wait because of [`Pick::Wait`](crate::policy::Pick::Wait) ask again.
    pub fn notifier(&self) -> &PickNotifier {
        &self.0.notifier
    }
}

impl fmt::Debug for ReadySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.servers()).finish()
    }
}

/// Wakes the calls of one channel that wait because of [`Pick::Wait`](crate::policy::Pick::Wait).
/// Cheap to clone, and usable from any task or thread; it keeps no channel alive.
#[derive(Clone, Debug, Default)]
pub struct PickNotifier(Arc<Notify>);

impl PickNotifier {
    /// Makes all waiting calls ask the picker again. No wake-up is lost: a call that is about to
    /// wait either sees what you changed before this call, or is woken by it.
    pub fn notify(&self) {
        self.0.notify_waiters();
    }

    /// Waits for the next [`PickNotifier::notify`] after this was called.
    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Instance;
    use crate::testing::{TestServer, ready_set};

    fn set(weights: &[Option<u32>]) -> ReadySet {
        let server = |weight: &Option<u32>| {
            let instance = Instance::new("h:1").unwrap();
            let instance = weight.iter().try_fold(instance, |instance, weight| instance.with_weight(*weight)).unwrap();
            TestServer::new(instance)
        };
        ready_set(weights.iter().map(server))
    }

    #[test]
    fn a_draw_follows_the_weights() {
        let counts = |set: &ReadySet| {
            let mut random = fastrand::Rng::with_seed(7);
            let mut counts = vec![0; set.len()];
            (0..10_000).for_each(|_| counts[set.draw(random.u64(..))] += 1);
            counts
        };
        assert!(counts(&set(&[None; 4])).iter().all(|count| (2_300..2_700).contains(count)));
        let counts = counts(&set(&[Some(1), None, Some(3)]));
        for (count, expected) in counts.iter().zip([1_667, 3_333, 5_000]) {
            assert!((expected - 200..expected + 200).contains(count), "{counts:?}");
        }
        for weights in [&[None][..], &[Some(1), Some(u32::MAX)], &[Some(5)]] {
            let set = set(weights);
            assert!(set.draw(0) == 0 && set.draw(u64::MAX) == set.len() - 1);
        }
        assert_eq!((set(&[Some(7), Some(7)]).weight(0), set(&[Some(7), Some(7)]).weight(9)), (1, 1));
    }
}
