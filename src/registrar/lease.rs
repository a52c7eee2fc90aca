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
mod vocabulary;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use self::registration::{Place, Registration};
pub(crate) use self::vocabulary::{Action, Input, Renewal, Standing, Trouble};
use crate::backoff::Backoff;
use crate::codec::Record;

/// How long a key that may still arrive is left alone before it is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
}

impl Machine {
    /// A machine that asks for leases of so many seconds.
    pub(crate) fn new(seconds: i64, seed: u64) -> Self {
        Self {
            seconds,
            lease: Lease::None,
            registrations: BTreeMap::new(),
            backoff: Backoff::new(seed),
            blocked: Duration::ZERO,
            renewals: Backoff::new(!seed),
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
        match self.lease {
            Lease::Held { ends, late, .. } if registration.is_in() => match late {
                false => Standing::Registered,
                true if now < ends => Standing::Renewing,
                true => Standing::Lost,
            },
            _ if registration.was_registered => Standing::Lost,
            _ => Standing::Pending,
        }
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
                let action = self.work(now, id);
                // From here on it may arrive, whatever becomes of the request.
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

    /// The first record that is not where it should be; what leaves goes first.
    fn work(&self, now: Duration, lease: i64) -> Action {
        let mut wake: Option<Duration> = None;
        for leaving in [true, false] {
            for (&of, registration) in self.registrations.iter().filter(|(_, r)| r.leaving == leaving) {
                let Some(record) = registration.misplaced() else { continue };
                if now < registration.blocked {
                    wake = Some(wake.map_or(registration.blocked, |wake| wake.min(registration.blocked)));
                    continue;
                }
                let record = record.clone();
                if leaving {
                    return Action::Delete { of, record, lease };
                }
                return Action::Put { of, record, lease };
            }
        }
        Action::Wait { until: wake }
    }

    /// Takes what happened; `action` is what it happened to.
    pub(crate) fn on(&mut self, now: Duration, action: &Action, input: Input) {
        match input {
            Input::Wanted { id, records } => self.wanted(id, records),
            Input::Leaving { id } => self.leaving(id),
            Input::Granted { asked, seconds } => self.granted(asked, seconds),
            Input::Renewed { id, asked, seconds } => self.renewed(id, asked, seconds),
            Input::RenewalFailed { id, trouble } => self.renewal_failed(now, id, trouble),
            Input::Done => self.done(action),
            Input::Failed(trouble) => self.failed(now, action, trouble),
            Input::NotThere => self.not_there(now, action),
            Input::BrokenOff => self.doubt(now, action),
        }
    }

    fn wanted(&mut self, id: Id, records: Vec<Arc<Record>>) {
        let mut records: Vec<_> = records.into_iter().map(|record| (record, Place::Out)).collect();
        // A key that is leaving and wanted again stays where it is, and is written anew.
        for other in self.registrations.values_mut().filter(|registration| registration.leaving) {
            other.records.retain(|(record, _)| match records.iter_mut().find(|(wanted, _)| wanted.key == record.key) {
                Some((_, place)) => {
                    *place = Place::Tried;
                    false
                }
                None => true,
            });
        }
        let backoff = Backoff::new(self.backoff.random());
        let registration = Registration {
            records,
            leaving: false,
            was_registered: false,
            backoff,
            blocked: Duration::ZERO,
            doubt: Duration::ZERO,
        };
        self.registrations.insert(id, registration);
    }

    fn leaving(&mut self, id: Id) {
        let held = self.lease().is_some();
        if let Some(registration) = self.registrations.get_mut(&id) {
            registration.leaving = true;
            registration.blocked = Duration::ZERO;
            // What was never tried under a lease that lives is not there.
            registration.records.retain(|(_, place)| held && *place != Place::Out);
            // What follows is one attempt at once, whatever failed before.
            self.blocked = Duration::ZERO;
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
            Action::Put { of, record, lease } => {
                // Under a lease that went in the meantime it is gone again.
                if self.lease() == Some(*lease)
                    && let Some(registration) = self.registrations.get_mut(of)
                {
                    self.backoff.reset();
                    registration.set(record, Place::In);
                    registration.was_registered |= registration.is_in();
                    registration.backoff.reset();
                }
            }
            Action::Delete { of, record, .. } => {
                self.backoff.reset();
                if let Some(registration) = self.registrations.get_mut(of) {
                    registration.records.retain(|(known, _)| known.key != record.key);
                }
            }
            Action::Revoke { id } => self.lease_gone(*id),
            Action::Grant { .. } | Action::Wait { .. } => {}
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
                registration.records.clear();
            }
            for (_, place) in &mut registration.records {
                *place = Place::Out;
            }
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
            Action::Put { of, .. } | Action::Delete { of, .. } if permanent => {
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
            if registration.place(record) == Some(Place::Tried) && now < registration.doubt {
                registration.blocked = now + LOOK_AGAIN;
                return;
            }
            self.done(action);
        }
    }

    /// A put whose outcome nobody knows: it may arrive for as long as requests are given.
    fn doubt(&mut self, now: Duration, action: &Action) {
        let patience = self.patience().unwrap_or_default();
        if let Action::Put { of, .. } = action
            && let Some(registration) = self.registrations.get_mut(of)
        {
            registration.doubt = now + patience;
        }
    }

    /// A put that is on its way.
    fn tried(&mut self, action: &Action) {
        if let Action::Put { of, record, lease } = action
            && self.lease() == Some(*lease)
            && let Some(registration) = self.registrations.get_mut(of)
        {
            registration.set(record, Place::Tried);
        }
    }
}

/// A life as etcd may grant it: 9 000 000 000 s at most.
fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(1, 9_000_000_000).cast_unsigned())
}

#[cfg(test)]
mod tests;
