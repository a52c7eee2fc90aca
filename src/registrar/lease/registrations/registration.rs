//! One registration of the lease machine: its keys, and the next request for them. PURE.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::registrar::lease::key::{KeyState, KeyStatus};
use crate::registrar::lease::leases::Leases;
use crate::registrar::lease::pending::PendingRequests;
use crate::registrar::lease::vocabulary::{Conflict, Desired, Loss};

/// The long-term rate of repairs: one in this time. A key that somebody deletes again and again is
/// not fought over.
const REPAIR: Duration = Duration::from_secs(1);
/// How many repairs may happen at once before that.
const REPAIR_BURST: u32 = 5;

/// What the machine knows of one registration, or of an orphan (a key that no registration
/// desires).
///
/// Invariant: its keys are distinct (the registrar refuses others), and no other registration that
/// stays has one of them.
#[derive(Debug)]
pub(in crate::registrar::lease) struct TrackedRegistration {
    /// The desired keys, and the obsolete ones that are or may be in etcd.
    pub(in crate::registrar::lease) keys: Vec<KeyState>,
    /// It leaves for good: its keys are removed, and it is forgotten after the last one.
    pub(in crate::registrar::lease) leaving: bool,
    /// Its keys are removed, and put again when the pause ends. It keeps the lease alive.
    pub(in crate::registrar::lease) paused: bool,
    /// The rule for keys that another instance holds.
    pub(in crate::registrar::lease) conflict: Conflict,
    /// The id of the instance.
    pub(in crate::registrar::lease) id: Option<Box<str>>,
    /// All its keys were present at some time since they were last undesired.
    pub(in crate::registrar::lease) was_complete: bool,
    /// The last reason why a key was lost. Meaningful while the status is `Lost`.
    pub(in crate::registrar::lease) loss: Loss,
    /// Delays this registration alone, after failures that need an operator.
    pub(in crate::registrar::lease) backoff: Backoff,
    /// No request for it starts before this time.
    pub(in crate::registrar::lease) blocked_until: Duration,
    /// Its turn among those with a request to send, before their priorities: zero, or the end of its last pause while it is
    /// refused again and again. So who keeps failing never stands before who is well.
    pub(in crate::registrar::lease) turn: Duration,
    /// Repairs that may happen now, as time ([`REPAIR`] each), and when that was computed.
    repair_budget: Duration,
    budget_at: Duration,
}

/// The kinds of request for a key, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::registrar::lease) enum Priority {
    /// Remove a key of a registration that is leaving.
    Leave,
    /// Remove a key of a paused registration.
    Pause,
    /// Put a desired key.
    Put,
    /// Read a key after a mismatch.
    Read,
    /// Remove an obsolete key.
    CleanUp,
    /// Read a key whose earlier events were not seen.
    Recheck,
}

impl Priority {
    /// Whether the request takes a key out of etcd.
    pub(in crate::registrar::lease) fn removes(self) -> bool {
        matches!(self, Self::Leave | Self::Pause | Self::CleanUp)
    }
}

impl TrackedRegistration {
    pub(in crate::registrar::lease) fn new(desired: Desired, keys: Vec<KeyState>, seed: u64) -> Self {
        Self {
            keys,
            leaving: false,
            paused: desired.paused,
            conflict: desired.conflict,
            id: desired.id,
            was_complete: false,
            loss: Loss::Lease,
            backoff: Backoff::new(seed),
            blocked_until: Duration::ZERO,
            turn: Duration::ZERO,
            repair_budget: REPAIR * REPAIR_BURST,
            budget_at: Duration::ZERO,
        }
    }

    /// Whether etcd holds exactly what is desired.
    pub(in crate::registrar::lease) fn is_complete(&self) -> bool {
        self.keys.iter().all(|key| key.status == KeyStatus::Present && !key.obsolete)
    }

    /// Notes that all keys are present while they are desired: from here on the status is
    /// `Updating`, not `Pending`.
    pub(in crate::registrar::lease) fn update_was_complete(&mut self) {
        self.was_complete |= self.is_desired() && self.is_complete();
    }

    /// Whether any of its keys may be under the lease.
    pub(in crate::registrar::lease) fn may_be_under(&self, lease: i64) -> bool {
        self.keys.iter().any(|key| key.may_be_under(lease))
    }

    /// Whether every desired key is in etcd, perhaps with an earlier value.
    pub(in crate::registrar::lease) fn exists(&self) -> bool {
        self.keys.iter().all(|key| key.obsolete || key.exists())
    }

    /// Whether any key is in etcd, desired or not.
    pub(in crate::registrar::lease) fn partly_exists(&self) -> bool {
        self.keys.iter().any(KeyState::exists)
    }

    /// Whether a desired key was in etcd and is no longer.
    pub(in crate::registrar::lease) fn is_lost(&self) -> bool {
        self.keys.iter().any(|key| !key.obsolete && key.is_lost())
    }

    /// Whether its keys are to be in etcd.
    pub(in crate::registrar::lease) fn is_desired(&self) -> bool {
        !self.leaving && !self.paused
    }

