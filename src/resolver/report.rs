//! What is relevant of a service's changes: membership at INFO, what is wrong with records at WARN, each once.

use crate::instance::Instance;
use crate::resolver::snapshot::{Difference, Snapshot, SnapshotEntry, diff};
use crate::secret::{self, shown_key};
use crate::target::Target;
use crate::target::nested::nested_name;

/// Records that cannot be read, of one step of the service, that are reported one by one.
const MAX_LOGGED_RECORDS: usize = 10;

/// What was relevant of a service so far.
#[derive(Default)]
pub(super) struct MembershipLog {
    misread_logged: bool,
    /// A key of the service's own was seen, and one of a name below it.
    own_key_seen: bool,
    below: Option<String>,
    nested_logged: bool,
}

/// What has become of the records of one step.
#[derive(Default)]
struct ChangeCounts {
    added: usize,
    removed: usize,
    changed: usize,
    /// What concerns no call: metadata, version, id.
    details: usize,
    unreadable: usize,
}

impl MembershipLog {
    pub(super) fn step(&mut self, target: &Target, before: &Snapshot, after: &Snapshot) {
        // Nobody listens.
        if !tracing::enabled!(tracing::Level::WARN) {
            return;
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
            tracing::warn!(parent: None, service, more, "further records skipped: they cannot be read");
        }
        self.log_nested_name(target);
        step.log_membership(target.name(), after);
    }

    /// What is odd about a record that can be read, for the first of a service.
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
                "a part of a record is not understood, and is kept as metadata; further ones of this service are not reported"
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

    fn log_nested_name(&mut self, target: &Target) {
        if let (false, true, Some(below)) = (self.nested_logged, self.own_key_seen, self.below.as_deref()) {
            self.nested_logged = true;
            let service = target.name();
            tracing::warn!(
                parent: None,
                service,
                below,
                "the prefix also holds keys of another name: if that is a service of its own, its servers get calls of this one"
            );
        }
    }
}

impl ChangeCounts {
    fn count(&mut self, difference: &Difference) {
        match (&difference.before, &difference.after) {
            (None, Some(_)) => self.added += 1,
            (Some(_), None) => self.removed += 1,
            (Some(before), Some(after)) if concerns_calls(before, after) => self.changed += 1,
            _ => self.details += 1,
        }
    }

    fn log_unreadable(&mut self, service: &str, entry: &SnapshotEntry, before: Option<&SnapshotEntry>) {
        let Some(error) = entry.error() else { return };
        let key = shown_key(entry.key());
        if before.is_some_and(|before| before.error().is_some()) {
            tracing::debug!(parent: None, service, %key, %error, "record skipped: it still cannot be read");
            return;
        }
        self.unreadable += 1;
        if self.unreadable <= MAX_LOGGED_RECORDS {
            tracing::warn!(parent: None, service, %key, %error, "record skipped: it cannot be read");
        }
    }

    fn log_membership(&self, service: &str, after: &Snapshot) {
        let Self { added, removed, changed, details, .. } = *self;
        let (instances, revision) = (after.len(), after.revision());
        if added + removed + changed > 0 {
            tracing::info!(parent: None, service, added, removed, changed, instances, revision, "membership changed");
        }
        if details > 0 {
            tracing::debug!(parent: None, service, details, instances, revision, "instances say something else of themselves");
        }
    }
}

/// Whether a change may send calls elsewhere: of addresses, weight, zone, draining, or of whether it can be read.
fn concerns_calls(before: &SnapshotEntry, after: &SnapshotEntry) -> bool {
    let relevant = |entry: &SnapshotEntry| {
        let part =
            |one: &Instance| (one.addresses().to_vec(), one.weight(), one.zone().map(str::to_owned), one.is_draining());
        (entry.error().is_some(), entry.instances().iter().map(part).collect::<Vec<_>>())
    };
    relevant(before) != relevant(after)
}
