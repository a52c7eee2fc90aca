//! Pick first: one server gets all calls while it is ready.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::policy::{Call, Pick, Picker, Policy, ReadySet};

/// One server gets all calls while it is ready. The others stay connected: if it fails, one of them
/// takes over at once.
///
/// Each channel has its own order of servers, drawn at random by weight (gRFC A62, A113), so that a
/// fleet of clients does not meet at one server. While a server is at its limit of concurrent
/// streams, the next one in the order gets the calls. Load does not count: a server whose calls fail
/// gets all calls until [`OutlierDetection`](crate::OutlierDetection) ejects it.
///
/// Servers are not asked for their health under this policy, also if
/// [`BalancedChannelBuilder::health_check`](crate::BalancedChannelBuilder::health_check) is set
/// (gRFC A17).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PickFirst {}

impl PickFirst {
    /// The policy with its defaults.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Policy for PickFirst {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        let rank = |server: usize| {
            // The same server has the same number in each set of a channel, and another one in other channels.
            let mut hasher = DefaultHasher::new();
            let address = set.servers()[server].address();
            // All Unix sockets have the same authority.
            (set.seed(), address.unix_path().unwrap_or(address.authority())).hash(&mut hasher);
            rank(hasher.finish(), set.weight(server))
        };
        let mut order: Vec<(f64, usize)> = (0..set.len()).map(|server| (rank(server), server)).collect();
        order.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Arc::new(PickFirstPicker { order: order.into_iter().map(|(_, server)| server).collect() })
    }

    fn checks_health(&self) -> bool {
        false
    }

    /// A server that warms up keeps its rank: another order would move all calls.
    fn uses_slow_start(&self) -> bool {
        false
    }

    /// Weights say who is the first, and that one takes all calls.
    fn uses_weights(&self) -> bool {
        false
    }
}

/// The rank of a server that drew this random number. The lowest rank is the first; each server is
/// the first as often as its weight says (weighted sampling after Efraimidis and Spirakis).
fn rank(random: u64, weight: u64) -> f64 {
    let between_0_and_1 = (random >> 11) as f64 / (1_u64 << 53) as f64;
    -between_0_and_1.max(f64::MIN_POSITIVE).ln() / weight as f64
}

/// The order is made once for each set, so a pick takes the first server in most cases.
struct PickFirstPicker {
    /// Indexes of the set, the first choice first.
    order: Box<[usize]>,
}

impl Picker for PickFirstPicker {
    fn pick(&self, call: &Call<'_>) -> Pick {
        let available = self.order.iter().find(|server| call.is_available(**server));
        available.or(self.order.first()).map_or(Pick::Wait, |server| Pick::Server(*server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestCall, TestServer, ready_set};

    /// F49: each server is the first as often as its weight says.
    #[test]
    fn ranks_are_drawn_by_weight() {
        let mut random = fastrand::Rng::with_seed(7);
        let firsts = (0..10_000).filter(|_| rank(random.u64(..), 3) < rank(random.u64(..), 1)).count();
        assert!((7_300..7_700).contains(&firsts), "{firsts}");
        assert!(rank(0, 1).is_finite() && rank(u64::MAX, u64::MAX).is_finite());
    }

    /// Other names stand for another seed: the first in order is not the first choice of all channels.
    #[test]
    fn unix_sockets_have_an_order_of_their_own_too() {
        let call = TestCall::new("/a.B/C");
        let first = |number: u32| {
            let server = |name: &str| TestServer::at(&format!("unix:/run/{name}.{number}"));
            match PickFirst::new().picker(&ready_set(["a", "b", "c", "d"].map(server))).pick(&call.call()) {
                Pick::Server(server) => server,
                other => panic!("{other:?}"),
            }
        };
        let firsts: Vec<_> = (0..20).map(first).collect();
        assert!(firsts.iter().any(|first| *first != firsts[0]), "{firsts:?}");
    }

    #[test]
    fn the_order_stays_when_servers_go_and_the_next_takes_over() {
        let server = |call: &TestCall, addresses: &[&str]| {
            let set = ready_set(addresses.iter().map(|address| TestServer::at(address)));
            match PickFirst::new().picker(&set).pick(&call.call()) {
                Pick::Server(server) => addresses[server].to_owned(),
                other => panic!("{other:?}"),
            }
        };
        let call = TestCall::new("/a.B/C");
        let all = ["h:1", "h:2", "h:3", "h:4"];
        let first = server(&call, &all);
        let at = all.iter().position(|address| *address == first).unwrap();
        let rest: Vec<_> = all.into_iter().filter(|address| *address != first).collect();
        assert_eq!(server(&call.clone().without_server(at), &all), server(&call, &rest));
        let others: Vec<_> = all.into_iter().filter(|address| *address != rest[0]).collect();
        assert!(rest[0] == first || server(&call, &others) == first);
    }
}
