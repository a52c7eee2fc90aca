//! The inputs of the lease machine: what each one changes. PURE.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::Record;
use crate::registrar::lease::key::{KeyState, KeyStatus, Observation, Reaction};
use crate::registrar::lease::machine::Machine;
use crate::registrar::lease::registrations::TrackedRegistration;
use crate::registrar::lease::vocabulary::{Action, Conflict, Desired, FailureKind, Id, Input, KeyValue, Loss};

impl Machine {
    /// Applies an input. `action` is the request that it answers, or [`Action::Wait`] if it answers
    /// none.
    pub(crate) fn on(&mut self, now: Duration, action: &Action, input: Input) {
        let began = self.pending.end(action).unwrap_or(now);
        if let Some(record) = action.record() {
            self.registrations.touch_key(&record.key);
        }
        self.apply(now, action, began, input);
        self.fence(now);
    }

    /// Dispatches the input. `began` is when the request was sent; failures of one outage are told
    /// from later ones by it.
    fn apply(&mut self, now: Duration, action: &Action, began: Duration, input: Input) {
        match input {
            Input::Added { id, desired } => self.added(id, desired),
            Input::Updated { id, desired } => self.updated(id, desired),
            Input::Leaving { id } => self.leaving(id),
            Input::Granted { asked, seconds } => self.leases.granted(asked, seconds),
            Input::Renewed { lease, asked, seconds } => self.leases.renewed(lease, asked, seconds),
            Input::RenewalFailed { lease, failure: FailureKind::LeaseGone } => self.lease_ended(lease),
            Input::RenewalFailed { lease, failure } => self.leases.renewal_failed(now, lease, failure),
            // The other keys move to another lease before this one ends.
            Input::LeaseRefused { lease } => self.leases.renewal_refused(lease),
            Input::Put { revision, retried } => self.put_applied(now, action, revision, retried),
            Input::PutMismatch { retried } => self.put_mismatch(action, retried),
            Input::Removed => self.removed(action),
            Input::DeleteMismatch => self.key_of(action).into_iter().for_each(KeyState::mismatch),
            Input::Failed(failure) => self.failed(now, action, began, failure),
            Input::Abandoned => self.outcome_unknown(action),
            Input::Watched { key, new_watch } => {
                self.connected(now);
                self.registrations.watch_created(&key);
                self.registrations.change_staying(&key, |state| state.watched(new_watch));
                self.schedule_recheck(now);
            }
            // It is refreshed instead, and the watch is tried again with each refresh.
            Input::WatchDenied { key } => {
                self.registrations.deny_watch(key);
                self.schedule_refresh(now);
            }
            // Until the watch is created, no event tells what becomes of this key: it is refreshed like one that is denied.
            Input::WatchDelayed { key } => {
                if self.registrations.delay_watch(key) {
                    self.schedule_refresh(now);
                }
            }
            Input::WatchLost { key } => self.registrations.change_all(&key, KeyState::watch_lost),
            Input::Connected => self.connected(now),
            Input::Observed { key, revision, found } => {
                self.observed(now, &key, revision, matches!(action, Action::Read { .. }), found);
            }
        }
    }

    /// Adds a registration. Its keys may be in etcd already, under a registration that leaves or
    /// has moved: then it adopts them.
    fn added(&mut self, id: Id, desired: Desired) {
        let keys = desired.records.iter().cloned().map(KeyState::new).collect();
        let registration = TrackedRegistration::new(desired, keys, self.backoff.random());
        self.registrations.insert(id, registration);
        self.adopt_keys(id);
    }

    /// Applies another desired state. Keys that it no longer names stay until their replacements
    /// exist, and may be adopted by another registration.
    fn updated(&mut self, id: Id, desired: Desired) {
        let Some(registration) = self.registrations.get_mut(id).filter(|registration| !registration.leaving) else {
            return;
        };
        registration.update(desired);
        registration.update_was_complete();
        if registration.paused {
            // One attempt to remove it starts at once, whatever failed before.
            self.blocked_until = Duration::ZERO;
        } else {
            for key in &mut registration.keys {
                key.keep(self.pending.removes(&key.record.key), |lease| self.leases.is_released(lease));
            }
        }
        self.adopt_keys(id);
        self.hand_over_keys(id);
    }

