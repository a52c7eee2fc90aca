//! The watch machine: keeps a snapshot true to an etcd prefix, whatever etcd and the network do. PURE.
//!
//! Two doors: [`Machine::action`] says what to do next, [`Machine::on`] takes what came of it. The clock is an
//! argument: the time since any fixed start, the same for every call.
//!
//! ```text
//!                 ┌────────────── compacted, canceled, revision went backwards ─────────────┐
//!                 ▼                                                                          │
//! start ──▶ Listing ──▶ Opening ──▶ Creating ──▶ Watching ── broken, silent ──▶ Waiting ─────┤
//!              ▲           ▲            │          ▲  │                            │          │
//!              │           └────────────┼──────────┼──┼──── from the revision ─────┘          │
//!              │                        ▼          │  │      after the last one seen          │
//!              │                    Verifying ─────┘  └─ every 5–10 minutes, stream kept ─────┘
//! ```
//! What is known is never taken back by an error: only a list or a delete event removes an entry.

use std::time::Duration;

use super::snapshot::{Entry, Snapshot};
use crate::backoff::Backoff;

/// Silence after which etcd is asked for a sign of life, which it gives within milliseconds.
const SILENCE: Duration = Duration::from_secs(5);
/// How long that sign may take; then the stream is taken for dead.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a watch may take to say that it was created.
const CREATION: Duration = Duration::from_secs(5);
/// Some etcd releases lose events around compactions: everything is read again between these two.
const RELIST: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));
/// After a break it is read again sooner: a wiped or restored etcd may have passed the old revision by then.
const RECHECK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A fleet whose sets are large takes longer to read them all again: so much for each entry.
const RECHECK_EACH: Duration = Duration::from_millis(3);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read the whole range at one revision. A stream that is open stays open.
    List,
    /// Open a watch from this revision in place of any other; answer with `Opened` as soon as it is.
    Open { from: i64 },
    /// Ask etcd for its revision, with a linearizable read. The stream stays open.
    Verify,
    /// Get a new token.
    Refresh,
    /// Read one message of the open stream, or give a `Tick` at that time.
    Read { until: Duration },
    /// Ask for a progress message on the open stream.
    Probe,
    /// Close any stream and wait; then give a `Tick`.
    Sleep { until: Duration },
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Listed {
        revision: i64,
        entries: Vec<Entry>,
    },
    Opened,
    /// The watch exists; the revision of the member that serves it.
    Created {
        revision: i64,
    },
    Verified {
        revision: i64,
    },
    Refreshed,
    Probed,
    Events(Vec<Event>),
    /// A message without events. A revision is given only where etcd promises that everything before it was sent.
    Progress {
        revision: Option<i64>,
    },
    /// etcd ended the watch in an orderly way.
    Canceled(Trouble),
    /// The last action failed, or the stream broke or ended.
    Failed(Trouble),
    Tick,
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) revision: i64,
    pub(crate) change: Change,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Entry),
    Delete(Box<[u8]>),
}

/// What kind of failure, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Will pass.
    Transient,
    /// The revision asked for is no longer, or not yet, to be had.
    Revision,
    /// A new token may mend it.
    Token,
    /// Only people can mend it.
    Permanent,
}

/// What is known of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Unresolved,
    Current,
    /// Nothing was heard since then.
    Stale {
        since: Duration,
    },
}

#[derive(Debug)]
enum Phase {
    /// Reading everything, with the stream kept open behind it or not.
    Listing {
        watching: bool,
    },
    Opening {
        from: i64,
    },
    Creating {
        from: i64,
        until: Duration,
    },
    Verifying {
        from: i64,
    },
    Refreshing,
    Watching(Probe),
    Waiting {
        until: Duration,
        list: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    None,
    Due,
    Sent { until: Duration },
}

#[derive(Debug)]
pub(crate) struct Machine {
    phase: Phase,
    snapshot: Snapshot,
    /// Everything up to this revision is in the snapshot.
    revision: i64,
    standing: Standing,
    heard: Duration,
    relist_at: Duration,
    /// A new token was fetched since etcd last served us.
    refreshed: bool,
    backoff: Backoff,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            phase: Phase::Listing { watching: false },
            snapshot: Snapshot::default(),
            revision: 0,
            standing: Standing::Unresolved,
            heard: Duration::ZERO,
            relist_at: Duration::MAX,
            refreshed: false,
            backoff: Backoff::new(seed),
        }
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    pub(crate) fn action(&self) -> Action {
        match self.phase {
            Phase::Listing { .. } => Action::List,
            Phase::Opening { from } => Action::Open { from },
            Phase::Creating { until, .. } | Phase::Watching(Probe::Sent { until }) => Action::Read { until },
            Phase::Verifying { .. } => Action::Verify,
            Phase::Refreshing => Action::Refresh,
            Phase::Watching(Probe::None) => Action::Read { until: (self.heard + SILENCE).min(self.relist_at) },
            Phase::Watching(Probe::Due) => Action::Probe,
            Phase::Waiting { until, .. } => Action::Sleep { until },
        }
    }

