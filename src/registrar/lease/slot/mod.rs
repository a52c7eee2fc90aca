//! One record of a registration, and what is known of its key in etcd. PURE.

mod requests;
mod sight;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::requests::SentRequest;
pub(super) use self::sight::{Seen, Verdict};
use crate::codec::Record;
use crate::registrar::lease::vocabulary::Found;

/// A record, and where it is.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what is known of one key, each by itself")]
pub(super) struct KeyState {
    pub(super) record: Arc<Record>,
    pub(super) place: KeyStatus,
    /// No longer wanted: it goes once what is wanted in its stead stands.
    pub(super) obsolete: bool,
    /// To be put again although it stands, where nobody can look whether it does.
    sweep: bool,
    /// The lease under which it stands, or was tried last.
    pub(super) lease: i64,
    /// Leases under which it was tried since it was last known how it stands.
    tried: BTreeSet<i64>,
    /// Leases under which a put of it may still be done, at whatever time: only their end is the end of that.
    pub(super) late: BTreeSet<i64>,
    /// A delete that was given up may still be done to what was put at this revision, and to nothing later.
    doomed: i64,
    /// The last put or delete of it came to no end that is known.
    in_doubt: bool,
    /// It is being put where it did not stand: what another has put may be overwritten, where that is wanted.
    claims: bool,
    /// The role may not read it.
    unreadable: bool,
    /// It stood, and nobody wanted it gone: where it does not stand, it is lost.
    stood: bool,
    /// The key that it was to have, which another holds.
    plain: Option<Vec<u8>>,
    watch: Watch,
    /// A request for this key is on its way.
    asked: Option<SentRequest>,
    /// The key is known as of this revision.
    known: i64,
    /// When it was put last, by ourselves.
    put_at: i64,
    /// What was seen while a request was on its way: only its answer tells which of the two came later.
    later: Option<(i64, Option<Found>)>,
    /// The revision of what may be overwritten, where that is asked for; 0 is a key that is not there.
    pub(super) expected: i64,
}

/// Where a record is, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyStatus {
    /// Not under the lease that we hold.
    Out,
    /// Tried: it may have arrived.
    Tried,
    /// Not as it was expected to be: to be looked at.
    Unknown,
    /// Under our lease, with another value.
    Stale,
    In,
    /// Another has put the key.
    Theirs {
        lease: i64,
        id: Option<Box<str>>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    No,
    /// Watched, and what was before that is to be looked at.
    Blind,
    Yes,
}

impl KeyState {
    pub(super) fn new(record: Arc<Record>) -> Self {
        Self {
            record,
            place: KeyStatus::Out,
            obsolete: false,
            sweep: false,
            lease: 0,
            tried: BTreeSet::new(),
            late: BTreeSet::new(),
            doomed: 0,
            in_doubt: false,
            claims: false,
            unreadable: false,
            stood: false,
            plain: None,
            watch: Watch::No,
            asked: None,
            known: 0,
            put_at: 0,
            later: None,
            expected: 0,
        }
    }

    /// One that nobody wants, as it was found under a lease of ours.
    pub(super) fn found(key: &[u8], found: Found) -> Self {
        let record = Arc::new(Record::new(key, found.value));
        Self {
            place: KeyStatus::In,
            lease: found.lease,
            expected: found.revision,
            known: found.revision,
            ..Self::new(record)
        }
    }

    /// Under our lease, as far as is known, or perhaps there.
    pub(super) fn may_be_there(&self) -> bool {
        !matches!(self.place, KeyStatus::Out | KeyStatus::Theirs { .. })
    }

    pub(super) fn is_there(&self) -> bool {
        matches!(self.place, KeyStatus::In | KeyStatus::Stale)
    }

    /// It may be under one of our leases, or may come to be.
    pub(super) fn concerns_etcd(&self) -> bool {
        self.may_be_there() || !self.late.is_empty()
    }

    /// Whether it may stand under that lease, where it is wanted.
    pub(super) fn may_be_under(&self, lease: i64) -> bool {
        // What is to go is not put again where nobody knows whether it stands.
        let is_kept = self.is_there() || (self.may_be_there() && !self.obsolete);
        is_kept && (self.lease == lease || self.tried.contains(&lease))
    }

    /// It can only go with the leases that are being revoked.
    pub(super) fn goes_with(&self, is_dying: impl Fn(i64) -> bool) -> bool {
        is_dying(self.lease) && self.tried.iter().all(|lease| is_dying(*lease))
    }

