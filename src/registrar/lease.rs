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

mod input;
mod registration;
mod slot;
mod tenure;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::registration::{Registration, Urgency};
use self::slot::Slot;
use self::tenure::{Hold, Stage, Tenure};
pub use self::vocabulary::Conflict;
pub(crate) use self::vocabulary::{Action, Found, Input, Loss, Renewal, Standing, Trouble, Wanted};
use crate::backoff::Backoff;

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
pub(crate) struct Machine {
    tenure: Tenure,
    registrations: BTreeMap<Id, Registration>,
    backoff: Backoff,
    blocked: Duration,
    /// By what only people can mend.
    refused: bool,
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
            tenure: Tenure::new(seconds, !seed),
            registrations: BTreeMap::new(),
            backoff,
            blocked: Duration::ZERO,
            refused: false,
            suffix,
            unwatchable: BTreeSet::new(),
            late: BTreeSet::new(),
            sweep_at: Duration::MAX,
            recheck_at: Duration::MAX,
            keys: 0,
            strays: STRAYS,
        }
    }

    /// The lease in etcd, if one is held.
    pub(crate) fn lease(&self) -> Option<i64> {
        self.tenure.id()
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
        self.registrations.is_empty() && self.lease().is_none()
    }

    /// How a registration stands; one that is not known is closed.
    pub(crate) fn standing(&self, now: Duration, id: Id) -> Standing {
        let Some(registration) = self.registrations.get(&id) else { return Standing::Closed };
        if registration.is_closed() {
            return Standing::Closed;
        }
        if registration.paused {
            return match self.tenure.hold(now) {
                _ if registration.is_out() => Standing::Paused,
                Some(Hold::Ended) => Standing::Lost,
                _ => Standing::Updating,
            };
        }
        if registration.held_by().is_some() {
            return Standing::Held;
        }
        match self.tenure.hold(now) {
            Some(Hold::Ended) if registration.is_partly_there() => Standing::Lost,
            Some(_) if registration.is_there() && !registration.is_in() => Standing::Updating,
            Some(Hold::Late) if registration.is_there() => Standing::Renewing,
            Some(Hold::Sure) if registration.is_there() => Standing::Registered,
            _ if registration.is_lost() => Standing::Lost,
            Some(_) if registration.was_complete && registration.is_partly_there() => Standing::Updating,
            _ => Standing::Pending,
        }
    }

    /// Why what is lost is.
    pub(crate) fn loss(&self, id: Id) -> Option<&Loss> {
        self.registrations.get(&id).map(|registration| &registration.loss)
    }

    /// When the lease ends, by our clock.
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

    /// What the lease needs. Not asked while a renewal is on its way.
    pub(crate) fn renewal(&self, now: Duration) -> Renewal {
        if self.is_wanted() { self.tenure.renewal(now) } else { Renewal::None }
    }

    /// What else there is to do. Not asked while an action is on its way.
    pub(crate) fn action(&mut self, now: Duration) -> Action {
        if now < self.blocked {
            return Action::Wait { until: Some(self.blocked) };
        }
        match self.tenure.stage() {
            Stage::None if self.is_wanted() => {
                let id = (self.backoff.random() >> 1).max(1).cast_signed();
                self.tenure.ask(id);
                Action::Grant { id, seconds: self.tenure.seconds() }
            }
            Stage::Granting { id } if self.is_wanted() => Action::Grant { id, seconds: self.tenure.seconds() },
            Stage::Held { id } if !self.is_wanted() => Action::Revoke { id },
            Stage::Held { id } => {
                self.review(now);
                let action = self.work(now, id);
                self.tried(&action);
                action
            }
            Stage::None | Stage::Granting { .. } => Action::Wait { until: None },
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
            let unwatchable = std::mem::take(&mut self.unwatchable);
            let slots = self.registrations.values_mut().flat_map(|registration| &mut registration.slots);
            let is_unseen = |key: &Vec<u8>| unwatchable.contains(key) || self.late.contains(key);
            slots.filter(|slot| is_unseen(&slot.record.key)).for_each(Slot::sweep);
            // A role may have been granted more since: the watch is tried again as well.
            self.keys += u64::from(!unwatchable.is_empty());
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
            Urgency::Put => Action::Put { of, record, lease, expected },
            Urgency::Look | Urgency::Check => Action::Look { of, record },
        }
    }
}

#[cfg(test)]
mod tests;
