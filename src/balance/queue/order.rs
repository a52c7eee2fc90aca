//! The order in which calls wait for a server. PURE.

use std::collections::BTreeMap;

/// First in, first out. Each free slot gives one turn, to whoever has waited longest. Who is called and finds nothing goes
/// back to its place; a turn that is not taken goes to the next. `W` is what it takes to wake one.
pub(crate) struct WaitOrder<W> {
    next: Place,
    waiting: BTreeMap<Place, W>,
    /// Woken, and not heard of since.
    called: BTreeMap<Place, Turn>,
    /// Turns in `called` that may yet be taken.
    turns: usize,
    round: u64,
}

/// A place in the line: lower stands before higher.
pub(crate) type Place = u64;

/// What somebody was woken for.
#[derive(Clone, Copy, PartialEq)]
enum Turn {
    /// For a free slot, in this round.
    Given(u64),
    /// For nothing that another could use: its turn has gone to the next, or it was only told to look.
    None,
}

impl<W> Default for WaitOrder<W> {
    fn default() -> Self {
        Self { next: 0, waiting: BTreeMap::new(), called: BTreeMap::new(), turns: 0, round: 0 }
    }
}

impl<W> WaitOrder<W> {
    /// Takes the last place.
    pub(crate) fn enter(&mut self, who: W) -> Place {
        let place = self.next;
        self.next += 1;
        self.waiting.insert(place, who);
        place
    }

    /// Who waits at this place; none once it was called.
    pub(crate) fn waiter(&mut self, place: Place) -> Option<&mut W> {
        self.waiting.get_mut(&place)
    }

    /// Gives so many turns to those who have waited longest, who are to be woken.
    pub(crate) fn call(&mut self, turns: usize) -> Vec<W> {
        let mut called = Vec::new();
        while called.len() < turns
            && let Some((place, who)) = self.waiting.pop_first()
        {
            self.called.insert(place, Turn::Given(self.round));
            self.turns += 1;
            called.push(who);
        }
        called
    }

    /// Gives turns until there are as many as free slots.
    pub(crate) fn fill(&mut self, free: usize) -> Vec<W> {
        self.call(free.saturating_sub(self.turns))
    }

    /// Has those look who match, without a turn. They are to be woken.
    pub(crate) fn tell(&mut self, matches: impl Fn(&W) -> bool) -> Vec<W> {
        let told: Vec<Place> = self.waiting.iter().filter(|(_, who)| matches(who)).map(|(place, _)| *place).collect();
        let tell = |place: Place| {
            self.called.insert(place, Turn::None);
            self.waiting.remove(&place)
        };
        told.into_iter().filter_map(tell).collect()
    }

    /// Found nothing: waits again at the same place.
    pub(crate) fn back(&mut self, place: Place, who: W) {
        self.forget(place);
        self.waiting.insert(place, who);
    }

    /// Has used its turn, and needs no place any more.
    pub(crate) fn served(&mut self, place: Place) {
        self.forget(place);
    }

    /// Gives up. A turn that it had goes to the next, who is to be woken. Also gives back what it waited with.
    pub(crate) fn leave(&mut self, place: Place) -> (Option<W>, Vec<W>) {
        let who = self.waiting.remove(&place);
        let turns = usize::from(self.forget(place));
        (who, self.call(turns))
    }

    /// Turns that were given before the round that now ends go to the next in line, who are to be woken. Who did not take
    /// theirs keep their places, and hold up nobody.
    pub(crate) fn next_round(&mut self) -> Vec<W> {
        let mut late = 0;
        for turn in self.called.values_mut() {
            if let Turn::Given(round) = *turn
                && round < self.round
            {
                *turn = Turn::None;
                late += 1;
            }
        }
        self.turns -= late; // each of them was counted when it was given
        self.round += 1;
        self.call(late)
    }

    fn forget(&mut self, place: Place) -> bool {
        let had = matches!(self.called.remove(&place), Some(Turn::Given(_)));
        self.turns -= usize::from(had); // as above
        had
    }

    /// Turns that may yet be taken.
    pub(crate) fn turns(&self) -> usize {
        self.turns
    }

