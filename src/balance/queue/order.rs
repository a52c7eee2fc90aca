//! The order in which calls wait for a server. PURE.
//!
//! ```text
//! enter ─▶ waiting ──give_turns─────▶ woken, with a turn ──served─▶ gone
//!            ▲  ▲  └─wake_matching──▶ woken, without one  │
//!            │  └───────────wait_again────────────────────┘
//!            └ at its old position          next_round: an unused turn goes to the next call
//! ```
//!
//! Positions are numbers that grow; a lower one is before a higher one. `leave` ends a call from every state.

use std::collections::BTreeMap;

/// Calls that wait, first in, first out. `W` is what it takes to wake one.
///
/// Each free slot is one turn, and goes to the call that has waited longest. A call that is woken and finds no slot goes back to its
/// position. Invariant: `turns` is the number of [`Woken::WithTurn`] in `woken`.
pub(crate) struct WaitOrder<W> {
    next: u64,
    waiting: BTreeMap<u64, W>,
    /// Calls that were woken and have done nothing since.
    woken: BTreeMap<u64, Woken>,
    turns: usize,
    round: u64,
}

/// The reason for which a call was woken.
#[derive(Clone, Copy, PartialEq)]
enum Woken {
    /// A slot is free. The turn was given in this round.
    WithTurn(u64),
    /// It is to look whether it fails, or its turn was passed on: another call cannot use what it does next.
    WithoutTurn,
}

impl<W> Default for WaitOrder<W> {
    fn default() -> Self {
        Self { next: 0, waiting: BTreeMap::new(), woken: BTreeMap::new(), turns: 0, round: 0 }
    }
}

impl<W> WaitOrder<W> {
    /// Adds a call behind all others and returns its position.
    pub(crate) fn enter(&mut self, waiter: W) -> u64 {
        let position = self.next;
        self.next += 1;
        self.waiting.insert(position, waiter);
        position
    }

    /// Returns the call that waits at a position. `None` once it was woken.
    pub(crate) fn waiter_mut(&mut self, position: u64) -> Option<&mut W> {
        self.waiting.get_mut(&position)
    }

    /// Gives so many turns, to the calls that have waited longest. Returns those to wake.
    pub(crate) fn give_turns(&mut self, turns: usize) -> Vec<W> {
        let mut woken = Vec::new();
        while woken.len() < turns
            && let Some((position, waiter)) = self.waiting.pop_first()
        {
            self.woken.insert(position, Woken::WithTurn(self.round));
            self.turns += 1;
            woken.push(waiter);
        }
        woken
    }

    /// Gives turns until there are as many as free slots. Returns the calls to wake.
    pub(crate) fn give_turns_up_to(&mut self, free_slots: usize) -> Vec<W> {
        self.give_turns(free_slots.saturating_sub(self.turns))
    }

    /// Wakes the calls that match, without a turn. Returns them.
    pub(crate) fn wake_matching(&mut self, matches: impl Fn(&W) -> bool) -> Vec<W> {
        let mut woken = Vec::new();
        for (position, waiter) in std::mem::take(&mut self.waiting) {
            if matches(&waiter) {
                self.woken.insert(position, Woken::WithoutTurn);
                woken.push(waiter);
            } else {
                self.waiting.insert(position, waiter);
            }
        }
        woken
    }

    /// Lets a woken call that found no slot wait again, at its old position.
    pub(crate) fn wait_again(&mut self, position: u64, waiter: W) {
        self.forget_woken(position);
        self.waiting.insert(position, waiter);
    }

    /// Removes a woken call that has used its turn.
    pub(crate) fn served(&mut self, position: u64) {
        self.forget_woken(position);
    }

    /// Removes a call that gives up. Returns what it waited with, and the call to wake to which its turn is passed on.
    pub(crate) fn leave(&mut self, position: u64) -> (Option<W>, Vec<W>) {
        let waiter = self.waiting.remove(&position);
        let turns = usize::from(self.forget_woken(position));
        (waiter, self.give_turns(turns))
    }

    /// Begins a round. Turns that were given before the last round go to the next calls; returns those to wake. The calls that did
    /// not use them keep their positions, and hold up no other.
    pub(crate) fn next_round(&mut self) -> Vec<W> {
        let mut unused = 0;
        for woken in self.woken.values_mut() {
            if let Woken::WithTurn(round) = *woken
                && round < self.round
            {
                *woken = Woken::WithoutTurn;
                unused += 1;
            }
        }
        self.turns -= unused; // each of them was counted when it was given
        self.round += 1;
        self.give_turns(unused)
    }

    /// Returns whether the call had a turn.
    fn forget_woken(&mut self, position: u64) -> bool {
        let had_turn = matches!(self.woken.remove(&position), Some(Woken::WithTurn(_)));
        self.turns -= usize::from(had_turn); // as above
        had_turn
    }

