//! The lease machine's other door: what happened, and what it means. PURE.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::registration::Registration;
use super::slot::{Place, Seen, Slot, Verdict};
use super::vocabulary::{Action, Conflict, Found, Input, Loss, Trouble, Wanted};
use super::{Id, LOOK_AGAIN, Machine, RECHECK, SWEEP};
use crate::codec::Record;

impl Machine {
    /// Takes what happened; `action` is what it happened to.
    pub(crate) fn on(&mut self, now: Duration, action: &Action, input: Input) {
        match input {
            Input::Wanted { id, wanted } => self.wanted(id, wanted),
            Input::Updated { id, wanted } => self.updated(id, wanted),
            Input::Leaving { id } => self.leaving(id),
            Input::Granted { asked, seconds } => self.tenure.granted(asked, seconds),
            Input::Renewed { id, asked, seconds } => self.tenure.renewed(id, asked, seconds),
            Input::RenewalFailed { id, trouble: Trouble::LeaseGone } => self.lease_gone(id),
            Input::RenewalFailed { id, trouble } => self.tenure.renewal_failed(now, id, trouble),
            Input::Put { revision, again } => self.put(now, action, revision, again),
            Input::Conflict => self.conflict(action),
            Input::Done => self.done(now, action),
            Input::Failed(trouble) => self.failed(now, action, trouble),
            Input::NotThere => self.not_there(now, action),
            Input::BrokenOff => self.doubt(now, action),
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
        let slots = wanted.records.iter().cloned().map(Slot::new).collect();
        let registration = Registration::new(wanted, slots, self.backoff.random());
        self.registrations.insert(id, registration);
        self.adopt(id);
    }

    fn updated(&mut self, id: Id, wanted: Wanted) {
        if let Some(registration) = self.registrations.get_mut(&id).filter(|registration| !registration.leaving) {
            registration.update(wanted);
            self.adopt(id);
        }
    }

    /// The keys of a registration have changed: one that is leaving elsewhere stays where it is, and is written anew.
    fn adopt(&mut self, id: Id) {
        self.keys += 1;
        let Some(registration) = self.registrations.get(&id) else { return };
        let new = registration.slots.iter().filter(|slot| slot.place == Place::Out);
        let new: BTreeSet<_> = new.map(|slot| slot.record.key.clone()).collect();
        let mut left = Vec::new();
        for other in self.registrations.values_mut().filter(|registration| registration.leaving) {
            left.extend(other.slots.extract_if(.., |slot| new.contains(&slot.record.key)));
        }
        if let Some(registration) = self.registrations.get_mut(&id) {
            for left in left {
                registration.slot(&left.record.key).into_iter().for_each(|slot| slot.succeed(&left));
            }
        }
    }

    fn leaving(&mut self, id: Id) {
        let held = self.lease().is_some();
        if let Some(registration) = self.registrations.get_mut(&id) {
            registration.leaving = true;
            registration.blocked = Duration::ZERO;
            // What was never tried under a lease that lives is not there, and what another has put is not ours.
            registration.slots.retain(|slot| held && slot.may_be_there());
            // What follows is one attempt at once, whatever failed before.
            self.blocked = Duration::ZERO;
            self.keys += 1;
        }
    }

    fn slots_of<'a>(&'a mut self, key: &'a [u8]) -> impl Iterator<Item = &'a mut Slot> {
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
        slots.filter(|slot| slot.record.key == key).for_each(Slot::unwatched);
    }

    fn seen(&mut self, now: Duration, key: &[u8], revision: i64, looked: bool, found: Option<Found>) {
        let (lease, former) = (self.tenure.id(), self.tenure.former());
        let has = |registration: &Registration| registration.slots.iter().any(|slot| slot.record.key == key);
        let having = self.registrations.iter_mut().filter(|(_, registration)| has(registration));
        // One that is leaving asks etcd itself.
        if let Some((&of, registration)) = having.min_by_key(|(_, registration)| registration.leaving) {
            let (paused, conflict) = (registration.paused, registration.conflict);
            let id = registration.id.clone();
            if registration.leaving {
                return;
            }
            let Some(slot) = registration.slot(key) else { return };
            let suffix = id.as_deref().unwrap_or(&self.suffix);
            let seen = Seen { revision, looked, lease, former, paused, conflict, id: id.as_deref(), suffix };
            let (stood, deleted) = (slot.is_there(), found.is_none());
            let verdict = slot.see(seen, found);
            let later = looked.then(|| slot.later(revision)).flatten();
            if stood && slot.is_lost() {
                let key = key.to_vec();
                registration.loss = if deleted { Loss::Deleted(key) } else { Loss::Overwritten(key) };
            }
            match verdict {
                Verdict::Repair if !paused => registration.repair(now),
                Verdict::Moved { left } => {
                    self.stray(*left);
                    self.adopt(of);
                }
                Verdict::Repair | Verdict::Fine => {}
            }
            if let Some((revision, found)) = later {
                self.seen(now, key, revision, false, found);
            }
            return;
        }
        // A put that was given up long ago may arrive after all: nobody wants it any more.
        if let Some(found) = found.filter(|found| Some(found.lease) == lease) {
            self.stray(Slot::new(Arc::new(Record::new(key, found.value))));
        }
    }

    /// A key that nobody wants, and that goes if it carries our lease.
    fn stray(&mut self, mut slot: Slot) {
        if self.lease().is_none() {
            return; // it is gone with it
        }
        slot.place = Place::Tried;
        self.strays += 1;
        let wanted = Wanted { records: Vec::new(), conflict: Conflict::TakeOver, id: None, paused: false };
        let mut stray = Registration::new(wanted, vec![slot], self.backoff.random());
        stray.leaving = true;
        self.registrations.insert(self.strays, stray);
    }

    /// The delete or revocation is done.
    fn done(&mut self, now: Duration, action: &Action) {
        match action {
            Action::Delete { .. } if self.may_still_arrive(now, action, true) => {
                self.slot_of(action).into_iter().for_each(Slot::doubt);
                self.look_again(now, action);
            }
            Action::Delete { .. } => {
                self.backoff.reset();
                self.left(action);
            }
            Action::Revoke { id } => self.lease_gone(*id),
            Action::Put { .. } | Action::Look { .. } | Action::Grant { .. } | Action::Wait { .. } => {}
        }
    }

    /// What was to be deleted was not there: another has put the key since, or a put of ours is still on its way.
    fn not_there(&mut self, now: Duration, action: &Action) {
        if self.may_still_arrive(now, action, false) {
            self.look_again(now, action);
        } else {
            self.left(action);
        }
    }

    fn may_still_arrive(&mut self, now: Duration, action: &Action, deleted: bool) -> bool {
        self.slot_of(action).is_some_and(|slot| slot.may_still_arrive(now, deleted))
    }

    fn look_again(&mut self, now: Duration, action: &Action) {
        if let Action::Delete { of, .. } = action
            && let Some(registration) = self.registrations.get_mut(of)
        {
            registration.blocked = now + LOOK_AGAIN;
        }
    }

    /// What was to be deleted is not there, and will not be.
    fn left(&mut self, action: &Action) {
        if let Action::Delete { of, record, .. } = action
            && let Some(registration) = self.registrations.get_mut(of)
        {
            let goes = registration.leaving;
            registration.slots.retain(|slot| slot.record.key != record.key || (!goes && !slot.obsolete));
            registration.slot(&record.key).into_iter().for_each(Slot::left);
            registration.was_complete &= !registration.paused;
        }
    }

    fn put(&mut self, now: Duration, action: &Action, revision: i64, again: bool) {
        let (held, patience) = (self.lease(), self.patience().unwrap_or_default());
        let Action::Put { of, record, lease, .. } = action else { return };
        let Some(registration) = self.registrations.get_mut(of) else { return };
        let Some(slot) = registration.slot(&record.key) else { return };
        // Under a lease that went in the meantime it is gone again.
        if held != Some(*lease) {
            return slot.end();
        }
        self.backoff.reset();
        let later = slot.put(record, revision);
        if again {
            slot.give_up(now, now + patience);
        }
        registration.was_complete |= registration.is_in();
        registration.backoff.reset();
        if let Some((revision, found)) = later {
            self.seen(now, &record.key, revision, false, found);
        }
    }

    /// Something else stands at the key: what, is to be looked at.
    fn conflict(&mut self, action: &Action) {
        if let Action::Put { of, record, .. } = action
            && let Some(slot) = self.registrations.get_mut(of).and_then(|registration| registration.slot(&record.key))
        {
            slot.differs();
        }
    }

    /// With the lease every record under it is gone: those that are leaving have left.
    fn lease_gone(&mut self, gone: i64) {
        if !self.tenure.gone(gone) {
            return;
        }
        for registration in self.registrations.values_mut() {
            if registration.leaving {
                registration.slots.clear();
            }
            registration.slots.retain(|slot| !slot.obsolete);
            registration.loss = Loss::Lease;
            registration.was_complete &= !registration.paused;
            let gone = if registration.paused { Slot::left } else { Slot::lease_gone };
            registration.slots.iter_mut().for_each(gone);
        }
    }

    fn failed(&mut self, now: Duration, action: &Action, trouble: Trouble) {
        let permanent = trouble == Trouble::Permanent;
        if permanent {
            self.slot_of(action).into_iter().for_each(Slot::refused);
        } else {
            self.doubt(now, action);
        }
        match action {
            // Granted anew at once the first time, and not again and again at an etcd that forgets what it grants.
            Action::Put { lease, .. } | Action::Delete { lease, .. } if trouble == Trouble::LeaseGone => {
                self.lease_gone(*lease);
            }
            Action::Put { of, .. } | Action::Delete { of, .. } | Action::Look { of, .. } if permanent => {
                if let Some(registration) = self.registrations.get_mut(of) {
                    registration.blocked = now + registration.backoff.fail(now, true);
                    if registration.leaving {
                        registration.slots.retain(Slot::may_be_there);
                    }
                }
                return;
            }
            // Nobody renews it any more: it ends by itself, also where an election has given it a second life.
            Action::Revoke { id } if self.tenure.is_long_over(now) => return self.lease_gone(*id),
            _ => {}
        }
        (self.blocked, self.refused) = (now + self.backoff.fail(now, permanent), permanent);
    }

    /// etcd answers again: what failed on the way to it is not waited for any longer.
    fn reachable(&mut self, now: Duration) {
        self.tenure.reachable(now);
        if !self.refused {
            self.blocked = self.blocked.min(now);
        }
    }

    /// A request whose outcome nobody knows: a put may arrive for as long as requests are given.
    fn doubt(&mut self, now: Duration, action: &Action) {
        let patience = self.patience().unwrap_or_default();
        if let Some(slot) = self.slot_of(action) {
            slot.end();
            match action {
                Action::Put { .. } => slot.give_up(now, now + patience),
                Action::Delete { .. } => slot.doubt(),
                _ => {}
            }
        }
    }

    /// A request that is on its way.
    pub(super) fn tried(&mut self, action: &Action) {
        match (self.slot_of(action), action) {
            (Some(slot), Action::Put { .. }) => slot.begin_put(),
            (Some(slot), Action::Look { .. }) => slot.begin_look(),
            _ => {}
        }
    }

    /// What the action is for.
    fn slot_of(&mut self, action: &Action) -> Option<&mut Slot> {
        let (Action::Put { of, record, .. } | Action::Delete { of, record, .. } | Action::Look { of, record }) = action
        else {
            return None;
        };
        self.registrations.get_mut(of)?.slot(&record.key)
    }
}