    /// How many wait to be called.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn line(count: u32) -> WaitOrder<u32> {
        let mut line = WaitOrder::default();
        (0..count).for_each(|who| assert_eq!(line.enter(who), u64::from(who)));
        line
    }

    #[test]
    fn turns_go_to_those_who_have_waited_longest() {
        let mut line = line(5);
        assert_eq!(line.call(2), [0, 1]);
        assert_eq!(line.fill(3), [2], "two turns are out already");
        line.back(1, 1);
        line.served(0);
        assert_eq!(line.call(1), [1], "it kept its place");
        assert_eq!(line.call(9), [3, 4]);
        assert!(line.call(1).is_empty());
    }

    #[test]
    fn who_leaves_passes_its_turn_on() {
        let mut line = line(4);
        assert_eq!(line.leave(1), (Some(1), vec![]), "it had none");
        assert_eq!(line.call(1), [0]);
        assert_eq!(line.leave(0), (None, vec![2]));
        assert_eq!(line.leave(2), (None, vec![3]));
        assert_eq!(line.leave(3), (None, vec![]));
        assert_eq!((line.turns(), line.waiting()), (0, 0));
    }

    #[test]
    fn a_turn_that_nobody_takes_goes_on_once() {
        let mut line = line(4);
        assert_eq!(line.call(1), [0]);
        assert!(line.next_round().is_empty(), "it has a round's time");
        assert_eq!(line.next_round(), [1]);
        line.served(1);
        for _ in 0..5 {
            assert!(line.next_round().is_empty());
        }
        assert_eq!((line.turns(), line.waiting()), (0, 2), "who sleeps holds up nobody");
        line.back(0, 0);
        assert_eq!(line.call(1), [0], "and has its place when it wakes");
    }

    #[test]
    fn who_is_told_to_look_has_no_turn_to_pass_on() {
        let mut line = line(4);
        assert_eq!(line.tell(|who| who % 2 == 0), [0, 2]);
        assert_eq!(line.leave(0), (None, vec![]));
        line.back(2, 2);
        assert_eq!(line.call(9), [1, 2, 3]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter,
        /// So many slots become free.
        Free(usize),
        /// One of those that were called looks.
        Look(prop::sample::Index),
        Leave(prop::sample::Index),
        Round,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Enter),
            2 => (1_usize..4).prop_map(Step::Free),
            4 => any::<prop::sample::Index>().prop_map(Step::Look),
            1 => any::<prop::sample::Index>().prop_map(Step::Leave),
            1 => Just(Step::Round),
        ]
    }

    proptest! {
        /// F34: whatever comes between, turns are given in order, none is lost, and nobody is called for nothing.
        #[test]
        fn order_holds_and_no_turn_is_lost(steps in proptest::collection::vec(step(), 0..200)) {
            let mut line = WaitOrder::default();
            let (mut waiting, mut called, mut free) = (VecDeque::new(), BTreeSet::new(), 0_usize);
            for step in steps {
                let woken = match step {
                    Step::Enter => {
                        waiting.push_back(line.next);
                        line.enter(line.next);
                        line.fill(free)
                    }
                    Step::Free(slots) => {
                        free += slots;
                        line.call(slots)
                    }
                    Step::Look(index) if !called.is_empty() => {
                        let place = *index.get(&called.iter().copied().collect::<Vec<_>>());
                        called.remove(&place);
                        if free > 0 {
                            free -= 1;
                            line.served(place);
                            line.fill(free)
                        } else {
                            line.back(place, place);
                            let at = waiting.iter().position(|other| *other > place).unwrap_or(waiting.len());
                            waiting.insert(at, place);
                            line.fill(free)
                        }
                    }
                    Step::Leave(index) if !called.is_empty() || !waiting.is_empty() => {
                        let all: Vec<_> = called.iter().chain(&waiting).copied().collect();
                        let place = *index.get(&all);
                        called.remove(&place);
                        waiting.retain(|other| *other != place);
                        line.leave(place).1
                    }
                    Step::Round => line.next_round(),
                    Step::Look(_) | Step::Leave(_) => Vec::new(),
                };
                for place in woken {
                    prop_assert_eq!(waiting.pop_front(), Some(place), "in order");
                    called.insert(place);
                }
                prop_assert_eq!(line.waiting(), waiting.len());
                prop_assert!(waiting.is_empty() || line.turns() >= free, "{} slots, {} turns", free, line.turns());
            }
        }
    }
}
