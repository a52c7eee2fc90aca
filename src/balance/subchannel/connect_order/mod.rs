//! The order in which servers are connected to, and how many at once. PURE.
//!
//! Attempts wait in the order of their [`Rank`]. A new attempt starts while fewer than the limit
//! are running; at the limit, an attempt that has run for long enough is revoked, so that servers
//! which never answer do not keep others waiting (F42):
//!
//! ```text
//! enqueue ──▶ Waiting ──step: there is room──▶ Running ──end──▶ (gone)
//!                                                │  step: another one needs the room
//!                                                └──▶ Revoked ──end──▶ (gone); its server enqueues again, at the next rank
//! ```
//!
//! [`ConnectPermits`](super::connect_permits::ConnectPermits) is the async side of this.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The minimum time of an attempt before a server that was never tried, or failed less often, may
/// revoke it. An attempt on a local network takes less.
pub(crate) const MIN_ATTEMPT_TIME: Duration = Duration::from_millis(25);
/// With each failure or revocation a server gives running attempts so many times longer: slow
/// servers get the time that they need, and no two revoke each other for ever.
const TIME_FACTOR: u32 = 10;
/// Further failures make no difference: servers that fail for long take turns.
const MAX_FAILURES: u8 = 8;

/// The priority of an attempt: lower ranks before higher, first come, first served within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// The last attempt gave a connection: the next never waits.
    Connected,
    /// Never tried.
    New,
    /// As many attempts in a row have failed or were revoked, up to [`MAX_FAILURES`].
    Failing(u8),
    /// One more connection to a server that has one already, after so many failures as above. It
    /// takes no place from a first connection, whatever that one's rank.
    Further(u8),
}

impl Rank {
    /// The rank after this number of failures in a row.
    pub(crate) fn failing(failures: i32) -> Self {
        Self::Failing(up_to_max(failures).max(1))
    }

    /// The rank of a further connection after this number of failures in a row.
    pub(crate) fn further(failures: i32) -> Self {
        Self::Further(up_to_max(failures))
    }

    fn is_further(self) -> bool {
        matches!(self, Self::Further(_))
    }

    /// How long an attempt of this rank lets those run that failed no more often.
    fn grace(self) -> Duration {
        match self {
            Self::Connected | Self::New => MIN_ATTEMPT_TIME,
            Self::Failing(failures) | Self::Further(failures) => {
                MIN_ATTEMPT_TIME * TIME_FACTOR.pow(u32::from(failures)) // at most `MAX_FAILURES`
            }
        }
    }

    /// The rank after an attempt of this rank that was revoked.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Connected => Self::New,
            Self::New => Self::Failing(1),
            Self::Failing(failures) => Self::Failing(failures.saturating_add(1).min(MAX_FAILURES)),
            Self::Further(failures) => Self::Further(failures.saturating_add(1).min(MAX_FAILURES)),
        }
    }
}

/// A number of failures as ranks have it.
fn up_to_max(failures: i32) -> u8 {
    u8::try_from(failures.max(0)).unwrap_or(MAX_FAILURES).min(MAX_FAILURES)
}

/// Names one attempt, from when it is enqueued until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AttemptId(u64);

/// The attempts that wait, and those that run.
///
/// Invariants: `known` has every attempt that has not ended; a `Waiting` one is in `waiting`, a
/// `Running` one in `revocable`; `running` counts those that are `Running` or `Revoked`, and
/// `revoked` the latter.
pub(crate) struct ConnectOrder {
    /// How many may run. Attempts of rank [`Rank::Connected`] exceed it if no attempt of another
    /// rank can be revoked.
    limit: usize,
    /// The next id. Ids of one rank are served in ascending order.
    next: u64,
    /// Every attempt that has not ended.
    known: BTreeMap<AttemptId, (Rank, Phase)>,
    /// Those that may not start yet, the first to start first.
    waiting: BTreeSet<(Rank, AttemptId)>,
    /// Running attempts by rank, the longest running first.
    revocable: BTreeMap<Rank, BTreeSet<(Duration, AttemptId)>>,
    /// With those that are revoked and have yet to end.
    running: usize,
    revoked: usize,
}

/// How far an attempt has come.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// For [`ConnectOrder::step`] to start it.
    Waiting,
    /// Since this time.
    Running(Duration),
    /// Told to end, for another one.
    Revoked,
}

/// The answer to an attempt that asks whether it may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartResult {
    /// It runs from now on.
    Started,
    /// It goes on waiting.
    Waiting,
    /// It was slow to ask, and its room is another's: it has to enqueue again.
    Revoked,
}

/// What to do now.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Step {
    /// Attempts that may start. Each has to confirm that.
    pub(crate) start: Vec<AttemptId>,
    /// Attempts that have to end at once. Their room is free when they have.
    pub(crate) revoke: Vec<AttemptId>,
    /// When to step again, if nothing happens before.
    pub(crate) again: Option<Duration>,
}

