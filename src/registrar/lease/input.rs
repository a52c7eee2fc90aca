//! The lease machine's other door: what happened, and what it means. PURE.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::registrar::lease::registration::Registration;
use crate::registrar::lease::slot::{KeyState, KeyStatus, Seen, Verdict};
use crate::registrar::lease::vocabulary::{Action, Conflict, FailureKind, Found, Input, Loss, Wanted};
use crate::registrar::lease::{Id, Machine, RECHECK, SWEEP};

impl Machine {
    /// Takes what happened; `action` is what it happened to.
    pub(crate) fn on(&mut self, now: Duration, action: &Action, input: Input) {
        let began = self.flights.end(action);
        self.take(now, action, began.unwrap_or(now), input);
        self.fence(now);
    }

    fn take(&mut self, now: Duration, action: &Action, began: Duration, input: Input) {
        match input {
            Input::Wanted { id, wanted } => self.wanted(id, wanted),
            Input::Updated { id, wanted } => self.updated(id, wanted),
            Input::Leaving { id } => self.leaving(id),
            Input::Granted { asked, seconds } => self.tenure.granted(asked, seconds),
            Input::Renewed { id, asked, seconds } => self.tenure.renewed(id, asked, seconds),
            Input::RenewalFailed { id, trouble: FailureKind::LeaseGone } => self.lease_gone(id),
            Input::RenewalFailed { id, trouble } => self.tenure.renewal_failed(now, id, trouble),
            // Whatever else stands under it stands under another one before it ends.
            Input::LeaseRefused { id } => self.tenure.refused(id),
            Input::Put { revision, again } => self.put(now, action, revision, again),
            Input::Conflict { again } => self.conflict(action, again),
            Input::Done => self.done(action),
            Input::Failed(trouble) => self.failed(now, action, began, trouble),
            Input::NotThere => self.slot_of(action).into_iter().for_each(KeyState::differs),
            Input::BrokenOff => self.doubt(action),
            Input::Watched { key, anew } => {
                self.reachable(now);
                self.late.remove(&key);
                self.slots_of(&key).for_each(|slot| slot.watched(anew));
                self.recheck_later(now);
            }
            Input::Unwatchable { key } => self.not_watchable(now, key),
            Input::WatchIsLate { key } => self.watch_is_late(now, key),
            Input::Unwatched { key } => self.unwatched(&key),
            Input::Reachable => self.reachable(now),
            Input::Seen { key, revision, found } => {
                self.seen(now, &key, revision, matches!(action, Action::Look { .. }), found);
            }
        }
    }

    fn wanted(&mut self, id: Id, wanted: Wanted) {
        let slots = wanted.records.iter().cloned().map(KeyState::new).collect();
        let registration = Registration::new(wanted, slots, self.backoff.random());
        self.registrations.insert(id, registration);
        self.adopt(id);
    }

    fn updated(&mut self, id: Id, wanted: Wanted) {
        if let Some(registration) = self.registrations.get_mut(&id).filter(|registration| !registration.leaving) {
            registration.update(wanted);
            registration.completes();
            if registration.paused {
                // One attempt at once, whatever failed before.
                self.blocked = Duration::ZERO;
            } else {
                for slot in &mut registration.slots {
                    slot.stays(self.flights.goes_out(&slot.record.key), |lease| self.tenure.is_dying(lease));
                }
            }
            self.adopt(id);
            self.hand_over(id);
        }
    }

