//! Which servers are ejected for a while because their calls fail (gRFC A50, and Envoy's
//! consecutive failures). PURE.
//!
//! [`OutlierDetection`] is what users set. [`OutlierDetector`] is the machine: the pool gives it
//! the [`CallCounts`] of all servers when [`OutlierDetector::next`] is due and when a server [is
//! suspicious](OutlierDetection::is_suspicious), and ejects the servers that it names. A server
//! goes through these states:
//!
//! ```text
//! well ──its calls fail──▶ ejected ──its time is over──▶ on probation ──an OK call──▶ well (ejections are remembered)
//!                             ▲                              │
//!                             └────────── a failure ─────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The shortest interval: the counts of all servers are added up in each.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest of all times, which clocks can still add to: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Ejects servers whose calls fail while those of others do not (gRFC A50, outlier detection;
/// consecutive failures are Envoy's).
/// [`BalancedChannelBuilder::outlier_detection`](crate::BalancedChannelBuilder::outlier_detection)
/// turns it on. Off by default, as in gRPC: only the user knows whether an error is the fault of the
/// server that returned it.
///
/// Calls count by the status that ends them, trailers included (A50): every code but `OK` is a
/// failure, and so are a lost connection, a reset stream and a deadline that has passed. Cancelled
/// calls, calls whose own requests failed, and attempts that no server has processed do not count:
/// a server that only refuses (`REFUSED_STREAM`) is never ejected.
///
/// A run of consecutive failures ejects a server only if chance does not explain it: the server is
/// compared with its peers, the other servers of the channel. The peers' failure rate
/// over this interval and the one before is taken. A run counts as chance if a server with
/// that rate would have at least a 1 % chance of such a run in an interval; then the server is not
/// ejected. So if three servers return `NOT_FOUND` at about the same rate, nobody is ejected.
///
/// An ejected server stays connected, and returns after its time. Meanwhile it gets no calls,
/// unless no other server is ready. The results of such calls do not count, and neither do those of
/// calls that began before the ejection. After its return the server is on probation: its next
/// failure ejects it again, unless the comparison with its peers excuses it. Its next success ends
/// the probation.
///
/// [`BalancedChannelBuilder::build`](crate::BalancedChannelBuilder::build) refuses values outside
/// of the bounds that each method names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    interval: Duration,
    base_time: Duration,
    max_time: Duration,
    max_percent: u32,
    consecutive_failures: Option<u32>,
    failure_percentage: Option<(u32, u64)>,
    success_rate: Option<(f64, u64)>,
    min_servers: usize,
}

impl Default for OutlierDetection {
    /// The values of A50, and Envoy's 5 consecutive failures:
    ///
    /// - rates are compared every 10 s;
    /// - a server is ejected for 30 s times the number of its ejections, up to 300 s;
    /// - no further server is ejected once 10 % of them are; one may always be;
    /// - failure percentage: 85 % of at least 50 calls, with at least 5 servers that have so many;
    /// - success rate: 1.9 standard deviations below the mean, of at least 100 calls, with at least 5
    ///   servers that have so many;
    /// - 5 consecutive failures eject at once.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_percent: 10,
            consecutive_failures: Some(5),
            failure_percentage: Some((85, 50)),
            success_rate: Some((1.9, 100)),
            min_servers: 5,
        }
    }
}

impl OutlierDetection {
    /// How often rates are compared, from 10 ms to 365 days. 10 s by default.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long a server is ejected: `base` times the number of its ejections, at most `max`. 30 s
    /// and 300 s by default; `base` is at most `max`, and `max` at most 365 days.
    ///
    /// The number of its ejections falls by one after each interval in which the server was not
    /// ejected and had calls that ended with OK, its last call among them.
    #[must_use]
    pub fn ejection_time(mut self, base: Duration, max: Duration) -> Self {
        (self.base_time, self.max_time) = (base, max);
        self
    }

    /// The share of servers, in percent from 0 to 100, at which no further server is ejected. 10 by
    /// default. One server may be ejected whatever the percentage, also with 0, as with Envoy's
    /// `always_eject_one_host`. The last server that is left is never ejected, so a channel with
    /// one server ejects nobody.
    #[must_use]
    pub fn max_ejection_percent(mut self, percent: u32) -> Self {
        self.max_percent = percent;
        self
    }

    /// The number of consecutive failures after which a server is ejected at once, unless chance
    /// explains them (see [`OutlierDetection`]); 1 or more. 5 by default, as in Envoy; `None` turns
    /// this off.
    #[must_use]
    pub fn consecutive_failures(mut self, failures: Option<u32>) -> Self {
        self.consecutive_failures = failures;
        self
    }

