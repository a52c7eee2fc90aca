//! The servers that a policy may choose from: `server.rs` is one of them, `selected.rs` has those that
//! are not ready too, `weights.rs` makes weights comparable, `testing.rs` builds sets without a channel.

pub(super) mod selected;
pub(super) mod server;
pub mod testing;
pub(crate) mod weights;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::balance::policy::set::selected::SelectedServers;
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
    /// Of each server; `None` if all are 1.
    factors: Option<Box<[f64]>>,
    selected: SelectedServers,
    /// For each selected server its index here, or [`NOT_READY`]. Only policies that ask for it pay for it.
    ready_indexes: OnceLock<Box<[u32]>>,
    seed: u64,
    /// Of the channel: all its sets have the same.
    notifier: PickNotifier,
}

/// No set has so many servers.
const NOT_READY: u32 = u32::MAX;

/// What a set is built from.
pub(crate) struct ReadySetParts {
    /// In the order of addresses, and not empty.
    pub(crate) servers: Box<[ReadyServer]>,
    /// The slow start factor of each ready server, in (0, 1]. `None` if all are 1.
    pub(crate) factors: Option<Box<[f64]>>,
    /// The servers of the channel that calls may go to, ready or not.
    pub(crate) selected: SelectedServers,
    /// The channel's: see [`ReadySet::seed`].
    pub(crate) seed: u64,
    /// The channel's.
    pub(crate) notifier: PickNotifier,
}

/// Weights that differ, in the order of the servers.
struct EffectiveWeights {
    /// At least 1 each.
    each: Box<[u64]>,
    /// The sum of the weights up to and with each server.
    sums: Box<[u64]>,
}

impl ReadySet {
    pub(crate) fn new(parts: ReadySetParts) -> Self {
        let ReadySetParts { servers, factors, selected, seed, notifier } = parts;
        let factors = factors.filter(|factors| factors.iter().any(|said| weights::factor(Some(*said)) < 1.0));
        let said = Weights::of(servers.iter().map(|server| server.instance().weight()));
        let own: Box<[u64]> = servers.iter().map(|server| said.effective(server.instance().weight())).collect();
        let each = factors.as_ref().map_or_else(|| own.clone(), |factors| weights::with_factors(&own, factors));
        let sum = |sum: &mut u64, weight: &u64| {
            *sum = sum.saturating_add(*weight);
            Some(*sum)
        };
        let differ = each.windows(2).any(|pair| pair[0] != pair[1]);
        let weights = differ.then(|| EffectiveWeights { sums: each.iter().scan(0, sum).collect(), each });
        let ready_indexes = OnceLock::new();
        Self(Arc::new(Inner { servers, weights, factors, selected, ready_indexes, seed, notifier }))
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
    /// (gRFC A58). While servers warm up, it is multiplied by
    /// [`slow_start_factor`](Self::slow_start_factor), and all weights of the set by up to 1,000. If
    /// all weights are equal, each is 1.
    pub fn weight(&self, server: usize) -> u64 {
        self.0.weights.as_ref().and_then(|weights| weights.each.get(server)).copied().unwrap_or(1)
    }

    /// The part of its weight that a server has while it warms up, by its index: above 0, and at most 1.
    /// A server that is warm has 1, and so has an index out of range, and every server without slow
    /// start. [`weight`](Self::weight) and [`draw`](Self::draw) have it in them; a policy that ignores
    /// weights should follow it, as [`RoundRobin`](crate::policy::RoundRobin) does.
    pub fn slow_start_factor(&self, server: usize) -> f64 {
        weights::factor(self.0.factors.as_ref().and_then(|factors| factors.get(server)).copied())
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

    /// The servers of the channel that calls may go to, ready or not. Sets that differ only in which
    /// servers are ready have the same ([`SelectedServers::is_same`]).
    pub fn selected(&self) -> &SelectedServers {
        &self.0.selected
    }

    /// The index in this set of a [selected](Self::selected) server, by its index there. `None` if it
    /// is not ready, and for an index out of range.
    pub fn ready_index(&self, selected: usize) -> Option<usize> {
        let indexes = self.0.ready_indexes.get_or_init(|| self.find_selected());
        indexes.get(selected).filter(|index| **index != NOT_READY).map(|index| *index as usize)
    }

    /// The index of each selected server here.
    fn find_selected(&self) -> Box<[u32]> {
        let ready = self.servers();
        // Both are in the order of addresses, and what is ready was selected: one way through both is enough.
        let mut next = 0;
        let in_order = self.selected().servers().iter().map(|selected| {
            let is_next = ready.get(next).is_some_and(|server| server.address() == selected.address());
            next += usize::from(is_next);
            if is_next { next as u32 - 1 } else { NOT_READY }
        });
        let in_order = in_order.collect();
        if next == ready.len() {
            return in_order;
        }
        // Or not: a channel may go on with a server that it would not select any more.
        let indexes: HashMap<_, _> =
            ready.iter().zip(0_u32..).map(|(server, index)| (server.address(), index)).collect();
        let index = |selected: &selected::SelectedServer| indexes.get(selected.address()).copied();
        self.selected().servers().iter().map(|selected| index(selected).unwrap_or(NOT_READY)).collect()
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
    use crate::testing::{TestServer, ready_set, ready_set_of, ready_set_within};

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

    #[test]
    fn a_server_that_warms_up_has_a_part_of_its_weight() {
        let server = |port, weight| TestServer::new(Instance::new(port).unwrap().with_weight(weight).unwrap());
        let cold = server("h:2", 2).with_slow_start_factor(0.1);
        let set = ready_set([server("h:1", 1), cold.clone(), server("h:3", 2)]);
        assert_eq!([0, 1, 2, 3].map(|server| set.weight(server)), [1_000, 200, 2_000, 1]);
        assert_eq!([0, 1, 2, 3].map(|server| set.slow_start_factor(server) < 1.0), [false, true, false, false]);
        let alike = ready_set([cold.clone(), cold]);
        assert_eq!((alike.weight(0), alike.weight(1)), (1, 1));
        let warm = ready_set([server("h:1", 1).with_slow_start_factor(1.0), server("h:2", 2)]);
        assert_eq!((warm.weight(0), warm.weight(1)), (1, 2));
    }

    #[test]
    fn selected_servers_are_found_among_the_ready_ones() {
        let servers = ["h:1", "h:2", "h:3"].map(TestServer::at);
        let [one, two, three] = servers.clone();
        let all = ready_set(servers);
        let indexes = |set: &ReadySet| [0, 1, 2, 3].map(|selected| set.ready_index(selected));
        assert_eq!(indexes(&all), [Some(0), Some(1), Some(2), None]);
        let some = ready_set_of([(one.clone(), false), (two.clone(), true), (three.clone(), true)]);
        assert_eq!((indexes(&some), some.len()), ([None, Some(0), Some(1), None], 2));
        let fewer = ready_set_within(all.selected(), [one.clone(), three.clone()]);
        assert!(fewer.selected().is_same(all.selected()) && !some.selected().is_same(all.selected()));
        assert_eq!(indexes(&fewer), [Some(0), None, Some(1), None]);
        // In another order, and with one that is not selected.
        let other = ready_set_within(all.selected(), [three, TestServer::at("h:4"), one]);
        assert_eq!(indexes(&other), [Some(2), None, Some(0), None]);
    }
}
