//! What a handle wants, and how it is told what became of it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::codec::Record;
use crate::registrar::gates::Gates;
use crate::registrar::handle::readiness::Known;
use crate::registrar::handle::state::{Published, RegistrationState};
use crate::registrar::lease::{self, Conflict};
use crate::secret::shown_key;
use crate::target::Target;

/// One registration, as its handle wants it.
pub(super) struct Wanted {
    pub(super) target: Target,
    pub(super) records: Vec<Arc<Record>>,
    pub(super) conflict: Conflict,
    /// The instance's.
    pub(super) id: Option<Box<str>>,
    pub(super) leaving: bool,
    pub(super) gates: Gates,
    /// Counts the changes of what is wanted.
    pub(super) version: u64,
    pub(super) known: Known,
    now: Published,
    show: watch::Sender<Published>,
}

/// What is to be published once no lock is held: whoever is woken may do anything.
#[must_use = "nobody is told before `send`"]
pub(crate) struct Publication {
    show: watch::Sender<Published>,
    what: Published,
}

impl Publication {
    /// Tells everyone who looks at the registration, unless something newer was told already.
    pub(crate) fn send(self) {
        let Self { show, mut what } = self;
        show.send_if_modified(|known| {
            let news = known.number < what.number;
            if news {
                std::mem::swap(known, &mut what);
            }
            news
        });
    }
}

impl Wanted {
    pub(super) fn new(
        (target, records, id): (Target, Vec<Arc<Record>>, Option<Box<str>>),
        conflict: Conflict,
        gates: Gates,
    ) -> Self {
        let now = Published::first();
        let show = watch::Sender::new(now.clone());
        let (leaving, version, known) = (false, 0, Known::default());
        Self { target, records, conflict, id, leaving, gates, version, known, now, show }
    }

    /// Where its handle looks.
    pub(super) fn seen(&self) -> watch::Receiver<Published> {
        self.show.subscribe()
    }

    pub(super) fn state(&self) -> &RegistrationState {
        &self.now.state
    }

    /// It stands like that from now on.
    pub(super) fn show(&mut self, state: RegistrationState) -> Publication {
        self.now = Published { number: self.now.number + 1, state };
        Publication { show: self.show.clone(), what: self.now.clone() }
    }

    /// It is wanted otherwise: whoever waits from here on waits for that.
    pub(super) fn changed(&mut self) -> Option<Publication> {
        self.version += 1;
        match self.state() {
            RegistrationState::Registered | RegistrationState::Renewing { .. } => {
                Some(self.show(RegistrationState::Updating { why: None }))
            }
            // Its keys may be others now, and free.
            RegistrationState::Held { .. } => Some(self.show(RegistrationState::Registering { why: None })),
            // It may come to be in etcd from here on, also where it is to be out again at once.
            RegistrationState::Paused { .. } if self.gates.are_open() => {
                Some(self.show(RegistrationState::Registering { why: None }))
            }
            _ => None,
        }
    }

    /// Under which keys it stands, for people.
    pub(super) fn keys(&self) -> impl Iterator<Item = String> {
        self.records.iter().map(|record| shown_key(&record.key))
    }

    pub(super) fn for_machine(&self) -> lease::Wanted {
        lease::Wanted {
            records: self.records.clone(),
            conflict: self.conflict,
            id: self.id.clone(),
            paused: !self.gates.are_open(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gates::Gate;
    use super::*;
    use crate::error::Error;

    /// F15: what was found out under the lock earlier is told later without it, and must not cover what is newer.
    #[test]
    fn an_older_publication_covers_no_newer_one() {
        let target = "s".parse::<Target>().unwrap();
        let mut wanted = Wanted::new((target, Vec::new(), None), Conflict::TakeOver, Gates::default());
        let seen = wanted.seen();
        let registered = wanted.show(RegistrationState::Registered);
        let updating = wanted.changed().expect("it stood");
        updating.send();
        registered.send();
        assert!(matches!(seen.borrow().state, RegistrationState::Updating { .. }));
    }

    /// A resume that is taken back at once may have been heard in between: it is out only once that is found out anew.
    #[test]
    fn what_is_resumed_is_not_known_to_be_out() {
        let target = "s".parse::<Target>().unwrap();
        let mut wanted = Wanted::new((target, Vec::new(), None), Conflict::TakeOver, Gates::default());
        let why = || Error::paused("it is paused by hand".into());
        for gate in [Gate::Manual, Gate::Health] {
            wanted.gates.set(gate, false);
        }
        wanted.show(RegistrationState::Paused { why: why() }).send();
        wanted.gates.set(Gate::Health, true);
        assert!(wanted.changed().is_none(), "it is paused by hand all the same");
        for open in [true, false] {
            wanted.gates.set(Gate::Manual, open);
            wanted.changed().into_iter().for_each(Publication::send);
            assert!(matches!(wanted.state(), RegistrationState::Registering { .. }));
        }
    }
}