    /// Ejects a server if more than `percent` of its calls in an interval failed, from 0 to 100.
    /// Only servers with at least `calls` calls in the interval count; 1 or more. 85 and 50 by
    /// default; `None` turns this off.
    #[must_use]
    pub fn failure_percentage(mut self, percent: Option<u32>, calls: u64) -> Self {
        self.failure_percentage = percent.map(|percent| (percent, calls));
        self
    }

    /// Ejects a server if its success rate in an interval is more than `deviations` standard
    /// deviations below the mean of all success rates; a finite number. Only servers with at least
    /// `calls` calls in the interval count; 1 or more. 1.9 and 100 by default; `None` turns this off.
    #[must_use]
    pub fn success_rate(mut self, deviations: Option<f64>, calls: u64) -> Self {
        self.success_rate = deviations.map(|deviations| (deviations, calls));
        self
    }

    /// How many servers must have the minimum number of calls, so that
    /// [`failure_percentage`](Self::failure_percentage) and [`success_rate`](Self::success_rate)
    /// compare them; 1 or more. 5 by default.
    #[must_use]
    pub fn min_servers(mut self, servers: usize) -> Self {
        self.min_servers = servers;
        self
    }

    /// The first setting that is out of bounds: its name, its value, and the bound.
    pub(crate) fn invalid(&self) -> Option<(&'static str, String, &'static str)> {
        let min_calls = [self.failure_percentage.map(|(_, calls)| calls), self.success_rate.map(|(_, calls)| calls)];
        let millis = |time: Duration| format!("{} ms", time.as_millis());
        let checks = [
            (
                "interval",
                millis(self.interval),
                "from 10 ms to 365 days",
                (SHORTEST..=LONGEST).contains(&self.interval),
            ),
            ("base ejection time", millis(self.base_time), "at most the maximum", self.base_time <= self.max_time),
            ("maximum ejection time", millis(self.max_time), "at most 365 days", self.max_time <= LONGEST),
            ("maximum ejection percent", self.max_percent.to_string(), "from 0 to 100", self.max_percent <= 100),
            (
                "consecutive failures",
                self.consecutive_failures.unwrap_or(1).to_string(),
                "1 or more",
                self.consecutive_failures != Some(0),
            ),
            (
                "failure percentage",
                self.failure_percentage.map_or(0, |(percent, _)| percent).to_string(),
                "from 0 to 100",
                self.failure_percentage.is_none_or(|(percent, _)| percent <= 100),
            ),
            ("number of calls", "0".to_owned(), "1 or more", !min_calls.contains(&Some(0))),
            (
                "success rate's deviations",
                self.success_rate.map_or(0.0, |(deviations, _)| deviations).to_string(),
                "a finite number",
                self.success_rate.is_none_or(|(deviations, _)| deviations.is_finite()),
            ),
            ("number of servers", self.min_servers.to_string(), "1 or more", self.min_servers > 0),
        ];
        let failed = checks.into_iter().find(|(.., holds)| !holds);
        failed.map(|(setting, value, bound, _)| (setting, value, bound))
    }

    /// How long a server is ejected that is for so many times.
    fn time_of(&self, ejections: u32) -> Duration {
        self.base_time.saturating_mul(ejections).min(self.max_time)
    }

    /// Whether anything ejects servers.
    fn ejects(&self) -> bool {
        self.consecutive_failures.is_some() || self.failure_percentage.is_some() || self.success_rate.is_some()
    }

    /// Whether the detector should look at once: for as many consecutive failures as eject, and
    /// twice, four times … as many, because peers may excuse the first. On probation one ejects.
    pub(crate) fn is_suspicious(&self, failures: u32, on_probation: bool) -> bool {
        self.consecutive_failures.is_some_and(|limit| {
            let limit = if on_probation { 1 } else { limit };
            failures.is_multiple_of(limit) && (failures / limit).is_power_of_two()
        })
    }
}

/// How often in an interval as many consecutive failures may come by chance without ejecting.
const BY_CHANCE: f64 = 0.01;

/// The calls of one server since the interval began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallCounts {
    pub(crate) successes: u64,
    pub(crate) failures: u64,
    /// Failures since the last success, over intervals.
    pub(crate) consecutive_failures: u32,
}

impl CallCounts {
    /// All calls of the interval.
    fn calls(&self) -> u64 {
        self.successes + self.failures
    }

    /// Adds the calls of another server.
    fn add(&mut self, other: &Self) {
        self.successes += other.successes;
        self.failures += other.failures;
    }
}

/// The counts of this server, among those that are in order.
fn find<'a, Id: Ord>(counts: &'a [(Id, CallCounts)], id: &Id) -> Option<&'a CallCounts> {
    let index = counts.binary_search_by(|(other, _)| other.cmp(id)).ok()?;
    Some(&counts[index].1) // found there
}

