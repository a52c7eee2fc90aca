//! What the watch machine and its task say to each other. PURE.

use std::time::Duration;

use crate::resolver::snapshot::SnapshotEntry;

/// What to request next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read the whole range at one revision.
    List,
    /// Ask the cluster for its revision, by a linearizable read.
    Verify,
    /// Nothing before this time.
    Wait { until: Duration },
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A list was answered, by this cluster. An id of 0 says nothing.
    Listed { revision: i64, cluster: u64, entries: Vec<SnapshotEntry> },
    /// A list has failed.
    ListFailed(FailureKind),
    /// The cluster has this revision.
    Verified { revision: i64 },
    /// Asking for it has failed.
    VerifyFailed(FailureKind),
    /// The watch exists, served by a member with this revision.
    Created { revision: i64 },
    /// Changes, in the order of their revisions.
    Events(Vec<Event>),
    /// Everything up to this revision was sent.
    Progress { revision: i64 },
    /// etcd has refused or ended the watch.
    Canceled(FailureKind),
    /// The stream of the watch has ended, on which something was last received at `last_heard`.
    Lost { kind: FailureKind, last_heard: Duration },
    /// The watch was not created in time. It is tried again by itself.
    Late,
    /// There is a new connection to etcd. With `is_new` the last list came over an earlier one, so
    /// that this may be another etcd.
    Connected { is_new: bool },
}

/// One change of one key.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// The revision of the change.
    pub(crate) revision: i64,
    /// The change.
    pub(crate) change: Change,
}

/// What happened to a key.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// It was put.
    Put(SnapshotEntry),
    /// It was deleted.
    Delete(Box<[u8]>),
}

impl Change {
    /// The key.
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Self::Put(entry) => entry.key(),
            Self::Delete(key) => key,
        }
    }
}

/// What a failure means for the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// It passes by itself.
    Transient,
    /// The revision was compacted, or is in the future.
    Revision,
    /// Only people can repair it.
    Permanent,
    /// The role does not permit it, and need not: it is asked for rarely.
    Denied,
}

impl FailureKind {
    /// Whether only people can repair it.
    pub(super) fn is_permanent(self) -> bool {
        matches!(self, Self::Permanent | Self::Denied)
    }
}

/// Whether the snapshot is what etcd holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchStatus {
    /// No list was answered yet.
    Unresolved,
    /// A watch is open, or a list was answered a moment ago.
    Current,
    /// Neither; etcd was last heard at this time.
    Stale { since: Duration },
}
