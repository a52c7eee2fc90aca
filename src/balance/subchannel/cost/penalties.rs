//! The calls that have ended badly and still count in a server's load. PURE.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::balance::subchannel::cost::nanos;

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
        if nanos(now) < self.next_end.load(Ordering::Relaxed) {
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
        self.next_end.store(heap.peek().map_or(0, |penalty| nanos(penalty.until)), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

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
