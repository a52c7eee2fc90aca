use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;

fn queue_of(count: u32) -> WaitOrder<u32> {
    let mut order = WaitOrder::default();
    (0..count).for_each(|waiter| assert_eq!(order.enter(waiter, true), u64::from(waiter)));
    order
}

/// A slot of this server.
pub(super) fn of(server: usize) -> Turn {
    Turn { server: Some(server) }
}

const ANY: Turn = Turn { server: None };

fn turn_of(order: &WaitOrder<u32>, position: u64) -> Option<Turn> {
    match order.woken.get(&position) {
        Some(Woken::WithTurn { turn, .. }) => Some(*turn),
        Some(Woken::WithoutTurn) | None => None,
    }
}

#[test]
fn turns_go_to_the_calls_that_have_waited_longest() {
    let mut order = queue_of(5);
    assert_eq!(order.give_turns(2, ANY), [0, 1]);
    let look = order.begin_look(false).unwrap();
    assert_eq!(order.end_look(look, 3, 0, |_| true), [2], "two turns are given already");
    order.wait_again(1, 1);
    order.served(0);
    assert_eq!(order.give_turns(1, ANY), [1], "it kept its position");
    assert_eq!(order.give_turns(9, ANY), [3, 4]);
    assert!(order.give_turns(1, ANY).is_empty());
}

#[test]
fn a_call_that_leaves_passes_its_turn_on() {
    let mut order = queue_of(4);
    assert_eq!(order.leave(1), (Some(1), vec![]), "it had none");
    assert_eq!(order.give_turns(1, ANY), [0]);
    assert_eq!(order.leave(0), (None, vec![2]));
    assert_eq!(order.leave(2), (None, vec![3]));
    assert_eq!(order.leave(3), (None, vec![]));
    assert_eq!((order.turns(), order.waiting()), (0, 0));
}

#[test]
fn an_unused_turn_is_passed_on_once() {
    let mut order = queue_of(4);
    assert_eq!(order.give_turns(1, ANY), [0]);
    assert!(order.next_round().is_empty(), "it has a round's time");
    assert_eq!(order.next_round(), [1]);
    order.served(1);
    for _ in 0..5 {
        assert!(order.next_round().is_empty());
    }
    assert_eq!((order.turns(), order.waiting()), (0, 2), "a call that sleeps holds up no other");
    order.wait_again(0, 0);
    assert_eq!(order.give_turns(1, ANY), [0], "and has its position when it wakes");
}

#[test]
fn a_call_that_is_woken_without_a_turn_passes_none_on() {
    let mut order = queue_of(4);
    assert_eq!(order.wake_matching(|waiter| waiter % 2 == 0), [0, 2]);
    assert_eq!(order.leave(0), (None, vec![]));
    order.wait_again(2, 2);
    assert_eq!(order.give_turns(9, ANY), [1, 2, 3]);
}

#[test]
fn a_turn_says_whose_slot_it_is_and_keeps_saying_so() {
    let mut order = queue_of(5);
    assert_eq!(order.give_turns(1, of(8)), [0]);
    assert_eq!((turn_of(&order, 0), turn_of(&order, 1)), (Some(of(8)), None));
    assert_eq!(order.leave(0), (None, vec![1]));
    assert_eq!(turn_of(&order, 1), Some(of(8)), "passed on by one that leaves");
    assert!(order.next_round().is_empty());
    assert_eq!(order.next_round(), [2]);
    assert_eq!((turn_of(&order, 1), turn_of(&order, 2)), (None, Some(of(8))), "and by one that sleeps");
    assert_eq!(order.give_turns(1, of(9)), [3]);
    assert_eq!(turn_of(&order, 3), Some(of(9)));
}

#[test]
fn servers_that_come_while_every_call_is_woken_are_looked_at_by_the_next_one() {
    let mut order = queue_of(1);
    assert!(looks(&mut order));
    assert_eq!(order.give_turns(1, of(1)), [0]);
    assert!(order.begin_look(true).is_none(), "servers have come, and nobody waits");
    assert_eq!(order.enter(1, true), 1);
    let look = order.begin_look(false).expect("there may be room");
    assert_eq!(order.end_look(look, 2, 0, |_| true), [1]);
}

#[test]
fn a_turn_in_use_stands_for_no_slot() {
    let mut order = queue_of(4);
    assert_eq!(order.give_turns(2, of(1)), [0, 1]);
    assert_eq!(order.use_turn(0), Some(of(1)));
    // It has taken the slot. The other one is free, and so is that of a server which comes now.
    let look = order.begin_look(true).unwrap();
    assert_eq!(order.end_look(look, 2, 0, |_| true), [2]);
    // The look counts a slot, and a turn that is used meanwhile takes it: a turn too many.
    let look = order.begin_look(true).unwrap();
    assert_eq!(order.use_turn(1), Some(of(1)));
    assert_eq!(order.end_look(look, 2, 0, |_| true), [3]);
    order.served(0);
    assert_eq!(order.leave(1), (None, vec![]));
    assert_eq!(order.turns(), 2);
}

/// Whether all servers are looked at. Nobody has room.
pub(super) fn looks(order: &mut WaitOrder<u32>) -> bool {
    let look = order.begin_look(false);
    look.into_iter().for_each(|look| assert!(order.end_look(look, 0, 0, |_| true).is_empty()));
    look.is_some()
}