/// How a server was found to be an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DetectionMethod {
    ConsecutiveFailures,
    SuccessRate,
    FailurePercentage,
}

/// An ejection that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ejection {
    pub(crate) method: DetectionMethod,
    /// It was carried out. Otherwise too many servers are ejected already, or no other is left.
    pub(crate) is_enforced: bool,
}

/// Decides which servers are ejected; `Id` names one. Times count from any fixed moment.
pub(crate) struct OutlierDetector<Id> {
    options: OutlierDetection,
    /// The counts of calls begin anew here.
    interval_began: Duration,
    /// Servers that were ejected, as long as that is remembered.
    ejected: BTreeMap<Id, EjectedServer>,
    /// The counts of the interval before, so that a new one does not begin with nothing to compare
    /// with. In order.
    previous: Vec<(Id, CallCounts)>,
    /// What all servers have done in both together, as of this look.
    total: CallCounts,
    /// It is to look before it is time.
    looks_at_once: bool,
    /// Servers that are not ejected although they have failed too often in a row: that counts once.
    spared: BTreeSet<Id>,
    /// Ejections that were due since they were last taken.
    due: Vec<Ejection>,
}

/// A server that was ejected and may be again.
#[derive(Clone, Copy, Debug, Default)]
struct EjectedServer {
    /// At least 1.
    ejections: u32,
    /// When it returns; `None` once it has.
    until: Option<Duration>,
    /// It has returned, and answered no call with OK since.
    on_probation: bool,
}

impl<Id: Ord + Clone> OutlierDetector<Id> {
    /// A detector without ejected servers, whose first interval begins now. The options are valid.
    pub(crate) fn new(options: OutlierDetection, now: Duration) -> Self {
        let (ejected, previous, total) = (BTreeMap::new(), Vec::new(), CallCounts::default());
        let (spared, due) = (BTreeSet::new(), Vec::new());
        Self { options, interval_began: now, ejected, previous, total, looks_at_once: false, spared, due }
    }

    /// Goes on with other options, which are valid: the servers that are ejected stay so, for the time that these give them. Without a
    /// way to eject servers all of them return (A50).
    pub(crate) fn set_options(&mut self, options: OutlierDetection) {
        let before = std::mem::replace(&mut self.options, options);
        if !options.ejects() {
            self.ejected.clear();
        }
        for server in self.ejected.values_mut() {
            let times = [&before, &options].map(|options| options.time_of(server.ejections));
            server.until = server.until.map(|until| until.saturating_sub(times[0]) + times[1]);
        }
    }

    /// When [`OutlierDetector::detect`] is due, if nothing is suspicious before: a server returns,
    /// or the interval ends.
    pub(crate) fn next(&self) -> Duration {
        let end = self.interval_began + self.options.interval;
        self.ejected.values().filter_map(|server| server.until).fold(end, Duration::min)
    }

    /// A server is suspicious, or something else has changed: [`OutlierDetector::detect`] is due.
    pub(crate) fn look_at_once(&mut self) {
        self.looks_at_once = true;
    }

