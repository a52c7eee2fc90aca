//! Round robin: one server after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::policy::{Call, Pick, Picker, Policy, ReadySet};

use super::weighted_round_robin::{Schedule, ScheduledPicker};

/// The share of a whole turn that a schedule can tell apart.
const RESOLUTION: f64 = 1_000.0;

/// One server after the other, in the order of their addresses.
///
/// Each picker begins at a random server, so that many clients do not begin at the same one.
/// Weights and load do not count: a server whose calls fail keeps its share of the calls until
/// [`OutlierDetection`](crate::OutlierDetection) ejects it. A server that warms up
/// ([`ReadySet::slow_start_factor`]) gets that part of its turns.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RoundRobin {}

impl RoundRobin {
    /// The policy with its defaults.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Policy for RoundRobin {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        let factors = || (0..set.len()).map(|server| set.slow_start_factor(server));
        if factors().any(|factor| factor < 1.0) {
            let turns = factors().map(|factor| (factor * RESOLUTION).round() as u64);
            return Arc::new(ScheduledPicker::new(Schedule::new(turns)));
        }
        let next = AtomicUsize::new(fastrand::u32(..) as usize);
        Arc::new(RoundRobinPicker { servers: set.len().max(1), next })
    }

    fn uses_weights(&self) -> bool {
        false
    }
}

/// All callers of a channel share one counter, so each call moves it on.
struct RoundRobinPicker {
    /// At least 1.
    servers: usize,
    /// Counts picks from a random number on, and wraps around.
    next: AtomicUsize,
}

impl Picker for RoundRobinPicker {
    fn pick(&self, _: &Call<'_>) -> Pick {
        Pick::Server(self.next.fetch_add(1, Ordering::Relaxed) % self.servers)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::{TestCall, TestServer, ready_set};

    /// F49: it goes round, from a random start.
    #[test]
    fn each_server_gets_its_turn_from_a_random_start() {
        let set = ready_set(["h:1", "h:2", "h:3"].map(TestServer::at));
        let call = TestCall::new("/a.B/C");
        let mut starts = BTreeSet::new();
        for _ in 0..100 {
            let picker = RoundRobin::new().picker(&set);
            let servers = [(); 6].map(|()| match picker.pick(&call.call()) {
                Pick::Server(server) => server,
                other => panic!("{other:?}"),
            });
            assert_eq!(servers[..3], servers[3..]);
            assert_eq!(servers[..3].iter().collect::<BTreeSet<_>>().len(), 3, "{servers:?}");
            starts.insert(servers[0]);
        }
        assert_eq!(starts.len(), 3);
    }

    #[test]
    fn weights_do_not_count_and_a_server_that_warms_up_has_a_part_of_its_turns() {
        let server = |weight| TestServer::at("h:1").with_weight(weight);
        let set = ready_set([server(1).with_slow_start_factor(0.1), server(9), server(2)]);
        let (picker, call) = (RoundRobin::new().picker(&set), TestCall::new("/a.B/C"));
        let mut counts = [0; 3];
        for _ in 0..210 {
            match picker.pick(&call.call()) {
                Pick::Server(server) => counts[server] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(counts, [10, 100, 100]);
    }
}
