//! What is said of a service's changes: membership at INFO, what is wrong with records at WARN, each once.

use crate::instance::Instance;
use crate::nested::nested;
use crate::resolver::snapshot::{Difference, Snapshot, SnapshotEntry, diff};
use crate::secret::{self, shown_key};
use crate::target::Target;

/// Records that cannot be read, of one step of the service, that are reported one by one.
const SHOWN: usize = 10;

/// What was said of a service so far.
#[derive(Default)]
pub(super) struct Report {
    misread: bool,
    /// A key of the service's own was seen, and one of a name below it.
    own: bool,
    below: Option<String>,
    nested: bool,
}

/// What has become of the records of one step.
#[derive(Default)]
struct Step {
    added: usize,
    removed: usize,
    changed: usize,
    /// What concerns no call: metadata, version, id.
    details: usize,
    unreadable: usize,
}

impl Report {
    pub(super) fn step(&mut self, target: &Target, before: &Snapshot, after: &Snapshot) {
        // Nobody listens.
        if !tracing::enabled!(tracing::Level::WARN) {
            return;
        }
        let mut step = Step::default();
        for difference in diff(before, after) {
            step.count(&difference);
            if let Some(entry) = &difference.after {
                step.warn(target.name(), entry, difference.before.as_deref());
                self.look(target, entry);
            }
        }
        if step.unreadable > SHOWN {
            let (service, more) = (target.name(), step.unreadable - SHOWN);
            tracing::warn!(parent: None, service, more, "further records skipped: they cannot be read");
        }
        self.warn_of_nested(target);
        step.tell(target.name(), after);
    }

    /// What is odd about a record that can be read, for the first of a service.
    fn look(&mut self, target: &Target, entry: &SnapshotEntry) {
        if !self.misread
            && let Some(misread) = entry.instances().iter().find_map(Instance::misread)
        {
            self.misread = true;
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
        if self.nested || entry.instances().is_empty() || (self.own && self.below.is_some()) {
            return;
        }
        match std::str::from_utf8(entry.key()).ok().and_then(|key| nested(target, key, entry.instances())) {
            Some(name) => self.below = Some(secret::without_password(name).into_owned()),
            None => self.own = true,
        }
    }

    fn warn_of_nested(&mut self, target: &Target) {
        if let (false, true, Some(below)) = (self.nested, self.own, self.below.as_deref()) {
            self.nested = true;
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

impl Step {
    fn count(&mut self, difference: &Difference) {
        match (&difference.before, &difference.after) {
            (None, Some(_)) => self.added += 1,
            (Some(_), None) => self.removed += 1,
            (Some(before), Some(after)) if concerns_calls(before, after) => self.changed += 1,
            _ => self.details += 1,
        }
    }

    fn warn(&mut self, service: &str, entry: &SnapshotEntry, before: Option<&SnapshotEntry>) {
        let Some(error) = entry.error() else { return };
        let key = shown_key(entry.key());
        if before.is_some_and(|before| before.error().is_some()) {
            tracing::debug!(parent: None, service, %key, %error, "record skipped: it still cannot be read");
            return;
        }
        self.unreadable += 1;
        if self.unreadable <= SHOWN {
            tracing::warn!(parent: None, service, %key, %error, "record skipped: it cannot be read");
        }
    }

    fn tell(&self, service: &str, after: &Snapshot) {
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
    let said = |entry: &SnapshotEntry| {
        let part =
            |one: &Instance| (one.addresses().to_vec(), one.weight(), one.zone().map(str::to_owned), one.is_draining());
        (entry.error().is_some(), entry.instances().iter().map(part).collect::<Vec<_>>())
    };
    said(before) != said(after)
}
