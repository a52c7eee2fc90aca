//! What changes when a key is read or a watch event comes: who owns it, and whether it must be put
//! again. PURE.

use std::sync::Arc;

use crate::codec::Record;
use crate::registrar::lease::key::state::{KeyState, KeyStatus, RequestKind};
use crate::registrar::lease::leases::Leases;
use crate::registrar::lease::vocabulary::{Conflict, KeyValue};

/// The circumstances of an observation: when, by what, and for which registration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation<'a> {
    /// The revision of the read or of the event. Older ones than the known revision are ignored.
    pub(crate) revision: i64,
    /// It is the answer to a read, not a watch event.
    pub(crate) is_read: bool,
    /// Which leases are ours, or were.
    pub(crate) leases: &'a Leases,
    /// The registration is paused or leaving.
    pub(crate) is_unwanted: bool,
    /// The rule for a key of another instance. A leaving registration takes over, so that only its
    /// own keys are removed.
    pub(crate) conflict: Conflict,
    /// The id of the registration's instance.
    pub(crate) id: Option<&'a str>,
    /// What makes a key unique.
    pub(crate) suffix: &'a str,
}

/// What the registration does about an observation.
#[derive(Debug)]
pub(crate) enum Reaction {
    /// Nothing, or nothing beyond the requests that are due anyway.
    None,
    /// It puts the key again, within its budget for repairs.
    Repair,
    /// Another instance holds the key, and this one has taken a unique key instead. Late puts may
    /// arrive at the `old` one.
    KeyChanged { old: Box<KeyState> },
}

impl KeyState {
    /// Takes in the state of the key at a revision. Ignores what an earlier answer or event has
    /// outdated.
    pub(crate) fn observe(&mut self, observation: Observation<'_>, found: Option<KeyValue>) -> Reaction {
        if observation.is_read {
            self.answered();
            if observation.revision < self.known_revision && self.status != KeyStatus::Unknown {
                return Reaction::None; // a later event came first
            }
        } else if observation.revision <= self.known_revision {
            return Reaction::None;
        } else if self.request.is_some_and(|sent| !matches!(sent.kind, RequestKind::Read) || !self.exists()) {
            self.deferred = Some((observation.revision, found));
            return Reaction::None;
        } else if self.is_unsettled() || (self.status == KeyStatus::Absent && !observation.is_unwanted) {
            return Reaction::None; // a put, read or delete follows in any case
        }
        self.known_revision = observation.revision;
        self.classify(observation, found)
    }

    /// Whether the status is so unsure that an event does not settle it: the event may be older
    /// than a late put.
    fn is_unsettled(&self) -> bool {
        matches!(self.status, KeyStatus::Unconfirmed | KeyStatus::Unknown)
            || (self.status == KeyStatus::Outdated && self.uncertain)
    }

    /// Decides whose key it is, and sets the status. The first that applies:
    ///
    /// 1. The key is absent: it is put again if it is desired.
    /// 2. It carries a live lease of ours: it is present, or outdated if the value differs or a
    ///    late delete may still remove it. If that lease is being revoked, it is put under another.
    /// 3. It may be overwritten: it was put by hand, has our id after a mismatch (our former
    ///    process), is older than our own put (a restored etcd), carries a former lease of ours, or
    ///    is being taken over.
    /// 4. The rule is `UniqueKey`: another key is used from here on.
    /// 5. Another instance holds it.
    fn classify(&mut self, observation: Observation<'_>, found: Option<KeyValue>) -> Reaction {
        let existed = self.exists();
        // A put in flight compares `expected`: it can still be applied only while the key has that revision.
        if found.as_ref().is_none_or(|found| found.revision != self.expected) {
            self.tried_leases.clear();
        }
        let Some(found) = found else {
            (self.status, self.expected) = (KeyStatus::Absent, 0);
            return Reaction::Repair;
        };
        let is_ours = observation.leases.is_live(found.lease);
        if is_ours && !observation.is_unwanted && observation.leases.is_released(found.lease) {
            // It is put under another lease.
            (self.status, self.expected, self.lease) = (KeyStatus::Unconfirmed, found.revision, found.lease);
            return Reaction::Repair;
        }
        if is_ours {
            // What a late delete may still remove, or a put move to a lease that will end, is put again.
            let may_move = self.tried_leases.iter().any(|lease| observation.leases.is_released(*lease));
            let survives = observation.is_unwanted || (found.revision > self.late_delete && !may_move);
            let is_desired = found.value == self.record.value && survives;
            self.status = if is_desired { KeyStatus::Present } else { KeyStatus::Outdated };
            (self.expected, self.lease, self.was_present, self.claiming) = (found.revision, found.lease, true, false);
            return if is_desired { Reaction::None } else { Reaction::Repair };
        }
        let takes_over = observation.conflict == Conflict::TakeOver;
        let by_hand = found.lease == 0 && (existed || takes_over);
        let has_our_id = observation.id.is_some() && found.id.as_deref() == observation.id;
        let of_former_process = self.status == KeyStatus::Unknown && has_our_id;
        // An etcd that was restored from a snapshot brings back what we have replaced since.
        let was_replaced = found.revision < self.put_revision && (has_our_id || takes_over);
        let claims = self.claiming && takes_over;
        let was_ours = observation.leases.former().contains(&found.lease);
        if by_hand || of_former_process || was_replaced || was_ours || claims {
            (self.status, self.expected) = (KeyStatus::Absent, found.revision);
            return if claims { Reaction::None } else { Reaction::Repair };
        }
        if observation.conflict == Conflict::UniqueKey && self.original_key.is_none() {
            let key = [self.record.key.as_slice(), b"/", observation.suffix.as_bytes()].concat();
            let unique = Self::new(Arc::new(Record::new(key, self.record.value.clone())));
            let unique = Self { original_key: Some(self.record.key.clone()), ..unique };
            return Reaction::KeyChanged { old: Box::new(std::mem::replace(self, unique)) };
        }
        self.status = KeyStatus::HeldByOther { lease: found.lease, id: found.id };
        (self.was_present, self.claiming, self.needs_repair) = (false, false, false);
        Reaction::None
    }
}
