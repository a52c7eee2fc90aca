//! Which servers are left out for a while because their calls fail (gRFC A50), with failures in a row beside. PURE.

use std::collections::BTreeMap;
use std::time::Duration;

/// A year, which clocks can still add to.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Ejection of servers whose calls fail while those of others do not (gRFC A50; failures in a row are Envoy's). Off unless
/// it is set, as in gRPC: only the user knows whether an error speaks against the server that told it.
///
/// Calls are judged by the status that ends them, trailers included (A50): every code but `OK` is a failure, and so are a lost
/// connection, a reset stream and a deadline that has passed. Calls that their callers gave up, and calls whose own requests
/// failed, are not judged.
///
/// Whether failures speak against the server is a question of its peers. Failures in a row eject only where a server that fails as
/// often as its peers do, in this interval and the one before, would have so many in a row less than once in a hundred intervals.
/// So five `NOT_FOUND` from each of three servers eject nobody.
///
/// An ejected server stays connected, and comes back after its time. It gets no calls meanwhile, unless no other server is ready.
/// What it does while it is out counts for nothing, and neither does the late end of a call from before. Back, it is on probation:
/// its next failure ejects it again (compared with its peers as above), its next success clears it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    interval: Duration,
    base_time: Duration,
    max_time: Duration,
    max_percent: u32,
    in_a_row: Option<u32>,
    failure_percent: Option<(u32, u64)>,
    success_rate: Option<(f64, u64)>,
    min_servers: usize,
}

impl Default for Ejection {
    /// A50's: judged every 10 s, 30 s of ejection times the number of ejections up to 300 s, at most 10 % of the servers (one may
    /// always go), failure percentage 85 % of at least 50 calls, success rate 1.9 deviations below the mean of at least 100
    /// calls, the two of them with at least 5 servers that have so many; and 5 failures in a row at once.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_percent: 10,
            in_a_row: Some(5),
            failure_percent: Some((85, 50)),
            success_rate: Some((1.9, 100)),
            min_servers: 5,
        }
    }
}

impl Ejection {
    /// How often rates are judged. 10 s by default; values below 10 ms count as 10 ms.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.clamp(Duration::from_millis(10), LONGEST);
        self
    }

    /// How long a server is out: `base` times the number of its ejections, at most `max`. One ejection less is remembered for
    /// each interval in which it stayed, answered calls with OK, and did not fail the last. 30 s and 300 s by default.
    #[must_use]
    pub fn times(mut self, base: Duration, max: Duration) -> Self {
        self.base_time = base.min(LONGEST);
        self.max_time = max.max(base).min(LONGEST);
        self
    }

    /// The share of servers, in percent, from which on no further one is ejected. 10 by default. One server may always be out, and
    /// all may never be.
    #[must_use]
    pub fn max_percent(mut self, percent: u32) -> Self {
        self.max_percent = percent.min(100);
        self
    }

    /// So many failures in a row eject at once, unless the server's peers fail as often; `None` never does. 5 by default, as Envoy's.
    #[must_use]
    pub fn in_a_row(mut self, failures: Option<u32>) -> Self {
        self.in_a_row = failures.map(|failures| failures.max(1));
        self
    }

    /// The share of failed calls in an interval, in percent, beyond which a server is ejected, and the least number of calls to judge
    /// it by. 85 and 50 by default; `None` turns it off.
    #[must_use]
    pub fn failure_percentage(mut self, percent: Option<u32>, calls: u64) -> Self {
        self.failure_percent = percent.map(|percent| (percent.min(100), calls.max(1)));
        self
    }

    /// How many standard deviations below the mean of all success rates a server's is when it is ejected, and the least number of
    /// calls to judge it by. 1.9 and 100 by default; `None` turns it off.
    #[must_use]
    pub fn success_rate(mut self, deviations: Option<f64>, calls: u64) -> Self {
        self.success_rate = deviations.filter(|deviations| deviations.is_finite()).map(|factor| (factor, calls.max(1)));
        self
    }

    /// How many servers must have enough calls before rates are judged. 5 by default, 1 at least.
    #[must_use]
    pub fn min_servers(mut self, servers: usize) -> Self {
        self.min_servers = servers.max(1);
        self
    }

    /// Whether so many failures in a row are worth a judgement at once: the most that are allowed, and twice, four times … as many,
    /// because peers may excuse the first; the first one of a server on probation.
    pub(crate) fn is_suspicious(&self, in_a_row: u32, on_probation: bool) -> bool {
        self.in_a_row
            .is_some_and(|most| on_probation || (in_a_row.is_multiple_of(most) && (in_a_row / most).is_power_of_two()))
    }
}

