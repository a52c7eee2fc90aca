//! What the lease machine and its task say to each other. PURE.

use std::sync::Arc;
use std::time::Duration;

use super::Id;
use crate::codec::Record;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Grant {
        id: i64,
        seconds: i64,
    },
    Put {
        of: Id,
        record: Arc<Record>,
        lease: i64,
    },
    /// Delete the record's key while it carries that lease.
    Delete {
        of: Id,
        record: Arc<Record>,
        lease: i64,
    },
    Revoke {
        id: i64,
    },
    /// Nothing to do before that time; without one, before something is wanted.
    Wait {
        until: Option<Duration>,
    },
}

/// What the lease needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    None,
    At(Duration),
    Now { id: i64 },
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// These records are wanted from now on.
    Wanted {
        id: Id,
        records: Vec<Arc<Record>>,
    },
    /// This registration's records are to go.
    Leaving {
        id: Id,
    },
    /// The lease was asked for at that time, for so many seconds; none if it was there already.
    Granted {
        asked: Duration,
        seconds: Option<i64>,
    },
    Renewed {
        id: i64,
        asked: Duration,
        seconds: i64,
    },
    RenewalFailed {
        id: i64,
        trouble: Trouble,
    },
    /// The put, delete or revocation was done.
    Done,
    /// The key that was to be deleted did not carry the lease.
    NotThere,
    /// The action failed.
    Failed(Trouble),
    /// The action was broken off: nobody knows whether it was done.
    BrokenOff,
}

/// What kind of failure, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Transient,
    /// Only people can mend it; what is not concerned goes on.
    Permanent,
    LeaseGone,
}

/// How a registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Never yet in etcd.
    Pending,
    /// In etcd.
    Registered,
    /// In etcd, and the last renewal failed.
    Renewing,
    /// Was in etcd, and is gone or may be.
    Lost,
    /// Gone for good, as wanted.
    Closed,
}
