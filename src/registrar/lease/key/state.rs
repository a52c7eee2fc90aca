//! What the machine knows of one key. PURE.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::codec::Record;
use crate::registrar::lease::vocabulary::KeyValue;

/// A desired record and what is known of its key in etcd.
///
/// Two facts are kept apart: `status` is the last known state, and `late_puts` is what may still
/// change it without being asked. Only the end of a lease removes the lease from `late_puts`.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one key")]
pub(crate) struct KeyState {
    /// The key and the desired value.
    pub(crate) record: Arc<Record>,
    /// The last known state of the key.
    pub(crate) status: KeyStatus,
    /// The registration no longer desires it. It goes once its replacement exists.
    pub(crate) obsolete: bool,
    /// It is due to be put again although it seems present, or read again if another holds it: no
    /// watch reports changes.
    pub(super) refresh_due: bool,
    /// The lease that it is under, or was last put under.
    pub(crate) lease: i64,
    /// Leases that it was put under since its status was last known for sure.
    pub(super) tried_leases: BTreeSet<i64>,
    /// Leases under which a late put of it may still be applied.
    pub(crate) late_puts: BTreeSet<i64>,
    /// A delete without an answer may still remove what was put up to this revision, and nothing
    /// later.
    pub(super) late_delete: i64,
    /// The outcome of the last put or delete is unknown.
    pub(super) uncertain: bool,
    /// It is being put where it was not present, so it may overwrite another instance's key if the
    /// conflict rule allows.
    pub(super) claiming: bool,
    /// The role may not read it.
    pub(super) unreadable: bool,
    /// Somebody has deleted or overwritten it under a lease that lives, and it is put again.
    pub(crate) needs_repair: bool,
    /// It was present and nobody has removed it on purpose: if it is absent, it is lost.
    pub(super) was_present: bool,
    /// The key of the record before a conflict gave it a unique one.
    pub(super) original_key: Option<Vec<u8>>,
    pub(super) watch: WatchState,
    /// The put or read in flight.
    pub(super) request: Option<SentRequest>,
    /// Its status is known as of this revision.
    pub(super) known_revision: i64,
    /// The revision of our own last put.
    pub(super) put_revision: i64,
    /// The last event that came while a request was in flight: only the answer tells which of the
    /// two is later.
    pub(super) deferred: Option<(i64, Option<KeyValue>)>,
    /// The modification revision that the next put or delete compares with; 0 if the key must not
    /// exist.
    pub(crate) expected: i64,
}

/// The last known state of a key. The docs of [`lease`](crate::registrar::lease) draw the
/// transitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyStatus {
    /// Not under a lease of ours.
    Absent,
    /// A put was sent, and nothing is known of its outcome; or its lease will end although it is
    /// desired. It is put.
    Unconfirmed,
    /// A comparison failed: the key must be read.
    Unknown,
    /// Under a lease of ours, but it must be put again: another value is desired, a late delete may
    /// remove it, or a put may have moved it to a lease that ends.
    Outdated,
    /// Under a lease of ours, with the desired value.
    Present,
    /// Another instance holds it, and the conflict rule respects that.
    HeldByOther { lease: i64, id: Option<Box<str>> },
}

/// Whether a watch reports changes of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchState {
    /// No watch.
    None,
    /// Watched, but what happened before the watch began is unknown: the key must be read.
    Unread,
    /// Watched, and read or put since.
    Current,
}

/// A put or read in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentRequest {
    /// What the request does.
    pub(super) kind: RequestKind,
    /// The watch when the request began. An answer counts as the first read of the key only under
    /// the same watch.
    pub(super) watch: WatchState,
    /// The request does a refresh, which is due again if the request fails.
    pub(super) refresh: bool,
}

/// The kinds of request that change what is known of a key. A delete has none: it is sent only when
/// nothing else is desired.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestKind {
    /// The first put: if it is refused, the key is certainly absent.
    FirstPut,
    /// A put of a key that may be present.
    Put,
    /// A read. Unlike a put it changes nothing, so an event that comes meanwhile is taken in at
    /// once if the key exists.
    Read,
}

