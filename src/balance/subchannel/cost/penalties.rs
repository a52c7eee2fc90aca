//! The calls that have ended badly and still count in a server's load. PURE.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::balance::runtime::nanos::Nanos;

/// The maximum number of penalties of a server. More make no difference: with so many it gets no
/// call.
const MAX_PENALTIES: usize = 1 << 16;

/// A call that ended badly, which counts as one in flight for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Penalty {
    /// It counts until then, whatever the server does.
    pub(crate) min_until: Duration,
    /// It counts until then unless it is lifted.
    pub(crate) until: Duration,
}

/// The earliest end is the greatest, so that it stands on top of the heap.
impl Ord for Penalty {
    fn cmp(&self, other: &Self) -> Order {
        other.until.cmp(&self.until).then(other.min_until.cmp(&self.min_until))
    }
}

impl PartialOrd for Penalty {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

/// All penalties of one server. Picks read atomics; the lock is for those that add, lift, or find
/// one at its end.
#[derive(Default)]
pub(crate) struct Penalties {
    /// How many there are, and when the next ends. Published after each change, under the lock.
    count: AtomicU64,
    next_end: AtomicU64,
    /// How many a lift would shorten; at most that many.
    liftable: AtomicU64,
    /// The next to end on top.
    heap: Mutex<BinaryHeap<Penalty>>,
}

impl Penalties {
    /// Adds one. A penalty that has ended already is left out.
    pub(crate) fn add(&self, penalty: Penalty, now: Duration) {
        if penalty.until <= now {
            return;
        }
        let mut heap = self.lock();
        remove_ended(&mut heap, now);
        if heap.len() < MAX_PENALTIES {
            heap.push(penalty);
            self.liftable.fetch_add(u64::from(penalty.until > penalty.min_until), Ordering::Relaxed);
        }
        self.publish(&heap);
    }

    /// How many count now. The time is asked for only if there are any, which is seldom.
    #[inline]
    pub(crate) fn count(&self, now: impl FnOnce() -> Duration) -> u64 {
        match self.count.load(Ordering::Relaxed) {
            0 => 0,
            count => self.count_at(count, now()),
        }
    }

    fn count_at(&self, count: u64, now: Duration) -> u64 {
        if Nanos::new(now).0 < self.next_end.load(Ordering::Relaxed) {
            return count;
        }
        let mut heap = self.lock();
        remove_ended(&mut heap, now);
        self.publish(&heap);
        heap.len() as u64
    }

    /// Whether [`Penalties::lift`] would change anything.
    pub(crate) fn any_liftable(&self) -> bool {
        self.liftable.load(Ordering::Relaxed) > 0
    }

    /// Shortens all penalties to their minimum, because the server has answered a call well.
    pub(crate) fn lift(&self) {
        let mut heap = self.lock();
        *heap = heap.drain().map(|penalty| Penalty { until: penalty.min_until, ..penalty }).collect();
        self.liftable.store(0, Ordering::Relaxed);
        self.publish(&heap);
    }