/// How often in an interval failures in a row may come by chance, before they eject.
const BY_CHANCE: f64 = 0.01;

/// What one server did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallCounts {
    pub(crate) successes: u64,
    pub(crate) failures: u64,
    pub(crate) in_a_row: u32,
}

/// Judges servers by their tallies; `Id` names one.
pub(crate) struct OutlierDetector<Id> {
    options: Ejection,
    judged: Duration,
    known: BTreeMap<Id, EjectedServer>,
    /// What was done in the interval before, so that a new one does not begin with nothing to compare with.
    before: BTreeMap<Id, CallCounts>,
}

/// A server that was ejected before.
#[derive(Clone, Copy, Debug)]
struct EjectedServer {
    ejections: u32,
    /// Until when it is out, if it is.
    until: Option<Duration>,
    probation: bool,
}

impl<Id: Ord + Clone> OutlierDetector<Id> {
    pub(crate) fn new(options: Ejection, now: Duration) -> Self {
        Self { options, judged: now, known: BTreeMap::new(), before: BTreeMap::new() }
    }

    /// When it has to be asked again, come what may.
    pub(crate) fn next(&self) -> Duration {
        let returns = self.known.values().filter_map(|convict| convict.until).min();
        returns.map_or(self.judged + self.options.interval, |until| until.min(self.judged + self.options.interval))
    }

    /// Whether the interval is over: the tallies of rates then begin anew.
    pub(crate) fn interval_is_over(&self, now: Duration) -> bool {
        now >= self.judged + self.options.interval
    }

    /// Who is out from now on, of all servers with what they did since the interval began.
    pub(crate) fn judge(&mut self, tallies: &BTreeMap<Id, CallCounts>, now: Duration) -> Vec<Id> {
        self.known.retain(|id, _| tallies.contains_key(id));
        for convict in self.known.values_mut() {
            if convict.until.is_some_and(|until| until <= now) {
                convict.until = None;
                convict.probation = true;
            }
        }
        for (id, tally) in tallies {
            let convict = self.known.get_mut(id);
            let most = self.options.in_a_row;
            match convict {
                Some(convict) if convict.until.is_some() => {}
                mut convict => {
                    // What it did before does not count: a success was one since it is back.
                    if let Some(convict) = &mut convict
                        && tally.successes > 0
                    {
                        convict.probation = false;
                    }
                    let on_probation = convict.is_some_and(|convict| convict.probation);
                    let too_many = most.is_some_and(|most| tally.in_a_row >= if on_probation { 1 } else { most });
                    if too_many && !self.may_be_chance(id, tallies) {
                        self.eject(id, tallies.len(), now);
                    }
                }
            }
        }
        if self.interval_is_over(now) {
            self.judge_rates(tallies, now);
            self.forgive(tallies);
            self.judged = now;
            self.before.clone_from(tallies);
        }
        self.known.iter().filter(|(_, convict)| convict.until.is_some()).map(|(id, _)| id.clone()).collect()
    }

    /// Whether a server's failures in a row would be nothing rare, did it fail as often as its peers.
    fn may_be_chance(&self, id: &Id, tallies: &BTreeMap<Id, CallCounts>) -> bool {
        let peers = tallies.iter().chain(&self.before).filter(|(peer, _)| *peer != id);
        let (ok, failed) =
            peers.fold((0, 0), |(ok, failed), (_, tally)| (ok + tally.successes, failed + tally.failures));
        // One OK call more, so that nobody's calls excuse nothing.
        let fails = failed as f64 / (ok + failed + 1) as f64;
        let Some(own) = tallies.get(id) else { return false };
        let calls = (own.successes + own.failures).max(1) as f64;
        calls * fails.powf(f64::from(own.in_a_row)) > BY_CHANCE
    }