    /// Gives a registration the state of keys that it desires and that another registration no
    /// longer does: such a key stays in etcd and is put again. So each key has one owner.
    fn adopt_keys(&mut self, id: Id) {
        let Some(registration) = self.registrations.get(id) else { return };
        let new = registration.keys.iter().filter(|key| key.status == KeyStatus::Absent && !key.obsolete);
        let new: Vec<Arc<Record>> = new.map(|key| key.record.clone()).collect();
        for record in new {
            for other in self.registrations.owners(&record.key).into_iter().filter(|other| *other != id) {
                let Some(other) = self.registrations.get_mut(other) else { continue };
                let leaving = other.leaving;
                let is_adopted = |key: &mut KeyState| (leaving || key.obsolete) && key.record.key == record.key;
                let adopted: Vec<KeyState> = other.keys.extract_if(.., is_adopted).collect();
                let Some(registration) = self.registrations.get_mut(id) else { return };
                for old in adopted {
                    if let Some(key) = registration.key_mut(&record.key) {
                        key.inherit(old);
                    }
                }
            }
        }
    }

    /// Gives the keys that a registration no longer desires to registrations that do. Those may
    /// have been added earlier: the order in which a key is given up and taken must not matter.
    fn hand_over_keys(&mut self, id: Id) {
        let Some(registration) = self.registrations.get(id) else { return };
        let given_up = registration.keys.iter().filter(|key| registration.leaving || key.obsolete);
        let given_up: Vec<Arc<Record>> = given_up.map(|key| key.record.clone()).collect();
        let mut takers = BTreeSet::new();
        for record in given_up {
            let others = self.registrations.staying(&record.key).into_iter().filter(|other| *other != id);
            takers.extend(others.filter(|other| {
                let other = self.registrations.get(*other);
                other.is_some_and(|other| other.keys.iter().any(|key| !key.obsolete && key.record.key == record.key))
            }));
        }
        takers.into_iter().for_each(|id| self.adopt_keys(id));
    }

    /// Marks a registration as leaving. The next actions remove its keys, at once and before
    /// anything else.
    fn leaving(&mut self, id: Id) {
        let has_lease = !self.leases.is_empty();
        let Some(registration) = self.registrations.get_mut(id) else { return };
        registration.leaving = true;
        registration.try_now();
        // A key that was never put under a live lease is not in etcd, and one that another instance holds is not ours.
        registration.keys.retain(|key| has_lease && key.may_ever_exist());
        // One attempt to remove it starts at once, whatever failed before.
        self.blocked_until = Duration::ZERO;
        self.hand_over_keys(id);
    }

    /// A key was read or a watch event came.
    fn observed(&mut self, now: Duration, key: &[u8], revision: i64, is_read: bool, found: Option<KeyValue>) {
        let owners = self.registrations.owners(key);
        let is_last_choice = |id: &Id| self.registrations.get(*id).is_none_or(|registration| registration.leaving);
        let owner = owners.into_iter().min_by_key(is_last_choice);
        let leases = &self.leases;
        let owner = owner.and_then(|owner| Some((owner, self.registrations.get_mut(owner)?)));
        let Some((owner, registration)) = owner else {
            // A late put of a forgotten key has arrived.
            if let Some(found) = found.filter(|found| leases.is_live(found.lease)) {
                self.add_orphan(KeyState::orphan(key, found));
            }
            return;
        };
        let (is_unwanted, leaving, id) = (!registration.is_desired(), registration.leaving, registration.id.clone());
        let conflict = if leaving { Conflict::TakeOver } else { registration.conflict };
        let Some(state) = registration.key_mut(key) else { return };
        let suffix = id.as_deref().unwrap_or(&self.unique_suffix);
        let observation = Observation { revision, is_read, leases, is_unwanted, conflict, id: id.as_deref(), suffix };
        let (existed, deleted) = (state.exists(), found.is_none());
        let reaction = state.observe(observation, found);
        let deferred = is_read.then(|| state.take_deferred(revision)).flatten();
        if existed && state.is_lost() {
            state.needs_repair = matches!(reaction, Reaction::Repair) && !is_unwanted;
            let key = key.to_vec();
            registration.loss = if deleted { Loss::Deleted(key) } else { Loss::Overwritten(key) };
        }
        registration.update_was_complete();
        if is_read && is_unwanted && registration.is_absent(false) {
            registration.was_complete &= !registration.paused;
        }
        match reaction {
            Reaction::Repair if !is_unwanted => registration.repair(now),
            Reaction::KeyChanged { old } => {
                if !old.late_puts.is_empty() {
                    self.add_orphan(*old);
                }
                self.adopt_keys(owner);
            }
            Reaction::Repair | Reaction::None => {}
        }
        if let Some((revision, found)) = deferred {
            self.observed(now, key, revision, false, found);
        }
    }

