//! Weighted round robin: one server after the other, by weight. `schedule.rs` (pure) is the order.

mod schedule;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::policy::{Call, Pick, Picker, Policy, ReadySet};

pub(crate) use self::schedule::Schedule;

/// An entry is passed over if its server is not available, but no more than so many: looking at a server costs as
/// much as the pick.
const MOST_PASSED: usize = 16;

/// One server after the other, each as often as its weight says.
///
/// Weights are those of the instances ([`Instance::with_weight`](crate::Instance::with_weight)); servers
/// that warm up have a part of theirs. Load does not count: a slow server, and one whose calls fail,
/// keeps its share of the calls until [`OutlierDetection`](crate::OutlierDetection) ejects it. A
/// server that is not available is passed over.
///
/// The order is written down when the set changes, with the turns of each server spread evenly (after gRFC A58's
/// static stride, which computes them as it goes). It has at most 4,096 turns, or 16 for each server if that is more.
/// If the weights in lowest terms add up to no more, shares are exact; else each server has its exact number of turns
/// rounded up or down, and one at least. So a share is wrong by less than 1 of 4,096 calls, as long as each server is
/// heavy enough for a turn, with at least 1/4,096 of all weight (in sets of more than 256 servers, 1/16 of the mean
/// weight). Each lighter server has a turn all the same, beside the 4,096: where there are k of them, the others may
/// lose up to k in 4,096 + k of their calls to them, which is never more than 1 in 17. Each picker begins at a random
/// turn, so that many clients do not begin at the same server.
///
/// Choose it if calls cost about the same and the weights say what servers can do; choose
/// [`LeastRequest`](crate::policy::LeastRequest) if they do not.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WeightedRoundRobin {}

impl WeightedRoundRobin {
    /// The policy with its defaults.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Policy for WeightedRoundRobin {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(ScheduledPicker::new(Schedule::new((0..set.len()).map(|server| set.weight(server)))))
    }
}

/// All callers of a channel share one counter, so each call moves it on.
pub(crate) struct ScheduledPicker {
    schedule: Schedule,
    /// Counts picks from a random number on, and wraps around.
    next: AtomicUsize,
}

impl ScheduledPicker {
    /// A picker that begins at a random turn.
    pub(crate) fn new(schedule: Schedule) -> Self {
        Self { schedule, next: AtomicUsize::new(fastrand::u32(..) as usize) }
    }
}

impl Picker for ScheduledPicker {
    fn pick(&self, call: &Call<'_>) -> Pick {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let server = |passed: usize| self.schedule.server(turn.wrapping_add(passed));
        let available = (0..=MOST_PASSED).map(server).find(|server| call.is_available(*server));
        Pick::Server(available.unwrap_or_else(|| server(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::{TestCall, TestServer, ready_set};

    fn picked(picker: &dyn Picker, call: &TestCall) -> usize {
        match picker.pick(&call.call()) {
            Pick::Server(server) => server,
            other => panic!("{other:?}"),
        }
    }

    /// The first server warms up, and has half of its weight.
    fn picker() -> Arc<dyn Picker> {
        let server = |factor| TestServer::at("h:1").with_slow_start_factor(factor);
        WeightedRoundRobin::new().picker(&ready_set([0.5, 1.0, 1.0].map(server)))
    }

    #[test]
    fn each_server_gets_its_share_from_a_random_start() {
        let call = TestCall::new("/a.B/C");
        let mut starts = BTreeSet::new();
        for _ in 0..100 {
            let picker = picker();
            let servers = [(); 10].map(|()| picked(&*picker, &call));
            assert_eq!([0, 1, 2].map(|server| servers.iter().filter(|picked| **picked == server).count()), [2, 4, 4]);
            starts.insert(servers[0]);
        }
        assert_eq!(starts.len(), 3);
    }

    #[test]
    fn a_server_that_is_not_available_is_passed_over() {
        let (picker, call) = (picker(), TestCall::new("/a.B/C").without_server(1));
        assert!((0..50).all(|_| picked(&*picker, &call) != 1));
        let call = call.without_server(0).without_server(2);
        assert!((0..50).map(|_| picked(&*picker, &call)).collect::<BTreeSet<_>>().len() == 3);
    }
}