impl ConnectOrder {
    /// An order without attempts, with room for `limit` of them at once, at least one.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            next: 0,
            known: BTreeMap::new(),
            waiting: BTreeSet::new(),
            revocable: BTreeMap::new(),
            running: 0,
            revoked: 0,
        }
    }

    /// Adds an attempt, which waits for its start.
    pub(crate) fn enqueue(&mut self, rank: Rank) -> AttemptId {
        let attempt = AttemptId(self.next);
        self.next += 1;
        self.known.insert(attempt, (rank, Phase::Waiting));
        self.waiting.insert((rank, attempt));
        attempt
    }

    /// Takes out an attempt, whether it has run or not.
    pub(crate) fn end(&mut self, attempt: AttemptId) {
        let Some((rank, phase)) = self.known.remove(&attempt) else { return };
        match phase {
            Phase::Waiting => {
                self.waiting.remove(&(rank, attempt));
                return;
            }
            Phase::Running(since) => drop(self.revocable.entry(rank).or_default().remove(&(since, attempt))),
            Phase::Revoked => self.revoked -= 1, // counted when it was revoked
        }
        self.running -= 1; // counted when it was started
    }

    /// Confirms that an attempt starts, now that its task knows that it may. Its time counts from
    /// here.
    pub(crate) fn confirm_start(&mut self, attempt: AttemptId, now: Duration) -> StartResult {
        let Some((rank, phase)) = self.known.get_mut(&attempt) else { return StartResult::Revoked };
        match *phase {
            Phase::Waiting => StartResult::Waiting,
            Phase::Revoked => StartResult::Revoked,
            Phase::Running(since) => {
                *phase = Phase::Running(now);
                let running = self.revocable.entry(*rank).or_default();
                running.remove(&(since, attempt));
                running.insert((now, attempt));
                StartResult::Started
            }
        }
    }

    /// Whether the attempt has to end at once.
    pub(crate) fn is_revoked(&self, attempt: AttemptId) -> bool {
        self.known.get(&attempt).is_some_and(|(_, phase)| *phase == Phase::Revoked)
    }

    /// The first of those that wait.
    pub(crate) fn first_waiting(&self) -> Option<AttemptId> {
        self.waiting.first().map(|(_, attempt)| *attempt)
    }

    /// Starts what may start, and revokes for those that wait if it `may_revoke`. The caller sets
    /// that after it has let other tasks run: on a busy machine no attempt would have had its time
    /// otherwise. Attempts of rank [`Rank::Connected`] revoke in any case.
    pub(crate) fn step(&mut self, now: Duration, may_revoke: bool) -> Step {
        let mut step = Step::default();
        while let Some((rank, attempt)) = self.waiting.first().copied() {
            if self.running >= self.limit {
                if rank > Rank::Connected {
                    break;
                }
                if let Ok(victim) = self.victim(rank, now) {
                    self.revoke(victim);
                    step.revoke.push(victim);
                }
            }
            self.waiting.remove(&(rank, attempt));
            self.known.insert(attempt, (rank, Phase::Running(now)));
            self.revocable.entry(rank).or_default().insert((now, attempt));
            self.running += 1;
            step.start.push(attempt);
        }
        // Room that is about to be free is for the first in the order: the others need some more.
        let promised = |order: &Self| (order.revoked + order.limit).saturating_sub(order.running);
        while let Some((rank, _)) = self.waiting.iter().nth(promised(self)).copied() {
            match self.victim(rank, now) {
                Ok(victim) if may_revoke => {
                    self.revoke(victim);
                    step.revoke.push(victim);
                }
                Ok(_) => {
                    step.again = Some(now);
                    break;
                }
                Err(again) => {
                    step.again = again;
                    break; // those behind may revoke no more than this one
                }
            }
        }
        step
    }

    /// Marks a running attempt as revoked. Its room stays taken until it ends.
    fn revoke(&mut self, attempt: AttemptId) {
        if let Some((rank, phase)) = self.known.get_mut(&attempt)
            && let Phase::Running(since) = *phase
        {
            *phase = Phase::Revoked;
            self.revocable.entry(*rank).or_default().remove(&(since, attempt));
            self.revoked += 1;
        }
    }

    /// The attempt to revoke for one of this rank: of those that failed most, the longest running.
    /// Otherwise the time when there may be one.
    fn victim(&self, rank: Rank, now: Duration) -> Result<AttemptId, Option<Duration>> {
        let mut again: Option<Duration> = None;
        for (victims_rank, running) in self.revocable.iter().rev() {
            if rank.is_further() && !victims_rank.is_further() {
                break; // and neither has any of those that follow
            }
            let Some((since, attempt)) = running.first().copied() else { continue };
            let at_once = rank == Rank::Connected && *victims_rank > Rank::Connected;
            let time = if *victims_rank > rank { MIN_ATTEMPT_TIME } else { rank.grace() };
            let until = since.saturating_add(time);
            if at_once || until <= now {
                return Ok(attempt);
            }
            again = Some(again.map_or(until, |again| again.min(until)));
        }
        Err(again)
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
