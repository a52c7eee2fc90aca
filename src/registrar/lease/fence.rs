//! The fence against late puts: the end of a lease. PURE.
//!
//! A put without an answer is a *late put*: etcd may apply it at any later time, also after its
//! registration has left. No comparison and no waiting excludes that; etcd refuses it only once its
//! lease has ended. So when a registration leaves (or pauses) while a put of it may be late, the
//! lease is replaced: another lease is granted, the keys of all other registrations are put under
//! it, and then the first lease is revoked. A lease that no other key needs is revoked at once.
//!
//! A lease is also replaced if it holds a key that the role may not write any more: etcd 3.7 does
//! not renew it, and the key cannot be deleted, so it must end with the lease.
//!
//! ```text
//!   current ── a late put, or a refused key ─────▶ retired ── no desired key under it ──▶ released ──▶ revoked
//!      ▲                                            │         (renewed until then)    (may end at any time)
//!      └────────── etcd grants no other lease ──────┘
//! ```

use std::time::Duration;

use crate::registrar::lease::key::KeyState;
use crate::registrar::lease::leases::LeasePhase;
use crate::registrar::lease::machine::Machine;
use crate::registrar::lease::vocabulary::{Id, Loss};

impl Machine {
    /// Brings whatever was touched in order, retires and releases leases as described above, and forgets who is closed.
    /// Runs before each action and after each input.
    pub(super) fn fence(&mut self, now: Duration) {
        while let Some(id) = self.registrations.next_touched() {
            self.forget_absent_keys(id);
            self.registrations.settle(id);
            self.file(now, id);
        }
        if let LeasePhase::Held { id } = self.leases.phase() {
            let retires = if self.has_registrations() {
                // One move at a time, unless no key has to move.
                let may_move = now >= self.move_not_before && self.leases.retired().next().is_none();
                self.must_end(id) && (may_move || !self.is_needed(id))
            } else {
                true
            };
            if retires {
                self.leases.retire();
            }
        }
        let unneeded: Vec<i64> = self.leases.retired().filter(|id| !self.is_needed(*id)).collect();
        unneeded.into_iter().for_each(|id| self.leases.release(id));
        if self.due.follow(&self.leases) {
            self.registrations.ids().into_iter().for_each(|id| self.file(now, id));
        }
        self.registrations.forget_closed();
    }

    /// Files the work of a registration anew.
    pub(super) fn file(&mut self, now: Duration, id: Id) {
        self.due.file(id, self.registrations.get(id), &self.leases, &self.pending, now);
    }

    /// When the current lease may be retired, if it has to be and a refusal delays it.
    pub(super) fn next_move(&self, now: Duration) -> Option<Duration> {
        let waits = self.leases.current().is_some_and(|id| self.must_end(id));
        (waits && now < self.move_not_before).then_some(self.move_not_before)
    }

    /// Whether only the end of the lease settles something: a late put of an undesired key, or a
    /// refused key.
    fn must_end(&self, lease: i64) -> bool {
        self.leases.must_end(lease) || self.registrations.has_late_put(lease)
    }

    /// Whether a desired key may be under the lease.
    fn is_needed(&self, lease: i64) -> bool {
        self.registrations.needs(lease)
    }

    /// Forgets the keys of a registration that are neither present nor desired. A key with a late put is remembered by a
    /// registration that is leaving; if etcd grants no other lease, only the lease remembers it, so
    /// that leaving can complete.
    fn forget_absent_keys(&mut self, id: Id) {
        let move_refused = self.move_refused;
        let Some(registration) = self.registrations.get_mut(id) else { return };
        let leaving = registration.leaving;
        if !leaving && !registration.keys.iter().any(|key| key.obsolete) {
            return;
        }
        let is_forgotten = |key: &mut KeyState| {
            let is_absent = !key.may_exist() && (leaving || key.obsolete);
            is_absent && (!leaving || move_refused || key.late_puts.is_empty())
        };
        let forgotten: Vec<KeyState> = registration.keys.extract_if(.., is_forgotten).collect();
        registration.update_was_complete();
        for key in forgotten {
            if leaving {
                key.late_puts.iter().for_each(|lease| self.leases.set_must_end(*lease));
            } else if !key.late_puts.is_empty() {
                self.add_orphan(key);
            }
        }
    }

    /// etcd refused another lease or a put under it: the lease that was to be replaced is used
    /// until the next attempt.
    pub(super) fn refuse_move(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.move_refused, true) {
            // Who leaves may forget keys with late puts from here on.
            self.registrations.ids().into_iter().for_each(|id| self.registrations.touch(id));
        }
        self.move_not_before = now + self.backoff.fail(now, true);
    }

    /// A lease has ended: its keys are gone, and late puts under it will be refused.
    pub(super) fn lease_ended(&mut self, ended: i64) {
        if !self.leases.remove(ended) {
            return;
        }
        self.move_refused = false;
        for id in self.registrations.ids() {
            let Some(registration) = self.registrations.get_mut(id) else { continue };
            let existed = registration.partly_exists();
            registration.keys.iter_mut().for_each(|key| key.lease_ended(ended, |id| self.leases.is_live(id)));
            if !registration.is_desired() {
                registration.keys.iter_mut().filter(|key| !key.may_ever_exist()).for_each(KeyState::removed);
                registration.was_complete &= !registration.paused;
            } else if existed && registration.is_lost() {
                registration.loss = Loss::Lease;
            }
            registration.keys.retain(|key| !key.obsolete || key.may_ever_exist());
        }
    }
}
