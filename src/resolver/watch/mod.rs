//! The watch machine: keeps a snapshot true to an etcd prefix, whatever etcd and the network do. PURE.
//!
//! It has two hands: the watch in one, list_backoff in the other, so that a list that hangs holds up no event, and a watch that
//! cannot be opened no list. [`Machine::watch`] and [`Machine::action`] say what each is to do next, [`Machine::on`] takes
//! what came of it. The clock is an argument: the time since any fixed start, the same for every call.
//!
//! ```text
//! list_backoff:   due ──▶ running ──▶ due again in 5–10 minutes; sooner after a break; at once where a revision is gone
//!
//! watch:   closed ──▶ opening ──▶ open ──▶ lost, canceled ──▶ closed, from the last revision seen
//!                        │          ▲
//!                        └ verifying┘  created by a member that is behind: a linearizable read decides
//! ```
//! The watch begins at the revision of the list, and what the list holds is dropped: a watch that begins later is not asked
//! for progress with success (etcd answers only once its revision has come to the start of each watch of a stream).
//!
//! What is known is never taken back by an error: only a list or a delete event removes an entry, and a list never takes back
//! what events after its revision have said.

mod vocabulary;

use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) use self::vocabulary::{Action, Change, Event, FailureKind, Input, WatchStatus};

use crate::backoff::Backoff;
use crate::resolver::snapshot::{Snapshot, SnapshotEntry};

/// For so long a list that was answered shows what etcd holds, where no watch does.
const LIST_VALID: Duration = Duration::from_secs(5);
/// A watch that stood for so long was a good one: the next is opened at once.
const STABLE_WATCH: Duration = Duration::from_secs(5);
/// Some etcd releases lose events around compactions: everything is read again between these two.
const RELIST_INTERVAL: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));
/// After a break it is read again sooner: a wiped or restored etcd may have passed the old revision by then.
const RELIST_AFTER_BREAK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A fleet whose sets are large takes longer to read them all again: so much for each entry.
const RELIST_PER_ENTRY: Duration = Duration::from_millis(3);

#[derive(Debug)]
enum List {
    Due {
        at: Duration,
    },
    /// Asked for when that revision was known: a list that is older is of another etcd.
    Running {
        floor: i64,
    },
}

#[derive(Debug)]
enum Watch {
    Closed {
        until: Duration,
    },
    /// Late: it is not created, however long it is waited for, and list_backoff alone tell what etcd holds.
    Opening {
        from: i64,
        is_late: bool,
    },
    /// Created by a member that is behind. `asked`: the revision that was known when etcd was asked for its own.
    Verifying {
        asked: Option<i64>,
    },
    Open {
        since: Duration,
    },
}

