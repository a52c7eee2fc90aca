//! One registration as handles and task share it: the desired state, and the published one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::codec::Record;
use crate::registrar::handle::state::{Published, RegistrationState};
use crate::registrar::lease::{Conflict, Desired};
use crate::registrar::pause::PauseReasons;
use crate::registrar::stats::{self, Counted, Move, ServiceSeries};
use crate::secret::shown_key;
use crate::target::Target;

/// One registration. Handles change what is desired; the task reads that and sets the state.
pub(super) struct Entry {
    /// The service.
    pub(super) target: Target,
    /// The desired records.
    pub(super) records: Vec<Arc<Record>>,
    /// The rule for keys that another instance holds.
    pub(super) conflict: Conflict,
    /// The id of the instance.
    pub(super) instance_id: Option<Box<str>>,
    pub(super) leaving: bool,
    /// Why it is to be out of etcd, if it is.
    pub(super) pauses: PauseReasons,
    /// Counts the changes of the desired state, so that the task sees which of them the machine
    /// knows.
    pub(super) version: u64,
    /// Whether clients may know it.
    pub(super) visibility: Visibility,
    published: Published,
    sender: watch::Sender<Published>,
    /// Its place in the series, once it is counted. Entries are dropped without a lock.
    counted: Option<Counted>,
}

/// Whether clients may know a registration. Shared with its handle, because the entry is gone once
/// it has left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visibility(Arc<Mutex<Visible>>);

/// Since when clients may see the registration, or see it no longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Visible {
    /// No put of it was ever sent.
    #[default]
    Never,
    /// It may be in etcd.
    Maybe,
    /// It is out of etcd for good since then.
    Until(Instant),
}

impl Visibility {
    /// Called by the task right before it sends a put.
    pub(super) fn begin(&self) {
        *self.locked() = Visible::Maybe;
    }

    /// Called when the registration is out of etcd for good.
    pub(super) fn end(&self) {
        let mut visible = self.locked();
        if *visible == Visible::Maybe {
            *visible = Visible::Until(Instant::now());
        }
    }

    /// Whether it may be in etcd.
    pub(crate) fn may_be_visible(&self) -> bool {
        *self.locked() == Visible::Maybe
    }

