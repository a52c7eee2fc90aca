//! One record of a registration, and what is known of its key in etcd. PURE.

use std::collections::VecDeque;
use std::sync::Arc;

use super::vocabulary::{Conflict, Found};
use crate::codec::Record;

/// A record, and where it is.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) record: Arc<Record>,
    pub(super) place: Place,
    /// No longer wanted: it goes once what is wanted in its stead stands.
    pub(super) obsolete: bool,
    /// To be put again although it stands, where nobody can look whether it does.
    pub(super) sweep: bool,
    /// The key that it was to have, which another holds.
    plain: Option<Vec<u8>>,
    watch: Watch,
    /// A put is on its way. One that began under the watch leaves nothing to look for when it is done.
    putting: Option<Watch>,
    /// The key is known as of this revision.
    known: i64,
    /// What was seen while a put was on its way: only its answer tells which of the two came later.
    later: Option<(i64, Option<Found>)>,
    /// The revision of what may be overwritten, where that is asked for; 0 is a key that is not there.
    pub(super) expected: i64,
}

/// Where a record is, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
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

/// What a look at a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    Repair,
    /// The key has changed.
    Moved,
}

impl Slot {
    pub(super) fn new(record: Arc<Record>) -> Self {
        Self {
            record,
            place: Place::Out,
            obsolete: false,
            sweep: false,
            plain: None,
            watch: Watch::No,
            putting: None,
            known: 0,
            later: None,
            expected: 0,
        }
    }

    /// Under our lease, as far as is known, or perhaps there.
    pub(super) fn may_be_there(&self) -> bool {
        !matches!(self.place, Place::Out | Place::Theirs { .. })
    }

    pub(super) fn is_there(&self) -> bool {
        matches!(self.place, Place::In | Place::Stale)
    }

    pub(super) fn needs_put(&self) -> bool {
        matches!(self.place, Place::Out | Place::Tried | Place::Stale) || (self.sweep && self.place == Place::In)
    }

    pub(super) fn needs_look(&self) -> bool {
        self.watch == Watch::Blind && self.putting.is_none()
    }

    /// It is watched from now on; what was before is not known.
    pub(super) fn watched(&mut self) {
        (self.watch, self.known, self.later, self.sweep) = (Watch::Blind, 0, None, false);
        self.putting = self.putting.map(|_| Watch::No);
    }

    pub(super) fn unwatched(&mut self) {
        (self.watch, self.later) = (Watch::No, None);
        self.putting = self.putting.map(|_| Watch::No);
    }

    /// Looks again, although nothing was heard.
    pub(super) fn recheck(&mut self) {
        if self.watch == Watch::Yes {
            self.watch = Watch::Blind;
        }
    }

    /// From here on a put may arrive, whatever becomes of the request.
    pub(super) fn begin_put(&mut self) {
        if matches!(self.place, Place::Out | Place::Unknown) {
            self.place = Place::Tried;
        }
        (self.putting, self.later, self.sweep) = (Some(self.watch), None, false);
    }

    /// The put came to no end that is known.
    pub(super) fn end_put(&mut self) {
        (self.putting, self.later) = (None, None);
    }

    /// The put is done, at that revision. What was seen since is to be taken in.
    pub(super) fn put(&mut self, record: &Arc<Record>, revision: i64) -> Option<(i64, Option<Found>)> {
        let covered = self.putting.take().is_some_and(|watch| watch != Watch::No);
        if covered && self.watch != Watch::No {
            self.watch = Watch::Yes;
        }
        // Another value may be wanted since.
        self.place = if self.record.value == record.value { Place::In } else { Place::Stale };
        self.known = revision;
        self.later.take().filter(|(seen, _)| *seen > revision)
    }

    /// With its lease it is gone; what another has put stays.
    pub(super) fn lease_gone(&mut self) {
        if self.may_be_there() {
            (self.place, self.expected) = (Place::Out, 0);
        }
    }

    /// The key as it stood at that revision: by a look, or by an event of the watch.
    pub(super) fn see(&mut self, seen: Seen<'_>, found: Option<Found>) -> Verdict {
        if seen.looked {
            if self.watch == Watch::Blind {
                self.watch = Watch::Yes;
            }
            if seen.revision < self.known && self.place != Place::Unknown {
                return Verdict::Fine; // an event came sooner
            }
        } else if seen.revision <= self.known {
            return Verdict::Fine;
        } else if self.putting.is_some() {
            self.later = Some((seen.revision, found));
            return Verdict::Fine;
        } else if matches!(self.place, Place::Out | Place::Tried | Place::Unknown) && !seen.paused {
            return Verdict::Fine; // a put or a look follows in any case
        }
        self.known = seen.revision;
        self.judge(seen, found)
    }

    fn judge(&mut self, seen: Seen<'_>, found: Option<Found>) -> Verdict {
        let stood = self.is_there();
        let Some(found) = found else {
            (self.place, self.expected) = (Place::Out, 0);
            return Verdict::Repair;
        };
        if Some(found.lease) == seen.lease {
            let same = found.value == self.record.value;
            (self.place, self.expected) = (if same { Place::In } else { Place::Stale }, found.revision);
            return if same { Verdict::Fine } else { Verdict::Repair };
        }
        let by_hand = found.lease == 0 && (stood || seen.conflict == Conflict::TakeOver);
        let in_a_former_life = self.place == Place::Unknown && seen.id.is_some() && found.id.as_deref() == seen.id;
        // An etcd that was restored from a snapshot brings a former lease of ours back, and what stood under it.
        let before = seen.former.contains(&found.lease);
        if by_hand || in_a_former_life || before {
            (self.place, self.expected) = (Place::Out, found.revision);
            return Verdict::Repair;
        }
        if seen.conflict == Conflict::UniqueKey && self.plain.is_none() && !stood {
            let key = [self.record.key.as_slice(), b"/", seen.suffix.as_bytes()].concat();
            let unique = Self::new(Arc::new(Record::new(key, self.record.value.clone())));
            *self = Self { plain: Some(self.record.key.clone()), ..unique };
            return Verdict::Moved;
        }
        self.place = Place::Theirs { lease: found.lease, id: found.id };
        Verdict::Fine
    }

    /// The record as it is wanted from now on, at the key that it has come to have.
    pub(super) fn update(&mut self, value: &[u8]) {
        self.obsolete = false;
        if self.record.value == value {
            return;
        }
        self.record = Arc::new(Record::new(self.record.key.clone(), value));
        if self.place == Place::In {
            self.place = Place::Stale;
        }
    }

    /// Whether it stands for a record of that key.
    pub(super) fn is_of(&self, key: &[u8]) -> bool {
        self.plain.as_ref().unwrap_or(&self.record.key) == key
    }
}

/// Where and how a key was seen, and for whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) revision: i64,
    /// Asked for, and not told by the watch.
    pub(super) looked: bool,
    pub(super) lease: Option<i64>,
    /// Leases of ours that are gone.
    pub(super) former: &'a VecDeque<i64>,
    pub(super) paused: bool,
    pub(super) conflict: Conflict,
    pub(super) id: Option<&'a str>,
    /// What makes a key unique.
    pub(super) suffix: &'a str,
}
