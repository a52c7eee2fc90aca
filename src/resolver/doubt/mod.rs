//! Which losses of instances are doubtful, and until when. PURE: the clock is an argument, as that of
//! the watch machine, which owns this one and tells it each step of the snapshot.
//!
//! ```text
//! listed ──lost in a doubtful way──▶ doubtful ──its key is put──▶ listed: its next deletion is believed for a time
//!                                       └──its time is over──▶ gone
//! ```
//!
//! [`MassLoss`] has the rules. What is lost in another way is gone at once. A step costs the same however
//! many entries are doubtful.

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::address_index::Doubt;
use crate::resolver::mass_loss::MassLoss;
use crate::resolver::snapshot::{Snapshot, SnapshotEntry};

/// The machine.
#[derive(Debug)]
pub(crate) struct DoubtfulLosses {
    options: MassLoss,
    /// How many instances there were: each until this time, later ones fewer. Those that are older than
    /// [`MassLoss::within`] are dropped.
    peaks: VecDeque<(Duration, usize)>,
    /// What is doubtful. None of it is in the snapshot.
    doubtful: Snapshot,
    /// Since when each of it is.
    since: BTreeMap<Box<[u8]>, Duration>,
    /// When each of it may end, in the order of these times. Those that were put again stay here until
    /// then.
    ends: VecDeque<(Duration, Box<[u8]>)>,
    /// What of it readers without a second witness are not told of yet; and when they are, as above.
    delayed: Snapshot,
    delay_ends: VecDeque<(Duration, Box<[u8]>)>,
    /// Keys that were doubtful and were put again: until this time their deletion is believed.
    believed: BTreeMap<Box<[u8]>, Duration>,
    /// `doubtful` has changed since that was last asked.
    is_changed: bool,
    /// `delayed` has changed since that was last asked.
    is_delay_changed: bool,
}

/// Where a step of the snapshot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The events of one revision.
    Events,
    /// A list, while a watch has been open since the list before: it may be ahead of the events.
    List,
    /// A list of another etcd, or after the watch broke: nobody saw how its losses came about.
    ListAfterBreak,
}

/// One step of the snapshot.
pub(crate) struct Step {
    pub(crate) cause: Cause,
    /// The number of instances before, and after it.
    pub(crate) known: usize,
    pub(crate) left: usize,
    /// What was in the snapshot before, and no longer is.
    pub(crate) gone: Vec<Arc<SnapshotEntry>>,
    /// Keys that were not in the snapshot before and are now. Those that are not doubtful may be left out.
    pub(crate) came: Vec<Box<[u8]>>,
}

impl DoubtfulLosses {
    /// Nothing is lost.
    pub(crate) fn new(options: MassLoss) -> Self {
        Self {
            options,
            peaks: VecDeque::new(),
            doubtful: Snapshot::default(),
            since: BTreeMap::new(),
            ends: VecDeque::new(),
            delayed: Snapshot::default(),
            delay_ends: VecDeque::new(),
            believed: BTreeMap::new(),
            is_changed: false,
            is_delay_changed: false,
        }
    }

    /// Takes a step of the snapshot.
    pub(crate) fn on_step(&mut self, now: Duration, step: Step) {
        self.expire(now);
        step.came.into_iter().for_each(|key| self.take_back(now, key));
        let peak = self.peak(now, step.known);
        let at_once = match step.cause {
            Cause::Events => has_several_owners(&step.gone),
            Cause::List => false,
            Cause::ListAfterBreak => true,
        };
        let doubt = if at_once && self.options.is_doubtful(step.known, step.left) {
            Doubt::Sudden
        } else if self.options.is_doubtful(peak, step.left) {
            Doubt::Gradual
        } else {
            return;
        };
        for entry in step.gone.into_iter().filter(|entry| takes_calls(entry)) {
            // A list is no deletion.
            let is_believed = step.cause == Cause::Events && self.believed.remove(entry.key()).is_some();
            if !is_believed {
                self.put_in_doubt(now, &entry, doubt);
            }
        }
    }

