//! What the lease machine and its task say to each other. PURE.

use std::sync::Arc;
use std::time::Duration;

use crate::codec::Record;

/// Names a registration of one machine. The registrar counts from 1; orphaned keys begin at
/// [`Id::MAX`] / 2.
pub(crate) type Id = u64;

/// What a registration does when another instance holds its key.
///
/// The registrar knows who has put a key by the lease of the key, and by the id in its value if the
/// instance has one ([`Instance::with_id`](crate::Instance::with_id)). "Before us" means: the key
/// was there when this registrar put its own, for the first time or again after it had lost its
/// lease. "After us" means: the key of this registrar was in etcd and has been overwritten.
///
/// | who has the key | `TakeOver` | `Wait` | `UniqueKey` |
/// |---|---|---|---|
/// | nobody | puts it | puts it | puts it |
/// | this registrar, under its lease or a former one | puts it again | puts it again | puts it again |
/// | an instance with the same id, before us | overwrites it | overwrites it | overwrites it |
/// | another instance, before us | overwrites it | waits | takes another key |
/// | another instance, also one with the same id, after us | waits | waits | takes another key |
/// | somebody by hand (no lease), before us | overwrites it | waits | takes another key |
/// | somebody by hand (no lease), after us | puts it again | puts it again | puts it again |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Conflict {
    /// Overwrites the key. This is the default, because a key usually is an address: a server that
    /// crashed and starts again at its address must not wait until its former lease has ended. The
    /// instance that registers last has the key; the other one waits until the key is free.
    #[default]
    TakeOver,
    /// Waits until the key is free. A key that an instance with the same id has put before counts
    /// as free. Meant for chosen keys
    /// ([`RegistrationOptions::key`](crate::RegistrationOptions::key)) that one instance at a time
    /// is to hold. A key is no lock: for a short time, two instances may believe that they hold it.
    Wait,
    /// Takes another key: the same one followed by `/` and the instance's id, or a random id.
    /// Clients call both instances.
    ///
    /// Such a key has a further slash, as in `greeter/A/B`. A resolver knows that it belongs to
    /// `greeter`, and not to a service `greeter/A`, in two cases: `A` is an address of the instance,
    /// or `A` has no slash and `B` is the instance's id. So give an instance with a chosen key an
    /// id: a random id is not stored in the value, and the resolver then logs a warning.
    UniqueKey,
}

/// A request that the task sends to etcd next. From when it is returned until its answer comes to
/// [`Machine::on`](super::Machine::on), it counts as in flight: no other request for the same key
/// is returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Grant a lease with this id. Repeated with the same id until etcd has it.
    Grant { lease: i64, seconds: i64 },
    /// Put a record of the registration `id` under the lease.
    Put {
        id: Id,
        record: Arc<Record>,
        lease: i64,
        /// The modification revision that the key must still have; 0 means that it must not exist.
        /// `None` means that the role cannot read the key, so the put is unconditional.
        expected: Option<i64>,
        /// Whether the put may become unconditional if the role turns out not to be allowed to
        /// read.
        overwrites: bool,
    },
    /// Delete the record's key if it still carries the lease and the expected modification
    /// revision.
    Delete { id: Id, record: Arc<Record>, lease: i64, expected: i64 },
    /// Read the record's key.
    Read { id: Id, record: Arc<Record> },
    /// Revoke the lease.
    Revoke { lease: i64 },
    /// Nothing to do before this time, or before the next input if there is no time.
    Wait { until: Option<Duration> },
}

impl Action {
    /// The record whose key the request is for, if it is for one.
    pub(super) fn record(&self) -> Option<&Arc<Record>> {
        match self {
            Self::Put { record, .. } | Self::Delete { record, .. } | Self::Read { record, .. } => Some(record),
            Self::Grant { .. } | Self::Revoke { .. } | Self::Wait { .. } => None,
        }
    }
}

/// How much the answer to a request in flight still matters. Computed by
/// [`Machine::relevance`](super::Machine::relevance).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relevance {
    /// The task waits for the answer.
    Full,
    /// The task waits briefly: the effect must be undone, which is simpler when the answer is
    /// known.
    Brief,
    /// The task drops the request now.
    None,
}

/// When the next lease must be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    None,
    /// The next renewal is due at this time.
    At(Duration),
    /// This lease is due. The task sends the renewal and names the lease in the next call.
    Now {
        lease: i64,
    },
}

/// The desired state of a registration.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// One for each key. Keys are distinct.
    pub(crate) records: Vec<Arc<Record>>,
    /// The rule for keys that another instance holds. An update does not change it.
    pub(crate) conflict: Conflict,
    /// The id of the instance, not of the registration.
    pub(crate) id: Option<Box<str>>,
    /// The keys are not to be in etcd at present; the lease is kept.
    pub(crate) paused: bool,
}

