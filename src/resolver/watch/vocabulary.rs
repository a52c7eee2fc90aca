//! What the watch machine and its task say to each other. PURE.

use std::time::Duration;

use crate::resolver::snapshot::SnapshotEntry;

/// What the hand that asks is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Read the whole range at one revision.
    List,
    /// Ask etcd for its revision, with a linearizable read.
    Verify,
    /// Nothing before that time.
    Wait { until: Duration },
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Listed {
        revision: i64,
        entries: Vec<SnapshotEntry>,
    },
    ListFailed(FailureKind),
    Verified {
        revision: i64,
    },
    VerifyFailed(FailureKind),
    /// The watch exists; the revision of the member that serves it.
    Created {
        revision: i64,
    },
    Events(Vec<Event>),
    /// Everything up to this revision was sent.
    Progress {
        revision: i64,
    },
    /// etcd has refused or ended the watch.
    Canceled(FailureKind),
    /// The stream of the watch has ended, over which something was last last_heard then.
    Lost {
        kind: FailureKind,
        last_heard: Duration,
    },
    /// The watch was not created in time; it is tried again.
    Late,
    /// There is a new connection to etcd: not a moment to wait. Where the last list came over an earlier one, it may be another
    /// etcd.
    Connected {
        is_new: bool,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) revision: i64,
    pub(crate) change: Change,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(SnapshotEntry),
    Delete(Box<[u8]>),
}

impl Change {
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Self::Put(entry) => entry.key(),
            Self::Delete(key) => key,
        }
    }
}

/// What kind of failure, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Will pass.
    Transient,
    /// The revision asked for is no longer, or not yet, to be had.
    Revision,
    /// Only people can mend it.
    Permanent,
}

/// What is known of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchStatus {
    Unresolved,
    /// A watch stands, or a list was answered a moment ago.
    Current,
    /// Nothing was last_heard since then.
    Stale {
        since: Duration,
    },
}