    /// The keys of a registration have changed: one that is leaving elsewhere, or that another registration has given up for other
    /// keys, stays where it is, and is written anew. So each key is of one registration.
    fn adopt(&mut self, id: Id) {
        self.keys += 1;
        let Some(registration) = self.registrations.get(&id) else { return };
        let new = registration.slots.iter().filter(|slot| slot.place == KeyStatus::Out && !slot.obsolete);
        let new: BTreeSet<_> = new.map(|slot| slot.record.key.clone()).collect();
        let mut left = Vec::new();
        for (_, other) in self.registrations.iter_mut().filter(|(other, _)| **other != id) {
            let leaving = other.leaving;
            let goes = |slot: &mut KeyState| (leaving || slot.obsolete) && new.contains(&slot.record.key);
            left.extend(other.slots.extract_if(.., goes));
        }
        if let Some(registration) = self.registrations.get_mut(&id) {
            for left in left {
                let place = registration.slots.iter().position(|slot| slot.record.key == left.record.key);
                if let Some(slot) = place.and_then(|place| registration.slots.get_mut(place)) {
                    slot.succeed(left);
                }
            }
        }
    }

    /// Gives what a registration has given up to those that want it. They may have been heard of before.
    fn hand_over(&mut self, id: Id) {
        let Some(registration) = self.registrations.get(&id) else { return };
        let given_up = registration.slots.iter().filter(|slot| registration.leaving || slot.obsolete);
        let given_up: BTreeSet<_> = given_up.map(|slot| slot.record.key.as_slice()).collect();
        let wants = |slot: &KeyState| !slot.obsolete && given_up.contains(slot.record.key.as_slice());
        let others = self.registrations.iter().filter(|(other, registration)| **other != id && !registration.leaving);
        let heirs: Vec<Id> = others.filter(|(_, other)| other.slots.iter().any(wants)).map(|(heir, _)| *heir).collect();
        heirs.into_iter().for_each(|heir| self.adopt(heir));
    }

    fn leaving(&mut self, id: Id) {
        let held = !self.tenure.is_none();
        if let Some(registration) = self.registrations.get_mut(&id) {
            registration.leaving = true;
            registration.blocked = Duration::ZERO;
            // What was never tried under a lease that lives is not there, and what another has put is not ours.
            registration.slots.retain(|slot| held && slot.concerns_etcd());
            // What follows is one attempt at once, whatever failed before.
            self.blocked = Duration::ZERO;
            self.keys += 1;
            self.hand_over(id);
        }
    }

    fn slots_of<'a>(&'a mut self, key: &'a [u8]) -> impl Iterator<Item = &'a mut KeyState> {
        let wanted = self.registrations.values_mut().filter(|registration| !registration.leaving);
        wanted.flat_map(|registration| &mut registration.slots).filter(move |slot| slot.record.key == key)
    }

    fn not_watchable(&mut self, now: Duration, key: Vec<u8>) {
        self.unwatchable.insert(key);
        let known = self.watchable().map(|(key, _)| key).filter(|key| self.unwatchable.contains(*key));
        self.unwatchable = known.map(<[u8]>::to_vec).collect();
        self.keys += 1;
        self.sweep_later(now);
    }

    /// Until it is watched after all, nobody tells what becomes of this key.
    fn watch_is_late(&mut self, now: Duration, key: Vec<u8>) {
        if self.slots_of(&key).next().is_some() {
            let known: BTreeSet<_> = self.watchable().map(|(key, _)| key.to_vec()).collect();
            self.late.retain(|key| known.contains(key));
            self.late.insert(key);
            self.sweep_later(now);
        }
    }

    fn sweep_later(&mut self, now: Duration) {
        if self.sweep_at == Duration::MAX {
            self.sweep_at = now + self.backoff.between(SWEEP.0, SWEEP.1);
        }
    }

    fn recheck_later(&mut self, now: Duration) {
        if self.recheck_at == Duration::MAX {
            self.recheck_at = now + self.backoff.between(RECHECK.0, RECHECK.1);
        }
    }

    fn unwatched(&mut self, key: &[u8]) {
        let slots = self.registrations.values_mut().flat_map(|registration| &mut registration.slots);
        slots.filter(|slot| slot.record.key == key).for_each(KeyState::unwatched);
    }