    /// A delete or a revocation was applied.
    fn removed(&mut self, action: &Action) {
        match action {
            Action::Delete { id, expected, .. } => {
                self.backoff.reset();
                // If the watch has shown a later revision since, a later put made it.
                if let Some(key) = self.key_of(action).filter(|key| key.expected == *expected) {
                    key.removed();
                    if let Some(registration) = self.registrations.get_mut(*id) {
                        registration.was_complete &= !registration.paused;
                    }
                }
            }
            Action::Revoke { lease } => self.lease_ended(*lease),
            Action::Put { .. } | Action::Read { .. } | Action::Grant { .. } | Action::Wait { .. } => {}
        }
    }

    /// etcd has applied a put. If the key has no owner any more, it becomes an orphan, which is
    /// removed. If the task had sent the put twice, the second one may still arrive, so it counts
    /// as late.
    fn put_applied(&mut self, now: Duration, action: &Action, revision: i64, retried: bool) {
        let Action::Put { id, record, lease, .. } = action else { return };
        let is_live = self.leases.is_live(*lease);
        let Some(key) = self.key_of(action) else {
            // Nobody desires the key any more.
            if is_live {
                self.leases.set_must_end(*lease);
                let value = record.value.clone();
                self.add_orphan(KeyState::orphan(&record.key, KeyValue { lease: *lease, revision, value, id: None }));
            }
            return;
        };
        // If the lease has ended meanwhile, so has the key.
        if !is_live {
            return key.outcome_unknown();
        }
        let was_repaired = std::mem::take(&mut key.needs_repair);
        let deferred = key.put_applied(record, *lease, revision);
        if retried {
            key.add_late_put(*lease);
        }
        if self.leases.is_released(*lease) {
            // It was undesired for a moment, and the lease is being revoked since.
            for owner in self.registrations.owners(&record.key) {
                let owner = self.registrations.get_mut(owner).filter(|registration| registration.is_desired());
                let key = owner.and_then(|registration| registration.key_mut(&record.key)).filter(|key| !key.obsolete);
                if let Some(key) = key {
                    key.keep(false, |lease| self.leases.is_released(lease));
                    break;
                }
            }
        }
        self.repaired.extend(was_repaired.then_some(*id));
        self.backoff.reset();
        if let Some(registration) = self.registrations.get_mut(*id) {
            registration.put_applied();
        }
        if let Some((revision, found)) = deferred {
            self.observed(now, &record.key, revision, false, found);
        }
    }

    /// The key was not as the put expected it: it has to be read.
    fn put_mismatch(&mut self, action: &Action, retried: bool) {
        if retried {
            self.outcome_unknown(action);
        }
        // Under a lease that has ended there is nothing to read.
        let is_live = matches!(action, Action::Put { lease, .. } if self.leases.is_live(*lease));
        if let Some(key) = self.key_of(action) {
            if is_live || key.may_exist() {
                key.mismatch();
            } else {
                key.outcome_unknown();
            }
        }
    }

