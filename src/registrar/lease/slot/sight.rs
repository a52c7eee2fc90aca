//! What is made of a key as it was seen, by a look or by the watch. PURE.

use std::sync::Arc;

use crate::codec::Record;
use crate::registrar::lease::slot::requests::Request;
use crate::registrar::lease::slot::{KeyState, KeyStatus};
use crate::registrar::lease::tenure::LeaseState;
use crate::registrar::lease::vocabulary::{Conflict, Found};

/// Where and how a key was seen, and for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) revision: i64,
    /// Asked for, and not told by the watch.
    pub(crate) looked: bool,
    /// Our leases.
    pub(crate) tenure: &'a LeaseState,
    /// Paused, or leaving.
    pub(crate) goes_out: bool,
    pub(crate) conflict: Conflict,
    pub(crate) id: Option<&'a str>,
    /// What makes a key unique.
    pub(crate) suffix: &'a str,
}

/// What a look at a key asks for.
#[derive(Debug)]
pub(crate) enum Verdict {
    Fine,
    Repair,
    /// The key has changed; a put of ours may still come to the one that is left.
    Moved {
        left: Box<KeyState>,
    },
}

impl KeyState {
    /// The key as it stood at that revision: by a look, or by an event of the watch.
    pub(crate) fn see(&mut self, seen: Seen<'_>, found: Option<Found>) -> Verdict {
        if seen.looked {
            self.saw_all();
            if seen.revision < self.known && self.place != KeyStatus::Unknown {
                return Verdict::Fine; // an event came sooner
            }
        } else if seen.revision <= self.known {
            return Verdict::Fine;
        } else if self.asked.is_some_and(|asked| !matches!(asked.what, Request::Look) || !self.is_there()) {
            self.later = Some((seen.revision, found));
            return Verdict::Fine;
        } else if self.is_open() || (self.place == KeyStatus::Out && !seen.goes_out) {
            return Verdict::Fine; // a put, a look or a delete follows in any case
        }
        self.known = seen.revision;
        self.judge(seen, found)
    }

    /// Nobody knows how the key stands: what is told may be older than a put that was given up.
    fn is_open(&self) -> bool {
        matches!(self.place, KeyStatus::Tried | KeyStatus::Unknown) || (self.place == KeyStatus::Stale && self.in_doubt)
    }

    fn judge(&mut self, seen: Seen<'_>, found: Option<Found>) -> Verdict {
        let stood = self.is_there();
        // A put that is on its way asks for the key as it was: it may still be done while that is so.
        if found.as_ref().is_none_or(|found| found.revision != self.expected) {
            self.tried.clear();
        }
        let Some(found) = found else {
            (self.place, self.expected) = (KeyStatus::Out, 0);
            return Verdict::Repair;
        };
        let is_ours = seen.tenure.is_live(found.lease);
        // What goes with its lease is to be put under another one, unless it is to go.
        if is_ours && (seen.goes_out || !seen.tenure.is_dying(found.lease)) {
            // What may still be deleted is put anew.
            let same = found.value == self.record.value && (seen.goes_out || found.revision > self.doomed);
            (self.place, self.expected) = (if same { KeyStatus::In } else { KeyStatus::Stale }, found.revision);
            (self.lease, self.stood, self.claims) = (found.lease, true, false);
            return if same { Verdict::Fine } else { Verdict::Repair };
        }
        let by_hand = found.lease == 0 && (stood || seen.conflict == Conflict::TakeOver);
        let same_id = seen.id.is_some() && found.id.as_deref() == seen.id;
        let in_a_former_life = self.place == KeyStatus::Unknown && same_id;
        // An etcd that was restored from a snapshot brings back what we have replaced since.
        let replaced = found.revision < self.put_at && (same_id || seen.conflict == Conflict::TakeOver);
        let taken_over = self.claims && seen.conflict == Conflict::TakeOver;
        let was_ours = is_ours || seen.tenure.former().contains(&found.lease);
        if by_hand || in_a_former_life || replaced || was_ours || taken_over {
            (self.place, self.expected) = (KeyStatus::Out, found.revision);
            return if taken_over { Verdict::Fine } else { Verdict::Repair };
        }
        if seen.conflict == Conflict::UniqueKey && self.plain.is_none() {
            let key = [self.record.key.as_slice(), b"/", seen.suffix.as_bytes()].concat();
            let unique = Self::new(Arc::new(Record::new(key, self.record.value.clone())));
            let unique = Self { plain: Some(self.record.key.clone()), ..unique };
            return Verdict::Moved { left: Box::new(std::mem::replace(self, unique)) };
        }
        self.place = KeyStatus::Theirs { lease: found.lease, id: found.id };
        (self.stood, self.claims) = (false, false);
        Verdict::Fine
    }
}
