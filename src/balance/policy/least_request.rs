//! Least request: the server with fewer calls in flight, of two.

use std::sync::Arc;

use crate::policy::{Call, Pick, Picker, Policy, ReadySet};

use super::two_choices::{self, WeightedLoad, by_load};

/// Power of two choices on load (gRFC A48's least request, with weights). The default.
///
/// Two servers are drawn at random, by weight. The second gets the call only if (its load + 1) /
/// its weight is at most load / weight of the first. So the first gets it if both quotients load /
/// weight are equal. The load of a server is the number of its
/// calls in flight, and more for calls that failed recently
/// ([`ReadyServer::load`](crate::policy::ReadyServer::load)). So slow servers get fewer calls, and
/// servers whose calls fail at once, hang or panic get a few percent.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LeastRequest {}

impl LeastRequest {
    /// The policy with its defaults.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Policy for LeastRequest {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(LeastRequestPicker { set: set.clone() })
    }
}

/// Keeps nothing but the set: loads are read anew for each pick.
struct LeastRequestPicker {
    set: ReadySet,
}

impl Picker for LeastRequestPicker {
    fn pick(&self, call: &Call<'_>) -> Pick {
        let load = |server| WeightedLoad::of(&self.set, server);
        let less = |first, second| by_load(load(first), load(second));
        Pick::Server(two_choices::pick(&self.set, call, || fastrand::u64(..), less))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestCall, TestServer, ready_set};

    #[test]
    fn the_draw_stands_unless_the_second_is_better_off() {
        for (first, second, expected) in [
            ((0, 1), (0, 1), false),
            ((1, 1), (0, 1), true),
            ((1, 1), (1, 1), false),
            ((0, 1), (0, 10), false),
            ((1, 1), (0, 10), true),
            ((9, 10), (0, 1), false),
            ((10, 10), (0, 1), true),
            ((u64::from(u32::MAX), u64::MAX), (0, u64::MAX), true),
        ] {
            let [a, b] = [first, second].map(|(load, weight)| WeightedLoad { load, weight });
            assert_eq!(by_load(a, b), expected, "{first:?} {second:?}");
        }
    }

    #[test]
    fn the_less_loaded_of_two_is_picked_and_one_that_is_not_available_is_not() {
        let server = |load| TestServer::at("h:1").with_load(load);
        let picker = LeastRequest::new().picker(&ready_set([server(5), server(0)]));
        let call = TestCall::new("/a.B/C");
        assert!((0..50).all(|_| matches!(picker.pick(&call.call()), Pick::Server(1))));
        let call = call.without_server(1);
        assert!((0..50).all(|_| matches!(picker.pick(&call.call()), Pick::Server(0))));
        let picker = LeastRequest::new().picker(&ready_set([server(5)]));
        assert!(matches!(picker.pick(&call.call()), Pick::Server(0)));
    }
}
