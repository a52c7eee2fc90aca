//! The lease machine: keeps records in etcd under one lease for as long as they are wanted. PURE.
//!
//! [`Machine::renewal`] and [`Machine::action`] say what to do next, with one hand each, so that no other request makes a
//! renewal late; [`Machine::on`] takes what came of it. The clock is an argument: the time since any fixed start, the same
//! for every call.
//!
//! ```text
//!   no lease ──wanted──▶ Granting ──▶ Held ── renewed every third of its life, records put, leaving ones deleted
//!      ▲                                │
//!      └── etcd says it is gone ────────┤      a lease is given up only when etcd says so: a renewal that fails
//!      └── revoked with its last record ┘      is tried again until then, whatever our clock says
//! ```

mod registration;
mod slot;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::registration::{Registration, Urgency};
use self::slot::{Place, Seen, Slot, Verdict};
pub use self::vocabulary::Conflict;
pub(crate) use self::vocabulary::{Action, Found, Input, Renewal, Standing, Trouble, Wanted};
use crate::backoff::Backoff;
use crate::codec::Record;

/// How long a key that may still arrive is left alone before it is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A key that may not be watched is put again so often: seldom enough for a large fleet, soon enough for a lost key.
const SWEEP: (Duration, Duration) = (Duration::from_secs(40), Duration::from_secs(60));
/// Some etcd releases lose events around compactions: every key is looked at again between these two.
const RECHECK: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));
/// The ids of keys that nobody wants begin here: a registration counts from 1.
const STRAYS: Id = Id::MAX / 2;

/// Names a registration of this machine.
pub(crate) type Id = u64;

#[derive(Debug)]
enum Lease {
    None,
    Granting { id: i64 },
    Held { id: i64, life: Duration, renew_at: Duration, ends: Duration, late: bool },
}

#[derive(Debug)]
pub(crate) struct Machine {
    seconds: i64,
    lease: Lease,
    registrations: BTreeMap<Id, Registration>,
    backoff: Backoff,
    blocked: Duration,
    renewals: Backoff,
    /// What makes a key unique, where the instance has no id.
    suffix: String,
    /// Keys that may not be watched.
    unwatchable: BTreeSet<Vec<u8>>,
    sweep_at: Duration,
    recheck_at: Duration,
    /// Counts the changes of the set of keys.
    keys: u64,
    strays: Id,
}

impl Machine {
    /// A machine that asks for leases of so many seconds.
    pub(crate) fn new(seconds: i64, seed: u64) -> Self {
        let mut backoff = Backoff::new(seed);
        let suffix = format!("{:016x}", backoff.random());
        Self {
            seconds,
            lease: Lease::None,
            registrations: BTreeMap::new(),
            backoff,
            blocked: Duration::ZERO,
            renewals: Backoff::new(!seed),
            suffix,
            unwatchable: BTreeSet::new(),
            sweep_at: Duration::MAX,
            recheck_at: Duration::MAX,
            keys: 0,
            strays: STRAYS,
        }
    }

    /// The lease in etcd, if one is held.
    pub(crate) fn lease(&self) -> Option<i64> {
        match self.lease {
            Lease::Held { id, .. } => Some(id),
            _ => None,
        }
    }

    /// How long a request may take while a lease is held: a sixth of its life. A renewal is due after a third, so that
    /// several may fail before the lease ends.
    pub(crate) fn patience(&self) -> Option<Duration> {
        match self.lease {
            Lease::Held { life, .. } => Some(life / 6),
            _ => None,
        }
    }

    /// When a lease whose renewal is late ends, by our clock: how its registrations stand changes then.
    pub(crate) fn ends(&self, now: Duration) -> Option<Duration> {
        match self.lease {
            Lease::Held { ends, late: true, .. } if now < ends => Some(ends),
            _ => None,
        }
    }

