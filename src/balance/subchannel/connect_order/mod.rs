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
pub(crate) mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn started(step: &Step) -> (&[AttemptId], &[AttemptId]) {
        (&step.start, &step.revoke)
    }

    #[test]
    fn permits_are_free_up_to_the_limit_and_then_go_by_rank() {
        let mut order = ConnectOrder::new(2);
        let failing: Vec<_> = [3, 1, 2].map(|failures| order.enqueue(Rank::failing(failures))).into();
        let step = order.step(MS, true);
        assert_eq!(started(&step), (&[failing[1], failing[2]][..], &[][..]), "who fails most comes last");
        assert_eq!(step.again, Some(MS + MIN_ATTEMPT_TIME * 1000), "and is the most patient");
        order.end(failing[1]);
        assert_eq!(order.step(MS, true).start, [failing[0]]);
    }

    #[test]
    fn the_new_wait_no_longer_than_25_ms() {
        let mut order = ConnectOrder::new(2);
        let all = [(); 5].map(|()| order.enqueue(Rank::New));
        assert_eq!(order.step(MS, true).start, all[..2]);
        assert_eq!(order.step(2 * MS, true), Step { again: Some(26 * MS), ..Step::default() });
        assert_eq!(order.step(27 * MS, false), Step { again: Some(27 * MS), ..Step::default() });
        assert_eq!(started(&order.step(26 * MS, true)), (&[][..], &all[..2]));
        assert_eq!(started(&order.step(26 * MS, true)), (&[][..], &[][..]), "told once");
        order.end(all[0]);
        order.end(all[1]);
        let again = [0, 1].map(|_| order.enqueue(Rank::New.next()));
        let step = order.step(27 * MS, true);
        assert_eq!((started(&step), step.again), ((&all[2..4], &[][..]), Some(52 * MS)));
        assert_eq!(started(&order.step(52 * MS, true)), (&[][..], &all[2..3]));
        order.end(all[2]);
        let step = order.step(53 * MS, true);
        assert_eq!(started(&step), (&all[4..], &[][..]));
        assert_eq!(step.again, Some(277 * MS), "who was cut short waits for longer");
        order.end(all[3]);
        order.end(all[3]);
        assert_eq!(order.step(60 * MS, true).start, again[..1]);
    }

    #[test]
    fn who_was_connected_never_waits() {
        let mut order = ConnectOrder::new(2);
        let new = [(); 3].map(|()| order.enqueue(Rank::New));
        order.step(MS, true);
        let connected = [(); 3].map(|()| order.enqueue(Rank::Connected));
        let step = order.step(MS, true);
        assert_eq!(started(&step), (&connected[..], &new[..2]), "beyond the limit where none is left to cut short");
        new[..2].iter().for_each(|attempt| order.end(*attempt));
        assert_eq!(order.running, 3);
        assert_eq!(order.step(2 * MS, true).again, Some(26 * MS));
        assert_eq!(started(&order.step(26 * MS, true)), (&[][..], &connected[..2]), "as many as it takes");
    }

    #[test]
    fn who_failed_less_gets_the_place_of_who_failed_more() {
        let mut order = ConnectOrder::new(1);
        let (worse, better) = (order.enqueue(Rank::failing(3)), Rank::failing(2));
        order.step(MS, true);
        let (first, second) = (order.enqueue(better), order.enqueue(better));
        assert_eq!(order.step(MS, true).again, Some(26 * MS));
        assert_eq!(started(&order.step(26 * MS, true)), (&[][..], &[worse][..]));
        assert!(order.is_revoked(worse));
        assert_eq!(
            (order.confirm_start(worse, 26 * MS), order.confirm_start(first, 26 * MS)),
            (StartResult::Revoked, StartResult::Waiting)
        );
        order.end(worse);
        assert_eq!(order.step(27 * MS, true).start, [first]);
        assert_eq!(order.confirm_start(first, 60 * MS), StartResult::Started);
        let new = order.enqueue(Rank::New);
        assert_eq!(order.step(61 * MS, true).again, Some(85 * MS), "its time begins when it does");
        order.end(new);
        order.end(second);
        order.end(first);
        assert_eq!(order.step(MS, true), Step::default());
        assert_eq!(Rank::failing(i32::MAX), Rank::failing(8).next());
    }

    #[test]
    fn a_further_connection_takes_no_place_from_a_first_one() {
        let mut order = ConnectOrder::new(1);
        let first = order.enqueue(Rank::failing(8));
        order.step(MS, true);
        let further = order.enqueue(Rank::further(0));
        let later = Duration::from_secs(1_000_000);
        assert_eq!(order.step(later, true), Step::default(), "it waits until the other one ends");
        let second = order.enqueue(Rank::failing(8));
        order.end(first);
        assert_eq!(order.step(later, true).start, [second], "and behind all other first ones");
        order.end(second);
        assert_eq!(order.step(later, true).start, [further]);
        let other = order.enqueue(Rank::further(0));
        assert_eq!(order.step(later, true).again, Some(later + MIN_ATTEMPT_TIME), "among themselves as others do");
        let new = order.enqueue(Rank::Connected);
        assert_eq!(started(&order.step(later, true)), (&[new][..], &[further][..]), "gives way at once");
        assert!(!order.is_revoked(other));
        assert_eq!((Rank::further(0).next(), Rank::further(-1)), (Rank::further(1), Rank::further(0)));
    }

    proptest! {
        /// F42: whatever comes between, no more are under way than may be, none is lost, and the
        /// better come first.
        #[test]
        fn the_limit_holds_and_nobody_is_lost(steps in steps()) {
            limit_holds(steps)?;
        }
    }

    fn limit_holds(steps: Vec<(u8, u64)>) -> TestCaseResult {
        let mut order = ConnectOrder::new(3);
        let mut now = Duration::ZERO;
        for (what, value) in steps {
            match what {
                0 => drop(order.enqueue(Rank::Connected)),
                1..=3 => drop(order.enqueue(Rank::New)),
                4..=5 => drop(order.enqueue(Rank::failing(value as i32))),
                6 => drop(order.enqueue(Rank::further(value as i32))),
                7..=10 => {
                    let nth = order.known.keys().nth(value as usize).copied();
                    nth.into_iter().for_each(|attempt| order.end(attempt));
                }
                _ => now += 5 * MS,
            }
            let before = order.running;
            let step = order.step(now, true);
            let under_way = order.revocable.values().map(BTreeSet::len).sum::<usize>() + order.revoked;
            prop_assert_eq!(under_way, order.running);
            prop_assert_eq!(under_way + order.waiting.len(), order.known.len());
            let connected = step.start.iter().filter(|attempt| order.known[attempt].0 == Rank::Connected).count();
            prop_assert!(under_way <= before.max(3) + connected, "beyond the limit for who was connected alone");
            prop_assert!(order.waiting.is_empty() || under_way >= 3, "a place is empty and somebody waits");
            prop_assert!(order.waiting.first().is_none_or(|(rank, _)| *rank > Rank::Connected));
            if let Some((Rank::New, _)) = order.waiting.first()
                && under_way - order.revoked >= 3
            {
                prop_assert!(step.again.is_some_and(|again| again > now && again <= now + MIN_ATTEMPT_TIME));
            }
        }
        Ok(())
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, u64)>> {
        proptest::collection::vec((0_u8..14, 0_u64..12), 0..200)
    }

    /// The fuzz target: the same property.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with_steps(bytes, Just(()), (0_u8..14, 0_u64..12), |(), steps| limit_holds(steps));
    }
}