    /// Whether [`OutlierDetector::detect`] is due.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.looks_at_once || now >= self.next()
    }

    /// Whether the interval has ended, so that its counts begin anew.
    pub(crate) fn interval_is_over(&self, now: Duration) -> bool {
        now >= self.interval_began + self.options.interval
    }

    /// The servers that are ejected from now on, in order. `counts` has all servers of the channel, in order.
    pub(crate) fn detect(&mut self, counts: &[(Id, CallCounts)], now: Duration) -> Vec<Id> {
        self.ejected.retain(|id, _| find(counts, id).is_some());
        self.spared.retain(|id| find(counts, id).is_some());
        self.looks_at_once = false;
        self.total = CallCounts::default();
        counts.iter().chain(&self.previous).for_each(|(_, count)| self.total.add(count));
        for server in self.ejected.values_mut() {
            if server.until.is_some_and(|until| until <= now) {
                (server.until, server.on_probation) = (None, true);
            }
        }
        for (id, count) in counts {
            self.check_consecutive_failures(id, count, counts.len(), now);
        }
        if self.interval_is_over(now) {
            self.check_rates(counts, now);
            self.forget_ejections(counts);
            self.interval_began = now;
            counts.clone_into(&mut self.previous);
        }
        self.ejected.iter().filter(|(_, server)| server.until.is_some()).map(|(id, _)| id.clone()).collect()
    }

    /// Takes the ejections that were due since they were last taken.
    pub(crate) fn take_due(&mut self) -> Vec<Ejection> {
        std::mem::take(&mut self.due)
    }

    /// Whether the server has returned, and has not proven yet that it is well.
    pub(crate) fn is_on_probation(&self, id: &Id) -> bool {
        self.ejected.get(id).is_some_and(|server| server.on_probation)
    }

    /// Whether its time has yet to pass.
    fn is_ejected(&self, id: &Id) -> bool {
        self.ejected.get(id).is_some_and(|server| server.until.is_some())
    }

    /// Ejects the server if it has failed too often in a row; on probation one failure is too
    /// often.
    fn check_consecutive_failures(&mut self, id: &Id, count: &CallCounts, servers: usize, now: Duration) {
        if self.is_ejected(id) {
            return;
        }
        // Counts begin anew with a return, so a success came after it.
        if count.successes > 0
            && let Some(server) = self.ejected.get_mut(id)
        {
            server.on_probation = false;
        }
        let Some(limit) = self.options.consecutive_failures else { return };
        let limit = if self.is_on_probation(id) { 1 } else { limit };
        if count.consecutive_failures < limit {
            self.spared.remove(id);
        } else if !self.may_be_chance(id, count) {
            self.eject(id, servers, now, DetectionMethod::ConsecutiveFailures);
        }
    }

    /// Whether the server would often have so many consecutive failures if it failed as often as
    /// its peers do.
    fn may_be_chance(&self, id: &Id, own: &CallCounts) -> bool {
        let previous = find(&self.previous, id).copied().unwrap_or_default();
        // Both are parts of the total.
        let calls = self.total.calls() - own.calls() - previous.calls();
        let failures = self.total.failures - own.failures - previous.failures;
        // With one OK call more, so that peers without calls excuse nothing.
        let failure_rate = failures as f64 / (calls + 1) as f64;
        own.calls().max(1) as f64 * failure_rate.powf(f64::from(own.consecutive_failures)) > BY_CHANCE
    }

    /// Ejects servers by A50's two algorithms, the success rate first.
    fn check_rates(&mut self, counts: &[(Id, CallCounts)], now: Duration) {
        if let Some((deviations, min_calls)) = self.options.success_rate {
            let rates = self.success_rates(counts, min_calls);
            let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / rates.len() as f64;
            let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / rates.len() as f64;
            let least = mean - variance.sqrt() * deviations;
            let outliers = rates.iter().filter(|(_, rate)| *rate < least);
            outliers.for_each(|(id, _)| self.eject(id, counts.len(), now, DetectionMethod::SuccessRate));
        }
        if let Some((percent, min_calls)) = self.options.failure_percentage {
            let rates = self.success_rates(counts, min_calls);
            let failing = rates.iter().filter(|(_, rate)| (1.0 - rate) * 100.0 > f64::from(percent));
            failing.for_each(|(id, _)| self.eject(id, counts.len(), now, DetectionMethod::FailurePercentage));
        }
    }

    /// The success rates of the servers that have enough calls; none if too few have.
    fn success_rates(&self, counts: &[(Id, CallCounts)], min_calls: u64) -> Vec<(Id, f64)> {
        let enough = counts.iter().filter(|(_, count)| count.calls() >= min_calls);
        let rate = |count: &CallCounts| count.successes as f64 / count.calls() as f64;
        let rates: Vec<_> = enough.map(|(id, count)| (id.clone(), rate(count))).collect();
        if rates.len() >= self.options.min_servers { rates } else { Vec::new() }
    }

    /// Remembers one ejection less of each server that was well in the interval.
    fn forget_ejections(&mut self, counts: &[(Id, CallCounts)]) {
        self.ejected.retain(|id, server| {
            let was_well = find(counts, id).is_some_and(|count| count.successes > 0 && count.consecutive_failures == 0);
            if server.until.is_none() && was_well {
                server.ejections -= 1; // 1 at least, or it would not be here
            }
            server.ejections > 0
        });
    }

    /// Ejects a server, unless too many are ejected or no other is left. `servers` is the number of
    /// all.
    fn eject(&mut self, id: &Id, servers: usize, now: Duration, method: DetectionMethod) {
        if self.is_ejected(id) {
            return;
        }
        let ejected = self.ejected.values().filter(|server| server.until.is_some()).count();
        let is_allowed = ejected == 0 || ejected * 100 < self.options.max_percent as usize * servers;
        if !is_allowed || ejected + 1 >= servers {
            // This method looks whenever anything has happened.
            if method != DetectionMethod::ConsecutiveFailures || self.spared.insert(id.clone()) {
                self.due.push(Ejection { method, is_enforced: false });
            }
            return;
        }
        self.spared.remove(id);
        self.due.push(Ejection { method, is_enforced: true });
        let server = self.ejected.entry(id.clone()).or_default();
        server.ejections += 1;
        server.on_probation = false;
        server.until = Some(now + self.options.time_of(server.ejections));
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
