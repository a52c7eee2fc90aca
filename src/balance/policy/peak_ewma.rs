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
/// A server without latency history counts as fast as the median of its peers, so a new one gets its share of the
/// calls and no more. While its first response is awaited, it counts as 10 times slower than the other server: if it
/// never responds, few calls wait for it.
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
        let estimate = |server: usize| self.set.servers()[server].latency_estimate();
        let known = |server: usize| (WeightedLoad::of(&self.set, server), estimate(server));
        let sooner = |first, second| {
            // From the first one on, which is a random one: else the same ones would stand for all.
            let peers = (0..self.set.len().min(MOST_PEERS)).map(|peer| estimate((first + peer) % self.set.len()));
            by_latency(known(first), known(second), || median(peers))
        };
        Pick::Server(two_choices::pick(&self.set, call, || fastrand::u64(..), sooner))
    }
}

/// The median is that of at most so many servers.
const MOST_PEERS: usize = 64;

/// The median of the known latencies, of two the lower one; `None` if none is known. Looks at 64 estimates at most.
pub(crate) fn median(estimates: impl Iterator<Item = LatencyEstimate>) -> Option<Duration> {
    let mut known = [Duration::ZERO; MOST_PEERS];
    let mut count = 0;
    for estimate in estimates {
        if let (LatencyEstimate::Known(latency), Some(next)) = (estimate, known.get_mut(count)) {
            *next = latency;
            count += 1;
        }
    }
    let known = &mut known[..count]; // no more were written than fit
    (count > 0).then(|| *known.select_nth_unstable((count - 1) / 2).1)
}

/// A server without a response yet counts as so many times slower than the other one while a
/// response is awaited.
const AWAITED: f64 = 10.0;
/// A smaller ratio of latencies may come from what the servers have to do just now, or from chance.
const CLEARLY: f64 = 3.0;
/// Latencies below this, in nanoseconds, count as equal: a scheduler, a cold cache or a turn of
/// another process adds as much, and adds it more often if a server gets few calls.
const EQUAL: f64 = 1e6;

