//! In which order servers are connected to, and how many at once. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long an attempt has at least before it may have to give its place to a server that was never tried, or failed less
/// often. An attempt on a local network takes less.
pub(crate) const OTHERS_WAIT: Duration = Duration::from_millis(25);
/// Who has failed, or was cut short, lets others go on for so many times as long with each time: slow servers get the time that
/// they need, and no two drive each other off for ever.
const PATIENCE_GROWS: u32 = 10;
/// Failures beyond so many make no difference: those who fail for long take turns.
const WORST: u8 = 8;

/// Who comes first: lower ranks before higher, and first come, first served within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// The last attempt gave a connection: the next never waits.
    Connected,
    /// Never tried.
    New,
    /// So many attempts in a row have failed, or were cut short; no more than [`WORST`].
    Failing(u8),
}

impl Rank {
    /// After so many failures in a row.
    pub(crate) fn failing(failures: i32) -> Self {
        u8::try_from(failures).map_or(Self::Failing(WORST), |failures| Self::Failing(failures.clamp(1, WORST)))
    }

    /// How long one of this rank lets those go on who failed no more often.
    fn patience(self) -> Duration {
        match self {
            Self::Connected | Self::New => OTHERS_WAIT,
            Self::Failing(failures) => OTHERS_WAIT * PATIENCE_GROWS.pow(u32::from(failures)), // at most `WORST`
        }
    }

    /// After an attempt that was cut short.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Connected => Self::New,
            Self::New => Self::Failing(1),
            Self::Failing(failures) => Self::Failing(failures.saturating_add(1).min(WORST)),
        }
    }
}

/// One attempt, from when it is asked for until it ends.
pub(crate) type Attempt = u64;

/// Attempts that wait, and attempts under way.
pub(crate) struct Connecting {
    /// How many may be under way. Those of rank [`Rank::Connected`] exceed it where nobody else's can be cut short.
    limit: usize,
    next: Attempt,
    known: BTreeMap<Attempt, (Rank, Phase)>,
    waiting: BTreeSet<(Rank, Attempt)>,
    /// Those that can be cut short, by rank, and in the order of their beginning.
    begun: BTreeMap<Rank, BTreeSet<(Duration, Attempt)>>,
    /// Also those that were told to end and have yet to.
    under_way: usize,
    cut: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Waiting,
    Begun(Duration),
    /// Told to end, for another.
    Cut,
}

/// What an attempt is told that wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    Now,
    NotYet,
    /// It was slow, and its place is another's: it has to ask again.
    Never,
}

/// What to do now.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Step {
    pub(crate) begin: Vec<Attempt>,
    /// Attempts that have to end at once. Their permits are free when they have.
    pub(crate) cut: Vec<Attempt>,
    /// When to ask again, if nothing happens before.
    pub(crate) again: Option<Duration>,
}

