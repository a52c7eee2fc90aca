//! What the calls of a server have cost lately, and so what a further one must be expected to cost. Every policy with a load
//! shares it. PURE.
//!
//! A call in flight holds a place in its server's load. One that ends badly (with another code than OK, refused, reset,
//! lost, or given up before its head came) goes on holding it, so that a server which fails at once does not look idle, and
//! one which answers nothing does not look fast:
//!
//! - for the time that an OK call takes at its peers, counted from its start: failing saves no time;
//! - then for [`FACTOR`] times as long, unless the server answers OK meanwhile and is not worse than its peers
//!   ([`Peers::are_better_than`]).
//!
//! All times are multiples of what calls take, so that the same holds for calls of microseconds and of minutes.

mod choice;
mod latency;
mod peers;
mod places;
#[cfg(test)]
mod proved;
#[cfg(test)]
mod simulation;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) use choice::{Standing, by_latency, by_load, draw};
use latency::Latency;
use peers::Recent;
pub(super) use peers::{Fleet, Peers};
use places::{Kept, Places};

/// How much longer than an OK call a bad one counts, while nothing good is heard of its server: then that gets about a
/// twentieth of its share. Twenty is the least that keeps a failing server below 5 % among three, and the most that lets
/// it back within 3 s where calls take 50 ms.
const FACTOR: u32 = 20;
/// How long a bad call counts at most after its end, unless its peers' OK calls make it longer: one that was given up after
/// an hour says no more of its server than one given up after a second.
const LONGEST: Duration = Duration::from_secs(2);

/// One server's. Times are since an epoch that all servers of a channel share.
#[derive(Default)]
pub(super) struct Cost {
    ok: AtomicU64,
    /// How long the OK calls took, from their start to the end of their answers.
    ok_nanos: AtomicU64,
    bad: AtomicU64,
    places: Places,
    latency: Latency,
    /// Calls that wait for the head of an answer.
    awaiting: AtomicU32,
    /// How slow the server must be taken for, in nanoseconds, because a call ended badly and none was answered since; 0
    /// where none did.
    suspected: AtomicU64,
    /// Until when.
    suspected_until: AtomicU64,
    recent: Mutex<Recent>,
}

impl Cost {
    /// A call is sent.
    pub(super) fn sent(&self) {
        self.awaiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Its head has come, or never will.
    pub(super) fn no_longer_awaited(&self) {
        self.awaiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// The head of an answer, which says nothing bad, came after so long.
    pub(super) fn head(&self, took: Duration, now: Duration) {
        self.latency.observe(took, now);
        if self.suspected.load(Ordering::Relaxed) != 0 {
            self.suspected.store(0, Ordering::Relaxed);
        }
    }

    /// A call ended with OK, so long after its start. Its peers are asked for where bad calls still hold places.
    pub(super) fn ok(&self, age: Duration, peers: impl FnOnce() -> Peers) {
        self.ok.fetch_add(1, Ordering::Relaxed);
        self.ok_nanos.fetch_add(nanos(age), Ordering::Relaxed);
        if self.places.are_kept() && !peers().are_better_than(&self.recent()) {
            self.places.give_back();
        }
    }

    /// A call ended badly, so long after its start; `to_head` of that it waited for its head.
    pub(super) fn bad(&self, age: Duration, to_head: Duration, now: Duration, peers: &Peers) {
        self.bad.fetch_add(1, Ordering::Relaxed);
        let (as_ok, factor) = match (peers.ok_takes(), peers.takes_at_least()) {
            (Some(takes), _) => (takes, FACTOR),
            (None, Some(takes)) => (takes, 1),
            (None, None) => (Duration::ZERO, FACTOR),
        };
        let further = |time: Duration| time.saturating_mul(factor - 1);
        let longer = further(age.max(as_ok)).min(further(as_ok).max(LONGEST));
        self.places.keep(
            Kept { least: now + as_ok.saturating_sub(age), until: now + as_ok.saturating_sub(age) + longer },
            now,
        );
        let suspected = to_head.max(peers.latency());
        let until = now + suspected.saturating_mul(FACTOR).min(LONGEST);
        self.suspected_until.store(nanos(until), Ordering::Relaxed);
        self.suspected.store(nanos(suspected), Ordering::Relaxed);
    }

    /// How many places bad calls hold. The clock is asked only where there are any.
    pub(super) fn kept(&self, now: impl FnOnce() -> Duration) -> u64 {
        self.places.count(now)
    }

    /// The estimate of its latency in nanoseconds; 0 before its first answer. It fades, so that a server which was slow is
    /// asked again, but not while calls wait for it: one that answers nothing must not look fast.
    pub(super) fn estimate(&self, now: Duration) -> f64 {
        let known = if self.awaiting.load(Ordering::Relaxed) > 0 {
            self.latency.average().map_or(0.0, |average| average.as_nanos() as f64)
        } else {
            self.latency.estimate(now)
        };
        let suspected = self.suspected.load(Ordering::Relaxed);
        if suspected != 0 && nanos(now) < self.suspected_until.load(Ordering::Relaxed) {
            return known.max(suspected as f64);
        }
        known
    }

    /// The average of its latency as it was last told.
    pub(super) fn average(&self) -> Option<Duration> {
        self.latency.average()
    }

    /// How many calls ended with OK.
    pub(super) fn ok_calls(&self) -> u64 {
        self.ok.load(Ordering::Relaxed)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
