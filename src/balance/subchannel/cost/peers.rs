//! How a server does against its peers: shares of OK, and what OK calls take, each faded over
//! seconds. PURE.
//!
//! The servers count; nobody adds up while all is well. Only if a call ends badly, or ends well
//! at a server that has penalties, the counts of all servers are added up, and that at most once in
//! [`RECOUNT_INTERVAL`].

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::balance::subchannel::cost::{Cost, time_of};

/// A call that was counted this many seconds ago weighs 1/e of one that is counted now.
const FADE_SECONDS: f64 = 2.0;
/// The minimum time between two recounts. For a thousand servers one takes some ten microseconds.
const RECOUNT_INTERVAL: Duration = Duration::from_millis(10);
/// A server whose share of OK is below this part of its peers' share is worse than they are.
const WORSE_RATIO: f64 = 0.5;
/// A server counts as if its peers' share had been seen of it in this many calls, so that its first
/// call does not decide.
const PRIOR_CALLS: f64 = 1.0;

/// The calls of one server as of the last recount, faded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RecentCalls {
    ok: f64,
    bad: f64,
    /// The durations of the OK calls, as a sum of logarithms.
    ok_logs: f64,
    in_flight: f64,
    /// The counts of its [`Cost`] at that time: OK, bad, logarithms.
    counted: (u64, u64, u64),
}

impl RecentCalls {
    /// The duration of its OK calls, from start to end: the geometric mean.
    pub(crate) fn ok_duration(&self) -> Option<Duration> {
        (self.ok > 0.0).then(|| time_of(self.ok_logs / self.ok))
    }
}

/// The sums over all servers, as of the last recount.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    /// When they were counted.
    at: Duration,
    is_counted: bool,
    ok: f64,
    bad: f64,
    ok_logs: f64,
    in_flight: f64,
    /// Of the servers whose latency is known, and how many those are.
    latency_nanos: f64,
    known_latencies: f64,
}

/// All servers of a channel, for comparison.
#[derive(Default)]
pub(crate) struct Fleet(Mutex<Totals>);

impl Fleet {
    /// The peers of one server. `all` has each server's cost and its calls in flight.
    pub(crate) fn peers_of<'a>(
        &self,
        own: &Cost,
        now: Duration,
        all: impl Iterator<Item = (&'a Cost, usize)>,
    ) -> Peers {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !totals.is_counted || now >= totals.at + RECOUNT_INTERVAL {
            *totals = totals.recount(now, all);
        }
        let all = *totals;
        drop(totals);
        Peers::of(&all, &own.recent(), own.latency())
    }
}

impl Totals {
    /// Fades what each server had at the last recount, and adds what it has counted since.
    fn recount<'a>(&self, now: Duration, all: impl Iterator<Item = (&'a Cost, usize)>) -> Self {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        let keep = (-elapsed / FADE_SECONDS).exp();
        // New calls are taken to have come evenly since the last recount, and fade accordingly.
        let gain = if elapsed > 1e-6 { FADE_SECONDS / elapsed * (1.0 - keep) } else { 1.0 };
        let mut totals = Self { at: now, is_counted: true, ..Self::default() };
        for (cost, in_flight) in all {
            let mut recent = cost.recent();
            let counts = (
                cost.ok.load(Ordering::Relaxed),
                cost.bad.load(Ordering::Relaxed),
                cost.ok_logs.load(Ordering::Relaxed),
            );
            let new = |count: u64, counted: u64| count.wrapping_sub(counted) as f64 * gain;
            recent.ok = recent.ok * keep + new(counts.0, recent.counted.0);
            recent.bad = recent.bad * keep + new(counts.1, recent.counted.1);
            recent.ok_logs = recent.ok_logs * keep + new(counts.2, recent.counted.2);
            recent.in_flight = in_flight as f64;
            recent.counted = counts;
            totals.ok += recent.ok;
            totals.bad += recent.bad;
            totals.ok_logs += recent.ok_logs;
            totals.in_flight += recent.in_flight;
            if let Some(latency) = cost.latency() {
                totals.latency_nanos += latency.as_nanos() as f64;
                totals.known_latencies += 1.0;
            }
        }
        totals
    }
}