impl KeyState {
    pub(crate) fn new(record: Arc<Record>) -> Self {
        Self {
            record,
            status: KeyStatus::Absent,
            obsolete: false,
            refresh_due: false,
            lease: 0,
            tried_leases: BTreeSet::new(),
            late_puts: BTreeSet::new(),
            late_delete: 0,
            uncertain: false,
            claiming: false,
            unreadable: false,
            needs_repair: false,
            was_present: false,
            original_key: None,
            watch: WatchState::None,
            request: None,
            known_revision: 0,
            put_revision: 0,
            deferred: None,
            expected: 0,
        }
    }

    /// A key that no registration desires, as it was found under a lease of ours.
    pub(crate) fn orphan(key: &[u8], found: KeyValue) -> Self {
        let record = Arc::new(Record::new(key, found.value));
        Self {
            status: KeyStatus::Present,
            lease: found.lease,
            expected: found.revision,
            known_revision: found.revision,
            ..Self::new(record)
        }
    }

    /// Whether it is under a lease of ours, or may be.
    pub(crate) fn may_exist(&self) -> bool {
        !matches!(self.status, KeyStatus::Absent | KeyStatus::HeldByOther { .. })
    }

    /// Whether it is known to be under a lease of ours.
    pub(crate) fn exists(&self) -> bool {
        matches!(self.status, KeyStatus::Present | KeyStatus::Outdated)
    }

    /// Whether it may be under a lease of ours now or later.
    pub(crate) fn may_ever_exist(&self) -> bool {
        self.may_exist() || !self.late_puts.is_empty()
    }

    /// Whether it is desired under that lease: it exists there, or may exist and is not obsolete.
    pub(crate) fn may_be_under(&self, lease: i64) -> bool {
        let is_kept = self.exists() || (self.may_exist() && !self.obsolete);
        is_kept && (self.lease == lease || self.tried_leases.contains(&lease))
    }

    /// Whether every lease that it may be under is released, so that revoking them removes it.
    pub(crate) fn ends_with(&self, is_released: impl Fn(i64) -> bool) -> bool {
        is_released(self.lease) && self.tried_leases.iter().all(|lease| is_released(*lease))
    }

    /// Whether it must be read before it is deleted: a delete compares the revision, which is
    /// unknown here.
    pub(crate) fn must_be_read_first(&self) -> bool {
        matches!(self.status, KeyStatus::Unconfirmed | KeyStatus::Unknown) && !self.unreadable
    }

    /// Whether the role may not read it, so that comparisons are refused too. Reset by a new watch
    /// and by a mismatch, because the role may have been granted more since.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// Whether it was present, was not removed on purpose, and is absent.
    pub(crate) fn is_lost(&self) -> bool {
        self.was_present && !self.exists()
    }

    /// Whether it must be put under the current lease, also if it exists under another one.
    pub(crate) fn needs_put(&self, lease: i64) -> bool {
        match self.status {
            KeyStatus::Absent | KeyStatus::Unconfirmed => !self.obsolete,
            KeyStatus::Outdated => !self.obsolete || self.lease != lease,
            KeyStatus::Present => (self.refresh_due && !self.obsolete) || self.lease != lease,
            KeyStatus::Unknown | KeyStatus::HeldByOther { .. } => false,
        }
    }

    /// Whether it is due to be read: its watch is new, or another instance holds it and no watch
    /// tells when it is free.
    pub(crate) fn needs_read(&self) -> bool {
        let held = matches!(self.status, KeyStatus::HeldByOther { .. });
        (self.watch == WatchState::Unread || (self.refresh_due && held)) && self.request.is_none()
    }

    /// A watch of it began. A new watch may be of a restored etcd whose revisions are lower, so
    /// none is known any more.
    pub(crate) fn watched(&mut self, new_watch: bool) {
        self.set_watch(WatchState::Unread);
        (self.refresh_due, self.unreadable) = (false, false);
        if new_watch {
            self.known_revision = 0;
        }
    }