    /// A request has failed. Sets what is known of its key, and what is delayed:
    ///
    /// - A failure that needs an operator delays the grant, the revocation, or the registration
    ///   that it concerns.
    /// - A lost lease is replaced at once the first time.
    /// - Any other failure is one of etcd as a whole, and delays all requests but renewals.
    fn failed(&mut self, now: Duration, action: &Action, began: Duration, failure: FailureKind) {
        if failure.may_be_applied() {
            self.outcome_unknown(action);
        } else {
            self.key_of(action).into_iter().for_each(KeyState::refused);
        }
        match action {
            Action::Grant { .. } if failure.is_permanent() => {
                if self.leases.reinstate() {
                    self.refuse_move(now);
                } else {
                    self.grant_not_before = now + self.backoff.fail(now, true);
                }
                return;
            }
            // It is not renewed, so it has ended even if etcd cannot confirm the revocation.
            Action::Revoke { lease } if self.leases.has_surely_expired(*lease, now) => return self.lease_ended(*lease),
            Action::Revoke { lease } if failure.is_permanent() => {
                return self.leases.revoke_later(*lease, now + self.backoff.fail(now, true));
            }
            // The backoff below lets the first grant start at once, and slows down an etcd that forgets each lease.
            Action::Put { lease, .. } | Action::Delete { lease, .. } if failure == FailureKind::LeaseGone => {
                self.lease_ended(*lease);
            }
            Action::Put { id, .. } | Action::Delete { id, .. } | Action::Read { id, .. } if failure.is_permanent() => {
                return self.key_refused(now, *id, action);
            }
            _ => {}
        }
        // Requests that were in flight together count as one failure.
        if began >= self.failed_at {
            self.failed_at = now;
            self.blocked_until = now + self.backoff.fail(now, false);
        }
    }

    /// A failure that needs an operator delays this registration and no other.
    fn key_refused(&mut self, now: Duration, id: Id, action: &Action) {
        let is_read = matches!(action, Action::Read { .. });
        if is_read {
            self.key_of(action).into_iter().for_each(KeyState::read_refused);
        }
        let Some(registration) = self.registrations.get_mut(id) else { return };
        if let (Action::Delete { lease, .. }, false) = (action, registration.is_desired()) {
            // The key ends with its lease, which the other keys leave.
            self.leases.set_must_end(*lease);
        }
        // If the read came before a delete, the delete is sent without it: at once the first time.
        let is_urgent = is_read && !registration.is_desired();
        registration.refused(now, is_urgent);
        if matches!(action, Action::Put { .. }) && self.leases.retired().next().is_some() {
            self.refuse_move(now);
        }
    }

    /// etcd answers again: retries of requests that failed on the way start now.
    fn connected(&mut self, now: Duration) {
        self.leases.connected(now);
        self.blocked_until = self.blocked_until.min(now);
    }

    /// The outcome of a request is unknown. A put becomes a late put: it may be applied while its
    /// lease lives.
    fn outcome_unknown(&mut self, action: &Action) {
        let late_put = match action {
            Action::Put { lease, .. } if self.leases.is_live(*lease) => Some(*lease),
            _ => None,
        };
        if let Some(key) = self.key_of(action) {
            key.outcome_unknown();
            late_put.into_iter().for_each(|lease| key.add_late_put(lease));
            if let Action::Delete { expected, .. } = action {
                key.delete_unknown(*expected);
            }
        } else {
            late_put.into_iter().for_each(|lease| self.leases.set_must_end(lease));
        }
    }

    /// A request is sent.
    pub(super) fn begin(&mut self, action: &Action) {
        if let Some(record) = action.record() {
            self.registrations.touch_key(&record.key);
        }
        match (self.key_of(action), action) {
            (Some(key), Action::Put { lease, .. }) => key.begin_put(*lease),
            (Some(key), Action::Read { .. }) => key.begin_read(),
            _ => {}
        }
    }

    /// The key that a request is for, also if another registration has adopted it since.
    fn key_of(&mut self, action: &Action) -> Option<&mut KeyState> {
        let (Action::Put { id, record, .. } | Action::Delete { id, record, .. } | Action::Read { id, record }) = action
        else {
            return None;
        };
        let owner = match self.registrations.get(*id) {
            Some(registration) if registration.has_key(&record.key) => *id,
            _ => *self.registrations.owners(&record.key).first()?,
        };
        self.registrations.get_mut(owner)?.key_mut(&record.key)
    }
}
