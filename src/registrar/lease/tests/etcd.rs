//! A simulated etcd: what it does to leases and keys, and what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::registrar::lease::tests::world::{TTL, secs};
use crate::registrar::lease::{Action, FailureKind, Input, KeyValue};

/// An etcd with leases, keys that may belong to others, and a history.
#[derive(Debug, Default)]
pub(super) struct Etcd {
    pub(super) leases: BTreeMap<i64, Duration>,
    pub(super) keys: BTreeMap<Vec<u8>, KeyValue>,
    pub(super) revision: i64,
    pub(super) events: Vec<(Vec<u8>, i64, Option<KeyValue>)>,
    pub(super) renewals: u32,
}

/// A lease of somebody else's.
pub(super) const THEIRS: i64 = -7;

impl Etcd {
    pub(super) fn expire(&mut self, now: Duration) {
        let ended: Vec<i64> = self.leases.iter().filter(|(_, ends)| **ends <= now).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.revoke(id));
    }

    pub(super) fn revoke(&mut self, id: i64) {
        self.leases.remove(&id);
        let keys: Vec<_> =
            self.keys.iter().filter(|(_, found)| found.lease == id).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.delete(key));
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> i64 {
        self.revision += 1;
        let found = KeyValue { lease, revision: self.revision, value: value.to_vec(), id: None };
        self.keys.insert(key.to_vec(), found.clone());
        self.events.push((key.to_vec(), self.revision, Some(found)));
        self.revision
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        if self.keys.remove(key).is_some() {
            self.revision += 1;
            self.events.push((key.to_vec(), self.revision, None));
        }
    }

    pub(super) fn renew(&mut self, now: Duration, id: i64) -> Input {
        self.renewals += 1;
        match self.leases.get_mut(&id) {
            Some(ends) => {
                *ends = now + secs(TTL.cast_unsigned());
                Input::Renewed { lease: id, asked: now, seconds: Some(TTL) }
            }
            None => Input::RenewalFailed { lease: id, failure: FailureKind::LeaseGone },
        }
    }

    pub(super) fn serve(&mut self, now: Duration, action: &Action) -> Input {
        match action {
            // What exists is not renewed by that.
            Action::Grant { lease: id, .. } if self.leases.contains_key(id) => {
                Input::Granted { asked: now, seconds: None }
            }
            Action::Grant { lease: id, seconds } => {
                self.leases.insert(*id, now + secs(seconds.cast_unsigned()));
                Input::Granted { asked: now, seconds: Some(*seconds) }
            }
            Action::Put { record, lease, expected, .. } => {
                let there = self.keys.get(&record.key).map_or(0, |found| found.revision);
                if expected.is_some_and(|expected| expected != there) {
                    return Input::PutMismatch { retried: false };
                }
                if !self.leases.contains_key(lease) {
                    return Input::Failed(FailureKind::LeaseGone);
                }
                Input::Put { revision: self.put(&record.key, &record.value, *lease), retried: false }
            }
            Action::Delete { record, lease, expected, .. } => {
                let as_expected = |found: &KeyValue| found.lease == *lease && found.revision == *expected;
                if !self.keys.get(&record.key).is_some_and(as_expected) {
                    return Input::DeleteMismatch;
                }
                self.delete(&record.key);
                Input::Removed
            }
            Action::Read { record, .. } => Input::Observed {
                key: record.key.clone(),
                revision: self.revision,
                found: self.keys.get(&record.key).cloned(),
            },
            Action::Revoke { lease: id } => {
                self.revoke(*id);
                Input::Removed
            }
            Action::Wait { .. } => unreachable!("waiting is not served"),
        }
    }
}
