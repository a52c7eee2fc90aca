//! The registrations that have a request to send, in the order in which they may. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::registrar::lease::leases::Leases;
use crate::registrar::lease::pending::PendingRequests;
use crate::registrar::lease::registrations::{Priority, TrackedRegistration};
use crate::registrar::lease::vocabulary::Id;

/// What is due, by turn, then by priority, and then by registration.
///
/// Invariant: a registration is filed as [`DueWork::file`] finds it now, unless it was touched since, a request for one
/// of its keys has begun or ended since, or the leases have changed ([`DueWork::follow`]).
#[derive(Debug, Default)]
pub(in crate::registrar::lease) struct DueWork {
    /// The registrations that may send a request at once: one that removes no key, and one that does. The two kinds have
    /// limits of their own, so a registration may be in both.
    ready: [BTreeSet<(Duration, Priority, Id)>; 2],
    /// The registrations that have to wait, and until when.
    blocked: BTreeSet<(Duration, Id)>,
    /// Where each registration is filed. Those with nothing to send are not.
    filed: BTreeMap<Id, Filed>,
    /// The lease for puts on which all of this is based.
    for_puts: Option<i64>,
    /// The released leases on which all of this is based.
    released: Vec<i64>,
}

/// The place of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filed {
    /// At its turn, with the priority of its request of either kind.
    Ready(Duration, [Option<Priority>; 2]),
    Blocked(Duration),
}

impl Filed {
    /// Where the registration belongs.
    fn of(
        registration: &TrackedRegistration,
        leases: &Leases,
        pending: &PendingRequests,
        now: Duration,
    ) -> Option<Self> {
        let priority = |removes| registration.next(removes, leases, pending).map(|(priority, _)| priority);
        let ready = [priority(false), priority(true)];
        if ready == [None, None] {
            return None;
        }
        let is_blocked = now < registration.blocked_until;
        let turn = registration.turn;
        Some(if is_blocked { Self::Blocked(registration.blocked_until) } else { Self::Ready(turn, ready) })
    }
}

impl DueWork {
    /// Files the registration anew. `None` if it is not there any more.
    pub(in crate::registrar::lease) fn file(
        &mut self,
        id: Id,
        registration: Option<&TrackedRegistration>,
        leases: &Leases,
        pending: &PendingRequests,
        now: Duration,
    ) {
        let new = registration.and_then(|registration| Filed::of(registration, leases, pending, now));
        let old = self.filed.get(&id).copied();
        if new == old {
            return;
        }
        match old {
            Some(Filed::Ready(turn, ready)) => {
                for (set, priority) in self.ready.iter_mut().zip(ready) {
                    priority.map(|priority| set.remove(&(turn, priority, id)));
                }
            }
            Some(Filed::Blocked(until)) => drop(self.blocked.remove(&(until, id))),
            None => {}
        }
        match new {
            Some(Filed::Ready(turn, ready)) => {
                for (set, priority) in self.ready.iter_mut().zip(ready) {
                    set.extend(priority.map(|priority| (turn, priority, id)));
                }
            }
            Some(Filed::Blocked(until)) => drop(self.blocked.insert((until, id))),
            None => {}
        }
        match new {
            Some(new) => drop(self.filed.insert(id, new)),
            None => drop(self.filed.remove(&id)),
        }
    }

    /// Takes in which lease puts use and which ones are released. Whether that has changed: then all registrations are
    /// to be filed anew.
    pub(in crate::registrar::lease) fn follow(&mut self, leases: &Leases) -> bool {
        if self.for_puts == leases.for_puts() && leases.released().eq(self.released.iter().copied()) {
            return false;
        }
        self.for_puts = leases.for_puts();
        self.released = leases.released().collect();
        true
    }

    /// A registration that is filed as blocked and need not wait any more: it is to be filed anew.
    pub(in crate::registrar::lease) fn unblocked(&self, now: Duration) -> Option<Id> {
        self.blocked.first().filter(|(until, _)| now >= *until).map(|(_, id)| *id)
    }

    /// When the first blocked registration need not wait any more.
    pub(in crate::registrar::lease) fn next_unblocked(&self) -> Option<Duration> {
        self.blocked.first().map(|(until, _)| *until)
    }

    /// The most urgent request that may be sent, among the kinds that have capacity.
    pub(in crate::registrar::lease) fn first(&self, pending: &PendingRequests) -> Option<(Priority, Id)> {
        let kinds = [false, true].into_iter().zip(&self.ready).filter(|(removes, _)| pending.has_capacity(*removes));
        let first = kinds.filter_map(|(_, set)| set.first().copied()).min();
        first.map(|(_, priority, id)| (priority, id))
    }

    /// Whether the registration is filed as it would be now.
    #[cfg(any(test, tonic_etcd_fuzzing))]
    pub(in crate::registrar::lease) fn is_right(
        &self,
        id: Id,
        registration: &TrackedRegistration,
        leases: &Leases,
        pending: &PendingRequests,
        now: Duration,
    ) -> bool {
        let (right, filed) = (Filed::of(registration, leases, pending, now), self.filed.get(&id).copied());
        // Who is blocked is looked for when the next request is asked for.
        let is_over = matches!(filed, Some(Filed::Blocked(until)) if now >= until);
        right == filed || (is_over && right.is_some())
    }
}
