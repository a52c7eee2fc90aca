//! Which losses of instances are doubtful, and until when. PURE: the clock is an argument, as that of
//! the watch machine, which owns this one and tells it each step of the snapshot.
//!
//! ```text
//! listed ──lost in a doubtful way──▶ doubtful ──its key is put──▶ listed: its next loss is believed for a time
//!                                       └──its time is over──▶ gone
//! ```
//!
//! [`MassLoss`] has the rules. What is lost in another way is gone at once.

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::address_index::Doubt;
use crate::resolver::mass_loss::MassLoss;
use crate::resolver::snapshot::{DoubtfulEntry, Snapshot, SnapshotEntry};

/// The machine.
#[derive(Debug)]
pub(crate) struct DoubtfulLosses {
    options: MassLoss,
    /// How many instances there were: each until this time, later ones fewer. Those that are older than
    /// [`MassLoss::within`] are dropped.
    peaks: VecDeque<(Duration, usize)>,
    /// By key. None of them is in the snapshot.
    doubtful: BTreeMap<Box<[u8]>, Lost>,
    /// Keys that were doubtful and were put again: until this time their loss is believed.
    believed: BTreeMap<Box<[u8]>, Duration>,
    /// `doubtful` has changed since it was last taken.
    is_changed: bool,
}

/// A doubtful entry.
#[derive(Debug)]
struct Lost {
    entry: Arc<SnapshotEntry>,
    doubt: Doubt,
    since: Duration,
}

/// One step of the snapshot: a list, or the events of one revision.
pub(crate) struct Step<'a> {
    /// It is a list: nobody saw how its losses came about.
    pub(crate) is_list: bool,
    /// The number of instances before.
    pub(crate) known: usize,
    /// The snapshot after it.
    pub(crate) after: &'a Snapshot,
    /// What was in the snapshot before, and no longer is.
    pub(crate) gone: Vec<Arc<SnapshotEntry>>,
}

impl DoubtfulLosses {
    /// Nothing is lost.
    pub(crate) fn new(options: MassLoss) -> Self {
        Self {
            options,
            peaks: VecDeque::new(),
            doubtful: BTreeMap::new(),
            believed: BTreeMap::new(),
            is_changed: false,
        }
    }

    /// Takes a step of the snapshot.
    pub(crate) fn on_step(&mut self, now: Duration, step: Step<'_>) {
        self.expire(now);
        self.take_back(now, step.after);
        let peak = self.peak(now, step.known);
        let (left, gone) = (step.after.len(), step.gone);
        if gone.is_empty() {
            return;
        }
        let at_once = step.is_list || has_several_owners(&gone);
        let doubt = if at_once && self.options.is_doubtful(step.known, left) {
            Doubt::Sudden
        } else if self.options.is_doubtful(peak, left) {
            Doubt::Gradual
        } else {
            return;
        };
        for entry in gone {
            let is_believed = self.believed.remove(entry.key()).is_some();
            if !is_believed && !entry.instances().is_empty() {
                self.is_changed = true;
                self.doubtful.insert(entry.key().into(), Lost { entry, doubt, since: now });
            }
        }
    }

    /// Forgets what was doubtful for its time.
    pub(crate) fn expire(&mut self, now: Duration) {
        let doubtful_for = self.options.doubtful_for;
        let before = self.doubtful.len();
        self.doubtful.retain(|_, lost| now < lost.since + doubtful_for);
        self.is_changed |= self.doubtful.len() != before;
        self.believed.retain(|_, until| now < *until);
    }

    /// Doubtful entries whose keys were put again are ordinary ones.
    fn take_back(&mut self, now: Duration, snapshot: &Snapshot) {
        if self.doubtful.is_empty() {
            return;
        }
        let until = now + self.options.doubtful_for;
        for (key, _) in self.doubtful.extract_if(.., |key, _| snapshot.get(key).is_some()) {
            self.is_changed = true;
            self.believed.insert(key, until);
        }
    }

    /// The most instances that there were within the time, with the `known` ones until now.
    fn peak(&mut self, now: Duration, known: usize) -> usize {
        let within = self.options.within;
        while self.peaks.front().is_some_and(|(until, _)| *until + within < now) {
            self.peaks.pop_front();
        }
        if within.is_zero() {
            return 0;
        }
        while self.peaks.back().is_some_and(|(_, count)| *count <= known) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, known));
        self.peaks.front().map_or(known, |(_, count)| *count)
    }

    /// When something changes by time alone, after this time.
    pub(crate) fn wake(&self, now: Duration) -> Option<Duration> {
        let times = |lost: &Lost| [lost.since + self.options.delay_removals, lost.since + self.options.doubtful_for];
        self.doubtful.values().flat_map(times).filter(|at| *at > now).min()
    }

    /// The doubtful entries in the order of their keys, if they have changed since this was last called.
    pub(crate) fn take_changes(&mut self) -> Option<Arc<[DoubtfulEntry]>> {
        let doubtful = |lost: &Lost| DoubtfulEntry { entry: lost.entry.clone(), doubt: lost.doubt };
        std::mem::take(&mut self.is_changed).then(|| self.doubtful.values().map(doubtful).collect())
    }

    /// The entries whose removal is not told yet to readers without a second witness.
    pub(crate) fn delayed(&self, now: Duration) -> impl Iterator<Item = &Arc<SnapshotEntry>> {
        let delay = self.options.delay_removals;
        let delayed = move |lost: &&Lost| lost.doubt == Doubt::Sudden && now < lost.since + delay;
        self.doubtful.values().filter(delayed).map(|lost| &lost.entry)
    }
}

/// Whether these keys have two owners or more: two leases, or two keys of which each may have an
/// owner of its own. One owner that leaves takes all of its keys along.
fn has_several_owners(gone: &[Arc<SnapshotEntry>]) -> bool {
    let leases: BTreeSet<i64> = gone.iter().map(|entry| entry.lease()).filter(|lease| *lease != 0).collect();
    let without = gone.iter().filter(|entry| entry.lease() == 0).count();
    leases.len() + without > 1
}