    /// Forgets what is closed, and says whether nothing is left to do.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.registrations.retain(|_, registration| !registration.is_closed());
        self.registrations.is_empty() && self.lease().is_none()
    }

    /// How a registration stands; one that is not known is closed.
    pub(crate) fn standing(&self, now: Duration, id: Id) -> Standing {
        let Some(registration) = self.registrations.get(&id) else { return Standing::Closed };
        if registration.is_closed() {
            return Standing::Closed;
        }
        if registration.paused && registration.is_out() {
            return Standing::Paused;
        }
        match self.lease {
            _ if registration.held_by().is_some() => Standing::Held,
            Lease::Held { ends, late, .. } if registration.is_there() => match late {
                true if now >= ends => Standing::Lost,
                _ if !registration.is_in() => Standing::Updating,
                true => Standing::Renewing,
                false => Standing::Registered,
            },
            _ if registration.was_registered => Standing::Lost,
            _ => Standing::Pending,
        }
    }

    /// Who has a key of this registration: the key, its lease, and the instance's id.
    pub(crate) fn held_by(&self, id: Id) -> Option<(&[u8], i64, Option<&str>)> {
        self.registrations.get(&id)?.held_by()
    }

    /// Counts the changes of [`Machine::keys`].
    pub(crate) fn keys_version(&self) -> u64 {
        self.keys
    }

    /// The keys that are to be watched.
    pub(crate) fn keys(&self) -> BTreeSet<Vec<u8>> {
        let wanted = self.registrations.values().filter(|registration| !registration.leaving);
        let keys = wanted.flat_map(|registration| &registration.slots).map(|slot| &slot.record.key);
        keys.filter(|key| !self.unwatchable.contains(*key)).cloned().collect()
    }

    /// What the lease needs. Not asked while a renewal is on its way.
    pub(crate) fn renewal(&self, now: Duration) -> Renewal {
        match self.lease {
            Lease::Held { id, renew_at, .. } if self.is_wanted() && now >= renew_at => Renewal::Now { id },
            Lease::Held { renew_at, .. } if self.is_wanted() => Renewal::At(renew_at),
            _ => Renewal::None,
        }
    }

    /// What else there is to do. Not asked while an action is on its way.
    pub(crate) fn action(&mut self, now: Duration) -> Action {
        if now < self.blocked {
            return Action::Wait { until: Some(self.blocked) };
        }
        match self.lease {
            Lease::None if self.is_wanted() => {
                let id = (self.backoff.random() >> 1).max(1).cast_signed();
                self.lease = Lease::Granting { id };
                Action::Grant { id, seconds: self.seconds }
            }
            Lease::Granting { id } if self.is_wanted() => Action::Grant { id, seconds: self.seconds },
            Lease::Held { id, .. } if !self.is_wanted() => Action::Revoke { id },
            Lease::Held { id, .. } => {
                self.review(now);
                let action = self.work(now, id);
                self.tried(&action);
                action
            }
            Lease::None | Lease::Granting { .. } => Action::Wait { until: None },
        }
    }

    /// Whether there is better to do than this action, now that registrations are leaving.
    pub(crate) fn outweighs(&self, now: Duration, action: &Action) -> bool {
        let leaves = |registration: &Registration| {
            registration.leaving && !registration.is_closed() && now >= registration.blocked
        };
        match action {
            Action::Delete { .. } | Action::Revoke { .. } => false,
            _ => self.registrations.values().any(leaves),
        }
    }

    /// Whether the action puts what is leaving: its answer is worth a short wait.
    pub(crate) fn puts_what_leaves(&self, action: &Action) -> bool {
        let leaves = |of: &Id| self.registrations.get(of).is_some_and(|registration| registration.leaving);
        matches!(action, Action::Put { of, .. } if leaves(of))
    }

    fn is_wanted(&self) -> bool {
        self.registrations.values().any(|registration| !registration.leaving)
    }

    /// What is not told is asked for now and then.
    fn review(&mut self, now: Duration) {
        if now >= self.sweep_at {
            self.sweep_at = now + self.backoff.between(SWEEP.0, SWEEP.1);
            let unwatchable = &self.unwatchable;
            let slots = self.registrations.values_mut().flat_map(|registration| &mut registration.slots);
            slots.filter(|slot| unwatchable.contains(&slot.record.key)).for_each(|slot| slot.sweep = true);
        }
        if now >= self.recheck_at {
            self.recheck_at = now + self.backoff.between(RECHECK.0, RECHECK.1);
            self.registrations.values_mut().flat_map(|registration| &mut registration.slots).for_each(Slot::recheck);
        }
    }

    /// The most urgent of what is to be done.
    fn work(&self, now: Duration, lease: i64) -> Action {
        let mut wake = self.sweep_at.min(self.recheck_at);
        let mut first: Option<(Urgency, Id, &Slot, Option<i64>)> = None;
        for (&of, registration) in &self.registrations {
            let Some((urgency, slot)) = registration.next() else { continue };
            if now < registration.blocked {
                wake = wake.min(registration.blocked);
            } else if first.as_ref().is_none_or(|(most, ..)| urgency < *most) {
                let expected = (registration.conflict != Conflict::TakeOver).then_some(slot.expected);
                first = Some((urgency, of, slot, expected));
            }
        }
        let Some((urgency, of, slot, expected)) = first else {
            return Action::Wait { until: (wake < Duration::MAX).then_some(wake) };
        };
        let record = slot.record.clone();
        match urgency {
            Urgency::Leave | Urgency::Pause | Urgency::Tidy => Action::Delete { of, record, lease },
            // What stands and is not watched is put again as it is, whoever may have it.
            Urgency::Put if slot.place == Place::In => Action::Put { of, record, lease, expected: None },
            Urgency::Put => Action::Put { of, record, lease, expected },
            Urgency::Look | Urgency::Check => Action::Look { of, record },
        }
    }

    /// Takes what happened; `action` is what it happened to.
    pub(crate) fn on(&mut self, now: Duration, action: &Action, input: Input) {
        match input {
            Input::Wanted { id, wanted } => self.wanted(id, wanted),
            Input::Updated { id, wanted } => self.updated(id, wanted),
            Input::Leaving { id } => self.leaving(id),
            Input::Granted { asked, seconds } => self.granted(asked, seconds),
            Input::Renewed { id, asked, seconds } => self.renewed(id, asked, seconds),
            Input::RenewalFailed { id, trouble } => self.renewal_failed(now, id, trouble),
            Input::Put { revision } => self.put(now, action, revision),
            Input::Conflict => self.conflict(action),
            Input::Done => self.done(action),
            Input::Failed(trouble) => self.failed(now, action, trouble),
            Input::NotThere => self.not_there(now, action),
            Input::BrokenOff => self.doubt(now, action),
            Input::Watched { key } => {
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
        let lease = self.lease();
        for registration in self.registrations.values_mut() {
            let (paused, conflict, leaving) = (registration.paused, registration.conflict, registration.leaving);
            let id = registration.id.clone();
            let Some(slot) = registration.slot(key) else { continue };
            if leaving {
                return;
            }
            let suffix = id.as_deref().unwrap_or(&self.suffix);
            let seen = Seen { revision, looked, lease, paused, conflict, id: id.as_deref(), suffix };
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

    fn granted(&mut self, asked: Duration, granted: Option<i64>) {
        if let Lease::Granting { id } = self.lease {
            let life = seconds(granted.unwrap_or(self.seconds));
            // A lease that was there already is renewed at once: only that tells its life.
            let renew_at = if granted.is_some() { self.next_renewal(asked, life) } else { asked };
            self.lease = Lease::Held { id, life, renew_at, ends: asked + life, late: false };
            self.renewals.reset();
        }
    }

    fn renewed(&mut self, renewed: i64, asked: Duration, granted: i64) {
        if self.lease() == Some(renewed) {
            let life = seconds(granted);
            let renew_at = self.next_renewal(asked, life);
            self.lease = Lease::Held { id: renewed, life, renew_at, ends: asked + life, late: false };
            self.renewals.reset();
        }
    }

    /// A third of the life later, a little earlier by chance, so that a fleet does not renew in step.
    fn next_renewal(&mut self, asked: Duration, life: Duration) -> Duration {
        asked + self.renewals.between(life / 10 * 3, life / 3)
    }

    fn renewal_failed(&mut self, now: Duration, failed: i64, trouble: Trouble) {
        if trouble == Trouble::LeaseGone {
            return self.lease_gone(failed);
        }
        let wait = self.renewals.fail(now, trouble == Trouble::Permanent);
        if let Lease::Held { id, life, renew_at, late, .. } = &mut self.lease
            && *id == failed
        {
            // However slow, often enough that a short lease is not lost to the waiting.
            (*renew_at, *late) = (now + wait.min(*life / 6), true);
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
        if self.lease() != Some(gone) {
            return;
        }
        self.lease = Lease::None;
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
            Action::Revoke { id } if self.has_ended(now) => return self.lease_gone(*id),
            _ => {}
        }
        self.blocked = now + self.backoff.fail(now, permanent);
    }

    fn has_ended(&self, now: Duration) -> bool {
        matches!(self.lease, Lease::Held { ends, life, .. } if now >= ends + life)
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
    fn tried(&mut self, action: &Action) {
        if let Action::Put { of, record, .. } = action
            && let Some(registration) = self.registrations.get_mut(of)
        {
            registration.slot(&record.key).into_iter().for_each(Slot::begin_put);
        }
    }
}

/// A life as etcd may grant it: 9 000 000 000 s at most.
fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(1, 9_000_000_000).cast_unsigned())
}

#[cfg(test)]
mod tests;