    /// Whether no key is in etcd. With `for_good`, also whether no late put can bring one back.
    pub(in crate::registrar::lease) fn is_absent(&self, for_good: bool) -> bool {
        !self.keys.iter().any(|key| key.may_exist() || (for_good && !key.late_puts.is_empty()))
    }

    /// Whether it has left and nothing of it is or may be in etcd.
    pub(in crate::registrar::lease) fn is_closed(&self) -> bool {
        self.leaving && self.keys.is_empty()
    }

    /// The first key that another instance holds, with its lease and the instance's id.
    pub(in crate::registrar::lease) fn holder(&self) -> Option<(&[u8], i64, Option<&str>)> {
        self.keys.iter().find_map(|key| match &key.status {
            KeyStatus::HeldByOther { lease, id } => Some((key.record.key.as_slice(), *lease, id.as_deref())),
            _ => None,
        })
    }

    /// The next request that removes a key, or the next one that does not, and its key. Keys that have a request in
    /// flight are left out.
    pub(in crate::registrar::lease) fn next(
        &self,
        removes: bool,
        leases: &Leases,
        pending: &PendingRequests,
    ) -> Option<(Priority, &KeyState)> {
        let first = |priority: Priority, is_due: &dyn Fn(&KeyState) -> bool| {
            let is_next = |key: &&KeyState| is_due(key) && !pending.has_key(&key.record.key);
            self.keys.iter().find(is_next).map(|key| (priority, key))
        };
        // A key that ends with a released lease needs no request of its own.
        let must_go = |key: &KeyState| key.may_exist() && !key.ends_with(|lease| leases.is_released(lease));
        if self.leaving {
            return first(Priority::Leave, &must_go).filter(|_| removes);
        }
        if self.paused {
            return first(Priority::Pause, &must_go).filter(|_| removes);
        }
        let exists = self.exists();
        if removes {
            // An obsolete key goes only once its replacement exists: a server is never out of etcd for an update.
            return exists.then(|| first(Priority::CleanUp, &|key| key.obsolete && must_go(key))).flatten();
        }
        let needs_put =
            |key: &KeyState| leases.for_puts().is_some_and(|lease| key.needs_put(lease)) && !(key.obsolete && exists);
        first(Priority::Put, &needs_put)
            .or_else(|| first(Priority::Read, &|key| key.status == KeyStatus::Unknown))
            .or_else(|| first(Priority::Recheck, &KeyState::needs_read))
    }

    /// The state of one of its keys.
    pub(in crate::registrar::lease) fn key_mut(&mut self, key: &[u8]) -> Option<&mut KeyState> {
        self.keys.iter_mut().find(|state| state.record.key == key)
    }

    /// Whether the key is one of its own, obsolete or not.
    pub(in crate::registrar::lease) fn has_key(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|state| state.record.key == key)
    }

    /// Whether this key of it may be in etcd.
    pub(in crate::registrar::lease) fn may_exist(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|state| state.record.key == key && state.may_exist())
    }

    /// Applies another desired state. Keys that it no longer names become obsolete.
    pub(in crate::registrar::lease) fn update(&mut self, Desired { records, id, paused, .. }: Desired) {
        (self.id, self.paused) = (id, paused);
        self.keys.iter_mut().for_each(|key| key.obsolete = true);
        for record in records {
            match self.keys.iter_mut().find(|key| key.is_for(&record.key)) {
                Some(key) => key.update(&record.value),
                None => self.keys.push(KeyState::new(record)),
            }
        }
        self.keys.retain(|key| !key.obsolete || key.may_ever_exist());
        self.try_now();
    }

    /// Its user wants something else: one attempt starts at once, whatever failed before.
    pub(in crate::registrar::lease) fn try_now(&mut self) {
        (self.blocked_until, self.turn) = (Duration::ZERO, Duration::ZERO);
    }

    /// A request of it was refused in a way that needs an operator. The next one waits, and then until nobody else has one; with
    /// `is_urgent` it does neither the first time.
    pub(in crate::registrar::lease) fn refused(&mut self, now: Duration, is_urgent: bool) {
        let wait = self.backoff.fail(now, !is_urgent);
        self.blocked_until = now + wait;
        self.turn = if wait.is_zero() { Duration::ZERO } else { self.blocked_until };
    }

    /// A put of it was applied: nothing is refused any more.
    pub(in crate::registrar::lease) fn put_applied(&mut self) {
        self.was_complete |= self.is_complete();
        self.backoff.reset();
        self.turn = Duration::ZERO;
    }

    /// A key was changed by somebody else and is put again: at once while the budget lasts, later
    /// otherwise.
    pub(in crate::registrar::lease) fn repair(&mut self, now: Duration) {
        let since = now.saturating_sub(self.budget_at);
        (self.repair_budget, self.budget_at) = ((self.repair_budget + since).min(REPAIR * REPAIR_BURST), now);
        if let Some(left) = self.repair_budget.checked_sub(REPAIR) {
            self.repair_budget = left;
        } else {
            let at = now + REPAIR.saturating_sub(self.repair_budget);
            self.blocked_until = self.blocked_until.max(at);
            (self.repair_budget, self.budget_at) = (Duration::ZERO, at);
        }
    }
}