    /// Who is back, and has not proven yet that it is well.
    pub(crate) fn is_on_probation(&self, id: &Id) -> bool {
        self.known.get(id).is_some_and(|convict| convict.probation)
    }

    fn judge_rates(&mut self, tallies: &BTreeMap<Id, CallCounts>, now: Duration) {
        if let Some((deviations, calls)) = self.options.success_rate {
            let rates = enough(tallies, calls);
            if rates.len() >= self.options.min_servers {
                let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / rates.len() as f64;
                let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / rates.len() as f64;
                let least = mean - variance.sqrt() * deviations;
                rates.iter().filter(|(_, rate)| *rate < least).for_each(|(id, _)| self.eject(id, tallies.len(), now));
            }
        }
        if let Some((percent, calls)) = self.options.failure_percent {
            let rates = enough(tallies, calls);
            if rates.len() >= self.options.min_servers {
                let failing = |rate: f64| (1.0 - rate) * 100.0 > f64::from(percent);
                rates.iter().filter(|(_, rate)| failing(*rate)).for_each(|(id, _)| self.eject(id, tallies.len(), now));
            }
        }
    }

    /// One ejection less to be remembered for each interval without one.
    fn forgive(&mut self, tallies: &BTreeMap<Id, CallCounts>) {
        for (id, convict) in &mut self.known {
            let clean = tallies.get(id).is_some_and(|tally| tally.successes > 0 && tally.in_a_row == 0);
            if convict.until.is_none() && clean {
                convict.ejections -= 1;
            }
        }
        self.known.retain(|_, convict| convict.ejections > 0);
    }

    fn eject(&mut self, id: &Id, servers: usize, now: Duration) {
        let out = self.known.values().filter(|convict| convict.until.is_some()).count();
        let allowed = out == 0 || out * 100 < self.options.max_percent as usize * servers;
        if self.is_out(id) || !allowed || out + 1 >= servers {
            return;
        }
        let known = EjectedServer { ejections: 0, until: None, probation: false };
        let convict = self.known.entry(id.clone()).or_insert(known);
        convict.ejections += 1;
        convict.probation = false;
        convict.until = Some(now + self.options.base_time.saturating_mul(convict.ejections).min(self.options.max_time));
    }

    fn is_out(&self, id: &Id) -> bool {
        self.known.get(id).is_some_and(|convict| convict.until.is_some())
    }
}