#[derive(Debug)]
pub(crate) struct Machine {
    list: List,
    watch: Watch,
    snapshot: Snapshot,
    /// Everything up to this revision is in the snapshot.
    revision: i64,
    /// What is known cannot be watched on: a list comes first.
    must_list: bool,
    /// Keys that events have changed since the list that is running was asked for, and when each was.
    changed_since_request: BTreeMap<Box<[u8]>, i64>,
    /// When a list was last answered.
    listed: Option<Duration>,
    last_heard: Duration,
    list_backoff: Backoff,
    watch_backoff: Backoff,
    /// The waits are for people to mend something.
    list_is_refused: bool,
    watch_is_refused: bool,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            list: List::Due { at: Duration::ZERO },
            watch: Watch::Closed { until: Duration::ZERO },
            snapshot: Snapshot::default(),
            revision: 0,
            must_list: true,
            changed_since_request: BTreeMap::new(),
            listed: None,
            last_heard: Duration::ZERO,
            list_backoff: Backoff::new(seed),
            watch_backoff: Backoff::new(!seed),
            list_is_refused: false,
            watch_is_refused: false,
        }
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(crate) fn status(&self, now: Duration) -> WatchStatus {
        match (self.listed, &self.watch) {
            (None, _) => WatchStatus::Unresolved,
            (Some(_), Watch::Open { .. }) => WatchStatus::Current,
            (Some(listed), _) if now < listed + LIST_VALID => WatchStatus::Current,
            (Some(listed), _) => WatchStatus::Stale { since: listed.max(self.last_heard) },
        }
    }

    /// Whether a watch stands.
    pub(crate) fn is_watching(&self) -> bool {
        matches!(self.watch, Watch::Open { .. })
    }

    /// Whether the watch that was opened last is still wanted.
    pub(crate) fn wants_watch(&self) -> bool {
        !matches!(self.watch, Watch::Closed { .. })
    }

    /// The revision from which a watch is to be opened now, in place of any other.
    pub(crate) fn watch(&mut self, now: Duration) -> Option<i64> {
        match self.watch {
            Watch::Closed { until } if now >= until && !self.must_list => {
                let from = self.revision.max(1);
                self.watch = Watch::Opening { from, is_late: false };
                Some(from)
            }
            _ => None,
        }
    }

    /// What to ask for next. Not called while something asked for is on its way.
    pub(crate) fn action(&mut self, now: Duration) -> Action {
        if let Watch::Verifying { asked } = &mut self.watch {
            *asked = Some(self.revision);
            return Action::Verify;
        }
        match self.list {
            List::Due { at } if now >= at => {
                self.list = List::Running { floor: self.revision };
                self.changed_since_request.clear();
                Action::List
            }
            List::Due { at } => Action::Wait { until: at },
            List::Running { .. } => Action::Wait { until: Duration::MAX },
        }
    }

    /// When something changes by time alone.
    pub(crate) fn wake(&self, now: Duration) -> Option<Duration> {
        let opens = match self.watch {
            Watch::Closed { until } if !self.must_list => Some(until),
            _ => None,
        };
        let stale = self.listed.map(|listed| listed + LIST_VALID).filter(|at| *at > now && !self.is_watching());
        opens.into_iter().chain(stale).min()
    }

    /// Takes what happened; whether the snapshot differs by it.
    pub(crate) fn on(&mut self, now: Duration, input: Input) -> bool {
        match input {
            Input::Listed { revision, entries } => return self.on_listed(now, revision, entries),
            Input::ListFailed(kind) => self.on_list_failed(now, kind),
            Input::Verified { revision } => self.on_verified(now, revision),
            Input::VerifyFailed(kind) => {
                if let Watch::Verifying { .. } = self.watch {
                    self.close(now, kind);
                }
            }
            Input::Created { revision } => {
                if let Watch::Opening { from, .. } = self.watch {
                    // A lower revision is a member that lags, or an etcd that was wiped or restored: a watch from the
                    // future would be silent for ever.
                    if revision < from {
                        self.watch = Watch::Verifying { asked: None };
                    } else {
                        self.open(now);
                    }
                }
            }
            Input::Events(events) => {
                let changed = self.apply(events);
                self.on_message(now);
                return changed;
            }
            Input::Progress { revision } => {
                self.revision = self.revision.max(revision);
                self.snapshot.set_revision(self.revision);
                self.on_message(now);
            }
            Input::Canceled(kind) => {
                // What was refused from the beginning may be watched later from where it was to begin.
                let list = kind == FailureKind::Revision || !matches!(self.watch, Watch::Opening { .. });
                self.close(now, kind);
                if list {
                    self.require_list();
                }
            }
            Input::Lost { kind, last_heard } => {
                self.last_heard = self.last_heard.max(last_heard);
                self.close(now, kind);
            }
            Input::Late => {
                if let Watch::Opening { is_late, .. } = &mut self.watch {
                    *is_late = true;
                    self.relist_soon(now);
                }
            }
            Input::Connected { is_new } => self.on_connected(now, is_new),
        }
        false
    }

    fn on_listed(&mut self, now: Duration, revision: i64, mut entries: Vec<SnapshotEntry>) -> bool {
        let List::Running { floor } = self.list else { return false };
        let changed_since_request = std::mem::take(&mut self.changed_since_request);
        let changed = if revision < floor {
            // Another etcd, or the same as it was long ago: nothing of what was known holds, and no watch from there.
            self.revision = revision;
            self.watch = Watch::Closed { until: now };
            self.snapshot.restore(revision, entries)
        } else {
            let later = |key: &[u8]| changed_since_request.get(key).is_some_and(|at| *at > revision);
            entries.retain(|entry| !later(entry.key()));
            let kept = changed_since_request.iter().filter(|(_, at)| **at > revision);
            entries.extend(kept.filter_map(|(key, _)| self.snapshot.get(key).cloned()));
            self.revision = self.revision.max(revision);
            if let Watch::Verifying { .. } = self.watch {
                self.open(now);
            }
            self.snapshot.restore(self.revision, entries)
        };
        if std::mem::replace(&mut self.must_list, false) {
            self.watch = Watch::Closed { until: now };
        }
        self.listed = Some(now);
        self.list_backoff.reset();
        self.list_is_refused = false;
        self.list = List::Due { at: now + self.list_backoff.between(RELIST_INTERVAL.0, RELIST_INTERVAL.1) };
        if let Watch::Opening { is_late: true, .. } = self.watch {
            self.relist_soon(now);
        }
        changed
    }

    fn on_list_failed(&mut self, now: Duration, kind: FailureKind) {
        self.list_is_refused = kind == FailureKind::Permanent;
        let wait = if self.is_watching() {
            // The watch behind it is as good as ever.
            self.list_backoff.between(RELIST_AFTER_BREAK.1, RELIST_AFTER_BREAK.1 * 3)
        } else {
            self.list_backoff.fail(now, self.list_is_refused)
        };
        self.list = List::Due { at: now + wait };
    }

    fn on_verified(&mut self, now: Duration, revision: i64) {
        if let Watch::Verifying { asked } = self.watch {
            if revision < asked.unwrap_or_default() {
                self.close(now, FailureKind::Revision);
                self.require_list();
            } else {
                self.open(now);
            }
        }
    }

    fn apply(&mut self, events: Vec<Event>) -> bool {
        // One message carries whole revisions: all of a revision's events are new, or none.
        let seen = self.revision;
        let is_listing = matches!(self.list, List::Running { .. });
        let mut changed = false;
        for event in events.into_iter().filter(|event| event.revision > seen) {
            if is_listing {
                self.changed_since_request.insert(event.change.key().into(), event.revision);
            }
            changed |= match event.change {
                Change::Put(entry) => self.snapshot.put(entry),
                Change::Delete(key) => self.snapshot.remove(&key),
            };
            self.revision = self.revision.max(event.revision);
        }
        self.snapshot.set_revision(self.revision);
        changed
    }

    /// A message proves that the watch works, unless it is of an etcd whose revision is behind.
    fn on_message(&mut self, now: Duration) {
        self.last_heard = now;
        if let Watch::Open { since } = self.watch
            && now >= since + STABLE_WATCH
        {
            self.watch_backoff.reset();
        }
    }

    fn open(&mut self, now: Duration) {
        self.last_heard = now;
        self.watch = Watch::Open { since: now };
    }

    /// The watch is over: it is opened again after a wait, and everything is read again not long after.
    fn close(&mut self, now: Duration, kind: FailureKind) {
        if let Watch::Open { since } = self.watch
            && now >= since + STABLE_WATCH
        {
            self.watch_backoff.reset();
        }
        self.watch_is_refused = kind == FailureKind::Permanent;
        let wait = self.watch_backoff.fail(now, self.watch_is_refused);
        self.watch = Watch::Closed { until: now + wait };
        self.relist_soon(now);
    }

    /// Everything is read again before long.
    fn relist_soon(&mut self, now: Duration) {
        let size = u32::try_from(self.snapshot.len()).unwrap_or(u32::MAX);
        let relist_soon = self
            .list_backoff
            .between(RELIST_AFTER_BREAK.0, RELIST_AFTER_BREAK.1.saturating_add(RELIST_PER_ENTRY.saturating_mul(size)));
        if let List::Due { at } = &mut self.list {
            *at = (*at).min(now + relist_soon);
        }
    }

    /// The next watch begins at another revision than the one known, which a list tells; no sooner than it would begin.
    fn require_list(&mut self) {
        self.must_list = true;
        if let (Watch::Closed { until }, List::Due { at }) = (&self.watch, &mut self.list) {
            *at = *until;
        }
    }

    fn on_connected(&mut self, now: Duration, is_new: bool) {
        if is_new && self.listed.is_some() {
            self.relist_soon(now);
        }
        if let Watch::Closed { until } = &mut self.watch
            && !self.watch_is_refused
        {
            *until = (*until).min(now);
        }
        let is_required = self.listed.is_none() || self.must_list;
        if let List::Due { at } = &mut self.list
            && is_required
            && !self.list_is_refused
        {
            *at = (*at).min(now);
        }
    }
}

#[cfg(test)]
mod tests;
