//! Peak EWMA: of two servers, the one that responds sooner.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::{Call, LatencyEstimate, Pick, Picker, Policy, ReadySet};

use super::two_choices::{self, WeightedLoad, by_load};

/// Power of two choices on latency times load: a slow server gets next to nothing.
///
/// The latency is a peak-sensitive moving average (peak EWMA) of the time to the headers of the
/// response ([`ReadyServer::latency_estimate`](crate::policy::ReadyServer::latency_estimate)). This
/// is after Finagle, with one difference: one slow response of a server that is asked often does not
/// make the server slow, because among thousands of calls some are always slow. Several slow calls,
/// one after the other, do. After a pause of some hundred milliseconds in a server's calls, one slow
/// response is enough. The average of a slow server falls back within about 2 s. If the latencies of
/// two servers differ by less than 3 times, weights and load decide, as with
/// [`LeastRequest`](crate::policy::LeastRequest). Latencies below 1 ms count as equal: the scheduler
/// or a cold cache makes such differences.
///
/// Choose it if all calls take about the same time: a slow method makes the server that handles it
/// look slow.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PeakEwma {}

impl PeakEwma {
    /// The policy with its defaults.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Policy for PeakEwma {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(PeakEwmaPicker { set: set.clone() })
    }
}

/// Keeps nothing but the set: loads and latencies are read anew for each pick.
struct PeakEwmaPicker {
    set: ReadySet,
}

impl Picker for PeakEwmaPicker {
    fn pick(&self, call: &Call<'_>) -> Pick {
        let known =
            |server: usize| (WeightedLoad::of(&self.set, server), self.set.servers()[server].latency_estimate());
        let sooner = |first, second| by_latency(known(first), known(second));
        Pick::Server(two_choices::pick(&self.set, call, || fastrand::u64(..), sooner))
    }
}

/// A server without a response yet counts as so many times slower than the other one while a
/// response is awaited.
const AWAITED: f64 = 10.0;
/// A smaller ratio of latencies may come from what the servers have to do just now, or from chance.
const CLEARLY: f64 = 3.0;
/// Latencies below this, in nanoseconds, count as equal: a scheduler, a cold cache or a turn of
/// another process adds as much, and adds it more often if a server gets few calls.
const EQUAL: f64 = 1e6;

/// Whether a call should take less time at the second server: load for weight times latency.
/// Between servers that are about as fast, only weight and load decide.
pub(crate) fn by_latency(first: (WeightedLoad, LatencyEstimate), second: (WeightedLoad, LatencyEstimate)) -> bool {
    use LatencyEstimate::{Awaited, Known, Unknown};
    let ((a, a_latency), (b, b_latency)) = (first, second);
    let nanos = |latency: Duration| (latency.as_nanos() as f64).max(EQUAL);
    let (a_nanos, b_nanos) = match (a_latency, b_latency) {
        (Known(a_latency), Known(b_latency)) => (nanos(a_latency), nanos(b_latency)),
        (Unknown, Known(_) | Awaited) => return false,
        (Known(_) | Awaited, Unknown) => return true,
        (Unknown, Unknown) | (Awaited, Awaited) => return by_load(a, b),
        (Awaited, Known(latency)) => (nanos(latency) * AWAITED, nanos(latency)),
        (Known(latency), Awaited) => (nanos(latency), nanos(latency) * AWAITED),
    };
    if a_nanos < b_nanos * CLEARLY && b_nanos < a_nanos * CLEARLY {
        return by_load(a, b);
    }
    // The draw has already shared out by weight, so a call costs the same at both: idle servers differ by latency alone.
    let call = a.weight.max(b.weight) as f64;
    let product = |one: WeightedLoad, other: WeightedLoad| one.load as f64 * other.weight as f64 + call;
    b_nanos * product(b, a) < a_nanos * product(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(load: u64, weight: u64) -> WeightedLoad {
        WeightedLoad { load, weight }
    }

    fn ms(ms: f64) -> LatencyEstimate {
        LatencyEstimate::Known(Duration::from_secs_f64(ms / 1e3))
    }

    #[test]
    fn equal_latencies_leave_it_to_load_and_weight() {
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
            let (a, b) = (load(first.0, first.1), load(second.0, second.1));
            assert_eq!(by_latency((a, ms(1.0)), (b, ms(1.0))), expected, "{first:?} {second:?}, alike");
            let awaited = LatencyEstimate::Awaited;
            assert_eq!(by_latency((a, awaited), (b, awaited)), expected, "{first:?} {second:?}, unknown");
        }
    }

    #[test]
    fn who_is_clearly_faster_is_taken() {
        let idle = load(0, 1);
        assert!(by_latency((idle, ms(20.0)), (idle, ms(1.0))));
        assert!(!by_latency((idle, ms(1.0)), (idle, ms(20.0))));
        assert!(!by_latency((idle, ms(2.9)), (idle, ms(1.0))), "noise");
        assert!(!by_latency((idle, ms(0.9)), (idle, ms(0.01))), "a turn of the scheduler");
        assert!(by_latency((idle, ms(4.0)), (idle, ms(0.01))));
        let heavy = load(0, 100);
        assert!(by_latency((heavy, ms(20.0)), (idle, ms(1.0))), "a light one that is idle");
        assert!(!by_latency((idle, ms(1.0)), (heavy, ms(20.0))), "a light one that is idle");
        assert!(by_latency((idle, ms(20.0)), (load(18, 1), ms(1.0))));
        assert!(!by_latency((idle, ms(20.0)), (load(20, 1), ms(1.0))));
    }

    #[test]
    fn who_is_unknown_gets_one_call() {
        use LatencyEstimate::{Awaited, Unknown};
        let (idle, asked) = (load(0, 1), load(1, 1));
        assert!(by_latency((idle, ms(1.0)), (idle, Unknown)));
        assert!(!by_latency((idle, Unknown), (idle, ms(1.0))));
        assert!(!by_latency((asked, ms(1.0)), (asked, Awaited)));
        assert!(by_latency((asked, Awaited), (asked, ms(1.0))));
        assert!(by_latency((asked, Awaited), (asked, Unknown)), "another was asked a moment ago");
    }
}
