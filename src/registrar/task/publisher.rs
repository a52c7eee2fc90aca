//! Publishes the states of registrations to their handles and logs them: each change once, after
//! the lock under which it was found out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::error::Error;
use crate::registrar::entry::{Entry, Publication};
use crate::registrar::handle::state::RegistrationState;
use crate::registrar::lease::{Id, Loss, Machine, RegistrationStatus};

/// What was last published of each registration.
#[derive(Default)]
pub(super) struct StatePublisher {
    /// By registration. An entry goes once `Closed` was published.
    registrations: BTreeMap<Id, LastPublished>,
    /// Those whose state shows the last error of etcd.
    unsettled: BTreeSet<Id>,
}

/// The last state of one registration, as far as it decides whether the next one is news.
struct LastPublished {
    status: RegistrationStatus,
    /// The version of the desired state.
    version: u64,
    error: Option<Error>,
}

/// A change of state: a log event, and what the handle is sent.
#[must_use = "nothing is logged or sent before `publish`"]
pub(super) struct StateChange {
    /// `None` for changes that are not logged.
    event: Option<LogEvent>,
    publication: Publication,
}

impl StateChange {
    /// Logs the change and wakes the handles. Not to be called while a lock is held.
    pub(super) fn publish(self) {
        self.event.into_iter().for_each(LogEvent::log);
        self.publication.send();
    }
}

/// What is logged of a change. Made under the lock, logged after it.
struct LogEvent {
    status: RegistrationStatus,
    service: String,
    /// The keys of the instance: they tell two servers of one service apart.
    keys: Vec<String>,
    /// In hexadecimal, as `etcdctl` prints it.
    lease: Option<String>,
    error: Option<String>,
}

impl StatePublisher {
    /// Computes the state of a registration. Returns `None` if nothing has changed since the last
    /// one. `error` is the last error that concerns it.
    pub(super) fn update(
        &mut self,
        id: Id,
        entry: &mut Entry,
        machine: &Machine,
        now: Duration,
        error: Option<&Error>,
    ) -> Option<StateChange> {
        let status = machine.status(now, id);
        let before = self.registrations.get(&id);
        let is_new_status = before.is_none_or(|before| before.status != status);
        let was_pending = before.is_none_or(|before| before.status == RegistrationStatus::Pending);
        let is_known = before.is_some_and(|before| {
            before.version == entry.version && (status.is_settled() || is_same(before.error.as_ref(), error))
        });
        if !is_new_status && is_known {
            return None;
        }
        if status == RegistrationStatus::Paused {
            entry.visibility.end();
        }
        if status.is_settled() {
            self.unsettled.remove(&id);
        } else {
            self.unsettled.insert(id);
        }
        self.registrations.insert(id, LastPublished { status, version: entry.version, error: error.cloned() });
        let why = match status {
            RegistrationStatus::HeldByOther => {
                machine.holder(id).map(|(key, lease, id)| Error::conflict(key, lease, id))
            }
            RegistrationStatus::Paused => Some(Error::paused(entry.pauses.describe())),
            RegistrationStatus::Lost => error.cloned().or_else(|| machine.loss(id).map(lost)),
            _ => error.cloned(),
        };
        let is_logged = is_new_status && !(status == RegistrationStatus::Closed && was_pending);
        let event = is_logged.then(|| LogEvent {
            status,
            service: entry.target.name().to_owned(),
            keys: entry.shown_keys().collect(),
            lease: machine.lease().map(|id| format!("{id:x}")),
            error: why.as_ref().map(ToString::to_string),
        });
        Some(StateChange { event, publication: entry.set_state(RegistrationState::new(status, why)) })
    }

    /// The registrations whose state shows the last error of etcd, so that another one changes them.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = Id> {
        self.unsettled.iter().copied()
    }

    /// Forgets a registration that was published as closed. Whether it was.
    pub(super) fn forget_closed(&mut self, id: Id) -> bool {
        let is_closed = |last: &LastPublished| last.status == RegistrationStatus::Closed;
        self.registrations.get(&id).is_some_and(is_closed) && self.registrations.remove(&id).is_some()
    }
}

/// Whether these are the same error. An equal text is not enough:
/// [`RequestHealth`](super::health::RequestHealth) keeps the object of an error that repeats.
pub(super) fn is_same(one: Option<&Error>, other: Option<&Error>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_same(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// The error of a registration that was lost although etcd answers.
fn lost(loss: &Loss) -> Error {
    let key = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    Error::lost(&match loss {
        Loss::Lease => "the lease has ended; another one is requested".into(),
        Loss::Deleted(of) => format!("the key {:?} was deleted; it is put again", key(of)),
        Loss::Overwritten(of) => format!("the key {:?} was overwritten; it is put again", key(of)),
    })
}

impl LogEvent {
    /// Logs the change. States between two others (`Pending`, `Updating`, `Renewing`) are not
    /// logged: what fails is logged with the request.
    fn log(self) {
        let Self { status, service, keys, lease, error } = self;
        match status {
            RegistrationStatus::Registered => tracing::info!(parent: None, service, ?keys, lease, "registered"),
            RegistrationStatus::Lost => {
                tracing::warn!(parent: None, service, ?keys, error, "registration lost, registering again");
            }
            RegistrationStatus::HeldByOther => {
                tracing::warn!(parent: None, service, error, "key held by another instance, waiting for it");
            }
            RegistrationStatus::Paused => {
                tracing::info!(parent: None, service, ?keys, reason = error, "registration paused");
            }
            RegistrationStatus::Closed => tracing::info!(parent: None, service, ?keys, "deregistered"),
            RegistrationStatus::Pending | RegistrationStatus::Updating | RegistrationStatus::Renewing => {}
        }
    }
}
