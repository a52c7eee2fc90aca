//! The lease machine: what it holds, and what it decides to do next. PURE.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::registrar::lease::key::{KeyState, KeyStatus};
use crate::registrar::lease::leases::{LeaseHealth, LeasePhase, Leases};
use crate::registrar::lease::pending::PendingRequests;
use crate::registrar::lease::registrations::{DueWork, Priority, RegistrationSet, TrackedRegistration};
use crate::registrar::lease::vocabulary::{
    Action, Conflict, Desired, Id, Loss, RegistrationStatus, Relevance, Renewal,
};

/// How often a key that cannot be watched is put again: rarely enough for a large fleet, often
/// enough that a deleted key is back within a minute.
const REFRESH: (Duration, Duration) = (Duration::from_secs(40), Duration::from_secs(60));
/// How often a watched key is read: some etcd releases lose watch events around compactions.
const RECHECK: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));
/// The first id of an orphan. Registrations count from 1 and never come this far.
const FIRST_ORPHAN: Id = Id::MAX / 2;

/// Keeps the records of all registrations in etcd under one lease. The module's docs draw its
/// states.
///
/// The task calls [`Machine::renewal`] and [`Machine::action`] until both have nothing to do, sends
/// what they return, and passes each result to [`Machine::on`].
#[derive(Debug)]
pub(crate) struct Machine {
    /// The leases and when they are renewed.
    pub(super) leases: Leases,
    /// All registrations that have keys or stay, and the orphans.
    pub(super) registrations: RegistrationSet,
    /// Which of them have a request to send.
    pub(super) due: DueWork,
    /// The requests that were returned and not answered.
    pub(super) pending: PendingRequests,
    /// Delays requests after an outage of etcd. Successful puts and deletes reset it.
    pub(super) backoff: Backoff,
    /// No request starts before this time, because etcd failed. Renewals have a backoff of their
    /// own.
    pub(super) blocked_until: Duration,
    /// When the last outage was counted. Failures of requests that began earlier belong to the same
    /// outage.
    pub(super) failed_at: Duration,
    /// No grant starts before this time, because etcd refused one.
    pub(super) grant_not_before: Duration,
    /// The current lease is not retired before this time, because etcd refused another lease or a
    /// put under it.
    pub(super) move_not_before: Duration,
    /// The last attempt to move the keys to another lease was refused.
    pub(super) move_refused: bool,
    /// The suffix of a unique key if the instance has no id.
    pub(super) unique_suffix: String,
    /// When the keys without a watch are put again. [`Duration::MAX`] while every key has a watch.
    refresh_at: Duration,
    /// When all watched keys are read again. [`Duration::MAX`] before the first watch.
    recheck_at: Duration,
    /// The registrations of keys that were repaired since that was last asked, one for each key.
    pub(super) repaired: Vec<Id>,
    /// The leases and `move_refused` as they were when it was last asked whose status has changed.
    told_health: (Vec<(i64, LeaseHealth)>, bool),
    /// The id of the last orphan. Orphans are registrations of their own, so that their keys are
    /// removed like those of any other.
    last_orphan: Id,
}

impl Machine {
    /// A machine that requests leases with this time to live.
    pub(crate) fn new(seconds: i64, seed: u64) -> Self {
        let mut backoff = Backoff::new(seed);
        let unique_suffix = format!("{:016x}", backoff.random());
        Self {
            leases: Leases::new(seconds, !seed),
            registrations: RegistrationSet::default(),
            due: DueWork::default(),
            pending: PendingRequests::default(),
            backoff,
            blocked_until: Duration::ZERO,
            failed_at: Duration::ZERO,
            grant_not_before: Duration::ZERO,
            move_not_before: Duration::ZERO,
            move_refused: false,
            unique_suffix,
            refresh_at: Duration::MAX,
            recheck_at: Duration::MAX,
            repaired: Vec::new(),
            told_health: (Vec::new(), false),
            last_orphan: FIRST_ORPHAN,
        }
    }

