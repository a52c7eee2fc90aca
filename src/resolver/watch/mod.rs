//! The watch machine: keeps a snapshot true to an etcd prefix, whatever etcd and the network do.
//! PURE: the clock is an argument, the time since any fixed start, the same for every call.
//!
//! It drives a list and a watch independently, so that a list that hangs delays no event, and a
//! watch that cannot be opened delays no list. [`Machine::watch`] and [`Machine::action`] say what
//! each does next. [`Machine::on`] takes what happened.
//!
//! ```text
//! list:    due ──▶ running ──▶ due again in 5–10 minutes; sooner after a break; at once where a revision is gone
//!
//! watch:   closed ──▶ opening ──▶ open ──▶ lost, canceled ──▶ closed, from the last revision seen
//!                        │          ▲
//!                        └ verifying┘  created by a member that is behind: a linearizable read decides
//! ```
//!
//! The watch starts at the revision of the list, and events that the list holds are dropped. A
//! watch that starts later gets no progress: etcd answers a request for progress only once its
//! revision has reached the start of every watch of the stream.
//!
//! An error never removes an entry: only a list or a delete event does. A list never takes back
//! what events after its revision have said.
//!
//! Each step of the snapshot goes through [`DoubtfulLosses`], which says what of the losses is
//! doubtful. That stands beside the entries of the snapshot and changes none of them.

mod vocabulary;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

pub(crate) use self::vocabulary::{Action, Change, Event, FailureKind, Input, WatchStatus};

use crate::address::Address;
use crate::backoff::Backoff;
use crate::instance::Instance;
use crate::resolver::doubt::{Cause, DoubtfulLosses, Step};
use crate::resolver::mass_loss::MassLoss;
use crate::resolver::snapshot::{Snapshot, SnapshotEntry, diff};

/// While no watch is open, an answered list shows what etcd holds for this long.
const LIST_VALID: Duration = Duration::from_secs(5);
/// A watch that was open for this long was stable: the next one is opened immediately.
const STABLE_WATCH: Duration = Duration::from_secs(5);
/// Some releases of etcd lose events around compactions. So everything is read again after a random
/// time between these two.
const RELIST_INTERVAL: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));
/// After a break everything is read again after a random time between these two: an etcd that was
/// wiped or restored may have passed the old revision by then.
const RELIST_AFTER_BREAK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Added to that time for each entry, because a fleet takes longer to read large sets.
const RELIST_PER_ENTRY: Duration = Duration::from_millis(3);
/// The longest pause after a list, or a watch, that the role does not permit and need not ([`FailureKind::Denied`]). Many programs
/// go on without for months.
const AFTER_DENIAL: Duration = Duration::from_secs(60);

/// The state of the list.
#[derive(Debug)]
enum List {
    /// It starts at this time.
    Due { at: Duration },
    /// It was started when `floor` was the revision. A list with a lower revision is of another
    /// etcd.
    Running { floor: i64 },
}

/// The state of the watch.
#[derive(Debug)]
enum Watch {
    /// It may be opened at this time, once `must_list` is false.
    Closed { until: Duration },
    /// It was asked for. With `is_late` etcd does not create it, and only lists tell what etcd
    /// holds.
    Opening { from: i64, is_late: bool },
    /// It was created by a member whose revision is behind. `asked` is the known revision when etcd
    /// was asked for its own.
    Verifying { asked: Option<i64> },
    /// It is open since this time.
    Open { since: Duration },
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The state of the list.
    list: List,
    /// The state of the watch.
    watch: Watch,
    /// The instances.
    snapshot: Snapshot,
    /// Which of the lost ones are doubtful.
    doubt: DoubtfulLosses,
    /// The cluster that answered the last list; 0 if it did not say.
    cluster: u64,
    /// When the watch broke, if it did since the last list.
    broken_at: Option<Duration>,
    /// Everything up to this revision is in the snapshot.
    revision: i64,
    /// Whether a list is needed before a watch is opened: its revision is not known, or not valid
    /// any more.
    must_list: bool,
    /// Keys that events have changed since the running list was started, with the revision of the
    /// change.
    changed_since_request: BTreeMap<Box<[u8]>, i64>,
    /// When a list was last answered.
    listed: Option<Duration>,
    /// When the watch was last heard.
    last_heard: Duration,
    /// The pauses between lists, and the randomness.
    list_backoff: Backoff,
    /// The pauses between watches.
    watch_backoff: Backoff,
    /// Whether the last list, or watch, failed for a reason that only people can repair. A new
    /// connection then shortens no pause.
    list_is_refused: bool,
    watch_is_refused: bool,
    /// How often another etcd has taken the place of the known one: it was wiped, or restored.
    restores: u64,
}

