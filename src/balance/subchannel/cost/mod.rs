//! The recent costs of a server's calls, and so the cost to expect of a further call. PURE.
//!
//! Both policies with a load use it ([`LeastRequest`](crate::policy::LeastRequest),
//! [`PeakEwma`](crate::policy::PeakEwma)). A call in flight counts one in its server's load. A call
//! ends badly if it ends with another code than OK, is refused, reset or lost, or is cancelled
//! before the head of its response has come. It goes on counting, as a [`Penalty`], so that a server
//! that fails calls at once does not look idle, and a server that never responds does not look fast:
//!
//! - for the time that an OK call takes at this server, or at its peers if it has none, counted
//!   from the call's start: failing saves no time;
//! - then for [`PENALTY_FACTOR`] times as long as it took, or as an OK call takes at the peers,
//!   unless the server ends a call with OK meanwhile and is not worse than its peers
//!   ([`Peers::are_better_than`]). [`MAX_PENALTY`] and [`MAX_LONG_PENALTY`] bound that.
//!
//! A second penalty is added for the whole of that time, and an OK call ends it at once. With only
//! one, half of the callers that give up at the same time would go to the same server again.
//!
//! All times are multiples of what calls take, so that the same rules hold for calls of
//! microseconds and of minutes.
//!
//! `latency.rs` averages the time to the head of a response, `penalties.rs` keeps the penalties,
//! `peers.rs` compares servers. `simulation/` runs whole fleets against these rules, with the
//! numbers of FIELD's rows (F35, F36, F37, F62).

mod latency;
mod peers;
pub(crate) mod penalties;
#[cfg(test)]
mod simulation;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::balance::runtime::nanos::Nanos;
use crate::balance::subchannel::cost::latency::Latency;
pub use crate::balance::subchannel::cost::latency::LatencyEstimate;
use crate::balance::subchannel::cost::peers::RecentCalls;
pub(crate) use crate::balance::subchannel::cost::peers::{Fleet, Peers};
use crate::balance::subchannel::cost::penalties::{Penalties, Penalty};

/// How many times longer than an OK call a bad one counts while its server answers nothing well.
/// With two penalties for each such call the server gets about a fortieth of its share. A larger
/// factor would keep it away for more than 3 s after it is well, if calls take 50 ms.
const PENALTY_FACTOR: u32 = 20;
/// The maximum time that a bad call counts after its end, unless its peers' OK calls make that
/// longer: one that was given up after an hour says no more about its server than one given up
/// after a second.
const MAX_PENALTY: Duration = Duration::from_secs(2);
/// The same if the peers' calls take long: streams may be open for hours.
const MAX_LONG_PENALTY: Duration = Duration::from_secs(60);
/// A server that has answered nothing yet is sent another call after this time.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// The cost of calls at one server. Times count from an epoch that all servers of a channel share.
///
/// Every call writes to it and every pick reads it, so all that those need are atomics with relaxed
/// order: two calls that race may lose one observation of thousands.
#[derive(Default)]
pub(crate) struct Cost {
    /// Calls that ended with OK, and those that ended badly.
    ok: AtomicU64,
    bad: AtomicU64,
    /// The durations of the OK calls, from their start to the end of their responses, as a sum of
    /// logarithms: one stream of a day must not weigh as much as a million calls.
    ok_logs: AtomicU64,
    /// What bad calls add to the load.
    penalties: Penalties,
    /// Of heads of responses that are no errors.
    latency: Latency,
    /// Calls that wait for the head of a response, and when the last of them was sent.
    awaiting: AtomicU32,
    last_sent: AtomicU64,
    /// The latency to assume because a call ended badly and none was answered since, in
    /// nanoseconds, and until when; 0 if none did.
    suspected: AtomicU64,
    suspected_until: AtomicU64,
    /// It has refused a call since it last took one.
    refuses: AtomicBool,
    /// The counts of the last recount, which [`Fleet`] makes of all servers.
    recent: Mutex<RecentCalls>,
}

impl Cost {
    /// A call was sent.
    pub(crate) fn sent(&self, now: Nanos) {
        self.last_sent.store(now.0, Ordering::Relaxed);
        self.awaiting.fetch_add(1, Ordering::Relaxed);
    }

