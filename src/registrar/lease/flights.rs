//! What is on its way to etcd: one request for a key at a time, and a bounded number of all. PURE.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::registrar::lease::vocabulary::Action;

/// So many keys are put or read at a time, and so many leave beside them. One at a time, 200 registrations take 200 round trips;
/// at 24 it is 9. Each key has a request of its own, and not a place in a transaction of many: a key that is refused, or not as
/// expected, is then nobody else's trouble, and each answer says which key it is of.
const AT_ONCE: usize = 24;

#[derive(Debug, Default)]
pub(super) struct Flights {
    keys: BTreeMap<Vec<u8>, Flight>,
    /// How many of them stay in etcd or come to be there, and how many go out of it.
    counts: [usize; 2],
    grant: Option<Duration>,
    revocations: BTreeMap<i64, Duration>,
}

#[derive(Debug)]
struct Flight {
    began: Duration,
    goes_out: bool,
}

impl Flights {
    pub(super) fn is_busy(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// Whether it is so that the key may go out of etcd.
    pub(super) fn goes_out(&self, key: &[u8]) -> bool {
        self.keys.get(key).is_some_and(|flight| flight.goes_out)
    }

    pub(super) fn is_granting(&self) -> bool {
        self.grant.is_some()
    }

    pub(super) fn is_revoking(&self, lease: i64) -> bool {
        self.revocations.contains_key(&lease)
    }

    /// Whether another key may leave, or be put or read.
    pub(super) fn has_room(&self, goes_out: bool) -> bool {
        self.counts[usize::from(goes_out)] < AT_ONCE
    }

    pub(super) fn begin(&mut self, now: Duration, action: &Action, goes_out: bool) {
        match action {
            Action::Grant { .. } => self.grant = Some(now),
            Action::Revoke { id } => drop(self.revocations.insert(*id, now)),
            Action::Put { record, .. } | Action::Delete { record, .. } | Action::Look { record, .. } => {
                self.counts[usize::from(goes_out)] += 1;
                if let Some(before) = self.keys.insert(record.key.clone(), Flight { began: now, goes_out }) {
                    self.counts[usize::from(before.goes_out)] -= 1;
                }
            }
            Action::Wait { .. } => {}
        }
    }

    /// It has come to its end. When it began.
    pub(super) fn end(&mut self, action: &Action) -> Option<Duration> {
        match action {
            Action::Grant { .. } => self.grant.take(),
            Action::Revoke { id } => self.revocations.remove(id),
            Action::Put { record, .. } | Action::Delete { record, .. } | Action::Look { record, .. } => {
                let flight = self.keys.remove(&record.key)?;
                self.counts[usize::from(flight.goes_out)] -= 1;
                Some(flight.began)
            }
            Action::Wait { .. } => None,
        }
    }
}
