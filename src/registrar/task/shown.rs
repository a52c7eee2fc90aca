//! What the handles were shown, and what is logged of it: each change once, and after the lock under which it was found out.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Error;
use crate::registrar::lease::{Id, Loss, Machine, RegistrationStatus};
use crate::registrar::wanted::Wanted;
use crate::registrar::{Publication, RegistrationState};

/// How each registration stood when it was last shown.
#[derive(Default)]
pub(crate) struct StatePublisher {
    registrations: BTreeMap<Id, One>,
}

struct One {
    standing: RegistrationStatus,
    /// What was wanted of it.
    version: u64,
    error: Option<Error>,
}

/// What there is to be told of a registration: logged, and shown to its handle.
#[must_use = "nobody is told before `tell`"]
pub(crate) struct News {
    line: Option<Line>,
    publication: Publication,
}

impl News {
    /// To be called while no lock is held.
    pub(crate) fn tell(self) {
        self.line.into_iter().for_each(Line::log);
        self.publication.send();
    }
}

/// A line of the log.
struct Line {
    standing: RegistrationStatus,
    service: String,
    lease: Option<String>,
    why: Option<String>,
}

impl StatePublisher {
    /// How a registration stands, where that differs from before. `error` is what etcd does not do.
    pub(crate) fn show(
        &mut self,
        id: Id,
        wanted: &mut Wanted,
        machine: &Machine,
        now: Duration,
        error: Option<&Error>,
    ) -> Option<News> {
        let standing = machine.standing(now, id);
        let before = self.registrations.get(&id);
        let is_new = before.is_none_or(|before| before.standing != standing);
        let never_stood = before.is_none_or(|before| before.standing == RegistrationStatus::Pending);
        let is_known = before.is_some_and(|before| {
            // Where all is well, what went wrong before does not matter.
            before.version == wanted.version && (standing.is_well() || same(before.error.as_ref(), error))
        });
        if !is_new && is_known {
            return None;
        }
        if standing == RegistrationStatus::Paused {
            wanted.known.end();
        }
        self.registrations.insert(id, One { standing, version: wanted.version, error: error.cloned() });
        let why = match standing {
            RegistrationStatus::Held => machine.held_by(id).map(|(key, lease, id)| Error::conflict(key, lease, id)),
            RegistrationStatus::Paused => Some(Error::paused(wanted.gates.why())),
            RegistrationStatus::Lost => error.cloned().or_else(|| machine.loss(id).map(lost)),
            _ => error.cloned(),
        };
        let is_told = is_new && !(standing == RegistrationStatus::Closed && never_stood);
        let line = is_told.then(|| Line {
            standing,
            service: wanted.target.name().to_owned(),
            lease: machine.lease().map(|id| format!("{id:x}")),
            why: why.as_ref().map(ToString::to_string),
        });
        Some(News { line, publication: wanted.show(RegistrationState::new(standing, why)) })
    }

    /// Forgets a registration that was shown as closed; whether it was.
    pub(crate) fn forget_closed(&mut self, id: Id) -> bool {
        let closed = self.registrations.get(&id).is_some_and(|shown| shown.standing == RegistrationStatus::Closed);
        if closed {
            self.registrations.remove(&id);
        }
        closed
    }
}

fn same(one: Option<&Error>, other: Option<&Error>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_same(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn lost(loss: &Loss) -> Error {
    let key = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    Error::lost(&match loss {
        Loss::Lease => "the lease has ended, and another is asked for".into(),
        Loss::Deleted(of) => format!("the key {:?} was deleted, and is put again", key(of)),
        Loss::Overwritten(of) => format!("the key {:?} was overwritten, and is put again", key(of)),
    })
}

impl Line {
    fn log(self) {
        let Self { standing, service, lease, why } = self;
        match standing {
            RegistrationStatus::Registered => tracing::info!(parent: None, service, lease, "registered"),
            RegistrationStatus::Lost => {
                let message = "registration lost, or its lease may have ended; registering again";
                tracing::warn!(parent: None, service, why, "{message}");
            }
            RegistrationStatus::Held => tracing::warn!(parent: None, service, why, "not registered"),
            RegistrationStatus::Paused => tracing::info!(parent: None, service, why, "not in etcd, as is wanted"),
            RegistrationStatus::Closed => tracing::info!(parent: None, service, "deregistered"),
            RegistrationStatus::Pending | RegistrationStatus::Updating | RegistrationStatus::Renewing => {}
        }
    }
}
