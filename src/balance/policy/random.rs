//! Random: a server by weight.

use std::sync::Arc;

use crate::policy::{Call, Pick, Picker, Policy, ReadySet};

/// A server is drawn again if it is not available, so many times in all.
const DRAWS: usize = 4;

/// A random server for each call, by weight.
///
/// Load does not count, and neither do latencies: a slow server, and one whose calls fail, keeps its
/// share of the calls until [`OutlierDetection`](crate::OutlierDetection) ejects it. By chance, some
/// servers have more calls in flight than others: [`RoundRobin`](crate::policy::RoundRobin) and
/// [`WeightedRoundRobin`](crate::policy::WeightedRoundRobin) spread calls more evenly, and
/// [`LeastRequest`](crate::policy::LeastRequest) follows the load. Choose it if many clients make few
/// calls each, or if calls must not depend on each other. If a server is not available, another one
/// is drawn, up to 4 in all.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Random {}

impl Random {
    /// The policy with its defaults.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Policy for Random {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(RandomPicker { set: set.clone() })
    }
}

/// The set has the sums of weights that a draw needs.
struct RandomPicker {
    set: ReadySet,
}

impl Picker for RandomPicker {
    fn pick(&self, call: &Call<'_>) -> Pick {
        let first = self.set.draw(fastrand::u64(..));
        let others = (1..DRAWS).map(|_| self.set.draw(fastrand::u64(..)));
        let available = std::iter::once(first).chain(others).find(|server| call.is_available(*server));
        Pick::Server(available.unwrap_or(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestCall, TestServer, ready_set};

    #[test]
    fn servers_are_drawn_by_weight_among_those_that_are_available() {
        // Warming up, the last one has half of the weight of each of the others.
        let server = |factor| TestServer::at("h:1").with_slow_start_factor(factor);
        let picker = Random::new().picker(&ready_set([1.0, 1.0, 0.5].map(server)));
        let counts = |call: &TestCall| {
            let mut counts = [0; 3];
            for _ in 0..20_000 {
                match picker.pick(&call.call()) {
                    Pick::Server(server) => counts[server] += 1,
                    other => panic!("{other:?}"),
                }
            }
            counts
        };
        // The standard deviation of a count is below 70.
        let all = counts(&TestCall::new("/a.B/C"));
        assert!(
            all.iter().zip([8_000, 8_000, 4_000]).all(|(count, expected): (&i32, _)| (count - expected).abs() < 500)
        );
        // After four draws of the first one, the channel itself takes the next.
        let without = counts(&TestCall::new("/a.B/C").without_server(0));
        assert!(without[0] < 1_000 && without[1] > without[2], "{without:?}");
        let none = counts(&TestCall::new("/a.B/C").without_server(0).without_server(1).without_server(2));
        assert!(none.iter().all(|count| *count > 0), "{none:?}");
    }
}