/// Whether a call should take less time at the second server: load for weight times latency. Between servers that are
/// about as fast, only weight and load decide. A server of which nothing is known has the `median` of its peers,
/// which is asked for if one of the two is such a server.
pub(crate) fn by_latency(
    first: (WeightedLoad, LatencyEstimate),
    second: (WeightedLoad, LatencyEstimate),
    median: impl FnOnce() -> Option<Duration>,
) -> bool {
    use LatencyEstimate::{Awaited, Known, Unknown};
    let ((a, mut a_latency), (b, mut b_latency)) = (first, second);
    if matches!((a_latency, b_latency), (Unknown, Known(_) | Awaited) | (Known(_) | Awaited, Unknown)) {
        let peers = median().map_or(Unknown, Known);
        [&mut a_latency, &mut b_latency].into_iter().filter(|latency| **latency == Unknown).for_each(|it| *it = peers);
    }
    let nanos = |latency: Duration| (latency.as_nanos() as f64).max(EQUAL);
    let (a_nanos, b_nanos) = match (a_latency, b_latency) {
        (Known(a_latency), Known(b_latency)) => (nanos(a_latency), nanos(b_latency)),
        // Nothing is known of any server: each is tried once, and then their load counts.
        (Unknown, Awaited) => return false,
        (Awaited, Unknown) => return true,
        (Unknown | Known(_), Unknown) | (Unknown, Known(_)) | (Awaited, Awaited) => return by_load(a, b),
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
    use crate::testing::{TestCall, TestServer, ready_set};

    /// Where no latency is known of any other server.
    fn sooner(first: (WeightedLoad, LatencyEstimate), second: (WeightedLoad, LatencyEstimate)) -> bool {
        by_latency(first, second, || None)
    }

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
            assert_eq!(sooner((a, ms(1.0)), (b, ms(1.0))), expected, "{first:?} {second:?}, alike");
            let awaited = LatencyEstimate::Awaited;
            assert_eq!(sooner((a, awaited), (b, awaited)), expected, "{first:?} {second:?}, unknown");
        }
    }

    #[test]
    fn who_is_clearly_faster_is_taken() {
        let idle = load(0, 1);
        assert!(sooner((idle, ms(20.0)), (idle, ms(1.0))));
        assert!(!sooner((idle, ms(1.0)), (idle, ms(20.0))));
        assert!(!sooner((idle, ms(2.9)), (idle, ms(1.0))), "noise");
        assert!(!sooner((idle, ms(0.9)), (idle, ms(0.01))), "a turn of the scheduler");
        assert!(sooner((idle, ms(4.0)), (idle, ms(0.01))));
        let heavy = load(0, 100);
        assert!(sooner((heavy, ms(20.0)), (idle, ms(1.0))), "a light one that is idle");
        assert!(!sooner((idle, ms(1.0)), (heavy, ms(20.0))), "a light one that is idle");
        assert!(sooner((idle, ms(20.0)), (load(18, 1), ms(1.0))));
        assert!(!sooner((idle, ms(20.0)), (load(20, 1), ms(1.0))));
    }

    #[test]
    fn who_is_unknown_is_as_fast_as_the_median() {
        use LatencyEstimate::{Awaited, Unknown};
        let (idle, busy) = (load(0, 1), load(1, 1));
        let at_20_ms = |first, second| by_latency(first, second, || Some(Duration::from_millis(20)));
        assert!(at_20_ms((busy, ms(20.0)), (idle, Unknown)) && !at_20_ms((idle, ms(20.0)), (busy, Unknown)), "by load");
        assert!(
            !at_20_ms((idle, ms(20.0)), (idle, Unknown)) && !at_20_ms((idle, Unknown), (idle, ms(20.0))),
            "the draw"
        );
        assert!(at_20_ms((idle, Unknown), (idle, ms(1.0))) && !at_20_ms((idle, ms(1.0)), (idle, Unknown)), "faster");
        assert!(
            at_20_ms((idle, ms(200.0)), (idle, Unknown)) && !at_20_ms((idle, Unknown), (idle, ms(200.0))),
            "slower"
        );
        assert!(at_20_ms((busy, Awaited), (idle, Unknown)) && !at_20_ms((idle, Unknown), (idle, Awaited)));
        assert!(!sooner((busy, ms(1.0)), (busy, Awaited)) && sooner((busy, Awaited), (busy, ms(1.0))), "awaited");
    }

    #[test]
    fn where_all_are_unknown_each_is_tried_and_then_load_counts() {
        use LatencyEstimate::{Awaited, Unknown};
        let (idle, asked) = (load(0, 1), load(1, 1));
        assert!(sooner((asked, Awaited), (asked, Unknown)) && !sooner((asked, Unknown), (asked, Awaited)));
        assert!(sooner((asked, Unknown), (idle, Unknown)) && !sooner((idle, Unknown), (asked, Unknown)));
        assert!(sooner((asked, Awaited), (idle, Awaited)) && !sooner((idle, Awaited), (asked, Awaited)));
    }

    #[test]
    fn the_median_is_that_of_known_latencies() {
        use LatencyEstimate::{Awaited, Unknown};
        let of = |estimates: &[LatencyEstimate]| median(estimates.iter().copied());
        assert_eq!((of(&[]), of(&[Unknown, Awaited])), (None, None));
        assert_eq!(of(&[ms(9.0), Unknown, ms(1.0), ms(3.0)]), Some(Duration::from_millis(3)));
        assert_eq!(of(&[ms(9.0), ms(1.0)]), Some(Duration::from_millis(1)));
        assert_eq!(median((0..200).map(|server| ms(f64::from(server)))), Some(Duration::from_millis(31)));
    }

    /// A new server among idle ones is drawn as often as they are; where they are busy, it gets the call.
    #[test]
    fn a_new_server_gets_its_share() {
        let share = |load| {
            let known = (0..3).map(|_| TestServer::at("h:1").with_latency(Duration::from_millis(5)).with_load(load));
            let picker = PeakEwma::new().picker(&ready_set(known.chain([TestServer::at("h:2")])));
            let call = TestCall::new("/a.B/C");
            (0..4_000).filter(|_| matches!(picker.pick(&call.call()), Pick::Server(3))).count()
        };
        // On average 1,000, where the first of two gets the call, and 2,000, where the new one gets it whenever it is
        // drawn.
        assert!((800..1_200).contains(&share(0)) && (1_800..2_200).contains(&share(1)));
    }
}
