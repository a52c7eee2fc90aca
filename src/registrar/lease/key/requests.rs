//! What changes when a request for a key begins and ends. PURE.

use std::sync::Arc;

use crate::codec::Record;
use crate::registrar::lease::key::state::{KeyState, KeyStatus, RequestKind, SentRequest, WatchState};
use crate::registrar::lease::vocabulary::KeyValue;

impl KeyState {
    /// A put is sent. From here on it may be applied, whatever becomes of the request.
    pub(crate) fn begin_put(&mut self, lease: i64) {
        let kind = if self.status == KeyStatus::Absent { RequestKind::FirstPut } else { RequestKind::Put };
        if !self.exists() {
            if self.may_exist() {
                self.tried_leases.insert(self.lease);
            }
            (self.status, self.lease, self.claiming) = (KeyStatus::Unconfirmed, lease, true);
        }
        self.tried_leases.insert(lease);
        self.deferred = None;
        self.begin(kind);
    }

    /// A read is sent.
    pub(crate) fn begin_read(&mut self) {
        self.begin(RequestKind::Read);
    }

    /// Remembers the request in flight and the watch under which it began. A refresh counts as done
    /// until the request fails.
    fn begin(&mut self, kind: RequestKind) {
        let refresh = std::mem::take(&mut self.refresh_due);
        self.request = Some(SentRequest { kind, watch: self.watch, refresh });
    }

    /// The request ended without a known outcome.
    pub(crate) fn outcome_unknown(&mut self) {
        if let Some(request) = self.request.take() {
            self.refresh_due |= request.refresh;
            self.uncertain |= !matches!(request.kind, RequestKind::Read);
        }
        self.deferred = None;
    }

    /// The request was refused and not applied.
    pub(crate) fn refused(&mut self) {
        let was_first = self.request.is_some_and(|request| matches!(request.kind, RequestKind::FirstPut));
        let uncertain = self.uncertain;
        self.outcome_unknown();
        self.uncertain = uncertain;
        if was_first && self.status == KeyStatus::Unconfirmed {
            self.status = KeyStatus::Absent;
            self.tried_leases.clear();
        }
    }

    /// The key was not as a request expected it: it must be read.
    pub(crate) fn mismatch(&mut self) {
        (self.request, self.deferred) = (None, None);
        (self.status, self.unreadable) = (KeyStatus::Unknown, false);
    }

    /// The role may not read it: it is put or deleted without a read.
    pub(crate) fn read_refused(&mut self) {
        self.unreadable = true;
        if self.status == KeyStatus::Unknown {
            self.status = KeyStatus::Unconfirmed;
        }
    }

    /// A put was given up. It may be applied at any later time while its lease lives.
    pub(crate) fn add_late_put(&mut self, lease: i64) {
        self.late_puts.insert(lease);
    }

    /// A delete at the revision ended without a known outcome: it may have been applied, or may
    /// still be.
    pub(crate) fn delete_unknown(&mut self, expected: i64) {
        self.late_delete = self.late_delete.max(expected);
        if self.may_exist() {
            self.status = if self.unreadable { KeyStatus::Unconfirmed } else { KeyStatus::Unknown };
        }
    }

    /// A put was applied. Returns a later event that came while it was in flight.
    pub(crate) fn put_applied(
        &mut self,
        record: &Arc<Record>,
        lease: i64,
        revision: i64,
    ) -> Option<(i64, Option<KeyValue>)> {
        self.answered();
        // Another value may be desired since the put was sent.
        self.status = if self.record.value == record.value { KeyStatus::Present } else { KeyStatus::Outdated };
        (self.known_revision, self.put_revision, self.expected) = (revision, revision, revision);
        (self.lease, self.was_present, self.uncertain, self.claiming) = (lease, true, false, false);
        self.tried_leases.clear();
        self.take_deferred(revision)
    }

    /// The event that came while a request was in flight, if it is later than the request.
    pub(crate) fn take_deferred(&mut self, revision: i64) -> Option<(i64, Option<KeyValue>)> {
        self.deferred.take().filter(|(deferred, _)| *deferred > revision)
    }

    /// The request in flight has an answer. If it began under the present watch, it shows what
    /// happened before the watch.
    pub(super) fn answered(&mut self) {
        let watch = self.request.take().map_or(WatchState::None, |request| request.watch);
        if watch != WatchState::None && self.watch == WatchState::Unread {
            self.watch = WatchState::Current;
        }
    }
}
