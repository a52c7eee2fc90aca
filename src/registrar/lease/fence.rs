//! The fence against late puts: only the end of a lease. PURE.
//!
//! A put that was given up may be done at any later time, also after its registration has left, and no compare and no waiting
//! excludes that. Where it happens, the lease is left: another one is asked for, everything else that stands is put under that,
//! and then the first is revoked. Where nothing else stands under it, it is revoked at once. A lease is left in the same way where a
//! key stands under it that may not be written any more: etcd 3.7 does not renew it, and the key cannot be deleted.
//!
//! ```text
//!   current ── a put of what left may still be done ──▶ retired ── nothing that is wanted is under it ──▶ dying ──▶ revoked
//!      ▲                                                   │        (renewed until then)       (may end at any time)
//!      └──────────────── etcd grants no other ─────────────┘
//! ```

use std::time::Duration;

use crate::registrar::lease::Machine;
use crate::registrar::lease::registration::Registration;
use crate::registrar::lease::slot::KeyState;
use crate::registrar::lease::tenure::LeasePhase;
use crate::registrar::lease::vocabulary::{Conflict, Wanted};

impl Machine {
    /// Which leases are left, and which registrations are gone for good.
    pub(super) fn fence(&mut self, now: Duration) {
        self.tidy();
        if let LeasePhase::Held { id } = self.tenure.stage() {
            let is_left = if self.is_wanted() {
                let moves = now >= self.move_at && self.tenure.retired().next().is_none();
                self.may_come_back(id) && (moves || !self.keeps(id))
            } else {
                true
            };
            if is_left {
                self.tenure.retire();
            }
        }
        // From here on such a lease may end at any time.
        let empty: Vec<i64> = self.tenure.retired().filter(|id| !self.keeps(*id)).collect();
        for id in empty {
            self.tenure.give_up(id);
        }
    }

    /// When a lease that is to be left may be.
    pub(super) fn moves_at(&self, now: Duration) -> Option<Duration> {
        let waits = self.tenure.current().is_some_and(|id| self.may_come_back(id));
        (waits && now < self.move_at).then_some(self.move_at)
    }

    /// Whether a key that nobody wants may still be put under that lease.
    fn may_come_back(&self, lease: i64) -> bool {
        let unwanted = self.registrations.values().filter(|registration| !registration.is_wanted());
        let mut slots = unwanted.flat_map(|registration| &registration.slots);
        self.tenure.is_tainted(lease) || slots.any(|slot| slot.late.contains(&lease))
    }

    /// Whether anything that is wanted may stand under that lease.
    fn keeps(&self, lease: i64) -> bool {
        let wanted = self.registrations.values().filter(|registration| registration.is_wanted());
        wanted.flat_map(|registration| &registration.slots).any(|slot| slot.may_be_under(lease))
    }

    /// Forgets the keys that do not stand and are not wanted. Those that may still be put are remembered: by a registration that
    /// is leaving, or where no other lease is to be had, by the lease alone.
    fn tidy(&mut self) {
        let mut strays = Vec::new();
        for registration in self.registrations.values_mut() {
            let (leaving, given_up) = (registration.leaving, self.move_is_refused);
            if !leaving && !registration.slots.iter().any(|slot| slot.obsolete) {
                continue;
            }
            let goes = |slot: &mut KeyState| {
                let is_out = !slot.may_be_there() && (leaving || slot.obsolete);
                is_out && (!leaving || given_up || slot.late.is_empty())
            };
            for slot in registration.slots.extract_if(.., goes) {
                if leaving {
                    slot.late.iter().for_each(|lease| self.tenure.taint(*lease));
                } else if !slot.late.is_empty() {
                    strays.push(slot);
                }
            }
            registration.completes();
        }
        strays.into_iter().for_each(|slot| self.stray(slot));
    }

    /// A key that nobody wants: it goes if it carries a lease of ours.
    pub(super) fn stray(&mut self, slot: KeyState) {
        self.strays += 1;
        let wanted = Wanted { records: Vec::new(), conflict: Conflict::TakeOver, id: None, paused: false };
        let mut stray = Registration::new(wanted, vec![slot], self.backoff.random());
        stray.leaving = true;
        self.registrations.insert(self.strays, stray);
    }

    /// No other lease is to be had, or a key may not be put under it: what was left is used until that may be tried again.
    pub(super) fn refuse_move(&mut self, now: Duration) {
        self.move_is_refused = true;
        self.move_at = now + self.backoff.fail(now, true);
    }

    /// A lease is gone, and with it what stood under it, and whatever was on its way there.
    pub(super) fn lease_gone(&mut self, gone: i64) {
        if !self.tenure.gone(gone) {
            return;
        }
        self.move_is_refused = false;
        for registration in self.registrations.values_mut() {
            let stood = registration.is_partly_there();
            registration.slots.iter_mut().for_each(|slot| slot.lease_gone(gone, |id| self.tenure.is_live(id)));
            if !registration.is_wanted() {
                registration.slots.iter_mut().filter(|slot| !slot.concerns_etcd()).for_each(KeyState::left);
                registration.was_complete &= !registration.paused;
            } else if stood && registration.is_lost() {
                registration.loss = crate::registrar::lease::Loss::Lease;
            }
            registration.slots.retain(|slot| !slot.obsolete || slot.concerns_etcd());
        }
    }
}