    /// Its watch has ended. What happens from here on is found out by the read after the next
    /// watch.
    pub(crate) fn watch_lost(&mut self) {
        self.set_watch(WatchState::None);
    }

    /// The request in flight began under another watch, so its answer does not count as a read
    /// under the new one.
    fn set_watch(&mut self, watch: WatchState) {
        (self.watch, self.deferred) = (watch, None);
        self.request = self.request.map(|request| SentRequest { watch: WatchState::None, ..request });
    }

    /// Makes it due to be put again, or read again if another instance holds it.
    pub(crate) fn refresh(&mut self) {
        self.refresh_due = true;
    }

    /// Makes it due to be read although no event came.
    pub(crate) fn recheck(&mut self) {
        if self.watch == WatchState::Current {
            self.watch = WatchState::Unread;
        }
    }

    /// Takes over the state of the same key of another registration. It may exist, and late puts of
    /// it may arrive.
    pub(crate) fn inherit(&mut self, old: Self) {
        self.status = if old.may_exist() { KeyStatus::Unconfirmed } else { KeyStatus::Absent };
        (self.lease, self.expected, self.late_delete) = (old.lease, old.expected, old.late_delete);
        (self.tried_leases, self.late_puts) = (old.tried_leases, old.late_puts);
        (self.unreadable, self.claiming) = (old.unreadable, true);
    }

    /// It is desired again after it was to be removed: it is put again if its lease will end, a put
    /// may have moved it to one that will, or a delete may still remove it.
    pub(crate) fn keep(&mut self, is_being_deleted: bool, is_released: impl Fn(i64) -> bool) {
        if self.exists() && is_released(self.lease) {
            self.status = KeyStatus::Unconfirmed;
        } else if self.status == KeyStatus::Present {
            let may_have_moved = self.tried_leases.union(&self.late_puts).any(|lease| is_released(*lease));
            if is_being_deleted || may_have_moved || self.expected <= self.late_delete {
                self.status = KeyStatus::Outdated;
            }
        }
    }

    /// A lease has ended, and the key with it if it was under that lease.
    pub(crate) fn lease_ended(&mut self, ended: i64, is_live: impl Fn(i64) -> bool) {
        // What a lease has taken along nobody has deleted.
        self.needs_repair &= self.lease != ended;
        let had_late_put = self.late_puts.remove(&ended);
        let was_tried = self.tried_leases.remove(&ended);
        if !self.may_exist() {
            return;
        }
        if !is_live(self.lease) {
            self.status = if self.tried_leases.is_empty() { KeyStatus::Absent } else { KeyStatus::Unconfirmed };
            self.lease = self.tried_leases.first().copied().unwrap_or_default();
            (self.expected, self.uncertain) = (0, false);
        } else if was_tried && self.exists() {
            // The put may have moved it to the lease that ended.
            (self.status, self.uncertain) = (KeyStatus::Outdated, true);
        } else if had_late_put && self.exists() && self.watch == WatchState::None {
            // An unconditional late put may have moved the key to the lease that ended, and no watch would report that.
            self.refresh_due = true;
        }
    }

    /// It is absent, as desired.
    pub(crate) fn removed(&mut self) {
        (self.status, self.expected) = (KeyStatus::Absent, 0);
        (self.uncertain, self.was_present, self.needs_repair) = (false, false, false);
        self.tried_leases.clear();
    }

    /// Sets the desired value. The key stays the one that a conflict gave it.
    pub(crate) fn update(&mut self, value: &[u8]) {
        self.obsolete = false;
        if self.record.value == value {
            return;
        }
        self.record = Arc::new(Record::new(self.record.key.clone(), value));
        if self.status == KeyStatus::Present {
            self.status = KeyStatus::Outdated;
        }
    }

    /// Whether it stores the record with that key, perhaps under a unique key.
    pub(crate) fn is_for(&self, key: &[u8]) -> bool {
        self.original_key.as_ref().unwrap_or(&self.record.key) == key
    }
}
