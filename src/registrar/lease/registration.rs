//! One registration of the lease machine: its records, and where each is. PURE.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::codec::Record;

#[derive(Debug)]
pub(super) struct Registration {
    pub(super) records: Vec<(Arc<Record>, Place)>,
    pub(super) leaving: bool,
    pub(super) was_registered: bool,
    /// What only people can mend holds up this registration and no other.
    pub(super) backoff: Backoff,
    pub(super) blocked: Duration,
    /// Until then a put whose outcome nobody knows may still arrive.
    pub(super) doubt: Duration,
}

/// Where a record is, as far as we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not under the lease that we hold.
    Out,
    /// Tried: it may have arrived.
    Tried,
    In,
}

impl Registration {
    pub(super) fn is_in(&self) -> bool {
        self.records.iter().all(|(_, place)| *place == Place::In)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.leaving && self.records.is_empty()
    }

    pub(super) fn misplaced(&self) -> Option<&Arc<Record>> {
        let misplaced = |(_, place): &&(_, Place)| self.leaving || *place != Place::In;
        self.records.iter().find(misplaced).map(|(record, _)| record)
    }

    pub(super) fn place(&self, record: &Arc<Record>) -> Option<Place> {
        self.records.iter().find(|(known, _)| known.key == record.key).map(|(_, place)| *place)
    }

    /// Keys are unique within a registration: the registrar refuses others.
    pub(super) fn set(&mut self, record: &Arc<Record>, place: Place) {
        if let Some(known) = self.records.iter_mut().find(|(known, _)| known.key == record.key) {
            known.1 = place;
        }
    }
}