#[test]
fn all_servers_are_looked_at_only_where_a_slot_may_have_no_turn() {
    let mut order = queue_of(3);
    assert!(looks(&mut order) && !looks(&mut order), "the first call: slots became free before it waited");
    assert_eq!(order.enter(3, true), 3);
    assert!(!looks(&mut order));
    for position in 0..3 {
        assert_eq!(order.give_turns(1, of(4)), [position as u32]);
        assert!(!looks(&mut order));
        order.served(position);
        assert!(!looks(&mut order), "a slot and its turn go together");
    }
    assert_eq!(order.give_turns(2, of(4)), [3]);
    assert!(!looks(&mut order), "nobody waits");
    assert_eq!(order.enter(4, true), 4);
    assert!(looks(&mut order), "one of two slots is left");
    order.wait_again(3, 3);
    assert!(!looks(&mut order), "it has looked at all servers itself");
    assert!(order.begin_look(true).is_some());
    order.look_again();
    assert!(looks(&mut order));
}

#[test]
fn what_happens_during_a_look_takes_no_turn_away() {
    let mut order = queue_of(5);
    // A slot that nobody knows of is counted, and another one becomes free.
    let look = order.begin_look(false).unwrap();
    assert_eq!(order.give_turns(1, of(1)), [0]);
    assert_eq!(order.end_look(look, 1, 0, |_| true), [1]);
    // The turn of one of two slots is used during the look: it counts both.
    let look = order.begin_look(true).unwrap();
    order.served(0);
    assert_eq!(order.end_look(look, 2, 0, |_| true), [2]);
}

#[derive(Clone, Debug)]
enum Step {
    Enter,
    /// So many slots become free.
    Free(usize),
    /// Servers come with so many slots.
    Come(usize),
    /// One of the woken calls looks, and takes a slot if there is one.
    Look(prop::sample::Index),
    /// One of those that have looked says so.
    Looked(prop::sample::Index),
    Leave(prop::sample::Index),
    Round,
    /// A look at all servers ends.
    Counted(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Enter),
        2 => (1_usize..4).prop_map(Step::Free),
        1 => (1_usize..4).prop_map(Step::Come),
        4 => any::<prop::sample::Index>().prop_map(Step::Look),
        4 => any::<prop::sample::Index>().prop_map(Step::Looked),
        1 => any::<prop::sample::Index>().prop_map(Step::Leave),
        1 => Just(Step::Round),
        3 => (0_usize..8).prop_map(Step::Counted),
    ]
}

proptest! {
    /// F34: whatever comes between, turns are given in order, none is lost, and no call is woken for nothing.
    #[test]
    fn order_holds_and_no_turn_is_lost(steps in steps()) {
        order_holds(steps)?;
    }
}

/// The queue in miniature: each call looks at all servers when it begins to wait and when its turn is over, if it is
/// told to, and the pool does when servers come.
fn order_holds(steps: Vec<Step>) -> TestCaseResult {
    let mut order = WaitOrder::default();
    let (mut waiting, mut woken_calls, mut free) = (VecDeque::new(), BTreeSet::new(), 0_usize);
    // Calls that have looked, and whether they have a slot.
    let mut looked: BTreeMap<u64, bool> = BTreeMap::new();
    // Looks that have begun, with the slots that were free then.
    let mut looks: Vec<(Look, usize)> = Vec::new();
    let end = (0..200).map(|_| Step::Counted(0));
    for step in steps.into_iter().chain(end) {
        let woken = match step {
            Step::Enter => {
                waiting.push_back(order.next);
                order.enter(order.next, true);
                looks.extend(order.begin_look(false).map(|look| (look, free)));
                Vec::new()
            }
            Step::Free(slots) => {
                free += slots;
                // Nobody is told of slots that nobody waits for.
                if order.waiting() + order.turns() > 0 { order.give_turns(slots, of(7)) } else { Vec::new() }
            }
            Step::Come(slots) => {
                free += slots;
                // As the queue does: where nobody waits or has a turn, the next call looks.
                let is_asked = order.waiting() + order.turns() > 0;
                looks.extend(is_asked.then(|| order.begin_look(true)).flatten().map(|look| (look, free)));
                Vec::new()
            }
            Step::Look(index) if !woken_calls.is_empty() => {
                let position = *index.get(&woken_calls.iter().copied().collect::<Vec<_>>());
                woken_calls.remove(&position);
                order.use_turn(position);
                looked.insert(position, free > 0);
                free = free.saturating_sub(1);
                Vec::new()
            }
            Step::Looked(index) if !looked.is_empty() => {
                let position = *index.get(&looked.keys().copied().collect::<Vec<_>>());
                if looked.remove(&position) == Some(true) {
                    order.served(position);
                } else {
                    order.wait_again(position, position);
                    let at = waiting.iter().position(|other| *other > position).unwrap_or(waiting.len());
                    waiting.insert(at, position);
                }
                looks.extend(order.begin_look(false).map(|look| (look, free)));
                Vec::new()
            }
            Step::Leave(index) if !woken_calls.is_empty() || !waiting.is_empty() => {
                let all: Vec<_> = woken_calls.iter().chain(&waiting).copied().collect();
                let position = *index.get(&all);
                woken_calls.remove(&position);
                waiting.retain(|other| *other != position);
                order.leave(position).1
            }
            Step::Counted(index) if !looks.is_empty() => {
                let (look, counted) = looks.swap_remove(index % looks.len());
                order.end_look(look, counted, 0, |_| true)
            }
            Step::Round => order.next_round(),
            Step::Look(_) | Step::Looked(_) | Step::Leave(_) | Step::Counted(_) => Vec::new(),
        };
        for position in woken {
            prop_assert_eq!(waiting.pop_front(), Some(position), "in order");
            woken_calls.insert(position);
        }
        prop_assert_eq!(order.waiting(), waiting.len());
        let unused = order.turns() - order.looking;
        prop_assert!(waiting.is_empty() || unused >= free || !looks.is_empty(), "{} slots, {} turns", free, unused);
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
