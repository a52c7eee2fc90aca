//! The places in a server's load that calls go on holding after they ended badly. PURE.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::balance::subchannel::cost::nanos;

/// More are not remembered: a server with so many gets no call anyway.
const MOST: usize = 1 << 16;

/// One place, and how long it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Whatever the server does.
    pub(crate) least: Duration,
    /// Where nothing good is heard of it.
    pub(crate) until: Duration,
}

/// The earliest end stands on top of the heap.
impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Order {
        other.until.cmp(&self.until).then(other.least.cmp(&self.least))
    }
}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

#[derive(Default)]
pub(crate) struct Places {
    /// How many there are, and when the next ends: what a pick reads without the lock.
    count: AtomicU64,
    next: AtomicU64,
    /// How many would be given back.
    long: AtomicU64,
    kept: Mutex<BinaryHeap<Kept>>,
}

impl Places {
    pub(crate) fn keep(&self, place: Kept, now: Duration) {
        if place.until <= now {
            return;
        }
        let mut kept = self.lock();
        drop_ended(&mut kept, now);
        if kept.len() < MOST {
            kept.push(place);
            self.long.fetch_add(u64::from(place.until > place.least), Ordering::Relaxed);
        }
        self.publish(&kept);
    }

    /// How many are held.
    #[inline]
    pub(crate) fn count(&self, now: impl FnOnce() -> Duration) -> u64 {
        match self.count.load(Ordering::Relaxed) {
            0 => 0,
            count => self.count_at(count, now()),
        }
    }

    fn count_at(&self, count: u64, now: Duration) -> u64 {
        if nanos(now) < self.next.load(Ordering::Relaxed) {
            return count;
        }
        let mut kept = self.lock();
        drop_ended(&mut kept, now);
        self.publish(&kept);
        kept.len() as u64
    }

    /// Whether any is held that would be given back.
    pub(crate) fn are_kept(&self) -> bool {
        self.long.load(Ordering::Relaxed) > 0
    }

    /// Something good was heard of the server: no place is held for longer than it must be.
    pub(crate) fn give_back(&self) {
        let mut kept = self.lock();
        *kept = kept.drain().map(|place| Kept { until: place.least, ..place }).collect();
        self.long.store(0, Ordering::Relaxed);
        self.publish(&kept);
    }

    fn publish(&self, kept: &BinaryHeap<Kept>) {
        if kept.is_empty() {
            self.long.store(0, Ordering::Relaxed);
        }
        self.next.store(kept.peek().map_or(0, |place| nanos(place.until)), Ordering::Relaxed);
        self.count.store(kept.len() as u64, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, BinaryHeap<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drop_ended(kept: &mut BinaryHeap<Kept>, now: Duration) {
    while kept.peek().is_some_and(|place| place.until <= now) {
        kept.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn places_end_one_by_one_or_are_given_back() {
        let places = Places::default();
        assert_eq!(places.count(|| unreachable!("nothing is held")), 0);
        for until in [30, 10, 20] {
            places.keep(Kept { least: ms(5), until: ms(until) }, ms(1));
        }
        places.keep(Kept { least: ms(12), until: ms(12) }, ms(1));
        places.keep(Kept { least: ms(1), until: ms(1) }, ms(1));
        let counts: Vec<_> = [9, 10, 12, 20].iter().map(|now| places.count(|| ms(*now))).collect();
        assert_eq!(counts, [4, 3, 2, 1]);
        assert!(places.are_kept());
        places.keep(Kept { least: ms(25), until: ms(90) }, ms(20));
        places.give_back();
        assert!(!places.are_kept());
        assert_eq!((places.count(|| ms(20)), places.count(|| ms(25))), (1, 0));
    }
}