    /// The lease that the keys are under.
    pub(crate) fn lease(&self) -> Option<i64> {
        self.leases.in_use_id()
    }

    /// Any lease that etcd may hold, including one that is being revoked.
    pub(crate) fn any_lease(&self) -> Option<i64> {
        self.leases.any()
    }

    /// Whether the lease must be renewed.
    pub(crate) fn renews(&self, lease: i64) -> bool {
        self.leases.is_live(lease) && !self.leases.is_released(lease)
    }

    /// How long a request may take while a lease is held.
    pub(crate) fn request_timeout(&self) -> Option<Duration> {
        self.leases.request_timeout()
    }

    /// When an overdue lease expires by our clock: the status of its registrations changes then.
    pub(crate) fn overdue_expiry(&self, now: Duration) -> Option<Duration> {
        self.leases.overdue_expiry(now)
    }

    /// When the lease expires by our clock; the first one if there are two.
    pub(crate) fn lease_expiry(&self) -> Option<Duration> {
        self.leases.first_expiry()
    }

    /// Whether no registration and no lease is left.
    pub(crate) fn is_idle(&self) -> bool {
        self.registrations.is_empty() && self.leases.is_empty()
    }

    /// The status of a registration. An unknown registration is closed.
    pub(crate) fn status(&self, now: Duration, id: Id) -> RegistrationStatus {
        let Some(registration) = self.registrations.get(id).filter(|registration| !registration.is_closed()) else {
            return RegistrationStatus::Closed;
        };
        if registration.leaving {
            return if registration.was_complete { RegistrationStatus::Updating } else { RegistrationStatus::Pending };
        }
        let health = self.leases.health(now, |lease| registration.may_be_under(lease));
        if registration.paused {
            return match health {
                _ if registration.is_absent(!self.move_refused) => RegistrationStatus::Paused,
                Some(LeaseHealth::Expired) => RegistrationStatus::Lost,
                _ => RegistrationStatus::Updating,
            };
        }
        if registration.holder().is_some() {
            return RegistrationStatus::HeldByOther;
        }
        match health {
            Some(LeaseHealth::Expired) if registration.partly_exists() => RegistrationStatus::Lost,
            Some(_) if registration.exists() && !registration.is_complete() => RegistrationStatus::Updating,
            Some(LeaseHealth::Overdue) if registration.exists() => RegistrationStatus::Renewing,
            Some(LeaseHealth::Renewed) if registration.exists() => RegistrationStatus::Registered,
            _ if registration.is_lost() => RegistrationStatus::Lost,
            Some(_) if registration.was_complete && registration.partly_exists() => RegistrationStatus::Updating,
            _ => RegistrationStatus::Pending,
        }
    }

    /// Why a registration was lost.
    pub(crate) fn loss(&self, id: Id) -> Option<&Loss> {
        self.registrations.get(id).map(|registration| &registration.loss)
    }

    /// The registrations of keys that others had deleted or overwritten, and that were put again since this was last called. One for
    /// each key.
    pub(crate) fn take_repaired(&mut self) -> Vec<Id> {
        std::mem::take(&mut self.repaired)
    }

    /// The other instance that holds a key of this registration: the key, its lease, and the
    /// instance's id.
    pub(crate) fn holder(&self, id: Id) -> Option<(&[u8], i64, Option<&str>)> {
        self.registrations.get(id)?.holder()
    }

    /// The registrations whose status may have changed since the last call: those that were touched, or all if the
    /// leases are in another state.
    pub(crate) fn take_changed(&mut self, now: Duration) -> BTreeSet<Id> {
        let mut changed = self.registrations.take_changed();
        let (told, told_refused) = &self.told_health;
        if *told_refused != self.move_refused || !self.leases.all_health(now).eq(told.iter().copied()) {
            self.told_health = (self.leases.all_health(now).collect(), self.move_refused);
            changed.extend(self.registrations.ids());
        }
        changed
    }

    /// The keys whose watch has changed since the last call, each with the registration for which it is to be watched,
    /// or `None` if it is not.
    pub(crate) fn watch_changes(&mut self) -> Vec<(Vec<u8>, Option<Id>)> {
        self.registrations.watch_changes()
    }

