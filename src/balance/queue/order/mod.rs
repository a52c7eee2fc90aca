//! The order in which calls wait for a server. PURE.
//!
//! ```text
//! enter ─▶ waiting ──give_turns─────▶ woken, with a turn ──use_turn─▶ looking ──served─▶ gone
//!            ▲  ▲  └─wake_matching──▶ woken, without one                  │
//!            │  └───────────wait_again────────────────────────────────────┘
//!            └ at its old position          next_round: a turn that lasts too long goes to the next call
//! ```
//!
//! Positions are numbers that grow; a lower one is before a higher one. `leave` ends a call from every state.
//!
//! A turn says which server its slot is of, and keeps saying so when it is passed on. Slots are not listed: what counts
//! is that there is a turn for each. Where there may be none, `may_have_room` says so, and [`WaitOrder::begin_look`]
//! has somebody count the slots of all servers. `declined.rs` is about turns that not every call takes.

mod declined;

use std::collections::BTreeMap;

/// Calls that wait, first in, first out. `W` is what it takes to wake one.
///
/// Each free slot is one turn, and goes to the call that has waited longest. A call that is woken and finds no slot
/// goes back to its position. Invariant: `turns` is the number of [`Woken::WithTurn`] in `woken`, and `looking` that of
/// those among them that are in use.
///
/// Invariant: while calls wait, there are as many unused turns as free slots at least, or `may_have_room` holds, or a
/// look has begun.
pub(crate) struct WaitOrder<W> {
    next: u64,
    waiting: BTreeMap<u64, W>,
    /// Calls that were woken and have done nothing since.
    woken: BTreeMap<u64, Woken>,
    turns: usize,
    /// The turns in use: these calls may have their slots already.
    looking: usize,
    /// How many turns so far have been used, passed on or given up.
    ended: u64,
    round: u64,
    /// There may be slots that no turn was given for.
    may_have_room: bool,
    /// There may be slots that the waiting calls do not take: the next call that takes any server looks.
    has_declined: bool,
}

/// The right of a woken call to look for a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Whose slot it is, as an index of the published servers, as far as that is known. It may be an old one: it says
    /// where to look first.
    pub(crate) server: Option<usize>,
}

/// A look at all servers that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// The turns that nobody had used yet, …
    unused: usize,
    /// … and those that had ended.
    ended: u64,
}

/// The reason for which a call was woken.
#[derive(Clone, Copy, PartialEq)]
enum Woken {
    /// A slot is free. The turn was given in this round, and is in use or not.
    WithTurn { round: u64, turn: Turn, in_use: bool },
    /// It is to look whether it fails, or its turn was passed on: another call cannot use what it does next.
    WithoutTurn,
}

impl<W> Default for WaitOrder<W> {
    fn default() -> Self {
        let (waiting, woken) = (BTreeMap::new(), BTreeMap::new());
        Self {
            next: 0,
            waiting,
            woken,
            turns: 0,
            looking: 0,
            ended: 0,
            round: 0,
            may_have_room: false,
            has_declined: false,
        }
    }
}

impl<W> WaitOrder<W> {
    /// Adds a call behind all others and returns its position. `takes_any` says whether it takes slots that others have
    /// declined.
    pub(crate) fn enter(&mut self, waiter: W, takes_any: bool) -> u64 {
        let position = self.next;
        self.next += 1;
        self.insert(position, waiter);
        if takes_any {
            self.seek_declined();
        }
        position
    }

    fn wake(&mut self, position: u64, turn: Turn) -> Option<W> {
        let waiter = self.waiting.remove(&position)?;
        self.woken.insert(position, Woken::WithTurn { round: self.round, turn, in_use: false });
        self.turns += 1;
        Some(waiter)
    }

    /// While nobody has waited, nobody has told of slots.
    fn insert(&mut self, position: u64, waiter: W) {
        self.may_have_room |= self.waiting.is_empty() && self.turns == 0;
        self.waiting.insert(position, waiter);
    }

    /// Returns the call that waits at a position. `None` once it was woken.
    pub(crate) fn waiter_mut(&mut self, position: u64) -> Option<&mut W> {
        self.waiting.get_mut(&position)
    }

    /// Gives so many turns, to the calls that have waited longest. Returns those to wake.
    pub(crate) fn give_turns(&mut self, turns: usize, turn: Turn) -> Vec<W> {
        let mut woken = Vec::new();
        while woken.len() < turns
            && let Some((position, _)) = self.waiting.first_key_value()
        {
            woken.extend(self.wake(*position, turn));
        }
        self.may_have_room |= woken.len() < turns;
        woken
    }