    fn seen(&mut self, now: Duration, key: &[u8], revision: i64, looked: bool, found: Option<Found>) {
        let tenure = &self.tenure;
        let having = self.registrations.iter_mut().filter(|(_, registration)| registration.has(key));
        let Some((&of, registration)) = having.min_by_key(|(_, registration)| registration.leaving) else {
            // A put that was given up long ago may arrive after all: nobody wants it any more.
            if let Some(found) = found.filter(|found| tenure.is_live(found.lease)) {
                self.stray(KeyState::found(key, found));
            }
            return;
        };
        let (goes_out, leaving, id) = (!registration.is_wanted(), registration.leaving, registration.id.clone());
        let conflict = if leaving { Conflict::TakeOver } else { registration.conflict };
        let Some(slot) = registration.slot(key) else { return };
        let suffix = id.as_deref().unwrap_or(&self.suffix);
        let seen = Seen { revision, looked, tenure, goes_out, conflict, id: id.as_deref(), suffix };
        let (stood, deleted) = (slot.is_there(), found.is_none());
        let verdict = slot.see(seen, found);
        let later = looked.then(|| slot.later(revision)).flatten();
        if stood && slot.is_lost() {
            let key = key.to_vec();
            registration.loss = if deleted { Loss::Deleted(key) } else { Loss::Overwritten(key) };
        }
        registration.completes();
        if looked && goes_out && registration.is_out(false) {
            registration.was_complete &= !registration.paused;
        }
        match verdict {
            Verdict::Repair if !goes_out => registration.repair(now),
            Verdict::Moved { left } => {
                if !left.late.is_empty() {
                    self.stray(*left);
                }
                self.adopt(of);
            }
            Verdict::Repair | Verdict::Fine => {}
        }
        if let Some((revision, found)) = later {
            self.seen(now, key, revision, false, found);
        }
    }

    /// The delete or revocation is done.
    fn done(&mut self, action: &Action) {
        match action {
            Action::Delete { expected, .. } => {
                self.backoff.reset();
                // Where it was seen to stand again since, that is another put.
                if let Some(slot) = self.slot_of(action).filter(|slot| slot.expected == *expected) {
                    slot.left();
                    let Action::Delete { of, .. } = action else { return };
                    if let Some(registration) = self.registrations.get_mut(of) {
                        registration.was_complete &= !registration.paused;
                    }
                }
            }
            Action::Revoke { id } => self.lease_gone(*id),
            Action::Put { .. } | Action::Look { .. } | Action::Grant { .. } | Action::Wait { .. } => {}
        }
    }

    fn put(&mut self, now: Duration, action: &Action, revision: i64, again: bool) {
        let Action::Put { of, record, lease, .. } = action else { return };
        let is_live = self.tenure.is_live(*lease);
        let Some(slot) = self.slot_of(action) else {
            // Nobody wants it any more.
            if is_live {
                self.tenure.taint(*lease);
                let value = record.value.clone();
                self.stray(KeyState::found(&record.key, Found { lease: *lease, revision, value, id: None }));
            }
            return;
        };
        // Under a lease that went in the meantime it is gone again.
        if !is_live {
            return slot.end();
        }
        let later = slot.put(record, *lease, revision);
        if again {
            slot.give_up(*lease);
        }
        self.backoff.reset();
        if let Some(registration) = self.registrations.get_mut(of) {
            registration.was_complete |= registration.is_in();
            registration.backoff.reset();
        }
        if let Some((revision, found)) = later {
            self.seen(now, &record.key, revision, false, found);
        }
    }

    /// Something else stands at the key: what, is to be looked at.
    fn conflict(&mut self, action: &Action, again: bool) {
        if again {
            self.doubt(action);
        }
        // Under a lease that went in the meantime nothing stands.
        let is_live = matches!(action, Action::Put { lease, .. } if self.tenure.is_live(*lease));
        if let Some(slot) = self.slot_of(action) {
            if is_live || slot.may_be_there() {
                slot.differs();
            } else {
                slot.end();
            }
        }
    }