    /// Takes what happened; whether the snapshot differs by it.
    pub(crate) fn on(&mut self, now: Duration, input: Input) -> bool {
        match input {
            Input::Listed { revision, entries } => return self.listed(now, revision, entries),
            Input::Opened => {
                if let Phase::Opening { from } = self.phase {
                    self.phase = Phase::Creating { from, until: now + CREATION };
                }
            }
            Input::Created { revision } => {
                if let Phase::Creating { from, .. } = self.phase {
                    // A lower revision is a member that lags, or an etcd that was wiped or restored: a watch from the
                    // future would be silent for ever.
                    if revision < from - 1 { self.phase = Phase::Verifying { from } } else { self.watching(now) }
                }
            }
            Input::Verified { revision } => {
                if let Phase::Verifying { from } = self.phase {
                    if revision < from - 1 { self.fail(now, Trouble::Revision, true) } else { self.watching(now) }
                }
            }
            Input::Refreshed => self.phase = Phase::Listing { watching: false },
            Input::Probed => {
                if let Phase::Watching(_) = self.phase {
                    self.phase = Phase::Watching(Probe::Sent { until: now + ANSWER });
                }
            }
            Input::Events(events) => {
                let changed = self.apply(events);
                self.message(now);
                return changed;
            }
            Input::Progress { revision } => {
                self.revision = self.revision.max(revision.unwrap_or_default());
                self.snapshot.set_revision(self.revision);
                self.message(now);
            }
            Input::Canceled(trouble) => self.fail(now, trouble, true),
            Input::Failed(trouble) => self.failed(now, trouble),
            Input::Tick => self.tick(now),
        }
        false
    }

    fn listed(&mut self, now: Duration, revision: i64, entries: Vec<Entry>) -> bool {
        let went_back = revision < self.revision;
        let watching = matches!(self.phase, Phase::Listing { watching: true }) && !went_back;
        let changed = self.snapshot.restore(revision, entries);
        self.revision = revision;
        self.standing = Standing::Current;
        self.relist_at = now + self.backoff.between(RELIST.0, RELIST.1);
        self.phase = if watching {
            Phase::Watching(Probe::None)
        } else {
            self.heard = now;
            Phase::Opening { from: revision.saturating_add(1) }
        };
        changed
    }

    fn apply(&mut self, events: Vec<Event>) -> bool {
        // One message carries whole revisions: all of a revision's events are new, or none.
        let seen = self.revision;
        let mut changed = false;
        for event in events.into_iter().filter(|event| event.revision > seen) {
            changed |= match event.change {
                Change::Put(entry) => self.snapshot.put(entry),
                Change::Delete(key) => self.snapshot.remove(&key),
            };
            self.revision = self.revision.max(event.revision);
        }
        self.snapshot.set_revision(self.revision);
        changed
    }

    /// A message proves that the watch works.
    fn message(&mut self, now: Duration) {
        self.backoff.reset();
        self.refreshed = false;
        self.watching(now);
        if now >= self.relist_at {
            self.phase = Phase::Listing { watching: true };
        }
    }

    fn watching(&mut self, now: Duration) {
        self.heard = now;
        self.standing = Standing::Current;
        self.phase = Phase::Watching(Probe::None);
    }

    fn tick(&mut self, now: Duration) {
        match self.phase {
            Phase::Waiting { until, list } if now >= until => {
                self.phase = if list || self.standing == Standing::Unresolved {
                    Phase::Listing { watching: false }
                } else {
                    Phase::Opening { from: self.revision.saturating_add(1) }
                };
            }
            Phase::Creating { until, .. } | Phase::Watching(Probe::Sent { until }) if now >= until => {
                self.fail(now, Trouble::Transient, false);
            }
            Phase::Watching(Probe::None) if now >= self.heard + SILENCE => self.phase = Phase::Watching(Probe::Due),
            Phase::Watching(Probe::None) if now >= self.relist_at => self.phase = Phase::Listing { watching: true },
            _ => {}
        }
    }

    fn failed(&mut self, now: Duration, trouble: Trouble) {
        match self.phase {
            // The stream behind the list may be as good as ever: it says so, or is found dead, on its own.
            Phase::Listing { watching: true } => {
                self.relist_at = now + self.backoff.between(RECHECK.1, RECHECK.1 * 3);
                self.phase = Phase::Watching(Probe::None);
            }
            Phase::Listing { .. } | Phase::Refreshing => self.fail(now, trouble, true),
            _ => self.fail(now, trouble, trouble == Trouble::Revision),
        }
    }

    /// Waits, then lists or resumes.
    fn fail(&mut self, now: Duration, trouble: Trouble, list: bool) {
        self.stale();
        let size = u32::try_from(self.snapshot.len()).unwrap_or(u32::MAX);
        let recheck = self.backoff.between(RECHECK.0, RECHECK.1.saturating_add(RECHECK_EACH.saturating_mul(size)));
        self.relist_at = self.relist_at.min(now + recheck);
        if trouble == Trouble::Token && !self.refreshed {
            self.refreshed = true;
            self.phase = Phase::Refreshing;
            return;
        }
        let permanent = matches!(trouble, Trouble::Token | Trouble::Permanent);
        let until = now + self.backoff.fail(now, permanent);
        self.phase = Phase::Waiting { until, list };
    }

    fn stale(&mut self) {
        if self.standing == Standing::Current {
            self.standing = Standing::Stale { since: self.heard };
        }
    }
}

#[cfg(test)]
mod tests;