/// The sums over all servers but one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peers {
    ok: f64,
    bad: f64,
    ok_logs: f64,
    in_flight: f64,
    /// The mean of their latencies.
    latency_nanos: f64,
    /// Since the channel began.
    elapsed: Duration,
}

impl Peers {
    /// The sums without one server's part in them.
    fn of(all: &Totals, own: &RecentCalls, own_latency: Option<Duration>) -> Self {
        // What rounding leaves of sums that cancel out counts as nothing.
        let others = |all: f64, own: f64| if all - own > all * 1e-9 { all - own } else { 0.0 };
        let own_nanos = own_latency.map_or(0.0, |latency| latency.as_nanos() as f64);
        let known = all.known_latencies - f64::from(u8::from(own_latency.is_some()));
        Self {
            ok: others(all.ok, own.ok),
            bad: others(all.bad, own.bad),
            ok_logs: others(all.ok_logs, own.ok_logs),
            in_flight: others(all.in_flight, own.in_flight),
            latency_nanos: if known > 0.5 { others(all.latency_nanos, own_nanos) / known } else { 0.0 },
            elapsed: all.at,
        }
    }

    /// The duration of their OK calls, from start to end: the geometric mean.
    pub(crate) fn ok_duration(&self) -> Option<Duration> {
        (self.ok > 0.0).then(|| time_of(self.ok_logs / self.ok))
    }

    /// If no call of theirs has ended yet: the minimum duration of those in flight, as far as it
    /// can be known.
    pub(crate) fn min_duration(&self) -> Option<Duration> {
        let none_ended = self.ok + self.bad <= 0.0 && self.in_flight > 0.0;
        none_ended.then(|| self.elapsed.min(Duration::from_secs_f64(FADE_SECONDS)))
    }

    /// The mean of their latencies, from a call's start to the head of its response.
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_nanos as u64)
    }

    /// Whether the server's share of OK is far below theirs. Their calls in flight have not failed,
    /// so they count as OK.
    pub(crate) fn are_better_than(&self, server: &RecentCalls) -> bool {
        let calls = self.ok + self.bad + self.in_flight;
        if calls <= 0.0 {
            return false;
        }
        let share = (self.ok + self.in_flight) / calls;
        (server.ok + PRIOR_CALLS * share) / (server.ok + server.bad + PRIOR_CALLS) < share * WORSE_RATIO
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::runtime::nanos::Nanos;
    use crate::balance::subchannel::cost::logarithm;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Both answer 200 calls a second in 5 ms. At one of them 100 streams end well that were open
    /// for a day; a second later one call of the other finds nothing, which says as little of its
    /// server as ever.
    #[test]
    fn streams_of_a_day_make_no_bad_call_of_another_server_last() {
        let (fleet, own, other) = (Fleet::default(), Cost::default(), Cost::default());
        let peers = |now| fleet.peers_of(&own, now, [(&own, 1), (&other, 1)].into_iter());
        let day = ms(24 * 3600 * 1000);
        for call in 0..1000 {
            let now = day + ms(call * 5);
            own.succeeded(Nanos::new(ms(5)), || peers(now));
            other.succeeded(Nanos::new(ms(5)), || peers(now));
            if call == 800 {
                (0..100).for_each(|_| other.succeeded(Nanos::new(day), || peers(now)));
            }
            let _ = peers(now);
        }
        let now = day + ms(5000);
        own.failed(ms(1), ms(1), now, &peers(now));
        // All is well from now on, and told.
        own.succeeded(Nanos::new(ms(5)), || peers(now + ms(100)));
        let penalties = [1, 10, 60, 300].map(|minutes| own.penalties(|| now + ms(minutes * 60_000)));
        assert_eq!(penalties, [0; 4], "penalties after 1, 10, 60 and 300 minutes");
    }

    #[test]
    fn the_mean_of_times_is_kept_as_logarithms() {
        for nanos in [1, 1_000, 999_999_999, 86_400_000_000_000] {
            let time = Nanos(nanos);
            let again = time_of(logarithm(time) as f64).as_nanos() as f64 / nanos as f64;
            assert!((0.9..1.1).contains(&again), "{time:?}: {again}");
        }
        time_of(logarithm(Nanos::MAX) as f64);
        assert_eq!(logarithm(Nanos(0)), 0);
    }
}