    /// The next renewal. `in_flight` are the leases whose renewals are in flight.
    pub(crate) fn renewal(&self, now: Duration, in_flight: &[i64]) -> Renewal {
        if self.has_registrations() { self.leases.renewal(now, in_flight) } else { Renewal::None }
    }

    /// The next request, which counts as in flight from here on. Called until it returns
    /// [`Action::Wait`].
    pub(crate) fn action(&mut self, now: Duration) -> Action {
        self.fence(now);
        let (action, removes) = self.next_action(now);
        self.pending.begin(now, &action, removes);
        self.begin(&action);
        action
    }

    /// The next request, and whether it takes a key out of etcd. Leases come first, because keys
    /// need one.
    fn next_action(&mut self, now: Duration) -> (Action, bool) {
        if now < self.blocked_until {
            return (Action::Wait { until: Some(self.blocked_until) }, false);
        }
        let mut wake = self.next_move(now).unwrap_or(Duration::MAX);
        match self.leases.next_revocation(|lease| self.pending.is_revoking(lease)) {
            Some((lease, at)) if now >= at => return (Action::Revoke { lease }, true),
            Some((_, at)) => wake = wake.min(at),
            None => {}
        }
        if self.has_registrations() && !self.pending.is_granting() && self.leases.current().is_none() {
            if now >= self.grant_not_before {
                return (self.grant(), false);
            }
            wake = wake.min(self.grant_not_before);
        }
        if self.leases.is_empty() {
            return (wait(wake), false);
        }
        self.mark_due_checks(now);
        self.next_key_action(now, wake)
    }

    /// Requests a lease. A repeated request uses the same id, so that a lost answer leaves no lease
    /// behind.
    fn grant(&mut self) -> Action {
        let id = match self.leases.phase() {
            LeasePhase::Granting { id } => id,
            _ => (self.backoff.random() >> 1).max(1).cast_signed(),
        };
        self.leases.begin_grant(id);
        Action::Grant { lease: id, seconds: self.leases.seconds() }
    }

    /// What [`Machine::relevance`] depends on beside the registration of the request: the lease that puts use, and
    /// whether any registration stays.
    pub(crate) fn in_use(&self) -> (Option<i64>, bool) {
        (self.leases.current(), self.has_registrations())
    }

    /// How much the answer to a request in flight still matters.
    pub(crate) fn relevance(&self, action: &Action) -> Relevance {
        let owner = |id: &Id, key: &[u8]| self.registrations.get(*id).filter(|registration| registration.has_key(key));
        match action {
            Action::Grant { .. } if !self.has_registrations() => Relevance::None,
            // Its key must be removed or put under another lease, and either waits for this put.
            Action::Put { id, record, lease, .. } => match owner(id, &record.key) {
                Some(registration) if registration.is_desired() && self.leases.current() == Some(*lease) => {
                    Relevance::Full
                }
                _ => Relevance::Brief,
            },
            Action::Read { id, record } => match owner(id, &record.key) {
                Some(registration) if registration.is_desired() || self.pending.removes(&record.key) => Relevance::Full,
                _ => Relevance::None,
            },
            Action::Delete { id, record, .. } => match owner(id, &record.key) {
                Some(registration) if registration.may_exist(&record.key) => Relevance::Full,
                _ => Relevance::None,
            },
            Action::Grant { .. } | Action::Revoke { .. } | Action::Wait { .. } => Relevance::Full,
        }
    }

    /// Whether any registration stays, paused or not: a lease is kept for it.
    pub(super) fn has_registrations(&self) -> bool {
        self.registrations.any_stays()
    }

    /// Schedules the first refresh. Called when a key turns out not to be watched.
    pub(super) fn schedule_refresh(&mut self, now: Duration) {
        if self.refresh_at == Duration::MAX {
            self.refresh_at = now + self.backoff.between(REFRESH.0, REFRESH.1);
        }
    }