    /// It is to be looked at before it is deleted: only what is known to stand can be deleted with care.
    pub(super) fn is_to_be_found(&self) -> bool {
        matches!(self.place, KeyStatus::Tried | KeyStatus::Unknown) && !self.unreadable
    }

    pub(super) fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    pub(super) fn is_lost(&self) -> bool {
        self.stood && !self.is_there()
    }

    /// Whether it is to be put under the lease that is held: also where it stands under another.
    pub(super) fn needs_put(&self, lease: i64) -> bool {
        match self.place {
            KeyStatus::Out | KeyStatus::Tried => !self.obsolete,
            KeyStatus::Stale => !self.obsolete || self.lease != lease,
            KeyStatus::In => (self.sweep && !self.obsolete) || self.lease != lease,
            KeyStatus::Unknown | KeyStatus::Theirs { .. } => false,
        }
    }

    pub(super) fn needs_look(&self) -> bool {
        let is_due = self.watch == Watch::Blind || (self.sweep && matches!(self.place, KeyStatus::Theirs { .. }));
        is_due && self.asked.is_none()
    }

    /// It is watched from now on; what was before is not known. By a new stream that may be an etcd whose revisions are others.
    pub(super) fn watched(&mut self, anew: bool) {
        self.rewatch(Watch::Blind);
        (self.sweep, self.unreadable) = (false, false);
        if anew {
            self.known = 0;
        }
    }

    pub(super) fn unwatched(&mut self) {
        self.rewatch(Watch::No);
    }

    /// Whatever is on its way began under another watch.
    fn rewatch(&mut self, watch: Watch) {
        (self.watch, self.later) = (watch, None);
        self.asked = self.asked.map(|asked| SentRequest { watch: Watch::No, ..asked });
    }

    /// Nobody tells what becomes of it: what stands is put again, and what another has is looked at.
    pub(super) fn sweep(&mut self) {
        self.sweep = true;
    }

    /// Looks again, although nothing was heard.
    pub(super) fn recheck(&mut self) {
        if self.watch == Watch::Yes {
            self.watch = Watch::Blind;
        }
    }

    /// Takes the place of one that is leaving: it may be there, and puts of it may still arrive.
    pub(super) fn succeed(&mut self, left: Self) {
        self.place = if left.may_be_there() { KeyStatus::Tried } else { KeyStatus::Out };
        (self.lease, self.tried, self.late, self.expected) = (left.lease, left.tried, left.late, left.expected);
        (self.doomed, self.unreadable, self.claims) = (left.doomed, left.unreadable, true);
    }

    /// It is wanted after it was to go: what stands is put anew where it goes with its
    /// lease, or a delete of it may still be done.
    pub(super) fn stays(&mut self, is_being_deleted: bool, is_dying: impl Fn(i64) -> bool) {
        if self.is_there() && is_dying(self.lease) {
            self.place = KeyStatus::Out;
        } else if self.place == KeyStatus::In && (is_being_deleted || self.expected <= self.doomed) {
            self.place = KeyStatus::Stale;
        }
    }

    /// That lease is gone, and with it what stood under it; what another has put stays.
    pub(super) fn lease_gone(&mut self, gone: i64, is_live: impl Fn(i64) -> bool) {
        let was_late = self.late.remove(&gone);
        self.tried.remove(&gone);
        if !self.may_be_there() {
            return;
        }
        if !is_live(self.lease) {
            self.place = if self.tried.is_empty() { KeyStatus::Out } else { KeyStatus::Tried };
            self.lease = self.tried.first().copied().unwrap_or_default();
            (self.expected, self.in_doubt) = (0, false);
        } else if was_late && self.is_there() && self.watch == Watch::No {
            // A put that asked nothing of the key may have been done over what stands under the other lease.
            self.sweep = true;
        }
    }

    /// It does not stand, as was wanted.
    pub(super) fn left(&mut self) {
        (self.place, self.expected, self.in_doubt, self.stood) = (KeyStatus::Out, 0, false, false);
        self.tried.clear();
    }

    /// The record as it is wanted from now on, at the key that it has come to have.
    pub(super) fn update(&mut self, value: &[u8]) {
        self.obsolete = false;
        if self.record.value == value {
            return;
        }
        self.record = Arc::new(Record::new(self.record.key.clone(), value));
        if self.place == KeyStatus::In {
            self.place = KeyStatus::Stale;
        }
    }

    /// Whether it stands for a record of that key.
    pub(super) fn is_of(&self, key: &[u8]) -> bool {
        self.plain.as_ref().unwrap_or(&self.record.key) == key
    }
}
