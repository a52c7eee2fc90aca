//! What the calls of a server have cost lately, and so what a further one must be expected to cost. Every policy with a load
//! shares it. PURE.
//!
//! A call in flight holds a place in its server's load. One that ends badly (with another code than OK, refused, reset,
//! lost, or given up before its head came) goes on holding it, so that a server which fails at once does not look idle, and
//! one which answers nothing does not look fast:
//!
//! - for the time that an OK call takes at this server, or at its peers where it has none, counted from its start: failing saves
//!   no time;
//! - then for [`FACTOR`] times as long as it took, or as an OK call takes at the peers, unless the server answers OK meanwhile and
//!   is not worse than its peers ([`Peers::are_better_than`]). [`LONGEST`] and [`AT_ALL`] bound that. As long as this may last it
//!   holds a second place: where all callers have given up at once, half of them would follow to the same server.
//!
//! All times are multiples of what calls take, so that the same holds for calls of microseconds and of minutes.

mod latency;
mod peers;
mod places;
#[cfg(test)]
mod simulation;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::balance::subchannel::cost::latency::Latency;
pub use crate::balance::subchannel::cost::latency::LatencyEstimate;
use crate::balance::subchannel::cost::peers::Recent;
pub(crate) use crate::balance::subchannel::cost::peers::{Fleet, Peers};
use crate::balance::subchannel::cost::places::{Kept, Places};

/// How much longer than an OK call a bad one counts, while nothing good is heard of its server: with two places that gets about
/// a fortieth of its share. More would keep it away for longer than 3 s after it is well, where calls take 50 ms.
const FACTOR: u32 = 20;
/// How long a bad call counts at most after its end, unless its peers' OK calls make it longer: one that was given up after
/// an hour says no more of its server than one given up after a second.
const LONGEST: Duration = Duration::from_secs(2);
/// How long at all, whatever peers' calls take: streams may be open for hours.
const AT_ALL: Duration = Duration::from_secs(60);
/// A server that has answered nothing yet is asked again after so long.
const UNANSWERED: Duration = Duration::from_secs(1);

/// One server's. Times are since an epoch that all servers of a channel share.
#[derive(Default)]
pub(crate) struct Cost {
    ok: AtomicU64,
    /// How long the OK calls took, from their start to the end of their answers, as logarithms: one stream of a day must not
    /// weigh as much as a million calls.
    ok_logs: AtomicU64,
    bad: AtomicU64,
    places: Places,
    latency: Latency,
    /// Calls that wait for the head of an answer, and when the last of them was sent.
    awaiting: AtomicU32,
    last_sent: AtomicU64,
    /// How slow the server must be taken for, in nanoseconds, because a call ended badly and none was answered since; 0
    /// where none did.
    suspected: AtomicU64,
    /// Until when.
    suspected_until: AtomicU64,
    recent: Mutex<Recent>,
}

impl Cost {
    /// A call is sent.
    pub(crate) fn sent(&self, now: Duration) {
        self.last_sent.store(nanos(now), Ordering::Relaxed);
        self.awaiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Its head has come, or never will.
    pub(crate) fn no_longer_awaited(&self) {
        self.awaiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// The head of an answer, which says nothing bad, came after so long.
    pub(crate) fn head(&self, took: Duration, now: Duration) {
        self.latency.observe(took, now);
        if self.suspected.load(Ordering::Relaxed) != 0 {
            self.suspected.store(0, Ordering::Relaxed);
        }
    }

    /// A call ended with OK, so long after its start. Its peers are asked for where bad calls still hold places.
    pub(crate) fn ok(&self, age: Duration, peers: impl FnOnce() -> Peers) {
        self.ok.fetch_add(1, Ordering::Relaxed);
        self.ok_logs.fetch_add(logarithm(age), Ordering::Relaxed);
        if self.places.are_kept() && !peers().are_better_than(&self.recent()) {
            self.places.give_back();
        }
    }

    /// A call ended badly, so long after its start; `to_head` of that it waited for its head.
    pub(crate) fn bad(&self, age: Duration, to_head: Duration, now: Duration, peers: &Peers) {
        self.bad.fetch_add(1, Ordering::Relaxed);
        let (as_ok, factor) = match (peers.ok_takes(), peers.takes_at_least()) {
            (Some(takes), _) => (takes, FACTOR),
            (None, Some(takes)) => (takes, 1),
            (None, None) => (Duration::ZERO, FACTOR),
        };
        let further = |time: Duration| time.saturating_mul(factor - 1);
        // A server's own OK calls tell best what a call of it would have taken.
        let own = self.recent().ok_takes().unwrap_or(as_ok).min(LONGEST);
        let least = now + own.saturating_sub(age);
        let longer = further(age.max(as_ok)).min(further(as_ok).max(LONGEST)).min(AT_ALL);
        self.places.keep(Kept { least, until: least + longer }, now);
        self.places.keep(Kept { least: now, until: least + longer }, now);
        let suspected = to_head.max(peers.latency());
        let until = now + suspected.saturating_mul(FACTOR).min(LONGEST);
        self.suspected_until.store(nanos(until), Ordering::Relaxed);
        self.suspected.store(nanos(suspected), Ordering::Relaxed);
    }

    /// How many places bad calls hold. The clock is asked only where there are any.
    pub(crate) fn kept(&self, now: impl FnOnce() -> Duration) -> u64 {
        self.places.count(now)
    }

    /// The estimate of its latency. It fades, so that a server which was slow is asked again, from when it was last asked: one
    /// that answers nothing must not look fast.
    pub(crate) fn estimate(&self, now: Duration) -> LatencyEstimate {
        let unanswered = self.awaiting.load(Ordering::Relaxed) > 0;
        let last_sent = Duration::from_nanos(self.last_sent.load(Ordering::Relaxed));
        let Some(known) = self.latency.estimate(now, if unanswered { last_sent } else { Duration::ZERO }) else {
            let asked = unanswered && now < last_sent + UNANSWERED;
            return if asked || self.kept(|| now) > 0 { LatencyEstimate::Awaited } else { LatencyEstimate::Unknown };
        };
        let suspected = self.suspected.load(Ordering::Relaxed);
        let is_suspected = suspected != 0 && nanos(now) < self.suspected_until.load(Ordering::Relaxed);
        // A cast of a float is as near as can be.
        LatencyEstimate::Known(Duration::from_nanos((known as u64).max(if is_suspected { suspected } else { 0 })))
    }

    /// The average of its latency as it was last told.
    pub(crate) fn average(&self) -> Option<Duration> {
        self.latency.average()
    }

    /// How many calls ended with OK.
    pub(crate) fn ok_calls(&self) -> u64 {
        self.ok.load(Ordering::Relaxed)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The logarithm of a time in nanoseconds to the base 2, in 1/256.
fn logarithm(time: Duration) -> u64 {
    let nanos = nanos(time).max(1);
    let whole = nanos.ilog2();
    // The next eight bits are a straight line between two powers, at most 6 % off.
    let rest = (nanos << (63 - whole) << 1) >> 56;
    u64::from(whole) << 8 | rest
}

/// What has this logarithm.
fn time_of(logarithm: f64) -> Duration {
    Duration::from_nanos((logarithm / 256.0).exp2() as u64) // a cast of a float is as near as can be
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
