//! One record of a registration, and what is known of its key in etcd. PURE.

mod sight;

use std::sync::Arc;
use std::time::Duration;

pub(super) use self::sight::{Seen, Verdict};
use super::vocabulary::Found;
use crate::codec::Record;

/// A record, and where it is.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) record: Arc<Record>,
    pub(super) place: Place,
    /// No longer wanted: it goes once what is wanted in its stead stands.
    pub(super) obsolete: bool,
    /// To be put again although it stands, where nobody can look whether it does.
    sweep: bool,
    doubt: Doubt,
    /// It stood, and nobody wanted it gone: where it does not stand, it is lost.
    stood: bool,
    /// The key that it was to have, which another holds.
    plain: Option<Vec<u8>>,
    watch: Watch,
    /// A request for this key is on its way.
    asked: Option<Asked>,
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

/// Puts that were given up, of which nobody knows whether they were done.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    /// The last one was.
    last: bool,
    /// Until then they may still arrive, so many of them.
    until: Duration,
    puts: u32,
}

/// A request, and how the key was watched when it began: what was done or read under the watch leaves nothing to look for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    what: Request,
    watch: Watch,
    /// Asked because nobody tells: to be asked again if it fails.
    sweep: bool,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    /// The first of its kind: nothing was there before it, for certain.
    FirstPut,
    Put,
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    No,
    /// Watched, and what was before that is to be looked at.
    Blind,
    Yes,
}

impl Slot {
    pub(super) fn new(record: Arc<Record>) -> Self {
        Self {
            record,
            place: Place::Out,
            obsolete: false,
            sweep: false,
            stood: false,
            doubt: Doubt::default(),
            plain: None,
            watch: Watch::No,
            asked: None,
            known: 0,
            put_at: 0,
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

    pub(super) fn is_lost(&self) -> bool {
        self.stood && !self.is_there()
    }

    pub(super) fn needs_put(&self) -> bool {
        matches!(self.place, Place::Out | Place::Tried | Place::Stale) || (self.sweep && self.place == Place::In)
    }

    pub(super) fn needs_look(&self) -> bool {
        let is_due = self.watch == Watch::Blind || (self.sweep && matches!(self.place, Place::Theirs { .. }));
        is_due && self.asked.is_none()
    }

    /// It is watched from now on; what was before is not known. By a new stream that may be an etcd whose revisions are others.
    pub(super) fn watched(&mut self, anew: bool) {
        self.rewatch(Watch::Blind);
        self.sweep = false;
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
        self.asked = self.asked.map(|asked| Asked { watch: Watch::No, ..asked });
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

    /// From here on a put may arrive, whatever becomes of the request.
    pub(super) fn begin_put(&mut self) {
        let put = if self.place == Place::Out { Request::FirstPut } else { Request::Put };
        if matches!(self.place, Place::Out | Place::Unknown) {
            self.place = Place::Tried;
        }
        self.later = None;
        self.ask(put);
    }

    pub(super) fn begin_look(&mut self) {
        self.ask(Request::Look);
    }

    fn ask(&mut self, what: Request) {
        self.asked = Some(Asked { what, watch: self.watch, sweep: std::mem::take(&mut self.sweep) });
    }

    /// The request came to no end that is known.
    pub(super) fn end(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.sweep |= asked.sweep;
            self.doubt.last |= !matches!(asked.what, Request::Look);
        }
        self.later = None;
    }

    /// The request was refused, and not done.
    pub(super) fn refused(&mut self) {
        let (first, doubt) = (matches!(self.asked, Some(Asked { what: Request::FirstPut, .. })), self.doubt);
        self.end();
        self.doubt = doubt;
        if first && self.place == Place::Tried {
            self.place = Place::Out;
        }
    }

    /// The key was not as the put expected it: how it is, is to be looked at.
    pub(super) fn differs(&mut self) {
        (self.asked, self.later, self.place) = (None, None, Place::Unknown);
    }

    /// The put is given up; it may arrive until then.
    pub(super) fn give_up(&mut self, now: Duration, until: Duration) {
        let before = if now < self.doubt.until { self.doubt.puts } else { 0 };
        (self.doubt.until, self.doubt.puts) = (until, before.saturating_add(1));
    }

    /// Takes the place of one that is leaving: it may be there, and puts of it may still arrive.
    pub(super) fn succeed(&mut self, left: &Self) {
        (self.place, self.doubt) = (Place::Tried, left.doubt);
    }

    /// Whether a put may still arrive. One that was deleted was the only one, where nothing else ever stood there.
    pub(super) fn may_still_arrive(&self, now: Duration, deleted: bool) -> bool {
        now < self.doubt.until && (!deleted || self.stood || self.doubt.puts > 1)
    }

    /// A delete of it may have been done, or was done before a put that may still arrive.
    pub(super) fn doubt(&mut self) {
        if self.is_there() {
            self.place = Place::Tried;
        }
    }

    /// The put is done, at that revision. What was seen since is to be taken in.
    pub(super) fn put(&mut self, record: &Arc<Record>, revision: i64) -> Option<(i64, Option<Found>)> {
        self.saw_all();
        // Another value may be wanted since.
        self.place = if self.record.value == record.value { Place::In } else { Place::Stale };
        (self.known, self.put_at, self.expected) = (revision, revision, revision);
        (self.stood, self.doubt.last) = (true, false);
        self.later(revision)
    }

    /// What was seen since a request was done at that revision.
    pub(super) fn later(&mut self, revision: i64) -> Option<(i64, Option<Found>)> {
        self.later.take().filter(|(seen, _)| *seen > revision)
    }

    /// The request that is on its way has an answer: under the watch it was made under, that tells what was before.
    fn saw_all(&mut self) {
        let under = self.asked.take().map_or(Watch::No, |asked| asked.watch);
        if under != Watch::No && self.watch == Watch::Blind {
            self.watch = Watch::Yes;
        }
    }

    /// With its lease it is gone; what another has put stays.
    pub(super) fn lease_gone(&mut self) {
        if self.may_be_there() {
            (self.place, self.expected) = (Place::Out, 0);
        }
        self.doubt = Doubt::default(); // what is on its way under it will not be done
    }

    /// It is gone, as was wanted.
    pub(super) fn left(&mut self) {
        self.lease_gone();
        self.stood = false;
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