    /// Copies what picks read. A pick between the two stores sees an old count for one time more.
    fn publish(&self, heap: &BinaryHeap<Penalty>) {
        if heap.is_empty() {
            self.liftable.store(0, Ordering::Relaxed);
        }
        self.next_end.store(heap.peek().map_or(0, |penalty| Nanos::new(penalty.until).0), Ordering::Relaxed);
        self.count.store(heap.len() as u64, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, BinaryHeap<Penalty>> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_ended(heap: &mut BinaryHeap<Penalty>, now: Duration) {
    while heap.peek().is_some_and(|penalty| penalty.until <= now) {
        heap.pop();
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::subchannel::cost::{Cost, Fleet, LatencyEstimate};

    #[derive(Clone, Debug)]
    enum Step {
        /// A penalty: for how long it counts at least, and for how much longer.
        Add(u64, u64),
        Lift,
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u64..100, prop_oneof![Just(0), 0_u64..1_000]).prop_map(|(min, more)| Step::Add(min, more)),
            1 => Just(Step::Lift),
            3 => (0_u64..200).prop_map(Step::Pass),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(step(), 0..200)
    }

    /// Against a plain list.
    fn counts_what_has_not_ended(steps: &[Step]) {
        let (penalties, mut now) = (Penalties::default(), ms(0));
        let mut model: Vec<Penalty> = Vec::new();
        for step in steps {
            match step {
                Step::Add(min, more) => {
                    let penalty = Penalty { min_until: now + ms(*min), until: now + ms(min + more) };
                    penalties.add(penalty, now);
                    model.push(penalty);
                }
                Step::Lift => {
                    penalties.lift();
                    model.iter_mut().for_each(|penalty| penalty.until = penalty.until.min(penalty.min_until));
                }
                Step::Pass(millis) => now += ms(*millis),
            }
            model.retain(|penalty| penalty.until > now);
            assert_eq!(penalties.count(|| now), model.len() as u64, "at {now:?}: {model:?}");
            let is_liftable = model.iter().any(|penalty| penalty.until > penalty.min_until);
            assert!(penalties.any_liftable() || !is_liftable, "a lift would change something");
        }
    }

    /// Calls of three servers: what each took, in milliseconds, how it ended, and how long nothing happened before it.
    fn calls() -> impl Strategy<Value = Vec<(usize, u64, bool, u64)>> {
        proptest::collection::vec(call(), 0..100)
    }

    fn call() -> impl Strategy<Value = (usize, u64, bool, u64)> {
        (0_usize..3, 0_u64..100_000, any::<bool>(), 0_u64..100_000)
    }

    /// The costs that are made of them: latencies are never above what was seen, and a server without bad calls has no penalty.
    fn costs_are_within_what_was_seen(calls: &[(usize, u64, bool, u64)]) {
        let (fleet, mut now) = (Fleet::default(), ms(1));
        let costs: [Cost; 3] = Default::default();
        let (mut slowest, mut bad) = ([ms(0); 3], [0_u64; 3]);
        for (server, took, is_ok, pause) in calls {
            let (cost, took) = (&costs[*server], ms(*took));
            now += ms(*pause);
            cost.sent(Nanos::new(now));
            now += took;
            cost.head_settled();
            let peers = || fleet.peers_of(cost, now, costs.iter().map(|cost| (cost, 1)));
            if *is_ok {
                cost.answered(Nanos::new(took), Nanos::new(now));
                cost.succeeded(Nanos::new(took), peers);
                slowest[*server] = slowest[*server].max(took);
            } else {
                bad[*server] += 1;
                cost.failed(took, took, now, &peers());
            }
            for (cost, (slowest, bad)) in costs.iter().zip(slowest.iter().zip(bad)) {
                assert!(cost.penalties(|| now) <= 2 * bad);
                assert!(cost.latency().is_none_or(|latency| latency <= *slowest + ms(1)), "{:?}", cost.latency());
                if let LatencyEstimate::Known(latency) = cost.latency_estimate(now) {
                    assert!(bad > 0 || latency <= *slowest + ms(1), "{latency:?}, but at most {slowest:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn penalties_count_until_they_end(steps in steps()) {
            counts_what_has_not_ended(&steps);
        }

        #[test]
        fn costs_stay_within_what_was_seen(calls in calls()) {
            costs_are_within_what_was_seen(&calls);
        }
    }

    /// The fuzz target: both properties.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with_steps(bytes, Just(()), step(), |(), steps| {
            counts_what_has_not_ended(&steps);
            Ok(())
        });
        crate::fuzzing::with_steps(bytes, Just(()), call(), |(), calls| {
            costs_are_within_what_was_seen(&calls);
            Ok(())
        });
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn penalties_end_one_by_one_or_are_lifted() {
        let penalties = Penalties::default();
        assert_eq!(penalties.count(|| unreachable!("nothing is held")), 0);
        for until in [30, 10, 20] {
            penalties.add(Penalty { min_until: ms(5), until: ms(until) }, ms(1));
        }
        penalties.add(Penalty { min_until: ms(12), until: ms(12) }, ms(1));
        penalties.add(Penalty { min_until: ms(1), until: ms(1) }, ms(1));
        let counts: Vec<_> = [9, 10, 12, 20].iter().map(|now| penalties.count(|| ms(*now))).collect();
        assert_eq!(counts, [4, 3, 2, 1]);
        assert!(penalties.any_liftable());
        penalties.add(Penalty { min_until: ms(25), until: ms(90) }, ms(20));
        penalties.lift();
        assert!(!penalties.any_liftable());
        assert_eq!((penalties.count(|| ms(20)), penalties.count(|| ms(25))), (1, 0));
    }
}