    /// The head of its response has come, or never will. Once for each call that was sent.
    pub(crate) fn head_settled(&self) {
        self.awaiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// The head of a response that is no error came, this long after the call was sent.
    pub(crate) fn answered(&self, took: Nanos, now: Nanos) {
        self.latency.observe(took, now);
        if self.suspected.load(Ordering::Relaxed) != 0 {
            self.suspected.store(0, Ordering::Relaxed);
        }
    }

    /// It has refused a call.
    pub(crate) fn refused(&self) {
        self.refuses.store(true, Ordering::Relaxed);
    }

    /// It has taken a call: the head of a response came, whatever that says. Returns whether it has refused one since it
    /// last did.
    #[inline]
    pub(crate) fn took_call(&self) -> bool {
        self.refuses() && self.refuses.swap(false, Ordering::Relaxed)
    }

    /// Whether it has refused a call since it last took one.
    #[inline]
    pub(crate) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// A call ended with OK, this long after it was sent. `peers` is asked for only if penalties
    /// could be lifted.
    pub(crate) fn succeeded(&self, took: Nanos, peers: impl FnOnce() -> Peers) {
        self.ok.fetch_add(1, Ordering::Relaxed);
        self.ok_logs.fetch_add(logarithm(took), Ordering::Relaxed);
        if self.penalties.any_liftable() && !peers().are_better_than(&self.recent()) {
            self.penalties.lift();
        }
    }

    /// A call ended badly, this long after it was sent; `to_head` is the part of that for which it
    /// waited for its head.
    pub(crate) fn failed(&self, took: Duration, to_head: Duration, now: Duration, peers: &Peers) {
        self.bad.fetch_add(1, Ordering::Relaxed);
        let (as_ok, factor) = match (peers.ok_duration(), peers.min_duration()) {
            (Some(duration), _) => (duration, PENALTY_FACTOR),
            (None, Some(duration)) => (duration, 1),
            (None, None) => (Duration::ZERO, PENALTY_FACTOR),
        };
        let further = |time: Duration| time.saturating_mul(factor - 1);
        // The time that this call would have taken with OK: its server's own OK calls are the best estimate.
        let own = self.recent().ok_duration().unwrap_or(as_ok).min(MAX_PENALTY);
        let min_until = now + own.saturating_sub(took);
        let until = min_until + further(took.max(as_ok)).min(further(as_ok).max(MAX_PENALTY)).min(MAX_LONG_PENALTY);
        self.penalties.add(Penalty { min_until, until }, now);
        self.penalties.add(Penalty { min_until: now, until }, now);
        let suspected = to_head.max(peers.latency());
        let suspected_until = now + suspected.saturating_mul(PENALTY_FACTOR).min(MAX_PENALTY);
        // The end first: a pick between the two stores must not find the new latency with an end that has passed.
        self.suspected_until.store(Nanos::new(suspected_until).0, Ordering::Relaxed);
        self.suspected.store(Nanos::new(suspected).0, Ordering::Relaxed);
    }

    /// How many bad calls count in the load now. The time is asked for only if there are any.
    pub(crate) fn penalties(&self, now: impl FnOnce() -> Duration) -> u64 {
        self.penalties.count(now)
    }

    /// The latency to expect. It fades while no call is sent, so that a server that was slow is
    /// tried again; while calls are unanswered it fades only from the last of them, so that a
    /// server that answers nothing does not look fast.
    pub(crate) fn latency_estimate(&self, now: Duration) -> LatencyEstimate {
        let is_awaited = self.awaiting.load(Ordering::Relaxed) > 0;
        let last_sent = Duration::from_nanos(self.last_sent.load(Ordering::Relaxed));
        let Some(known) = self.latency.estimate(now, if is_awaited { last_sent } else { Duration::ZERO }) else {
            let is_asked = is_awaited && now < last_sent + FIRST_ANSWER;
            let is_suspect = is_asked || self.penalties(|| now) > 0;
            return if is_suspect { LatencyEstimate::Awaited } else { LatencyEstimate::Unknown };
        };
        let suspected = self.suspected.load(Ordering::Relaxed);
        let is_suspected = suspected != 0 && Nanos::new(now).0 < self.suspected_until.load(Ordering::Relaxed);
        let nanos = (known as u64).max(if is_suspected { suspected } else { 0 }); // a float's cast saturates
        LatencyEstimate::Known(Duration::from_nanos(nanos))
    }

    /// The average latency, as of the last response.
    pub(crate) fn latency(&self) -> Option<Duration> {
        self.latency.average()
    }

    /// How many calls ended with OK.
    pub(crate) fn ok_calls(&self) -> u64 {
        self.ok.load(Ordering::Relaxed)
    }

    fn recent(&self) -> MutexGuard<'_, RecentCalls> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The logarithm to the base 2 of a time in nanoseconds, in units of 1/256.
fn logarithm(time: Nanos) -> u64 {
    let nanos = time.0.max(1);
    let whole = nanos.ilog2();
    // The next eight bits are a straight line between two powers, at most 6 % off.
    let rest = (nanos << (63 - whole) << 1) >> 56;
    u64::from(whole) << 8 | rest
}

/// The time that has this logarithm.
fn time_of(logarithm: f64) -> Duration {
    Duration::from_nanos((logarithm / 256.0).exp2() as u64) // a float's cast saturates
}
