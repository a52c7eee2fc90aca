//! Turns for servers that refuse calls. PURE.
//!
//! A call that was refused waits for servers that do not refuse calls, as long as there are such. It declines a turn that
//! finds room at others only: that goes to the first call that takes any server. If none does, the next call that does
//! looks for such room, and nobody is woken for it again and again.

use crate::balance::queue::order::{Turn, WaitOrder};

impl<W> WaitOrder<W> {
    /// Gives so many turns to the first calls that take any server. If they are fewer, the next one that does looks.
    /// Returns those to wake.
    pub(super) fn offer(&mut self, turns: usize, turn: Turn, takes_any: impl Fn(&W) -> bool) -> Vec<W> {
        let takers = self.waiting.iter().filter(|(_, waiter)| takes_any(waiter)).map(|(position, _)| *position);
        let takers: Vec<u64> = takers.take(turns).collect();
        self.has_declined |= takers.len() < turns;
        takers.into_iter().filter_map(|position| self.wake(position, turn)).collect()
    }

    /// Lets a woken call wait again at its old position, whose turn is for a server that it does not take. The turn goes
    /// to the first call that takes any. Returns those to wake.
    pub(crate) fn decline(&mut self, position: u64, waiter: W, takes_any: impl Fn(&W) -> bool) -> Vec<W> {
        let turn = self.forget_woken(position);
        let woken = turn.map_or_else(Vec::new, |turn| self.offer(1, turn, takes_any));
        if turn.is_some() {
            self.waiting.insert(position, waiter); // what became free while its turn was out was told
        } else {
            self.insert(position, waiter);
        }
        woken
    }

    /// A call takes any server from now on: slots that others have declined are looked for.
    pub(crate) fn seek_declined(&mut self) {
        self.may_have_room |= std::mem::take(&mut self.has_declined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::queue::order::tests::{looks, of};

    /// Whether a call takes any server, or avoids those that refuse calls: the even ones do.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as the order asks")]
    fn takes_any(waiter: &u32) -> bool {
        waiter % 2 == 1
    }

    #[test]
    fn a_turn_that_is_declined_goes_to_the_first_call_that_takes_any_server_or_to_the_next_to_come() {
        let mut order = WaitOrder::default();
        (0..4).for_each(|waiter| assert_eq!(order.enter(waiter, takes_any(&waiter)), u64::from(waiter)));
        assert!(looks(&mut order));
        assert_eq!(order.give_turns(1, of(5)), [0]);
        assert_eq!(order.use_turn(0), Some(of(5)));
        assert_eq!(order.decline(0, 0, takes_any), [1], "not to the next one that declines it too");
        order.served(1);
        assert_eq!(order.give_turns(1, of(6)), [0], "it has kept its position");
        assert_eq!(order.decline(0, 0, takes_any), [3]);
        order.served(3);
        assert_eq!(order.give_turns(1, of(7)), [0]);
        assert!(order.decline(0, 0, takes_any).is_empty() && !looks(&mut order), "nobody is woken again and again");
        assert_eq!(order.enter(4, false), 4);
        assert!(!looks(&mut order));
        assert_eq!(order.enter(5, true), 5);
        let look = order.begin_look(false).expect("it takes what the others have declined");
        assert_eq!(order.end_look(look, 0, 1, takes_any), [5]);
        assert_eq!(order.enter(7, true), 6);
        assert!(!looks(&mut order), "it was one slot");
    }

    #[test]
    fn a_look_gives_the_slots_of_servers_that_refuse_to_calls_that_take_any() {
        let mut order = WaitOrder::default();
        (0..4).for_each(|waiter| assert_eq!(order.enter(waiter, takes_any(&waiter)), u64::from(waiter)));
        let look = order.begin_look(false).unwrap();
        assert_eq!(order.end_look(look, 1, 8, takes_any), [0, 1, 3]);
        assert!(!looks(&mut order));
        order.seek_declined();
        let look = order.begin_look(false).expect("five slots are left");
        assert!(order.end_look(look, 0, 7, |waiter| *waiter == 2) == [2] && order.begin_look(false).is_none());
        order.wait_again(2, 2);
        order.seek_declined();
        assert!(order.begin_look(false).is_some(), "as long as there are more slots than calls that take them");
    }
}
