//! The order in which the servers of a partition are preferred: by zone, then by rank. PURE.

use std::cmp::Ordering;

use crate::balance::pool::select::rank::hash;
use crate::balance::pool::select::{Candidate, Partition, SelectConfig, Verdict};
use crate::instance::Instance;

/// A candidate that has a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Of the candidate, and of its verdict.
    pub(super) index: usize,
    pub(super) partition: usize,
    /// How far its zone is: 0 is the own one, and that of all servers if zones mean nothing.
    pub(super) distance: usize,
}

/// The candidates that have a partition, ordered by partition, then by distance, then by rank.
pub(super) fn members(config: &SelectConfig, verdicts: &[Verdict], candidates: &[Candidate<'_>]) -> Vec<Member> {
    let zones = Zones::of(config);
    let member = |(index, verdict): (usize, &Verdict)| {
        let distance = zones.distance(candidates[index].instance);
        Member { index, partition: verdict.partition, distance }
    };
    let has_partition = |(_, verdict): &(usize, &Verdict)| verdict.may_be_chosen();
    let mut members: Vec<Member> = verdicts.iter().enumerate().filter(has_partition).map(member).collect();
    members.sort_unstable_by(|one, other| {
        let by_zone = (one.partition, one.distance).cmp(&(other.partition, other.distance));
        by_zone.then_with(|| by_rank(config.client_id, &candidates[one.index], &candidates[other.index]))
    });
    members
}

/// The greater rank first. Servers whose instances have the same id by mistake have one rank: their order must
/// not be the same for all clients either, or all of them would connect to the same few.
fn by_rank(client_id: u64, one: &Candidate<'_>, other: &Candidate<'_>) -> Ordering {
    let tie = |candidate: &Candidate<'_>| hash(client_id, ["", candidate.key]);
    let by_rank = other.rank.cmp(&one.rank);
    by_rank.then_with(|| tie(other).cmp(&tie(one))).then_with(|| one.key.cmp(other.key))
}

/// The zones that the user has named.
struct Zones<'a> {
    /// `None` if zones mean nothing.
    own: Option<&'a str>,
    further: &'a [Box<str>],
}

impl<'a> Zones<'a> {
    fn of(config: &'a SelectConfig) -> Self {
        let own = config.zone.as_deref().filter(|zone| config.uses_zones && !zone.is_empty());
        Self { own, further: &config.further_zones }
    }

    /// How far a server is: 0 is the own zone, then the further ones follow, then all others, among them the
    /// servers without a zone.
    fn distance(&self, instance: &Instance) -> usize {
        let Some(own) = self.own else { return 0 };
        let further = |zone: &str| self.further.iter().position(|further| **further == *zone);
        match instance.zone() {
            Some(zone) if zone == own => 0,
            zone => 1 + zone.and_then(further).unwrap_or(self.further.len()),
        }
    }
}

impl Partition<'_> {
    /// Numbers the distances of those that are to be connected without gaps.
    pub(super) fn number_tiers(&mut self) {
        let (mut tier, mut last) = (0, None);
        for member in self.members {
            let verdict = &mut self.verdicts[member.index];
            if verdict.reason.is_connected() {
                if last.is_some_and(|last| last != member.distance) {
                    tier += 1;
                }
                (verdict.tier, last) = (tier, Some(member.distance));
            }
        }
    }
}
