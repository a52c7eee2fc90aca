//! Which servers of a partition are connected. PURE.

use std::time::Duration;

use crate::balance::pool::select::zones::Member;
use crate::balance::pool::select::{CandidateState, Partition, Reason};

/// The servers that are connected while all is well, and the others; each in the order in which they are
/// preferred.
pub(super) struct Principals<'a> {
    /// Those of the own zone, then those of the others.
    pub(super) chosen: [&'a [Member]; 2],
    /// The rest of the own zone, and of the others.
    pub(super) rest: [&'a [Member]; 2],
}

impl<'a> Principals<'a> {
    /// Chooses `subset` of the members, at least one, by zone and rank. A few of them are on standby in other
    /// zones. If the own zone is short of servers, others fill up, and the other way round.
    ///
    /// When a member comes or goes, at most one other is exchanged for it: in each of the two groups the first
    /// are chosen, and how many differs by one at most.
    pub(super) fn new(subset: usize, members: &'a [Member]) -> Self {
        let (home, others) = members.split_at(members.partition_point(|member| member.distance == 0));
        let (from_home, from_others) = split(subset.max(1), standby(subset), home.len(), others.len());
        let (home, others) = (home.split_at(from_home), others.split_at(from_others));
        Self { chosen: [home.0, others.0], rest: [home.1, others.1] }
    }
}

/// How many of a subset are on standby in other zones: enough to learn at once that the own zone is gone. At
/// least one of each subset is at home.
fn standby(subset: usize) -> usize {
    (subset / 10).max(2).min(subset.saturating_sub(1))
}

/// Takes `count` servers, `from_others` of them from others and the rest from home, as far as there are so many.
/// Where there are not, the other side fills up. The first of the two numbers is of home.
pub(super) fn split(count: usize, from_others: usize, home: usize, others: usize) -> (usize, usize) {
    let from_home = home.min(count.saturating_sub(from_others.min(others)));
    (from_home, others.min(count - from_home)) // `from_home` is at most `count`
}

impl Partition<'_> {
    /// Chooses the servers that are to be connected: all, or a subset with substitutes for those that fail.
    /// Returns when to choose again, if time alone changes something.
    pub(super) fn choose(&mut self, subset: Option<usize>, now: Duration) -> Option<Duration> {
        let principals = Principals::new(subset.unwrap_or(usize::MAX), self.members);
        for member in principals.chosen.into_iter().flatten() {
            self.verdicts[member.index].reason = match member.distance {
                0 => Reason::Selected,
                _ => Reason::OtherZone,
            };
        }
        subset.and_then(|subset| self.substitute(subset.max(1), &principals, now))
    }

    pub(super) fn state(&self, member: &Member) -> CandidateState {
        self.candidates[member.index].state
    }
}