    /// Whether calls wait and no turn is out.
    pub(crate) fn needs_turn(&self) -> bool {
        self.turns == 0 && !self.waiting.is_empty()
    }

    /// Returns the number of turns that were given and are not used yet.
    pub(crate) fn turns(&self) -> usize {
        self.turns
    }

    /// Returns the number of calls that were not woken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;

    use super::*;

    fn queue_of(count: u32) -> WaitOrder<u32> {
        let mut order = WaitOrder::default();
        (0..count).for_each(|waiter| assert_eq!(order.enter(waiter), u64::from(waiter)));
        order
    }

    #[test]
    fn turns_go_to_the_calls_that_have_waited_longest() {
        let mut order = queue_of(5);
        assert_eq!(order.give_turns(2), [0, 1]);
        assert_eq!(order.give_turns_up_to(3), [2], "two turns are given already");
        order.wait_again(1, 1);
        order.served(0);
        assert_eq!(order.give_turns(1), [1], "it kept its position");
        assert_eq!(order.give_turns(9), [3, 4]);
        assert!(order.give_turns(1).is_empty());
    }

    #[test]
    fn a_call_that_leaves_passes_its_turn_on() {
        let mut order = queue_of(4);
        assert_eq!(order.leave(1), (Some(1), vec![]), "it had none");
        assert_eq!(order.give_turns(1), [0]);
        assert_eq!(order.leave(0), (None, vec![2]));
        assert_eq!(order.leave(2), (None, vec![3]));
        assert_eq!(order.leave(3), (None, vec![]));
        assert_eq!((order.turns(), order.waiting()), (0, 0));
    }

    #[test]
    fn an_unused_turn_is_passed_on_once() {
        let mut order = queue_of(4);
        assert_eq!(order.give_turns(1), [0]);
        assert!(order.next_round().is_empty(), "it has a round's time");
        assert_eq!(order.next_round(), [1]);
        order.served(1);
        for _ in 0..5 {
            assert!(order.next_round().is_empty());
        }
        assert_eq!((order.turns(), order.waiting()), (0, 2), "a call that sleeps holds up no other");
        order.wait_again(0, 0);
        assert_eq!(order.give_turns(1), [0], "and has its position when it wakes");
    }

    #[test]
    fn a_call_that_is_woken_without_a_turn_passes_none_on() {
        let mut order = queue_of(4);
        assert_eq!(order.wake_matching(|waiter| waiter % 2 == 0), [0, 2]);
        assert_eq!(order.leave(0), (None, vec![]));
        order.wait_again(2, 2);
        assert_eq!(order.give_turns(9), [1, 2, 3]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter,
        /// So many slots become free.
        Free(usize),
        /// One of the woken calls looks.
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
        /// F34: whatever comes between, turns are given in order, none is lost, and no call is woken for nothing.
        #[test]
        fn order_holds_and_no_turn_is_lost(steps in steps()) {
            order_holds(steps)?;
        }
    }

    fn order_holds(steps: Vec<Step>) -> TestCaseResult {
        let mut order = WaitOrder::default();
        let (mut waiting, mut woken_calls, mut free) = (VecDeque::new(), BTreeSet::new(), 0_usize);
        for step in steps {
            let woken = match step {
                Step::Enter => {
                    waiting.push_back(order.next);
                    order.enter(order.next);
                    order.give_turns_up_to(free)
                }
                Step::Free(slots) => {
                    free += slots;
                    order.give_turns(slots)
                }
                Step::Look(index) if !woken_calls.is_empty() => {
                    let position = *index.get(&woken_calls.iter().copied().collect::<Vec<_>>());
                    woken_calls.remove(&position);
                    if free > 0 {
                        free -= 1;
                        order.served(position);
                        order.give_turns_up_to(free)
                    } else {
                        order.wait_again(position, position);
                        let at = waiting.iter().position(|other| *other > position).unwrap_or(waiting.len());
                        waiting.insert(at, position);
                        order.give_turns_up_to(free)
                    }
                }
                Step::Leave(index) if !woken_calls.is_empty() || !waiting.is_empty() => {
                    let all: Vec<_> = woken_calls.iter().chain(&waiting).copied().collect();
                    let position = *index.get(&all);
                    woken_calls.remove(&position);
                    waiting.retain(|other| *other != position);
                    order.leave(position).1
                }
                Step::Round => order.next_round(),
                Step::Look(_) | Step::Leave(_) => Vec::new(),
            };
            for position in woken {
                prop_assert_eq!(waiting.pop_front(), Some(position), "in order");
                woken_calls.insert(position);
            }
            prop_assert_eq!(order.waiting(), waiting.len());
            prop_assert!(waiting.is_empty() || order.turns() >= free, "{} slots, {} turns", free, order.turns());
        }
        Ok(())
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(step(), 0..200)
    }

    /// The fuzz target: the same property.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with_steps(bytes, Just(()), step(), |(), steps| order_holds(steps));
    }
}