    fn put_in_doubt(&mut self, now: Duration, entry: &SnapshotEntry, doubt: Doubt) {
        let key = || entry.key().into();
        self.is_changed = true;
        self.doubtful.put(entry.clone().in_doubt(doubt));
        self.since.insert(key(), now);
        self.ends.push_back((now + self.options.doubtful_for, key()));
        if doubt == Doubt::Sudden && !self.options.delay_removals.is_zero() {
            self.is_delay_changed = true;
            self.delayed.put(entry.clone());
            self.delay_ends.push_back((now + self.options.delay_removals, key()));
        }
    }

    /// Lets time pass: forgets what was doubtful, delayed or believed for its time.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some(key) = next_end(&mut self.delay_ends, now) {
            if self.is_over(&key, self.options.delay_removals, now) {
                self.is_delay_changed |= self.delayed.remove(&key).is_some();
            }
        }
        while let Some(key) = next_end(&mut self.ends, now) {
            if self.is_over(&key, self.options.doubtful_for, now) {
                self.forget(&key);
            }
        }
        self.believed.retain(|_, until| now < *until);
    }

    /// Whether a key has been doubtful for this time. One that was put again and lost once more may not
    /// have been.
    fn is_over(&self, key: &[u8], time: Duration, now: Duration) -> bool {
        self.since.get(key).is_some_and(|since| *since + time <= now)
    }

    /// It is not doubtful any more. Returns whether it was.
    fn forget(&mut self, key: &[u8]) -> bool {
        self.is_delay_changed |= self.delayed.remove(key).is_some();
        let was_doubtful = self.since.remove(key).is_some() && self.doubtful.remove(key).is_some();
        self.is_changed |= was_doubtful;
        was_doubtful
    }

    /// A key is in the snapshot again.
    fn take_back(&mut self, now: Duration, key: Box<[u8]>) {
        if self.forget(&key) {
            self.believed.insert(key, now + self.options.doubtful_for);
        }
    }

    /// Whether a key is doubtful.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        self.since.contains_key(key)
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

    /// When [`DoubtfulLosses::expire`] has something to do, as far as is known now.
    pub(crate) fn wake(&self) -> Option<Duration> {
        let first = |ends: &VecDeque<(Duration, Box<[u8]>)>| ends.front().map(|(at, _)| *at);
        first(&self.ends).into_iter().chain(first(&self.delay_ends)).min()
    }

    /// What is doubtful, if it has changed since this was last called.
    pub(crate) fn take_changes(&mut self) -> Option<Arc<Snapshot>> {
        std::mem::take(&mut self.is_changed).then(|| Arc::new(self.doubtful.clone()))
    }

    /// Whether [`DoubtfulLosses::delayed`] has changed since this was last called.
    pub(crate) fn delay_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_delay_changed)
    }

    /// The entries of whose removal readers without a second witness are not told yet.
    pub(crate) fn delayed(&self) -> &Snapshot {
        &self.delayed
    }
}

/// The next key whose time has come.
fn next_end(ends: &mut VecDeque<(Duration, Box<[u8]>)>, now: Duration) -> Option<Box<[u8]>> {
    ends.front().is_some_and(|(at, _)| *at <= now).then(|| ends.pop_front().map(|(_, key)| key))?
}

/// Whether an entry names an instance that takes calls. Nothing is doubtful about the loss of another one:
/// a server that drains is about to leave.
fn takes_calls(entry: &SnapshotEntry) -> bool {
    entry.instances().iter().any(|instance| !instance.is_draining())
}

/// Whether these keys have two owners or more: two leases, or two keys of which each may have an
/// owner of its own. One owner that leaves takes all of its keys along.
fn has_several_owners(gone: &[Arc<SnapshotEntry>]) -> bool {
    let owned = || gone.iter().filter(|entry| takes_calls(entry)).map(|entry| entry.lease());
    let leases: BTreeSet<i64> = owned().filter(|lease| *lease != 0).collect();
    leases.len() + owned().filter(|lease| *lease == 0).count() > 1
}
