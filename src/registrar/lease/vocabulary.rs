//! What the lease machine and its task say to each other. PURE.

use std::sync::Arc;
use std::time::Duration;

use crate::codec::Record;
use crate::registrar::lease::Id;

/// What is done where another has put a key that is to be registered.
///
/// A key is known by the lease that it carries, and by the instance's id where that has one
/// ([`Instance::with_id`](crate::Instance::with_id)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Conflict {
    /// Overwrites it: the default, because a key is an address as a rule, and a server that crashed and starts again at
    /// its address must not wait until the lease of its former life has ended. Whoever registers last has the key; the
    /// other waits until it is free.
    #[default]
    TakeOver,
    /// Waits until it is free, or held by an instance of the same id. For keys that are chosen
    /// ([`RegistrationBuilder::key`](crate::RegistrationBuilder::key)), and meant for one at a time.
    Refuse,
    /// Takes another key: the same with `/` and the instance's id, or a random one, after it.
    UniqueKey,
}

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
        /// Only while the key was last changed at this revision; 0 while it is not there. None where the role may not read: nothing
        /// can be asked of the key then.
        expected: Option<i64>,
        /// Whatever stands there, where it turns out that the role may not read.
        overwrites: bool,
    },
    /// Delete the record's key while it carries that lease and was last changed at that revision.
    Delete {
        of: Id,
        record: Arc<Record>,
        lease: i64,
        expected: i64,
    },
    /// Read the record's key.
    Look {
        of: Id,
        record: Arc<Record>,
    },
    Revoke {
        id: i64,
    },
    /// Nothing to do before that time; without one, before something is wanted.
    Wait {
        until: Option<Duration>,
    },
}

/// What a request that is on its way is still worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Its answer is waited for.
    All,
    /// A short wait: what it does is to be undone, and that is easier where its answer is known.
    Little,
    Nothing,
}

/// What the leases need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    None,
    At(Duration),
    Now { id: i64 },
}

/// A registration as it is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) records: Vec<Arc<Record>>,
    pub(crate) conflict: Conflict,
    /// The instance's.
    pub(crate) id: Option<Box<str>>,
    pub(crate) paused: bool,
}

/// What stands at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) lease: i64,
    /// When it was put.
    pub(crate) revision: i64,
    pub(crate) value: Vec<u8>,
    /// That of the instance in it.
    pub(crate) id: Option<Box<str>>,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// This is wanted from now on.
    Wanted {
        id: Id,
        wanted: Wanted,
    },
    /// The registration is to be so from now on.
    Updated {
        id: Id,
        wanted: Wanted,
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
    /// The lease was renewed at that time, for so many seconds; none where etcd did not say for how many.
    Renewed {
        id: i64,
        asked: Duration,
        seconds: Option<i64>,
    },
    RenewalFailed {
        id: i64,
        trouble: FailureKind,
    },
    /// etcd does not renew the lease, because a key stands under it that the role may not write any more.
    LeaseRefused {
        id: i64,
    },
    /// The put was done, at that revision.
    Put {
        revision: i64,
        /// It was asked for more than once: another of these puts may have been done, or may still be.
        again: bool,
    },
    /// The key was not as the put expected it.
    Conflict {
        /// As for [`Input::Put`].
        again: bool,
    },
    /// The delete or revocation was done: what was to go does not stand any more.
    Done,
    /// The key that was to be deleted is not as it was expected to be.
    NotThere,
    /// The action failed.
    Failed(FailureKind),
    /// The action was broken off: nobody knows whether it was done.
    BrokenOff,
    /// Every change of this key is told from now on: by a new watch, or by one that told of it before, and may yet tell what was
    /// before.
    Watched {
        key: Vec<u8>,
        anew: bool,
    },
    /// This key may not be watched.
    Unwatchable {
        key: Vec<u8>,
    },
    /// The watch of this key was not created in time; it is tried again.
    WatchIsLate {
        key: Vec<u8>,
    },
    /// No change of this key is told any more.
    Unwatched {
        key: Vec<u8>,
    },
    /// There is a new connection to etcd: not a moment to wait.
    Reachable,
    /// How a key stood at a revision.
    Seen {
        key: Vec<u8>,
        revision: i64,
        found: Option<Found>,
    },
}

/// What kind of failure, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// It may have been done, or may still be.
    Transient,
    /// The same, and it was not done, for certain.
    NotDone,
    /// Only people can mend it; what is not concerned goes on. It was not done.
    Permanent,
    /// The same, and an earlier try of it may have been done, or may still be.
    PermanentInDoubt,
    LeaseGone,
}

impl FailureKind {
    pub(super) fn is_permanent(self) -> bool {
        matches!(self, Self::Permanent | Self::PermanentInDoubt)
    }

    /// Whether it may have been done, or may still be.
    pub(super) fn leaves_doubt(self) -> bool {
        matches!(self, Self::Transient | Self::PermanentInDoubt)
    }
}

/// Why what stood in etcd does not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// With the lease.
    Lease,
    /// This key was deleted.
    Deleted(Vec<u8>),
    /// This key was overwritten.
    Overwritten(Vec<u8>),
}

/// How a registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegistrationStatus {
    /// Never yet in etcd.
    Pending,
    /// In etcd.
    Registered,
    /// In etcd, the latest change of it not yet.
    Updating,
    /// In etcd, and the last renewal failed.
    Renewing,
    /// Was in etcd, and is gone or may be.
    Lost,
    /// Another has the key.
    Held,
    /// Not in etcd, as wanted.
    Paused,
    /// Gone for good, as wanted.
    Closed,
}

impl RegistrationStatus {
    /// What went wrong before does not matter any more.
    pub(crate) fn is_well(self) -> bool {
        matches!(self, Self::Registered | Self::Paused | Self::Closed)
    }
}
