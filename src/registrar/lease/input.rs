//! The lease machine's other door: what happened, and what it means. PURE.

use std::sync::Arc;
use std::time::Duration;

use super::registration::Registration;
use super::slot::{Place, Seen, Slot, Verdict};
use super::vocabulary::{Action, Conflict, Found, Input, Trouble, Wanted};
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
            Input::Put { revision } => self.put(now, action, revision),
            Input::Conflict => self.conflict(action),
            Input::Done => self.done(action),
            Input::Failed(trouble) => self.failed(now, action, trouble),
            Input::NotThere => self.not_there(now, action),
            Input::BrokenOff => self.doubt(now, action),
            Input::Watched { key } => {
                self.reachable(now);
                self.slots_of(&key).for_each(Slot::watched);
                if self.recheck_at == Duration::MAX {
                    self.recheck_at = now + self.backoff.between(RECHECK.0, RECHECK.1);
                }
            }
            Input::Unwatchable { key } => self.not_watchable(now, key),
            Input::Unwatched => self.unwatched(),
            Input::Seen { key, revision, found } => {
                self.seen(now, &key, revision, matches!(action, Action::Look { .. }), found);
            }
        }
    }

    fn wanted(&mut self, id: Id, wanted: Wanted) {
        let mut slots: Vec<_> = wanted.records.iter().cloned().map(Slot::new).collect();
        // A key that is leaving and wanted again stays where it is, and is written anew.
        for other in self.registrations.values_mut().filter(|registration| registration.leaving) {
            other.slots.retain(|left| match slots.iter_mut().find(|slot| slot.record.key == left.record.key) {
                Some(slot) => {
                    slot.place = Place::Tried;
                    false
                }
                None => true,
            });
        }
        let seeds = [self.backoff.random(), self.backoff.random()];
        self.registrations.insert(id, Registration::new(wanted, slots, seeds));
        self.keys += 1;
    }

    fn updated(&mut self, id: Id, wanted: Wanted) {
        if let Some(registration) = self.registrations.get_mut(&id).filter(|registration| !registration.leaving) {
            registration.paused = wanted.paused;
            registration.update(wanted.records, wanted.id);
            self.keys += 1;
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
        self.keys += 1;
        if self.sweep_at == Duration::MAX {
            self.sweep_at = now + self.backoff.between(SWEEP.0, SWEEP.1);
        }
    }

    fn unwatched(&mut self) {
        self.registrations.values_mut().flat_map(|registration| &mut registration.slots).for_each(Slot::unwatched);
    }

    fn seen(&mut self, now: Duration, key: &[u8], revision: i64, looked: bool, found: Option<Found>) {
        let (lease, former) = (self.tenure.id(), self.tenure.former());
        for registration in self.registrations.values_mut() {
            let (paused, conflict, leaving) = (registration.paused, registration.conflict, registration.leaving);
            let id = registration.id.clone();
            let Some(slot) = registration.slot(key) else { continue };
            if leaving {
                return;
            }
            let suffix = id.as_deref().unwrap_or(&self.suffix);
            let seen = Seen { revision, looked, lease, former, paused, conflict, id: id.as_deref(), suffix };
            let verdict = slot.see(seen, found);
            if verdict == Verdict::Repair && !paused {
                registration.repair(now);
            }
            if verdict == Verdict::Moved {
                self.keys += 1;
            }
            return;
        }
        // A put that was given up long ago may arrive after all: nobody wants it any more.
        if let Some(found) = found.filter(|found| Some(found.lease) == lease) {
            self.strays += 1;
            let wanted = Wanted { records: Vec::new(), conflict: Conflict::TakeOver, id: None, paused: false };
            let mut slot = Slot::new(Arc::new(Record::new(key, found.value)));
            slot.place = Place::Tried;
            let mut stray = Registration::new(wanted, vec![slot], [self.backoff.random(), self.backoff.random()]);
            stray.leaving = true;
            self.registrations.insert(self.strays, stray);
        }
    }

    fn done(&mut self, action: &Action) {
        match action {
            Action::Delete { of, record, .. } => {
                self.backoff.reset();
                if let Some(registration) = self.registrations.get_mut(of) {
                    let gone = |slot: &Slot| slot.record.key == record.key;
                    if registration.leaving {
                        registration.slots.retain(|slot| !gone(slot));
                    }
                    registration.slots.retain(|slot| !gone(slot) || !slot.obsolete);
                    registration.slots.iter_mut().filter(|slot| gone(slot)).for_each(Slot::lease_gone);
                }
            }
            Action::Revoke { id } => self.lease_gone(*id),
            Action::Put { .. } | Action::Look { .. } | Action::Grant { .. } | Action::Wait { .. } => {}
        }
    }

    fn put(&mut self, now: Duration, action: &Action, revision: i64) {
        let held = self.lease();
        let Action::Put { of, record, lease, .. } = action else { return };
        let Some(registration) = self.registrations.get_mut(of) else { return };
        let Some(slot) = registration.slot(&record.key) else { return };
        // Under a lease that went in the meantime it is gone again.
        if held != Some(*lease) {
            return slot.end_put();
        }
        self.backoff.reset();
        let later = slot.put(record, revision);
        registration.was_registered |= registration.is_in();
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
            slot.end_put();
            if slot.needs_put() {
                slot.place = Place::Unknown;
            }
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
            registration.slots.iter_mut().for_each(Slot::lease_gone);
        }
    }

    fn failed(&mut self, now: Duration, action: &Action, trouble: Trouble) {
        self.doubt(now, action);
        let permanent = trouble == Trouble::Permanent;
        match action {
            // Granted anew at once the first time, and not again and again at an etcd that forgets what it grants.
            Action::Put { lease, .. } | Action::Delete { lease, .. } if trouble == Trouble::LeaseGone => {
                self.lease_gone(*lease);
            }
            Action::Put { of, .. } | Action::Delete { of, .. } | Action::Look { of, .. } if permanent => {
                if let Some(registration) = self.registrations.get_mut(of) {
                    registration.blocked = now + registration.backoff.fail(now, true);
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

    /// What was to be deleted was not there: another has put the key since, or a put of ours is still on its way.
    fn not_there(&mut self, now: Duration, action: &Action) {
        if let Action::Delete { of, record, .. } = action
            && let Some(registration) = self.registrations.get_mut(of)
        {
            let doubt = now < registration.doubt;
            if registration.slot(&record.key).is_some_and(|slot| slot.place == Place::Tried) && doubt {
                registration.blocked = now + LOOK_AGAIN;
                return;
            }
            self.done(action);
        }
    }

    /// A put whose outcome nobody knows: it may arrive for as long as requests are given.
    fn doubt(&mut self, now: Duration, action: &Action) {
        let patience = self.patience().unwrap_or_default();
        if let Action::Put { of, record, .. } = action
            && let Some(registration) = self.registrations.get_mut(of)
        {
            registration.doubt = now + patience;
            registration.slot(&record.key).into_iter().for_each(Slot::end_put);
        }
    }

    /// A put that is on its way.
    pub(super) fn tried(&mut self, action: &Action) {
        if let Action::Put { of, record, .. } = action
            && let Some(registration) = self.registrations.get_mut(of)
        {
            registration.slot(&record.key).into_iter().for_each(Slot::begin_put);
        }
    }
}