impl Machine {
    /// Nothing is known, and a list is due.
    pub(crate) fn new(seed: u64, mass_loss: MassLoss) -> Self {
        Self {
            list: List::Due { at: Duration::ZERO },
            watch: Watch::Closed { until: Duration::ZERO },
            snapshot: Snapshot::default(),
            doubt: DoubtfulLosses::new(mass_loss),
            cluster: 0,
            broken_at: None,
            revision: 0,
            must_list: true,
            changed_since_request: BTreeMap::new(),
            listed: None,
            last_heard: Duration::ZERO,
            list_backoff: Backoff::new(seed),
            watch_backoff: Backoff::new(!seed),
            list_is_refused: false,
            watch_is_refused: false,
            restores: 0,
        }
    }

    /// How often another etcd has taken the place of the known one.
    pub(crate) fn restores(&self) -> u64 {
        self.restores
    }

    /// Whether a list is needed because the watch cannot be resumed.
    pub(crate) fn must_relist(&self) -> bool {
        self.must_list && self.listed.is_some()
    }

    /// The instances.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Lets time pass. Whether other entries are doubtful since the last call.
    pub(crate) fn doubt_changed(&mut self, now: Duration) -> bool {
        self.doubt.expire(now);
        let changes = self.doubt.take_changes();
        let is_changed = changes.is_some();
        changes.into_iter().for_each(|doubtful| self.snapshot.set_doubtful(doubtful));
        is_changed
    }

    /// Whether [`Machine::delayed_snapshot`] has changed since the last call, while the snapshot has not.
    pub(crate) fn delay_changed(&mut self) -> bool {
        self.doubt.delay_changed()
    }

    /// What readers without a second witness are told: the snapshot, and the entries whose removal is
    /// delayed, unless the snapshot has their servers in other records. `None` if that is the snapshot.
    pub(crate) fn delayed_snapshot(&self) -> Option<Snapshot> {
        let delayed = self.doubt.delayed();
        if delayed.is_empty() {
            return None;
        }
        let named = |instance: &Instance| instance.addresses().to_vec();
        let listed: HashSet<Address> = self.snapshot.instances().flat_map(named).collect();
        let is_listed = |address: &Address| {
            let authority = address.parsed_authority();
            [true, false].iter().any(|secure| listed.contains(&Address::from_parts(authority.clone(), *secure)))
        };
        let mut snapshot = self.snapshot.clone();
        let is_lost = |entry: &&SnapshotEntry| !entry.instances().iter().flat_map(Instance::addresses).any(is_listed);
        delayed.entries().filter(is_lost).for_each(|entry| {
            snapshot.put(entry.clone());
        });
        Some(snapshot)
    }

    /// Whether they are what etcd holds, at this time.
    pub(crate) fn status(&self, now: Duration) -> WatchStatus {
        match (self.listed, &self.watch) {
            (None, _) => WatchStatus::Unresolved,
            (Some(_), Watch::Open { .. }) => WatchStatus::Current,
            (Some(listed), _) if now < listed + LIST_VALID => WatchStatus::Current,
            (Some(listed), _) => WatchStatus::Stale { since: listed.max(self.last_heard) },
        }
    }

