//! What a step does.

use super::Random;

/// What happens beside the writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Write,
    /// etcd forgets its history.
    Compact,
    /// All keys of the service, or those that begin alike, are deleted at once.
    DeletePrefix,
    /// The streams of the resolver's watches say nothing any more, until all agree.
    FreezeStreams,
    /// The resolver's connections are cut.
    Cut,
    /// A member is killed and starts again.
    KillMember,
    /// A member stands still for a while.
    FreezeMember,
    /// Another member leads.
    MoveLeader,
    /// A learner joins, at an endpoint that the resolver knows; or the one that has joined leaves.
    Learner,
    /// All members lose their data.
    Wipe,
}

/// How often each is in a deck.
const COUNTS: [(Step, usize); 10] = [
    (Step::Write, 88),
    (Step::Compact, 24),
    (Step::DeletePrefix, 14),
    (Step::FreezeStreams, 18),
    (Step::Cut, 14),
    (Step::KillMember, 12),
    (Step::FreezeMember, 10),
    (Step::MoveLeader, 8),
    (Step::Learner, 6),
    (Step::Wipe, 6),
];

impl Step {
    /// How many steps a deck has.
    pub(super) fn all() -> usize {
        COUNTS.iter().map(|(_, count)| count).sum()
    }
}

/// All steps in a random order.
pub(super) fn deck(random: &mut Random) -> Vec<Step> {
    let mut steps: Vec<Step> = COUNTS.iter().flat_map(|(step, count)| std::iter::repeat_n(*step, *count)).collect();
    for last in (1..steps.len()).rev() {
        steps.swap(last, random.below(last as u64 + 1) as usize);
    }
    steps
}