    /// How long it takes until all clients have seen it go, if they need `propagation` for that and
    /// it is out of etcd now.
    pub(crate) fn until_forgotten(&self, propagation: Duration) -> Duration {
        match *self.locked() {
            Visible::Never => Duration::ZERO,
            Visible::Maybe => propagation,
            Visible::Until(since) => propagation.saturating_sub(since.elapsed()),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Visible> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new state that is sent to the handles once no lock is held: a woken task may use any handle at
/// once.
#[must_use = "the state is not published before `send`"]
pub(crate) struct Publication {
    sender: watch::Sender<Published>,
    published: Published,
    counted: Option<Move>,
}

impl Publication {
    /// Counts the state, and publishes it unless a newer one was published already.
    pub(crate) fn send(self) {
        let Self { sender, mut published, counted } = self;
        counted.into_iter().for_each(Move::record);
        // Handles and task send without the lock, so their publications race: the number decides.
        sender.send_if_modified(|current| {
            let is_newer = current.number < published.number;
            if is_newer {
                std::mem::swap(current, &mut published);
            }
            is_newer
        });
    }
}

impl Entry {
    pub(super) fn new(
        target: Target,
        records: Vec<Arc<Record>>,
        instance_id: Option<Box<str>>,
        conflict: Conflict,
        pauses: PauseReasons,
    ) -> Self {
        let published = Published::first();
        Self {
            target,
            records,
            conflict,
            instance_id,
            leaving: false,
            pauses,
            version: 0,
            visibility: Visibility::default(),
            sender: watch::Sender::new(published.clone()),
            published,
            counted: None,
        }
    }

    /// Counts it in these series from here on. Not to be called under a lock.
    pub(super) fn count_in(&mut self, series: Arc<ServiceSeries>) {
        self.counted = Some(Counted::new(series, stats::position(self.state())));
    }

    /// The series in which it is counted.
    pub(super) fn series(&self) -> Option<&Arc<ServiceSeries>> {
        self.counted.as_ref().map(|counted| &counted.series)
    }

    /// A receiver of the published states. It ends when the entry is dropped, which is after its
    /// last state.
    pub(super) fn subscribe(&self) -> watch::Receiver<Published> {
        self.sender.subscribe()
    }

    /// The state that was set last. It may not be published yet.
    pub(super) fn state(&self) -> &RegistrationState {
        &self.published.state
    }

    /// Sets the state and gives it the next number. The caller sends the publication once it holds
    /// no lock.
    pub(super) fn set_state(&mut self, state: RegistrationState) -> Publication {
        let counted = self.counted.as_mut().and_then(|counted| counted.move_to(stats::position(&state)));
        self.published = Published { number: self.published.number + 1, state };
        Publication { sender: self.sender.clone(), published: self.published.clone(), counted }
    }

    /// The desired state has changed. The published state changes with it, so that a wait that
    /// begins now waits for this change.
    pub(super) fn mark_changed(&mut self) -> Option<Publication> {
        self.version += 1;
        let state = match self.state() {
            RegistrationState::Registered | RegistrationState::Renewing { .. } => {
                RegistrationState::Updating { why: None }
            }
            // It may have other keys now, which are free.
            RegistrationState::HeldByOther { .. } => RegistrationState::Registering { why: None },
            // It may come into etcd from here on, even if it is paused again at once.
            RegistrationState::Paused { .. } if self.pauses.is_empty() => RegistrationState::Registering { why: None },
            _ => return None,
        };
        Some(self.set_state(state))
    }

    /// Its keys, as they may be shown.
    pub(super) fn shown_keys(&self) -> impl Iterator<Item = String> {
        self.records.iter().map(|record| shown_key(&record.key))
    }

    /// The desired state as the machine takes it.
    pub(super) fn desired(&self) -> Desired {
        Desired {
            records: self.records.clone(),
            conflict: self.conflict,
            id: self.instance_id.clone(),
            paused: !self.pauses.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::error::Error;
    use crate::registrar::pause::PauseReason;

    /// F15: what was found out under the lock earlier is told later without it, and must not cover
    /// what is newer.
    #[test]
    fn an_older_publication_covers_no_newer_one() {
        let target = "s".parse::<Target>().unwrap();
        let mut entry = Entry::new(target, Vec::new(), None, Conflict::TakeOver, PauseReasons::default());
        let seen = entry.subscribe();
        let registered = entry.set_state(RegistrationState::Registered);
        let updating = entry.mark_changed().expect("it stood");
        updating.send();
        registered.send();
        assert!(matches!(seen.borrow().state, RegistrationState::Updating { .. }));
    }

    /// A resume that is taken back at once may have been heard in between: it is out only once that
    /// is found out anew.
    #[test]
    fn what_is_resumed_is_not_known_to_be_out() {
        let target = "s".parse::<Target>().unwrap();
        let mut entry = Entry::new(target, Vec::new(), None, Conflict::TakeOver, PauseReasons::default());
        let why = || Error::paused("it is paused by hand".into());
        for reason in [PauseReason::Manual, PauseReason::ServiceHealth] {
            entry.pauses.set(reason, true);
        }
        entry.set_state(RegistrationState::Paused { why: why() }).send();
        entry.pauses.set(PauseReason::ServiceHealth, false);
        assert!(entry.mark_changed().is_none(), "it is paused by hand all the same");
        for paused in [false, true] {
            entry.pauses.set(PauseReason::Manual, paused);
            entry.mark_changed().into_iter().for_each(Publication::send);
            assert!(matches!(entry.state(), RegistrationState::Registering { .. }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_forget_what_has_left() {
        let (visibility, second) = (Visibility::default(), Duration::from_secs(1));
        visibility.end();
        assert!(!visibility.may_be_visible() && visibility.until_forgotten(second).is_zero(), "it was never there");
        visibility.begin();
        assert!(visibility.may_be_visible());
        assert_eq!(visibility.until_forgotten(second), second);
        visibility.end();
        advance(second / 4).await;
        visibility.end();
        assert!(!visibility.may_be_visible());
        assert_eq!(visibility.until_forgotten(second), second * 3 / 4);
        advance(second).await;
        assert!(visibility.until_forgotten(second).is_zero());
        visibility.begin();
        assert_eq!(visibility.until_forgotten(second), second);
    }
}