impl Connecting {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            next: 0,
            known: BTreeMap::new(),
            waiting: BTreeSet::new(),
            begun: BTreeMap::new(),
            under_way: 0,
            cut: 0,
        }
    }

    /// An attempt that has to wait for its beginning.
    pub(crate) fn ask(&mut self, rank: Rank) -> Attempt {
        let attempt = self.next;
        self.next += 1;
        self.known.insert(attempt, (rank, Phase::Waiting));
        self.waiting.insert((rank, attempt));
        attempt
    }

    /// The attempt is over, or is wanted no more.
    pub(crate) fn end(&mut self, attempt: Attempt) {
        let Some((rank, phase)) = self.known.remove(&attempt) else { return };
        match phase {
            Phase::Waiting => {
                self.waiting.remove(&(rank, attempt));
                return;
            }
            Phase::Begun(since) => drop(self.begun.entry(rank).or_default().remove(&(since, attempt))),
            Phase::Cut => self.cut -= 1, // counted when it was cut
        }
        self.under_way -= 1; // counted when it began
    }

    /// The attempt knows that it may begin, and does so now. Others wait for it from now on.
    pub(crate) fn begins(&mut self, attempt: Attempt, now: Duration) -> Begins {
        let Some((rank, phase)) = self.known.get_mut(&attempt) else { return Begins::Never };
        match *phase {
            Phase::Waiting => Begins::NotYet,
            Phase::Cut => Begins::Never,
            Phase::Begun(since) => {
                *phase = Phase::Begun(now);
                let begun = self.begun.entry(*rank).or_default();
                begun.remove(&(since, attempt));
                begun.insert((now, attempt));
                Begins::Now
            }
        }
    }

    pub(crate) fn is_cut(&self, attempt: Attempt) -> bool {
        self.known.get(&attempt).is_some_and(|(_, phase)| *phase == Phase::Cut)
    }

    /// Who waits, and comes first.
    pub(crate) fn first(&self) -> Option<Attempt> {
        self.waiting.first().map(|(_, attempt)| *attempt)
    }

    /// Who begins; and who has to end for others, if it `may_cut`: whoever asks for that has let those go on before whose
    /// connections have come on, or on a busy machine nobody would have had its time. Who was connected asks for nothing.
    pub(crate) fn step(&mut self, now: Duration, may_cut: bool) -> Step {
        let mut step = Step::default();
        while let Some((rank, attempt)) = self.waiting.first().copied() {
            if self.under_way >= self.limit {
                if rank > Rank::Connected {
                    break;
                }
                if let Ok(victim) = self.victim(rank, now) {
                    self.cut(victim);
                    step.cut.push(victim);
                }
            }
            self.waiting.remove(&(rank, attempt));
            self.known.insert(attempt, (rank, Phase::Begun(now)));
            self.begun.entry(rank).or_default().insert((now, attempt));
            self.under_way += 1;
            step.begin.push(attempt);
        }
        // Places that are about to be free are for the first in order.
        let spoken_for = |order: &Self| (order.cut + order.limit).saturating_sub(order.under_way);
        while let Some((rank, _)) = self.waiting.iter().nth(spoken_for(self)).copied() {
            match self.victim(rank, now) {
                Ok(victim) if may_cut => {
                    self.cut(victim);
                    step.cut.push(victim);
                }
                Ok(_) => {
                    step.again = Some(now);
                    break;
                }
                Err(again) => {
                    step.again = again;
                    break; // those behind may cut short no more than this one
                }
            }
        }
        step
    }

    fn cut(&mut self, attempt: Attempt) {
        if let Some((rank, phase)) = self.known.get_mut(&attempt)
            && let Phase::Begun(since) = *phase
        {
            *phase = Phase::Cut;
            self.begun.entry(*rank).or_default().remove(&(since, attempt));
            self.cut += 1;
        }
    }

    /// Whose place is to be given to one of this rank: of those who fail most, who was tried longest. Else when to look again.
    fn victim(&self, rank: Rank, now: Duration) -> Result<Attempt, Option<Duration>> {
        let mut again: Option<Duration> = None;
        for (theirs, begun) in self.begun.iter().rev() {
            let Some((since, attempt)) = begun.first().copied() else { continue };
            let at_once = rank == Rank::Connected && *theirs > Rank::Connected;
            let time = if *theirs > rank { OTHERS_WAIT } else { rank.patience() };
            let until = since.saturating_add(time);
            if at_once || until <= now {
                return Ok(attempt);
            }
            again = Some(again.map_or(until, |again| again.min(until)));
        }
        Err(again)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn began(step: &Step) -> (&[Attempt], &[Attempt]) {
        (&step.begin, &step.cut)
    }

    #[test]
    fn permits_are_free_up_to_the_limit_and_then_go_by_rank() {
        let mut order = Connecting::new(2);
        let failing: Vec<_> = [3, 1, 2].map(|failures| order.ask(Rank::failing(failures))).into();
        let step = order.step(MS, true);
        assert_eq!(began(&step), (&[failing[1], failing[2]][..], &[][..]), "who fails most comes last");
        assert_eq!(step.again, Some(MS + OTHERS_WAIT * 1000), "and is the most patient");
        order.end(failing[1]);
        assert_eq!(order.step(MS, true).begin, [failing[0]]);
    }

    #[test]
    fn the_new_wait_no_longer_than_25_ms() {
        let mut order = Connecting::new(2);
        let all = [(); 5].map(|()| order.ask(Rank::New));
        assert_eq!(order.step(MS, true).begin, all[..2]);
        assert_eq!(order.step(2 * MS, true), Step { again: Some(26 * MS), ..Step::default() });
        assert_eq!(order.step(27 * MS, false), Step { again: Some(27 * MS), ..Step::default() });
        assert_eq!(began(&order.step(26 * MS, true)), (&[][..], &all[..2]));
        assert_eq!(began(&order.step(26 * MS, true)), (&[][..], &[][..]), "told once");
        order.end(all[0]);
        order.end(all[1]);
        let again = [0, 1].map(|_| order.ask(Rank::New.next()));
        let step = order.step(27 * MS, true);
        assert_eq!((began(&step), step.again), ((&all[2..4], &[][..]), Some(52 * MS)));
        assert_eq!(began(&order.step(52 * MS, true)), (&[][..], &all[2..3]));
        order.end(all[2]);
        let step = order.step(53 * MS, true);
        assert_eq!(began(&step), (&all[4..], &[][..]));
        assert_eq!(step.again, Some(277 * MS), "who was cut short waits for longer");
        order.end(all[3]);
        order.end(all[3]);
        assert_eq!(order.step(60 * MS, true).begin, again[..1]);
    }

    #[test]
    fn who_was_connected_never_waits() {
        let mut order = Connecting::new(2);
        let new = [(); 3].map(|()| order.ask(Rank::New));
        order.step(MS, true);
        let connected = [(); 3].map(|()| order.ask(Rank::Connected));
        let step = order.step(MS, true);
        assert_eq!(began(&step), (&connected[..], &new[..2]), "beyond the limit where none is left to cut short");
        new[..2].iter().for_each(|attempt| order.end(*attempt));
        assert_eq!(order.under_way, 3);
        assert_eq!(order.step(2 * MS, true).again, Some(26 * MS));
        assert_eq!(began(&order.step(26 * MS, true)), (&[][..], &connected[..2]), "as many as it takes");
    }

    #[test]
    fn who_failed_less_gets_the_place_of_who_failed_more() {
        let mut order = Connecting::new(1);
        let (worse, better) = (order.ask(Rank::failing(3)), Rank::failing(2));
        order.step(MS, true);
        let (first, second) = (order.ask(better), order.ask(better));
        assert_eq!(order.step(MS, true).again, Some(26 * MS));
        assert_eq!(began(&order.step(26 * MS, true)), (&[][..], &[worse][..]));
        assert!(order.is_cut(worse));
        assert_eq!((order.begins(worse, 26 * MS), order.begins(first, 26 * MS)), (Begins::Never, Begins::NotYet));
        order.end(worse);
        assert_eq!(order.step(27 * MS, true).begin, [first]);
        assert_eq!(order.begins(first, 60 * MS), Begins::Now);
        let new = order.ask(Rank::New);
        assert_eq!(order.step(61 * MS, true).again, Some(85 * MS), "its time begins when it does");
        order.end(new);
        order.end(second);
        order.end(first);
        assert_eq!(order.step(MS, true), Step::default());
        assert_eq!(Rank::failing(i32::MAX), Rank::failing(8).next());
    }

    proptest! {
        /// F42: whatever comes between, no more are under way than may be, none is lost, and the better come first.
        #[test]
        fn the_limit_holds_and_nobody_is_lost(steps in proptest::collection::vec((0_u8..14, 0_u64..12), 0..200)) {
            let mut order = Connecting::new(3);
            let mut now = Duration::ZERO;
            for (what, value) in steps {
                match what {
                    0 => drop(order.ask(Rank::Connected)),
                    1..=3 => drop(order.ask(Rank::New)),
                    4..=6 => drop(order.ask(Rank::failing(value as i32))),
                    7..=10 => {
                        let nth = order.known.keys().nth(value as usize).copied();
                        nth.into_iter().for_each(|attempt| order.end(attempt));
                    }
                    _ => now += 5 * MS,
                }
                let before = order.under_way;
                let step = order.step(now, true);
                let under_way = order.begun.values().map(BTreeSet::len).sum::<usize>() + order.cut;
                prop_assert_eq!(under_way, order.under_way);
                prop_assert_eq!(under_way + order.waiting.len(), order.known.len());
                let connected = step.begin.iter().filter(|attempt| order.known[attempt].0 == Rank::Connected).count();
                prop_assert!(under_way <= before.max(3) + connected, "beyond the limit for who was connected alone");
                prop_assert!(order.waiting.is_empty() || under_way >= 3, "a place is empty and somebody waits");
                prop_assert!(order.waiting.first().is_none_or(|(rank, _)| *rank > Rank::Connected));
                if let Some((Rank::New, _)) = order.waiting.first()
                    && under_way - order.cut >= 3
                {
                    prop_assert!(step.again.is_some_and(|again| again > now && again <= now + OTHERS_WAIT));
                }
            }
        }
    }
}