/// A key as etcd stores it (the parts of etcd's `KeyValue` that decide who owns it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyValue {
    /// The lease that the key carries; 0 if it carries none, as a key that was put by hand.
    pub(crate) lease: i64,
    /// The modification revision.
    pub(crate) revision: i64,
    /// Compared with the desired value byte by byte: a key with our lease and another value is put
    /// again.
    pub(crate) value: Vec<u8>,
    /// The id of the instance that the value holds.
    pub(crate) id: Option<Box<str>>,
}

/// What happened: a changed desire, an answer of etcd, or news of a watch.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A new registration.
    Added { id: Id, desired: Desired },
    /// A registration has another desired state.
    Updated { id: Id, desired: Desired },
    /// A registration leaves: its keys must go.
    Leaving { id: Id },
    /// The lease was granted. `seconds` is the granted time to live; `None` if the lease existed
    /// already, so that it may be about to end.
    Granted { asked: Duration, seconds: Option<i64> },
    /// The lease was renewed. `seconds` is its time to live; `None` if etcd has only opened the
    /// stream.
    Renewed { lease: i64, asked: Duration, seconds: Option<i64> },
    /// The renewal failed. With [`FailureKind::LeaseGone`] the lease has ended; otherwise etcd may
    /// still hold it, and the renewal is sent again.
    RenewalFailed { lease: i64, failure: FailureKind },
    /// etcd does not renew the lease, because it holds a key that the role may not write any more.
    LeaseRefused { lease: i64 },
    /// The put was applied at this revision.
    Put {
        revision: i64,
        /// The request was sent more than once, so a second put may have been applied too, or may
        /// still be.
        retried: bool,
    },
    /// The put was not applied, because the key was not as expected.
    PutMismatch {
        /// As for [`Input::Put`].
        retried: bool,
    },
    /// The delete or the revocation was applied.
    Removed,
    /// The delete was not applied, because the key was not as expected.
    DeleteMismatch,
    /// The request failed.
    Failed(FailureKind),
    /// The task dropped the request; its outcome is unknown.
    Abandoned,
    /// The key is watched from now on. `new_watch` is false if an existing watch now serves another
    /// registration; such a watch may still deliver earlier events.
    Watched { key: Vec<u8>, new_watch: bool },
    /// The role may not watch the key.
    WatchDenied { key: Vec<u8> },
    /// etcd has not created the watch in time. The watcher keeps trying.
    WatchDelayed { key: Vec<u8> },
    /// The watch of the key has ended.
    WatchLost { key: Vec<u8> },
    /// A connection to etcd was established: waits for retries end.
    Connected,
    /// The state of a key at a revision, from a read (if the action was [`Action::Read`]) or from
    /// the watch.
    Observed { key: Vec<u8>, revision: i64, found: Option<KeyValue> },
}

/// The kinds of failure that lead to different actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Temporary. The request may have been applied, or may still be.
    Transient,
    /// Temporary. The request was certainly not applied.
    NotApplied,
    /// Needs an operator (permission, size, quota). Other keys go on. The request was not applied.
    Permanent,
    /// Needs an operator, and an earlier attempt may have been applied, or may still be.
    PermanentInDoubt,
    /// etcd does not know the lease.
    LeaseGone,
}

impl FailureKind {
    /// Whether a retry makes sense only after an operator has acted. Such requests are retried
    /// every few seconds.
    pub(super) fn is_permanent(self) -> bool {
        matches!(self, Self::Permanent | Self::PermanentInDoubt)
    }

    /// Whether the request may have been applied, or may still be.
    pub(super) fn may_be_applied(self) -> bool {
        matches!(self, Self::Transient | Self::PermanentInDoubt)
    }
}

/// Why a key that was present is no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its lease ended.
    Lease,
    /// Somebody deleted this key.
    Deleted(Vec<u8>),
    /// Somebody overwrote this key.
    Overwritten(Vec<u8>),
}

/// The status of a registration. The public form is
/// [`RegistrationState`](crate::RegistrationState).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RegistrationStatus {
    /// Not in etcd yet.
    Pending,
    /// In etcd as desired.
    Registered,
    /// In etcd, but not with the latest change.
    Updating,
    /// In etcd, but the last renewal failed.
    Renewing,
    /// Was in etcd, and is gone or may be gone.
    Lost,
    /// Another instance holds a key.
    HeldByOther,
    /// Out of etcd, as desired.
    Paused,
    /// Left for good.
    Closed,
}

impl RegistrationStatus {
    /// Whether the registration is as desired, so that earlier errors no longer matter.
    pub(crate) fn is_settled(self) -> bool {
        matches!(self, Self::Registered | Self::Paused | Self::Closed)
    }
}