    /// Whether a watch is open.
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

    /// What to request next. Not called while a request runs.
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
        opens.into_iter().chain(stale).chain(self.doubt.wake()).min()
    }

    /// Takes what happened. Whether the snapshot has changed.
    pub(crate) fn on(&mut self, now: Duration, input: Input) -> bool {
        match input {
            Input::Listed { revision, cluster, entries } => return self.on_listed(now, revision, cluster, entries),
            Input::ListFailed(kind) => self.on_list_failed(now, kind),
            Input::Verified { revision } => self.on_verified(now, revision),
            Input::VerifyFailed(kind) => {
                if let Watch::Verifying { .. } = self.watch {
                    self.close(now, kind);
                }
            }
            Input::Created { revision } => {
                if let Watch::Opening { from, .. } = self.watch {
                    // The member lags, or etcd was wiped or restored. A watch from a future
                    // revision would be silent forever.
                    if revision < from {
                        self.watch = Watch::Verifying { asked: None };
                    } else {
                        self.open(now);
                    }
                }
            }
            Input::Events(events) => {
                let changed = self.apply(now, events);
                self.on_message(now);
                return changed;
            }
            Input::Progress { revision } => {
                self.revision = self.revision.max(revision);
                self.snapshot.set_revision(self.revision);
                self.on_message(now);
            }
            Input::Canceled(kind) => {
                // A watch that was refused when it was created may be opened later at the same
                // revision.
                let list = kind == FailureKind::Revision || !matches!(self.watch, Watch::Opening { .. });
                self.close(now, kind);
                if list {
                    self.require_list();
                }
            }
            Input::Lost { kind, last_heard } => {
                // A stream that never had this watch has said nothing of it, whenever it was begun.
                if self.is_watching() {
                    self.last_heard = self.last_heard.max(last_heard);
                }
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

    /// Takes a list. Whether the snapshot has changed.
    ///
    /// A list may be older than events that arrived while it ran. Keys that such events have
    /// changed keep what the events said. A list whose revision is lower than the one that was
    /// known when it was started, or whose cluster is another one, is of another etcd: everything is
    /// replaced.
    fn on_listed(&mut self, now: Duration, revision: i64, cluster: u64, mut entries: Vec<SnapshotEntry>) -> bool {
        let List::Running { floor } = self.list else { return false };
        let changed_since_request = std::mem::take(&mut self.changed_since_request);
        let is_other_cluster = cluster != 0 && self.cluster != 0 && cluster != self.cluster;
        if cluster != 0 {
            self.cluster = cluster;
        }
        let before = self.snapshot.clone();
        let is_other = revision < floor || is_other_cluster;
        let has_gap = self.broken_at.take().is_some() || !self.is_watching();
        let changed = if is_other {
            // Another etcd, or the same one restored: nothing that was known holds, and no watch
            // from there.
            self.revision = revision;
            self.restores += 1;
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
        if changed {
            let cause = if is_other || has_gap { Cause::ListAfterBreak } else { Cause::List };
            let mut step = Step { cause, known: before.len(), left: self.snapshot.len(), gone: vec![], came: vec![] };
            for difference in diff(&before, &self.snapshot) {
                match (difference.before, difference.after) {
                    (Some(entry), None) => step.gone.push(entry),
                    (None, Some(entry)) if self.doubt.has(entry.key()) => step.came.push(entry.key().into()),
                    _ => {}
                }
            }
            self.doubt.on_step(now, step);
        }
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

    /// Takes the failure of a list, which is due again after a pause.
    fn on_list_failed(&mut self, now: Duration, kind: FailureKind) {
        self.list_is_refused = kind.is_permanent();
        let wait = if kind == FailureKind::Denied {
            self.list_backoff.between(AFTER_DENIAL / 2, AFTER_DENIAL)
        } else if self.is_watching() {
            // The open watch keeps the snapshot true meanwhile.
            self.list_backoff.between(RELIST_AFTER_BREAK.1, RELIST_AFTER_BREAK.1 * 3)
        } else {
            self.list_backoff.fail(now, self.list_is_refused)
        };
        self.list = List::Due { at: now + wait };
    }

    /// Takes the revision of the cluster, while a watch of a lagging member waits for it.
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

    /// Applies events. Whether the snapshot has changed.
    fn apply(&mut self, now: Duration, events: Vec<Event>) -> bool {
        // A message holds whole revisions, so that all events of a revision are new, or none.
        let seen = self.revision;
        let is_listing = matches!(self.list, List::Running { .. });
        let mut changed = false;
        let mut events = events.into_iter().filter(|event| event.revision > seen).peekable();
        while let Some(revision) = events.peek().map(|event| event.revision) {
            let (known, mut gone, mut is_step) = (self.snapshot.len(), vec![], false);
            let mut came: Vec<Box<[u8]>> = Vec::new();
            while let Some(event) = events.next_if(|event| event.revision == revision) {
                if is_listing {
                    self.changed_since_request.insert(event.change.key().into(), event.revision);
                }
                is_step |= match event.change {
                    Change::Put(entry) => {
                        came.extend(self.doubt.has(entry.key()).then(|| entry.key().into()));
                        self.snapshot.put(entry)
                    }
                    Change::Delete(key) => match self.snapshot.remove(&key) {
                        Some(entry) => {
                            gone.push(entry);
                            true
                        }
                        None => false,
                    },
                };
            }
            if is_step {
                gone.retain(|entry| self.snapshot.get(entry.key()).is_none());
                came.retain(|key| self.snapshot.get(key).is_some());
                let left = self.snapshot.len();
                self.doubt.on_step(now, Step { cause: Cause::Events, known, left, gone, came });
            }
            changed |= is_step;
            self.revision = self.revision.max(revision);
        }
        self.snapshot.set_revision(self.revision);
        changed
    }

    /// Notes that the watch was heard. A stable one resets the backoff.
    fn on_message(&mut self, now: Duration) {
        self.last_heard = now;
        if let Watch::Open { since } = self.watch
            && now >= since + STABLE_WATCH
        {
            self.watch_backoff.reset();
        }
    }

    /// The watch is open.
    fn open(&mut self, now: Duration) {
        self.last_heard = now;
        self.watch = Watch::Open { since: now };
    }

    /// The watch is over. It is opened again after a pause, and everything is read again soon:
    /// events may have been lost, or etcd may have been replaced.
    fn close(&mut self, now: Duration, kind: FailureKind) {
        if let Watch::Open { since } = self.watch
            && now >= since + STABLE_WATCH
        {
            self.watch_backoff.reset();
        }
        self.broken_at = Some(now);
        self.watch_is_refused = kind.is_permanent();
        let wait = match kind {
            FailureKind::Denied => self.watch_backoff.between(AFTER_DENIAL / 2, AFTER_DENIAL),
            _ => self.watch_backoff.fail(now, self.watch_is_refused),
        };
        self.watch = Watch::Closed { until: now + wait };
        self.relist_soon(now);
    }

    /// Moves the next list nearer, to a random time after a break.
    fn relist_soon(&mut self, now: Duration) {
        let size = u32::try_from(self.snapshot.len()).unwrap_or(u32::MAX);
        let relist_soon = self
            .list_backoff
            .between(RELIST_AFTER_BREAK.0, RELIST_AFTER_BREAK.1.saturating_add(RELIST_PER_ENTRY.saturating_mul(size)));
        if let List::Due { at } = &mut self.list {
            *at = (*at).min(now + relist_soon);
        }
    }

    /// A list is needed before the next watch, no sooner than that watch would be opened.
    fn require_list(&mut self) {
        self.must_list = true;
        if let (Watch::Closed { until }, List::Due { at }) = (&self.watch, &mut self.list) {
            *at = *until;
        }
    }

    /// There is a new connection: what waits for a retry happens now.
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

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod inputs_tests;
#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