    /// Passes turns on. Returns the calls to wake.
    fn pass_on(&mut self, turns: impl IntoIterator<Item = Turn>) -> Vec<W> {
        turns.into_iter().flat_map(|turn| self.give_turns(1, turn)).collect()
    }

    /// A call that was woken looks for a server from now on. Returns its turn; `None` if it was woken without one.
    pub(crate) fn use_turn(&mut self, position: u64) -> Option<Turn> {
        let Some(Woken::WithTurn { turn, in_use, .. }) = self.woken.get_mut(&position) else { return None };
        if !std::mem::replace(in_use, true) {
            self.looking += 1;
            self.ended += 1;
        }
        Some(*turn)
    }

    /// Begins a look at all servers, if calls wait, and there may be slots that no turn was given for or a look is
    /// wanted `anyway`. While nobody waits, what is wanted is left to the next call that does.
    pub(crate) fn begin_look(&mut self, anyway: bool) -> Option<Look> {
        self.may_have_room |= anyway;
        if self.waiting.is_empty() || !std::mem::take(&mut self.may_have_room) {
            return None;
        }
        Some(Look { unused: self.turns - self.looking, ended: self.ended })
    }

    /// The look has counted so many free slots, and so many of servers that refuse calls. Gives turns until there are as
    /// many, those for the latter only to calls that take any server, and returns the calls to wake.
    ///
    /// A turn in use does not count, because its slot may be taken and not counted. Slots that became free meanwhile have
    /// turns of their own, and a turn that has ended meanwhile may have taken a slot that is counted. So there may be a
    /// turn too many, and never one too few.
    pub(crate) fn end_look(
        &mut self,
        look: Look,
        free_slots: usize,
        refusing: usize,
        takes_any: impl Fn(&W) -> bool,
    ) -> Vec<W> {
        let ended = usize::try_from(self.ended - look.ended).unwrap_or(usize::MAX);
        let unused = look.unused.saturating_sub(ended);
        let mut woken = self.give_turns(free_slots.saturating_sub(unused), Turn::default());
        woken.extend(self.offer(
            refusing.saturating_sub(unused.saturating_sub(free_slots)),
            Turn::default(),
            takes_any,
        ));
        woken
    }

    /// A look is to be made the next time: something may have changed of which nobody has told.
    pub(crate) fn look_again(&mut self) {
        self.may_have_room = true;
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
        self.insert(position, waiter);
    }

    /// Removes a woken call that has used its turn.
    pub(crate) fn served(&mut self, position: u64) {
        self.forget_woken(position);
    }

    /// Removes a call that gives up. Returns what it waited with, and the call to wake to which its turn is passed on.
    pub(crate) fn leave(&mut self, position: u64) -> (Option<W>, Vec<W>) {
        let waiter = self.waiting.remove(&position);
        let turn = self.forget_woken(position);
        (waiter, self.pass_on(turn))
    }

    /// Begins a round. Turns that were given before the last round go to the next calls; returns those to wake. The
    /// calls that had them keep their positions, and hold up no other.
    pub(crate) fn next_round(&mut self) -> Vec<W> {
        let is_over = |woken: &Woken| matches!(woken, Woken::WithTurn { round, .. } if *round < self.round);
        let over: Vec<u64> =
            self.woken.iter().filter(|(_, woken)| is_over(woken)).map(|(position, _)| *position).collect();
        let turns: Vec<Turn> = over
            .into_iter()
            .filter_map(|position| {
                let turn = self.forget_woken(position);
                self.woken.insert(position, Woken::WithoutTurn);
                turn
            })
            .collect();
        self.round += 1;
        self.pass_on(turns)
    }

    /// Returns the turn that the call had.
    fn forget_woken(&mut self, position: u64) -> Option<Turn> {
        let Some(Woken::WithTurn { turn, in_use, .. }) = self.woken.remove(&position) else { return None };
        self.turns -= 1; // it was counted when it was given
        if in_use {
            self.looking -= 1; // and this when it was used
        } else {
            self.ended += 1;
        }
        Some(turn)
    }

    /// Returns the number of turns that are out, those in use included.
    pub(crate) fn turns(&self) -> usize {
        self.turns
    }

    /// Returns the number of calls that were not woken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
