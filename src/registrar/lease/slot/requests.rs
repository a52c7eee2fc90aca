//! The requests for a key: what each that begins, and each that ends, makes of what is known. PURE.

use std::sync::Arc;

use crate::codec::Record;
use crate::registrar::lease::slot::{KeyState, KeyStatus, Watch};
use crate::registrar::lease::vocabulary::Found;

/// A request, and how the key was watched when it began: what was done or read under the watch leaves nothing to look for.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentRequest {
    pub(super) what: Request,
    pub(super) watch: Watch,
    /// Asked because nobody tells: to be asked again if it fails.
    pub(super) sweep: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    /// The first of its kind: nothing was there before it, for certain.
    FirstPut,
    Put,
    Look,
}

impl KeyState {
    /// From here on a put may arrive, whatever becomes of the request.
    pub(crate) fn begin_put(&mut self, lease: i64) {
        let put = if self.place == KeyStatus::Out { Request::FirstPut } else { Request::Put };
        if !self.is_there() {
            (self.place, self.lease, self.claims) = (KeyStatus::Tried, lease, true);
        }
        self.tried.insert(lease);
        self.later = None;
        self.ask(put);
    }

    pub(crate) fn begin_look(&mut self) {
        self.ask(Request::Look);
    }

    fn ask(&mut self, what: Request) {
        self.asked = Some(SentRequest { what, watch: self.watch, sweep: std::mem::take(&mut self.sweep) });
    }

    /// The request came to no end that is known.
    pub(crate) fn end(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.sweep |= asked.sweep;
            self.in_doubt |= !matches!(asked.what, Request::Look);
        }
        self.later = None;
    }

    /// The request was refused, and not done.
    pub(crate) fn refused(&mut self) {
        let (first, in_doubt) =
            (matches!(self.asked, Some(SentRequest { what: Request::FirstPut, .. })), self.in_doubt);
        self.end();
        self.in_doubt = in_doubt;
        if first && self.place == KeyStatus::Tried {
            self.place = KeyStatus::Out;
            self.tried.clear();
        }
    }

    /// The key was not as a request expected it: how it is, is to be looked at.
    pub(crate) fn differs(&mut self) {
        (self.asked, self.later, self.place, self.unreadable) = (None, None, KeyStatus::Unknown, false);
    }

    /// It may not be read: what is not known is tried.
    pub(crate) fn is_refused_a_look(&mut self) {
        self.unreadable = true;
        if self.place == KeyStatus::Unknown {
            self.place = KeyStatus::Tried;
        }
    }

    /// The put is given up; it may be done at any later time, while its lease lives.
    pub(crate) fn give_up(&mut self, lease: i64) {
        self.late.insert(lease);
    }

    /// Whether what was put at that revision was deleted cannot be known: it is to be looked at.
    pub(crate) fn doubt(&mut self, expected: i64) {
        self.doomed = self.doomed.max(expected);
        if self.may_be_there() {
            self.place = if self.unreadable { KeyStatus::Tried } else { KeyStatus::Unknown };
        }
    }

    /// The put is done under that lease, at that revision. What was seen since is to be taken in.
    pub(crate) fn put(&mut self, record: &Arc<Record>, lease: i64, revision: i64) -> Option<(i64, Option<Found>)> {
        self.saw_all();
        // Another value may be wanted since.
        self.place = if self.record.value == record.value { KeyStatus::In } else { KeyStatus::Stale };
        (self.known, self.put_at, self.expected) = (revision, revision, revision);
        (self.lease, self.stood, self.in_doubt, self.claims) = (lease, true, false, false);
        self.tried.clear();
        self.later(revision)
    }

    /// What was seen since a request was done at that revision.
    pub(crate) fn later(&mut self, revision: i64) -> Option<(i64, Option<Found>)> {
        self.later.take().filter(|(seen, _)| *seen > revision)
    }

    /// The request that is on its way has an answer: under the watch it was made under, that tells what was before.
    pub(super) fn saw_all(&mut self) {
        let under = self.asked.take().map_or(Watch::No, |asked| asked.watch);
        if under != Watch::No && self.watch == Watch::Blind {
            self.watch = Watch::Yes;
        }
    }
}
