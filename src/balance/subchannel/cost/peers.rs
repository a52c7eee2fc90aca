//! How a server does against its peers: shares of OK and what OK calls take, each faded over seconds. PURE.
//!
//! The servers count; nobody adds up while all is well. Only where a call ended badly, or where one ends well at a server that
//! has bad ones, the counts of all are looked at, and that at most once in [`APART`].

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::balance::subchannel::cost::{Cost, time_of};

/// What was seen so long ago counts for 1/e.
const FADE: f64 = 2.0;
/// Between two looks at all servers: a thousand of them are looked at in some ten microseconds.
const APART: Duration = Duration::from_millis(10);
/// A server whose share of OK is below this part of its peers' is worse than they.
const WORSE: f64 = 0.5;
/// A server of whom nothing is known counts as one whose peers' share was seen once.
const PRIOR: f64 = 1.0;

/// What was seen of one server when all were last looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recent {
    ok: f64,
    bad: f64,
    /// What the OK calls took, as sums of logarithms.
    ok_logs: f64,
    in_flight: f64,
    /// Its counts then.
    seen: (u64, u64, u64),
}

impl Recent {
    /// How long an OK call of it takes.
    pub(crate) fn ok_takes(&self) -> Option<Duration> {
        (self.ok > 0.0).then(|| time_of(self.ok_logs / self.ok))
    }
}

/// What was seen of all.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    at: Duration,
    looked: bool,
    ok: f64,
    bad: f64,
    ok_logs: f64,
    in_flight: f64,
    /// Of those whose latency is known.
    latency_nanos: f64,
    known: f64,
}

/// All servers of a channel.
#[derive(Default)]
pub(crate) struct Fleet(Mutex<Totals>);

impl Fleet {
    /// The peers of one server, of all servers with their calls in flight.
    pub(crate) fn peers_of<'a>(
        &self,
        own: &Cost,
        now: Duration,
        all: impl Iterator<Item = (&'a Cost, usize)>,
    ) -> Peers {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !totals.looked || now >= totals.at + APART {
            *totals = totals.look_again(now, all);
        }
        let seen = *totals;
        drop(totals);
        Peers::of(&seen, &own.recent(), own.average())
    }
}

impl Totals {
    fn look_again<'a>(&self, now: Duration, all: impl Iterator<Item = (&'a Cost, usize)>) -> Self {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        let keep = (-elapsed / FADE).exp();
        // What came in between is taken to have come evenly.
        let gain = if elapsed > 1e-6 { FADE / elapsed * (1.0 - keep) } else { 1.0 };
        let mut totals = Self { at: now, looked: true, ..Self::default() };
        for (cost, in_flight) in all {
            let mut recent = cost.recent();
            let counts = (
                cost.ok.load(Ordering::Relaxed),
                cost.bad.load(Ordering::Relaxed),
                cost.ok_logs.load(Ordering::Relaxed),
            );
            let new = |count: u64, seen: u64| count.wrapping_sub(seen) as f64 * gain;
            recent.ok = recent.ok * keep + new(counts.0, recent.seen.0);
            recent.bad = recent.bad * keep + new(counts.1, recent.seen.1);
            recent.ok_logs = recent.ok_logs * keep + new(counts.2, recent.seen.2);
            recent.in_flight = in_flight as f64;
            recent.seen = counts;
            totals.ok += recent.ok;
            totals.bad += recent.bad;
            totals.ok_logs += recent.ok_logs;
            totals.in_flight += recent.in_flight;
            if let Some(average) = cost.average() {
                totals.latency_nanos += average.as_nanos() as f64;
                totals.known += 1.0;
            }
        }
        totals
    }
}

/// What was seen of all servers but one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peers {
    ok: f64,
    bad: f64,
    ok_logs: f64,
    in_flight: f64,
    latency_nanos: f64,
    /// Since the channel began.
    elapsed: Duration,
}

impl Peers {
    fn of(all: &Totals, own: &Recent, own_latency: Option<Duration>) -> Self {
        // What is left of sums that cancel out is nothing.
        let others = |all: f64, own: f64| if all - own > all * 1e-9 { all - own } else { 0.0 };
        let own_nanos = own_latency.map_or(0.0, |latency| latency.as_nanos() as f64);
        let known = all.known - f64::from(u8::from(own_latency.is_some()));
        Self {
            ok: others(all.ok, own.ok),
            bad: others(all.bad, own.bad),
            ok_logs: others(all.ok_logs, own.ok_logs),
            in_flight: others(all.in_flight, own.in_flight),
            latency_nanos: if known > 0.5 { others(all.latency_nanos, own_nanos) / known } else { 0.0 },
            elapsed: all.at,
        }
    }

    /// How long an OK call of theirs takes, from its start to the end of its answer: the geometric mean.
    pub(crate) fn ok_takes(&self) -> Option<Duration> {
        (self.ok > 0.0).then(|| time_of(self.ok_logs / self.ok))
    }

    /// Where no call of theirs has ended yet: the least that those in flight will take, as far as that can be told.
    pub(crate) fn takes_at_least(&self) -> Option<Duration> {
        let none_ended = self.ok + self.bad <= 0.0 && self.in_flight > 0.0;
        none_ended.then(|| self.elapsed.min(Duration::from_secs_f64(FADE)))
    }

    /// The mean of their latencies, from a call's start to the head of its answer.
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_nanos as u64)
    }

    /// Whether the server's share of OK is far below theirs. Their calls in flight have not failed.
    pub(crate) fn are_better_than(&self, server: &Recent) -> bool {
        let calls = self.ok + self.bad + self.in_flight;
        if calls <= 0.0 {
            return false;
        }
        let share = (self.ok + self.in_flight) / calls;
        (server.ok + PRIOR * share) / (server.ok + server.bad + PRIOR) < share * WORSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Both answer 200 calls a second in 5 ms. At one of them 100 streams end well that were open for a day; a second later one
    /// call of the other finds nothing, which says as little of its server as ever.
    #[test]
    fn streams_of_a_day_make_no_bad_call_of_another_server_last() {
        let (fleet, own, other) = (Fleet::default(), Cost::default(), Cost::default());
        let peers = |now| fleet.peers_of(&own, now, [(&own, 1), (&other, 1)].into_iter());
        let day = ms(24 * 3600 * 1000);
        for call in 0..1000 {
            let now = day + ms(call * 5);
            own.ok(ms(5), || peers(now));
            other.ok(ms(5), || peers(now));
            if call == 800 {
                (0..100).for_each(|_| other.ok(day, || peers(now)));
            }
            let _ = peers(now);
        }
        let now = day + ms(5000);
        own.bad(ms(1), ms(1), now, &peers(now));
        // All is well from now on, and told.
        own.ok(ms(5), || peers(now + ms(100)));
        let kept = [1, 10, 60, 300].map(|minutes| own.kept(|| now + ms(minutes * 60_000)));
        assert_eq!(kept, [0; 4], "places held after 1, 10, 60 and 300 minutes");
    }

    #[test]
    fn the_mean_of_times_is_kept_as_logarithms() {
        for nanos in [1, 1_000, 999_999_999, 86_400_000_000_000] {
            let time = Duration::from_nanos(nanos);
            let again =
                time_of(crate::balance::subchannel::cost::logarithm(time) as f64).as_nanos() as f64 / nanos as f64;
            assert!((0.9..1.1).contains(&again), "{time:?}: {again}");
        }
        time_of(crate::balance::subchannel::cost::logarithm(Duration::MAX) as f64);
        assert_eq!(crate::balance::subchannel::cost::logarithm(Duration::ZERO), 0);
    }
}
