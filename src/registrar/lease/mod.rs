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
//!      └── left for another (`fence`) ──┘      or where a put of what has left may still be done under it
//! ```

mod fence;
mod flights;
mod input;
mod registration;
mod slot;
mod tenure;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::flights::Flights;
use self::registration::{Registration, Urgency};
use self::slot::{KeyState, KeyStatus};
use self::tenure::{LeaseHealth, LeasePhase, LeaseState};
pub use self::vocabulary::Conflict;
pub(crate) use self::vocabulary::{
    Action, FailureKind, Found, Input, Loss, RegistrationStatus, Renewal, Wanted, Worth,
};
use crate::backoff::Backoff;

/// A key that may not be watched is put again so often: seldom enough for a large fleet, soon enough for a lost key.
const SWEEP: (Duration, Duration) = (Duration::from_secs(40), Duration::from_secs(60));
/// Some etcd releases lose events around compactions: every key is looked at again between these two.
const RECHECK: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));
/// The ids of keys that nobody wants begin here: a registration counts from 1.
const STRAYS: Id = Id::MAX / 2;

/// Names a registration of this machine.
pub(crate) type Id = u64;

#[derive(Debug)]
pub(crate) struct Machine {
    tenure: LeaseState,
    registrations: BTreeMap<Id, Registration>,
    flights: Flights,
    backoff: Backoff,
    blocked: Duration,
    /// Requests that began before that time are of the same outage.
    failed_at: Duration,
    /// What only people can mend holds up the next grant, or the next move to another lease.
    grant_at: Duration,
    move_at: Duration,
    /// The lease cannot be left for another for now.
    move_is_refused: bool,
    /// What makes a key unique, where the instance has no id.
    suffix: String,
    /// Keys that may not be watched.
    unwatchable: BTreeSet<Vec<u8>>,
    /// Keys whose watch is tried and not created.
    late: BTreeSet<Vec<u8>>,
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
            tenure: LeaseState::new(seconds, !seed),
            registrations: BTreeMap::new(),
            flights: Flights::default(),
            backoff,
            blocked: Duration::ZERO,
            failed_at: Duration::ZERO,
            grant_at: Duration::ZERO,
            move_at: Duration::ZERO,
            move_is_refused: false,
            suffix,
            unwatchable: BTreeSet::new(),
            late: BTreeSet::new(),
            sweep_at: Duration::MAX,
            recheck_at: Duration::MAX,
            keys: 0,
            strays: STRAYS,
        }
    }

    /// The lease in etcd, if one is held: the one that records are put under.
    pub(crate) fn lease(&self) -> Option<i64> {
        self.tenure.shown()
    }

    /// Whichever lease etcd may hold, also one that is being revoked.
    pub(crate) fn any_lease(&self) -> Option<i64> {
        self.tenure.any()
    }

    /// Whether that lease is still to be renewed.
    pub(crate) fn renews(&self, lease: i64) -> bool {
        self.tenure.is_live(lease) && !self.tenure.is_dying(lease)
    }

    /// How long a request may take while a lease is held.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.tenure.patience()
    }

    /// When a lease whose renewal is late ends, by our clock: how its registrations stand changes then.
    pub(crate) fn ends(&self, now: Duration) -> Option<Duration> {
        self.tenure.ends(now)
    }

    /// Forgets what is closed, and says whether nothing is left to do.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.registrations.retain(|_, registration| !registration.is_closed());
        self.registrations.is_empty() && self.tenure.is_none()
    }

    /// How a registration stands; one that is not known is closed.
    pub(crate) fn standing(&self, now: Duration, id: Id) -> RegistrationStatus {
        let Some(registration) = self.registrations.get(&id) else { return RegistrationStatus::Closed };
        if registration.is_closed() {
            return RegistrationStatus::Closed;
        }
        if registration.leaving {
            return if registration.was_complete { RegistrationStatus::Updating } else { RegistrationStatus::Pending };
        }
        let hold = self.tenure.hold(now, |lease| registration.may_be_under(lease));
        if registration.paused {
            return match hold {
                _ if registration.is_out(!self.move_is_refused) => RegistrationStatus::Paused,
                Some(LeaseHealth::Ended) => RegistrationStatus::Lost,
                _ => RegistrationStatus::Updating,
            };
        }
        if registration.held_by().is_some() {
            return RegistrationStatus::Held;
        }
        match hold {
            Some(LeaseHealth::Ended) if registration.is_partly_there() => RegistrationStatus::Lost,
            Some(_) if registration.is_there() && !registration.is_in() => RegistrationStatus::Updating,
            Some(LeaseHealth::Late) if registration.is_there() => RegistrationStatus::Renewing,
            Some(LeaseHealth::Sure) if registration.is_there() => RegistrationStatus::Registered,
            _ if registration.is_lost() => RegistrationStatus::Lost,
            Some(_) if registration.was_complete && registration.is_partly_there() => RegistrationStatus::Updating,
            _ => RegistrationStatus::Pending,
        }
    }

    /// Why what is lost is.
    pub(crate) fn loss(&self, id: Id) -> Option<&Loss> {
        self.registrations.get(&id).map(|registration| &registration.loss)
    }

    /// When the lease ends, by our clock; the first of them, where there are two.
    pub(crate) fn lease_ends(&self) -> Option<Duration> {
        self.tenure.lease_ends()
    }

    /// Who has a key of this registration: the key, its lease, and the instance's id.
    pub(crate) fn held_by(&self, id: Id) -> Option<(&[u8], i64, Option<&str>)> {
        self.registrations.get(&id)?.held_by()
    }

    /// Counts the changes of [`Machine::keys`].
    pub(crate) fn keys_version(&self) -> u64 {
        self.keys
    }

    /// The keys that are to be watched, and for which registration each.
    pub(crate) fn keys(&self) -> BTreeMap<Vec<u8>, Id> {
        let keys = self.watchable().filter(|(key, _)| !self.unwatchable.contains(*key));
        keys.map(|(key, id)| (key.to_vec(), id)).collect()
    }

    /// The keys that are wanted, whether they may be watched or not.
    fn watchable(&self) -> impl Iterator<Item = (&[u8], Id)> {
        let wanted = self.registrations.iter().filter(|(_, registration)| !registration.leaving);
        wanted.flat_map(|(id, registration)| registration.slots.iter().map(|slot| (slot.record.key.as_slice(), *id)))
    }

    /// What the leases need, but for those whose renewals are on their way.
    pub(crate) fn renewal(&self, now: Duration, but: &[i64]) -> Renewal {
        if self.is_wanted() { self.tenure.renewal(now, but) } else { Renewal::None }
    }

    /// What else there is to do, beside what is on its way. Asked until it is to wait.
    pub(crate) fn action(&mut self, now: Duration) -> Action {
        self.fence(now);
        let (action, goes_out) = self.next(now);
        self.flights.begin(now, &action, goes_out);
        self.tried(&action);
        action
    }

    /// The next action, and whether something goes out of etcd by it.
    fn next(&mut self, now: Duration) -> (Action, bool) {
        if now < self.blocked {
            return (Action::Wait { until: Some(self.blocked) }, false);
        }
        let mut wake = self.moves_at(now).unwrap_or(Duration::MAX);
        match self.tenure.revocable(|id| self.flights.is_revoking(id)) {
            Some((id, at)) if now >= at => return (Action::Revoke { id }, true),
            Some((_, at)) => wake = wake.min(at),
            None => {}
        }
        if self.is_wanted() && !self.flights.is_granting() && self.tenure.current().is_none() {
            if now >= self.grant_at {
                return (self.grant(), false);
            }
            wake = wake.min(self.grant_at);
        }
        if self.tenure.is_none() {
            return (Action::Wait { until: (wake < Duration::MAX).then_some(wake) }, false);
        }
        self.review(now);
        self.work(now, wake)
    }

    /// Asks for a lease: the same one until it is there.
    fn grant(&mut self) -> Action {
        let id = match self.tenure.stage() {
            LeasePhase::Granting { id } => id,
            _ => (self.backoff.random() >> 1).max(1).cast_signed(),
        };
        self.tenure.ask(id);
        Action::Grant { id, seconds: self.tenure.seconds() }
    }

    /// What a request that is on its way is still worth.
    pub(crate) fn worth(&self, action: &Action) -> Worth {
        let slot = |of: &Id, key: &[u8]| self.registrations.get(of).filter(|one| one.has(key));
        match action {
            Action::Grant { .. } if !self.is_wanted() => Worth::Nothing,
            // What it puts is to go, or to be put under another lease, and either waits for it.
            Action::Put { of, record, lease, .. } => match slot(of, &record.key) {
                Some(registration) if registration.is_wanted() && self.tenure.current() == Some(*lease) => Worth::All,
                _ => Worth::Little,
            },
            Action::Look { of, record } => match slot(of, &record.key) {
                Some(registration) if registration.is_wanted() || self.flights.goes_out(&record.key) => Worth::All,
                _ => Worth::Nothing,
            },
            Action::Delete { of, record, .. } => match slot(of, &record.key) {
                Some(registration) if registration.may_stand(&record.key) => Worth::All,
                _ => Worth::Nothing,
            },
            Action::Grant { .. } | Action::Revoke { .. } | Action::Wait { .. } => Worth::All,
        }
    }

    fn is_wanted(&self) -> bool {
        self.registrations.values().any(|registration| !registration.leaving)
    }

    /// What is not told is asked for now and then.
    fn review(&mut self, now: Duration) {
        if now >= self.sweep_at {
            self.sweep_at = now + self.backoff.between(SWEEP.0, SWEEP.1);
            let unwatchable = std::mem::take(&mut self.unwatchable);
            let slots = self.registrations.values_mut().flat_map(|registration| &mut registration.slots);
            let is_unseen = |key: &Vec<u8>| unwatchable.contains(key) || self.late.contains(key);
            slots.filter(|slot| is_unseen(&slot.record.key)).for_each(KeyState::sweep);
            // A role may have been granted more since: the watch is tried again as well.
            self.keys += u64::from(!unwatchable.is_empty());
        }
        if now >= self.recheck_at {
            self.recheck_at = now + self.backoff.between(RECHECK.0, RECHECK.1);
            self.registrations
                .values_mut()
                .flat_map(|registration| &mut registration.slots)
                .for_each(KeyState::recheck);
        }
    }

    /// The most urgent of what is to be done for a registration.
    fn work(&self, now: Duration, wake: Duration) -> (Action, bool) {
        let mut wake = wake.min(self.sweep_at).min(self.recheck_at);
        let mut first: Option<(Urgency, Id, &Registration, &KeyState)> = None;
        for (&of, registration) in &self.registrations {
            let Some((urgency, slot)) = registration.next(&self.tenure, &self.flights) else { continue };
            if now < registration.blocked {
                wake = wake.min(registration.blocked);
            } else if first.as_ref().is_none_or(|(most, ..)| urgency < *most) {
                first = Some((urgency, of, registration, slot));
            }
        }
        let Some((urgency, of, registration, slot)) = first else {
            return (Action::Wait { until: (wake < Duration::MAX).then_some(wake) }, false);
        };
        let (record, expected) = (slot.record.clone(), slot.expected);
        // What a comparison has shown to be otherwise is looked at, also where it may not be watched: a look that is refused is known by it.
        let is_seen = slot.place == KeyStatus::Unknown || !self.unwatchable.contains(&record.key);
        let may_read = !slot.is_unreadable() && is_seen;
        let action = match (urgency, self.tenure.current()) {
            (Urgency::Put, Some(lease)) => {
                let overwrites = registration.conflict == Conflict::TakeOver;
                let expected = (may_read || !overwrites).then_some(expected);
                Action::Put { of, record, lease, expected, overwrites }
            }
            (Urgency::Leave | Urgency::Pause | Urgency::Tidy, _) if !(may_read && slot.is_to_be_found()) => {
                Action::Delete { of, record, lease: slot.lease, expected }
            }
            _ => Action::Look { of, record },
        };
        (action, urgency.goes_out())
    }
}

#[cfg(test)]
mod tests;
