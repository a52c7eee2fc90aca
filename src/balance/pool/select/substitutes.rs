//! Which servers are connected in place of those of a subset that fail. PURE.
//!
//! A substitute goes when it is not needed any longer, or when it fails itself. Nothing is remembered between
//! two selections but the states of the servers and when they last failed:
//!
//! - One that is ready stays a substitute, and so does one that is being connected.
//! - Then those follow that have never failed, by rank, and the others, the longest ago first. So each server is
//!   tried at some time, whatever happens to the others.
//! - One that has failed is not tried again for [`RETRY_AFTER`].

use std::time::Duration;

use crate::balance::pool::select::subset::{Principals, split};
use crate::balance::pool::select::zones::Member;
use crate::balance::pool::select::{Candidate, CandidateState, Partition, Reason};

/// How long a server that has failed is not tried as a substitute.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(10);
/// When to look again at a server that fails, but has not done so lately. It is about to be disconnected, and
/// may be tried then.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Partition<'_> {
    /// Chooses substitutes for the principals that fail, as many as those are. At most half as many as the subset
    /// (but two) are tried at a time, and the subset has at most so many servers more than it should: while
    /// substitutes have the places, principals that fail are tried by turns. Returns when to look again, if time
    /// alone changes something.
    ///
    /// Substitutes are of the zone of those that they stand in for, as far as it has any. When servers of the own
    /// zone fail and none of it is ready, half of those that are tried are of others: it may be gone altogether.
    pub(super) fn substitute(&mut self, subset: usize, principals: &Principals<'_>, now: Duration) -> Option<Duration> {
        let fails = |member: &&Member| self.candidates[member.index].fails();
        let failing = principals.chosen.map(|of| of.iter().filter(fails).count());
        let (all_failing, beyond) = (failing[0] + failing[1], (subset / 2).max(2));
        let kept = self.keep(principals, all_failing);
        let missing = all_failing - (kept[0] + kept[1]); // at most so many were kept
        let (tried, next) = self.try_some(principals, failing, kept, missing.min(beyond), now);
        let places = (all_failing + beyond).saturating_sub(kept[0] + kept[1] + tried);
        let waits = self.take_turns(principals, places);
        let look_again = waits.then(|| now.saturating_add(LOOK_AGAIN_AFTER));
        next.into_iter().chain(look_again).min()
    }

    /// Chooses so many servers that may become substitutes. Returns how many it has found, and when another one may
    /// be tried if those are too few.
    fn try_some(
        &mut self,
        principals: &Principals<'_>,
        failing: [usize; 2],
        kept: [usize; 2],
        missing: usize,
        now: Duration,
    ) -> (usize, Option<Duration>) {
        if missing == 0 {
            return (0, None);
        }
        let mut trials = principals.rest.map(|rest| self.trials(rest, now));
        let home_is_ready = kept[0] > 0 || principals.chosen[0].iter().any(|member| self.state(member).is_connected());
        let from_others = if failing[0] > 0 && !home_is_ready {
            // Of an odd number that side gets one more whose server has waited longer, so that both have their turn.
            let first = |side: usize| trials[side].order.first().map(|trial| (trial.is_idle, trial.last_failure));
            missing / 2 + missing % 2 * usize::from(first(1) < first(0))
        } else {
            failing[1].saturating_sub(kept[1])
        };
        let (home, others) = split(missing, from_others, trials[0].order.len(), trials[1].order.len());
        let [of_home, of_others] = &mut trials;
        for trial in of_home.order.drain(..home).chain(of_others.order.drain(..others)) {
            self.verdicts[trial.index].reason = Reason::Substitute;
        }
        let is_short = home + others < missing;
        (home + others, trials.iter().filter_map(|trials| trials.next).min().filter(|_| is_short))
    }

    /// Leaves so many principals that fail connected: those that are being tried, and then those whose last failure
    /// is the longest ago. Returns whether any is left out.
    fn take_turns(&mut self, principals: &Principals<'_>, places: usize) -> bool {
        let failing = principals.chosen.into_iter().flatten().filter(|member| self.candidates[member.index].fails());
        let mut failing: Vec<_> = failing.map(|member| member.index).collect();
        if failing.len() <= places {
            return false;
        }
        // Stable: of those that are alike, the one with the greater rank stays first.
        failing.sort_by_key(|index| {
            let candidate = &self.candidates[*index];
            (candidate.state != CandidateState::Connecting, candidate.last_failure)
        });
        for index in failing.drain(places..) {
            self.verdicts[index].reason = Reason::OutsideSubset;
        }
        true
    }

    /// Keeps up to so many substitutes that are ready, those of the own zone first. Returns how many it keeps of
    /// the own zone and of others.
    fn keep(&mut self, principals: &Principals<'_>, limit: usize) -> [usize; 2] {
        let mut left = limit;
        principals.rest.map(|rest| {
            let before = left;
            for member in rest {
                if left > 0 && self.state(member).is_connected() {
                    self.verdicts[member.index].reason = Reason::Substitute;
                    left -= 1;
                }
            }
            before - left
        })
    }

    /// The servers of one side that may be tried.
    fn trials(&self, rest: &[Member], now: Duration) -> Trials {
        let mut trials = Trials { order: Vec::new(), next: None };
        for member in rest {
            let candidate = &self.candidates[member.index];
            let Candidate { state, last_failure, .. } = *candidate;
            if state.is_connected() {
                continue;
            }
            match wait(candidate, now) {
                None => {
                    let is_idle = state == CandidateState::Idle;
                    trials.order.push(Trial { is_idle, last_failure, index: member.index });
                }
                until => trials.next = trials.next.into_iter().chain(until).min(),
            }
        }
        // Stable: of those that are alike, the one with the greater rank stays first.
        trials.order.sort_by_key(|trial| (trial.is_idle, trial.last_failure));
        trials
    }
}

/// Until when a server may not be tried, if that is so.
fn wait(candidate: &Candidate<'_>, now: Duration) -> Option<Duration> {
    let until = candidate.last_failure.map(|failure| failure.saturating_add(RETRY_AFTER));
    if candidate.state.fails() {
        // Without a time of the failure it has just failed.
        let until = until.unwrap_or(now.saturating_add(RETRY_AFTER));
        return Some(until.max(now.saturating_add(LOOK_AGAIN_AFTER)));
    }
    until.filter(|until| *until > now)
}

/// The servers that may be tried, in the order in which they are, and when the next one may be.
struct Trials {
    order: Vec<Trial>,
    next: Option<Duration>,
}

/// A server that may be tried.
struct Trial {
    /// It is not being connected yet.
    is_idle: bool,
    last_failure: Option<Duration>,
    index: usize,
}

impl Candidate<'_> {
    /// Whether the server needs a substitute: it fails, or has failed when it was tried last.
    fn fails(&self) -> bool {
        self.state.fails() || !self.state.is_connected() && self.last_failure.is_some()
    }
}

impl CandidateState {
    /// Whether the server fails now.
    pub(super) fn fails(self) -> bool {
        matches!(self, Self::Failing | Self::Unhealthy)
    }

    /// Whether calls can go to the server, as far as its connection goes.
    pub(super) fn is_connected(self) -> bool {
        matches!(self, Self::Ready | Self::Ejected)
    }
}