    fn failed(&mut self, now: Duration, action: &Action, began: Duration, trouble: FailureKind) {
        if trouble.leaves_doubt() {
            self.doubt(action);
        } else {
            self.slot_of(action).into_iter().for_each(KeyState::refused);
        }
        match action {
            Action::Grant { .. } if trouble.is_permanent() => {
                if self.tenure.reinstate() {
                    self.refuse_move(now);
                } else {
                    self.grant_at = now + self.backoff.fail(now, true);
                }
                return;
            }
            // Nobody renews it any more: it ends by itself, also where an election has given it a second life.
            Action::Revoke { id } if self.tenure.is_long_over(*id, now) => return self.lease_gone(*id),
            Action::Revoke { id } if trouble.is_permanent() => {
                return self.tenure.revoke_later(*id, now + self.backoff.fail(now, true));
            }
            // Granted anew at once the first time, and not again and again at an etcd that forgets what it grants.
            Action::Put { lease, .. } | Action::Delete { lease, .. } if trouble == FailureKind::LeaseGone => {
                self.lease_gone(*lease);
            }
            Action::Put { of, .. } | Action::Delete { of, .. } | Action::Look { of, .. } if trouble.is_permanent() => {
                return self.forbidden(now, *of, action);
            }
            _ => {}
        }
        // Those that were on their way beside it have met the same.
        if began >= self.failed_at {
            self.failed_at = now;
            self.blocked = now + self.backoff.fail(now, false);
        }
    }

    /// What only people can mend holds up this registration and no other.
    fn forbidden(&mut self, now: Duration, of: Id, action: &Action) {
        if let Action::Look { .. } = action {
            self.slot_of(action).into_iter().for_each(KeyState::is_refused_a_look);
        }
        let Some(registration) = self.registrations.get_mut(&of) else { return };
        if let (Action::Delete { lease, .. }, false) = (action, registration.is_wanted()) {
            // It goes with its lease, which all others leave.
            self.tenure.taint(*lease);
        }
        // What may not be looked at goes out without, at once the first time.
        let is_urgent = !registration.is_wanted() && matches!(action, Action::Look { .. });
        registration.blocked = now + registration.backoff.fail(now, !is_urgent);
        if matches!(action, Action::Put { .. }) && self.tenure.retired().next().is_some() {
            self.refuse_move(now);
        }
    }

    /// etcd answers again: what failed on the way to it is not waited for any longer.
    fn reachable(&mut self, now: Duration) {
        self.tenure.reachable(now);
        self.blocked = self.blocked.min(now);
    }

    /// A request whose outcome nobody knows: a put may be done at any later time, while its lease lives.
    fn doubt(&mut self, action: &Action) {
        let late = match action {
            Action::Put { lease, .. } if self.tenure.is_live(*lease) => Some(*lease),
            _ => None,
        };
        if let Some(slot) = self.slot_of(action) {
            slot.end();
            late.into_iter().for_each(|lease| slot.give_up(lease));
            if let Action::Delete { expected, .. } = action {
                slot.doubt(*expected);
            }
        } else {
            late.into_iter().for_each(|lease| self.tenure.taint(lease));
        }
    }

    /// A request that is on its way.
    pub(super) fn tried(&mut self, action: &Action) {
        match (self.slot_of(action), action) {
            (Some(slot), Action::Put { lease, .. }) => slot.begin_put(*lease),
            (Some(slot), Action::Look { .. }) => slot.begin_look(),
            _ => {}
        }
    }

    /// What the action is for: also where another registration has the key since.
    fn slot_of(&mut self, action: &Action) -> Option<&mut KeyState> {
        let (Action::Put { of, record, .. } | Action::Delete { of, record, .. } | Action::Look { of, record }) = action
        else {
            return None;
        };
        let key = &record.key;
        let has = |registration: &Registration| registration.has(key);
        let of = match self.registrations.get(of) {
            Some(registration) if has(registration) => *of,
            _ => *self.registrations.iter().find(|(_, registration)| has(registration))?.0,
        };
        self.registrations.get_mut(&of)?.slot(key)
    }
}