    /// Schedules the first recheck. Called when a key is watched.
    pub(super) fn schedule_recheck(&mut self, now: Duration) {
        if self.recheck_at == Duration::MAX {
            self.recheck_at = now + self.backoff.between(RECHECK.0, RECHECK.1);
        }
    }

    /// Marks the keys that are due to be put or read again although no event asked for it.
    fn mark_due_checks(&mut self, now: Duration) {
        if now >= self.refresh_at {
            self.refresh_at = now + self.backoff.between(REFRESH.0, REFRESH.1);
            for key in self.registrations.take_unwatched() {
                self.registrations.change_all(&key, KeyState::refresh);
            }
        }
        if now >= self.recheck_at {
            self.recheck_at = now + self.backoff.between(RECHECK.0, RECHECK.1);
            for id in self.registrations.ids() {
                let keys = self.registrations.get_mut(id).into_iter().flat_map(|registration| &mut registration.keys);
                keys.for_each(KeyState::recheck);
            }
        }
        // What is due by now is filed as such.
        self.fence(now);
    }

    /// The most urgent request for a key of any registration.
    fn next_key_action(&mut self, now: Duration, wake: Duration) -> (Action, bool) {
        while let Some(id) = self.due.unblocked(now) {
            self.file(now, id);
        }
        let wake =
            wake.min(self.refresh_at).min(self.recheck_at).min(self.due.next_unblocked().unwrap_or(Duration::MAX));
        let Some((priority, id)) = self.due.first(&self.pending) else { return (wait(wake), false) };
        let next = self.registrations.get(id).and_then(|registration| {
            let (_, key) = registration.next(priority.removes(), &self.leases, &self.pending)?;
            Some((registration, key))
        });
        // Whoever is filed has a request to send.
        let Some((registration, key)) = next else { return (wait(wake), false) };
        let (record, expected) = (key.record.clone(), key.expected);
        // After a mismatch the key is read even if it cannot be watched: only a refused read proves that it is unreadable.
        let may_read = !key.is_unreadable()
            && (key.status == KeyStatus::Unknown || !self.registrations.index.is_denied(&record.key));
        let action = match (priority, self.leases.for_puts()) {
            (Priority::Put, Some(lease)) => {
                let overwrites = registration.conflict == Conflict::TakeOver;
                let expected = (may_read || !overwrites).then_some(expected);
                Action::Put { id, record, lease, expected, overwrites }
            }
            (Priority::Leave | Priority::Pause | Priority::CleanUp, _) if !(may_read && key.must_be_read_first()) => {
                Action::Delete { id, record, lease: key.lease, expected }
            }
            _ => Action::Read { id, record },
        };
        (action, priority.removes())
    }

    /// Adds a key that no registration desires. It is removed if it carries a lease of ours.
    pub(super) fn add_orphan(&mut self, key: KeyState) {
        self.last_orphan += 1;
        let desired = Desired { records: Vec::new(), conflict: Conflict::TakeOver, id: None, paused: false };
        let mut orphan = TrackedRegistration::new(desired, vec![key], self.backoff.random());
        orphan.leaving = true;
        self.registrations.insert(self.last_orphan, orphan);
    }
}

/// [`Action::Wait`] until a time; [`Duration::MAX`] means until the next input.
fn wait(wake: Duration) -> Action {
    Action::Wait { until: (wake < Duration::MAX).then_some(wake) }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
impl Machine {
    /// All keys to watch, each with its registration.
    pub(super) fn keys(&mut self) -> std::collections::BTreeMap<Vec<u8>, Id> {
        self.registrations.watched()
    }

    /// Everything that is derived of what has changed is as if it were derived of everything.
    pub(super) fn assert_right(&mut self, now: Duration) {
        self.fence(now);
        self.registrations.assert_right();
        for id in self.registrations.ids() {
            let registration = self.registrations.get(id).expect("it has this id");
            let is_filed = self.due.is_right(id, registration, &self.leases, &self.pending, now);
            assert!(is_filed, "{id}: {registration:?}\n{self:?}");
        }
    }
}