/// The success rates of those servers that have enough calls.
fn enough<Id: Ord + Clone>(tallies: &BTreeMap<Id, CallCounts>, calls: u64) -> Vec<(Id, f64)> {
    let rated = tallies.iter().filter(|(_, tally)| tally.successes + tally.failures >= calls);
    rated.map(|(id, tally)| (id.clone(), tally.successes as f64 / (tally.successes + tally.failures) as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies(list: &[(u64, u64, u32)]) -> BTreeMap<usize, CallCounts> {
        let tally = |(successes, failures, in_a_row): &(u64, u64, u32)| CallCounts {
            successes: *successes,
            failures: *failures,
            in_a_row: *in_a_row,
        };
        list.iter().map(tally).enumerate().collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn failures_in_a_row_eject_at_once_and_probation_again_longer() {
        let mut judge = OutlierDetector::new(Ejection::default(), Duration::ZERO);
        assert!(judge.judge(&tallies(&[(9, 4, 4), (9, 0, 0), (9, 0, 0)]), SECOND).is_empty());
        assert_eq!(judge.judge(&tallies(&[(9, 5, 5), (9, 0, 0), (9, 0, 0)]), SECOND), [0]);
        assert_eq!(judge.judge(&tallies(&[(0, 0, 5), (9, 0, 0), (9, 0, 0)]), SECOND * 30), [0]);
        assert!(judge.judge(&tallies(&[(0, 0, 0), (9, 0, 0), (9, 0, 0)]), SECOND * 31).is_empty());
        assert_eq!(judge.judge(&tallies(&[(0, 1, 1), (9, 0, 0), (9, 0, 0)]), SECOND * 32), [0]);
        assert_eq!(judge.judge(&tallies(&[(0, 0, 0), (9, 0, 0), (9, 0, 0)]), SECOND * 91), [0]);
        assert!(judge.judge(&tallies(&[(0, 0, 0), (9, 0, 0), (9, 0, 0)]), SECOND * 92).is_empty());
        assert!(judge.judge(&tallies(&[(1, 0, 0), (9, 0, 0), (9, 0, 0)]), SECOND * 93).is_empty());
        assert!(judge.judge(&tallies(&[(1, 1, 1), (9, 0, 0), (9, 0, 0)]), SECOND * 94).is_empty());
    }

    #[test]
    fn rates_are_judged_when_the_interval_is_over() {
        let mut judge = OutlierDetector::new(Ejection::default(), Duration::ZERO);
        let failing = tallies(&[(1, 99, 1), (100, 0, 0), (100, 0, 0), (100, 0, 0), (100, 0, 0)]);
        assert!(judge.judge(&failing, SECOND * 9).is_empty());
        assert_eq!(judge.judge(&failing, SECOND * 10), [0]);
        let few = tallies(&[(1, 99, 1), (100, 0, 0), (100, 0, 0), (100, 0, 0)]);
        assert!(OutlierDetector::new(Ejection::default(), Duration::ZERO).judge(&few, SECOND * 10).is_empty());
        let alike = tallies(&[(50, 50, 1), (50, 50, 0), (50, 50, 0), (50, 50, 0), (50, 50, 0)]);
        assert!(OutlierDetector::new(Ejection::default(), Duration::ZERO).judge(&alike, SECOND * 10).is_empty());
    }

    #[test]
    fn never_all_and_never_more_than_its_share() {
        let all: Vec<_> = (0..10).map(|_| (1_000_000, 9, 9)).collect();
        let out = |percent| {
            OutlierDetector::new(Ejection::default().max_percent(percent), Duration::ZERO).judge(&tallies(&all), SECOND)
        };
        assert_eq!(out(0).len(), 1);
        assert_eq!(out(10).len(), 1);
        assert_eq!(out(30).len(), 3);
        assert_eq!(out(100).len(), 9);
        let mut judge = OutlierDetector::new(Ejection::default(), Duration::ZERO);
        assert!(judge.judge(&tallies(&[(0, 9, 9)]), SECOND).is_empty(), "the only one stays");
    }

    /// F36: failures in a row are compared with what the peers do.
    #[test]
    fn what_all_servers_fail_at_ejects_nobody() {
        let out = |list: &[(u64, u64, u32)]| {
            OutlierDetector::new(Ejection::default().max_percent(100), Duration::ZERO).judge(&tallies(list), SECOND)
        };
        assert!(out(&[(0, 5, 5), (0, 5, 5), (0, 5, 5)]).is_empty());
        assert!(out(&[(0, 5, 5), (0, 4, 4), (0, 4, 4)]).is_empty());
        assert!(out(&[(8_000, 2_000, 5), (8_000, 2_000, 0), (8_000, 2_000, 0)]).is_empty(), "that comes by chance");
        assert_eq!(out(&[(8_000, 2_000, 10), (8_000, 2_000, 0), (8_000, 2_000, 0)]), [0], "that does not");
        assert_eq!(out(&[(0, 5, 5), (0, 0, 0), (0, 0, 0)]), [0], "nobody excuses it");
        let mut judge = OutlierDetector::new(Ejection::default(), Duration::ZERO);
        let failing = [(70, 30, 0), (70, 30, 0), (70, 30, 0)];
        judge.judge(&tallies(&failing), SECOND * 10);
        assert!(judge.judge(&tallies(&[(0, 5, 5), (2, 0, 0), (1, 0, 0)]), SECOND * 11).is_empty(), "remembered");
    }

    #[test]
    fn judgements_at_once_are_few() {
        let options = Ejection::default();
        let at: Vec<_> = (1..100).filter(|in_a_row| options.is_suspicious(*in_a_row, false)).collect();
        assert_eq!(at, [5, 10, 20, 40, 80]);
        assert!(options.is_suspicious(1, true));
        assert!(!options.in_a_row(None).is_suspicious(5, true));
    }
}
