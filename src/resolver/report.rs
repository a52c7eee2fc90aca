//! What is logged about a service's changes.
//!
//! | what | level | how often |
//! |---|---|---|
//! | members were added, removed or changed | INFO | once for each change, with counts |
//! | other parts of instances have changed | DEBUG | once for each change |
//! | a record has become unreadable | WARN | each, up to [`MAX_LOGGED_RECORDS`] of one change |
//! | a field of a record was not understood | WARN | once for each service |
//! | the prefix holds keys of a longer name | WARN | once for each service |
//! | most instances are gone, and that is doubtful; none is doubtful any more | WARN, INFO | once for each such loss |
//!
//! A change is the difference of two views, so that a flood of events is logged as one change.

use crate::address_index::Doubt;
use crate::instance::Instance;
use crate::resolver::snapshot::{Difference, Snapshot, SnapshotEntry, diff};
use crate::secret::{self, shown_key};
use crate::target::Target;
use crate::target::nested::nested_name;

/// Unreadable records of one change that are logged one by one. The rest are counted.
const MAX_LOGGED_RECORDS: usize = 10;

/// What was logged of a service so far.
#[derive(Default)]
pub(super) struct MembershipLog {
    /// Whether a part of a record that was not understood was logged.
    misread_logged: bool,
    /// Whether a key of the service's own was seen.
    own_key_seen: bool,
    /// A name below the service's name, if a key of one was seen.
    below: Option<String>,
    /// Whether both were logged.
    nested_logged: bool,
}

/// How many records of one change did what.
#[derive(Default)]
struct ChangeCounts {
    /// New keys.
    added: usize,
    /// Keys that are gone.
    removed: usize,
    /// Keys whose change matters to calls: addresses, weight, zone, draining, readability.
    changed: usize,
    /// Keys whose change matters to no call: metadata, version, id.
    details: usize,
    /// Keys that have become unreadable.
    unreadable: usize,
}

impl MembershipLog {
    /// Logs the difference of two snapshots. Returns the number of keys that differ.
    pub(super) fn step(&mut self, target: &Target, before: &Snapshot, after: &Snapshot) -> usize {
        // Nobody listens, so that the difference is only counted.
        if !tracing::enabled!(tracing::Level::WARN) {
            return diff(before, after).count();
        }
        let mut step = ChangeCounts::default();
        for difference in diff(before, after) {
            step.count(&difference);
            if let Some(entry) = &difference.after {
                step.log_unreadable(target.name(), entry, difference.before.as_deref());
                self.check_entry(target, entry);
            }
        }
        if step.unreadable > MAX_LOGGED_RECORDS {
            let (service, more) = (target.name(), step.unreadable - MAX_LOGGED_RECORDS);
            tracing::warn!(parent: None, service, more, "more records skipped: unreadable");
        }
        self.log_nested_name(target);
        step.log_membership(target.name(), after);
        step.added + step.removed + step.changed + step.details
    }

    /// Logs a misread part of the first such record, and looks for keys of a name below the
    /// service's.
    fn check_entry(&mut self, target: &Target, entry: &SnapshotEntry) {
        if !self.misread_logged
            && let Some(misread) = entry.instances().iter().find_map(Instance::misread)
        {
            self.misread_logged = true;
            let key = shown_key(entry.key());
            let service = target.name();
            tracing::warn!(
                parent: None,
                service,
                %key,
                misread,
                "record field not understood, kept as metadata; logged once for each service"
            );
        }
        if self.nested_logged || entry.instances().is_empty() || (self.own_key_seen && self.below.is_some()) {
            return;
        }
        match std::str::from_utf8(entry.key()).ok().and_then(|key| nested_name(target, key, entry.instances())) {
            Some(name) => self.below = Some(secret::without_password(name).into_owned()),
            None => self.own_key_seen = true,
        }
    }

    /// Logs once that the prefix holds keys of the service and of a name below it.
    fn log_nested_name(&mut self, target: &Target) {
        if let (false, true, Some(below)) = (self.nested_logged, self.own_key_seen, self.below.as_deref()) {
            self.nested_logged = true;
            let service = target.name();
            tracing::warn!(
                parent: None,
                service,
                below,
                "prefix also holds keys of a longer name: if that is a service, its servers get calls of this one"
            );
        }
    }
}

/// Logs that instances have begun to be doubtful, or that none is any more.
pub(super) fn log_doubt(target: &Target, before: &Snapshot, after: &Snapshot) {
    let (service, instances, revision) = (target.name(), after.len(), after.revision());
    match (before.doubtful().next(), after.doubtful().next()) {
        (None, Some(first)) => {
            let doubtful = after.doubtful_instances();
            let loss = if first.doubt() == Some(Doubt::Sudden) { "sudden" } else { "gradual" };
            tracing::warn!(
                parent: None,
                service,
                doubtful,
                loss,
                instances,
                revision,
                "etcd has lost most instances, channels keep those that answer"
            );
        }
        (Some(_), None) => {
            tracing::info!(parent: None, service, instances, revision, "no instance is doubtful any more");
        }
        _ => {}
    }
}

impl ChangeCounts {
    /// Counts one difference.
    fn count(&mut self, difference: &Difference) {
        match (&difference.before, &difference.after) {
            (None, Some(_)) => self.added += 1,
            (Some(_), None) => self.removed += 1,
            (Some(before), Some(after)) if concerns_calls(before, after) => self.changed += 1,
            _ => self.details += 1,
        }
    }

    /// Logs a record that has become unreadable: at WARN, and at DEBUG if it was unreadable before.
    fn log_unreadable(&mut self, service: &str, entry: &SnapshotEntry, before: Option<&SnapshotEntry>) {
        let Some(error) = entry.error() else { return };
        let key = shown_key(entry.key());
        if before.is_some_and(|before| before.error().is_some()) {
            tracing::debug!(parent: None, service, %key, %error, "record skipped: still unreadable");
            return;
        }
        self.unreadable += 1;
        if self.unreadable <= MAX_LOGGED_RECORDS {
            tracing::warn!(parent: None, service, %key, %error, "record skipped: unreadable");
        }
    }

    /// Logs the counts.
    fn log_membership(&self, service: &str, after: &Snapshot) {
        let Self { added, removed, changed, details, .. } = *self;
        let (instances, revision) = (after.len(), after.revision());
        if added + removed + changed > 0 {
            tracing::info!(parent: None, service, added, removed, changed, instances, revision, "membership changed");
        }
        if details > 0 {
            tracing::debug!(parent: None, service, details, instances, revision, "instance details changed");
        }
    }
}

/// Whether a change of a record may send calls elsewhere.
fn concerns_calls(before: &SnapshotEntry, after: &SnapshotEntry) -> bool {
    let relevant = |entry: &SnapshotEntry| {
        let part =
            |one: &Instance| (one.addresses().to_vec(), one.weight(), one.zone().map(str::to_owned), one.is_draining());
        (entry.error().is_some(), entry.instances().iter().map(part).collect::<Vec<_>>())
    };
    relevant(before) != relevant(after)
}
