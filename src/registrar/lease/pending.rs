//! The requests in flight: at most one for each key, and a bounded number of all. PURE.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::registrar::lease::vocabulary::Action;

/// How many keys are put or read at a time, and how many are removed beside them.
///
/// One at a time, 200 registrations take 200 round trips; 24 at a time take 9. Each key has its own
/// request instead of a place in one transaction, so that a key that is refused or not as expected
/// does not fail the others.
const MAX_PENDING: usize = 24;

/// The requests in flight. The machine adds each action that it gives out and removes it with the
/// answer.
#[derive(Debug, Default)]
pub(super) struct PendingRequests {
    /// The puts, reads and deletes in flight, by key.
    keys: BTreeMap<Vec<u8>, PendingRequest>,
    /// How many requests of `keys` do not remove a key, and how many do.
    counts: [usize; 2],
    /// When the grant in flight began.
    grant: Option<Duration>,
    /// The leases that are being revoked, and when each revocation began.
    revocations: BTreeMap<i64, Duration>,
}

/// A request for one key.
#[derive(Debug)]
struct PendingRequest {
    /// When the request was sent.
    began: Duration,
    /// It is part of taking the key out of etcd.
    removes: bool,
}

impl PendingRequests {
    /// Whether a request for the key is in flight.
    pub(super) fn has_key(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// Whether a request that takes the key out of etcd is in flight.
    pub(super) fn removes(&self, key: &[u8]) -> bool {
        self.keys.get(key).is_some_and(|request| request.removes)
    }

    /// Whether a grant is in flight. There is one at most: its answer decides everything else.
    pub(super) fn is_granting(&self) -> bool {
        self.grant.is_some()
    }

    /// Whether a revocation of this lease is in flight.
    pub(super) fn is_revoking(&self, lease: i64) -> bool {
        self.revocations.contains_key(&lease)
    }

    /// Whether one more request of this kind may start.
    pub(super) fn has_capacity(&self, removes: bool) -> bool {
        self.counts[usize::from(removes)] < MAX_PENDING
    }

    /// The request is sent. A second request for the same key replaces the first: the machine sends
    /// it only after the first one was given up.
    pub(super) fn begin(&mut self, now: Duration, action: &Action, removes: bool) {
        match action {
            Action::Grant { .. } => self.grant = Some(now),
            Action::Revoke { lease } => drop(self.revocations.insert(*lease, now)),
            Action::Put { record, .. } | Action::Delete { record, .. } | Action::Read { record, .. } => {
                self.counts[usize::from(removes)] += 1;
                if let Some(before) = self.keys.insert(record.key.clone(), PendingRequest { began: now, removes }) {
                    self.counts[usize::from(before.removes)] -= 1;
                }
            }
            Action::Wait { .. } => {}
        }
    }

    /// The request has ended. Returns when it began, or `None` for an action that was not in
    /// flight.
    pub(super) fn end(&mut self, action: &Action) -> Option<Duration> {
        match action {
            Action::Grant { .. } => self.grant.take(),
            Action::Revoke { lease } => self.revocations.remove(lease),
            Action::Put { record, .. } | Action::Delete { record, .. } | Action::Read { record, .. } => {
                let request = self.keys.remove(&record.key)?;
                self.counts[usize::from(request.removes)] -= 1;
                Some(request.began)
            }
            Action::Wait { .. } => None,
        }
    }
}
