//! How etcd answers the registrar's two hands: how long each waits, and what went wrong.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::lease::Trouble;
use crate::error::Error;
use crate::etcd::{Class, Failure};

/// How long the first try of a request may take before another member is asked: etcd loses what is asked of it around an
/// election, and says so only after seconds. Every request may be repeated.
pub(super) const TRY: Duration = Duration::from_millis(500);

/// Whose request it is. The work's error tells more, and comes first.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hand {
    Work,
    Renewal,
}

/// What each hand has met.
pub(super) struct Answers {
    /// What went wrong since it last went well.
    errors: [Option<(Class, Error)>; 2],
    /// How often there was no answer since there was one.
    failures: [u32; 2],
    /// It has not answered since something failed on the way to it.
    is_away: bool,
    /// Tells that it answers again.
    again: Arc<Notify>,
    /// What a request may take at all.
    most: Duration,
}

impl Answers {
    pub(super) fn new(most: Duration) -> Self {
        Self { errors: [None, None], failures: [0, 0], is_away: false, again: Arc::default(), most }
    }

    /// Is notified when etcd answers again.
    pub(super) fn again(&self) -> Arc<Notify> {
        self.again.clone()
    }

    /// What etcd does not do.
    pub(super) fn why(&self) -> Option<Error> {
        self.errors.iter().flatten().next().map(|(_, error)| error.clone())
    }

    /// How long one try of a request may take: longer with each one that failed, up to what it may take at all, and up to
    /// what the lease has time for.
    pub(super) fn deadline(&self, hand: Hand, patience: Option<Duration>) -> Duration {
        let most = patience.map_or(self.most, |patience| patience.min(self.most));
        most.min(TRY.saturating_mul(1 << self.failures[hand as usize].min(8)))
    }

    pub(super) fn went_well(&mut self, hand: Hand) {
        self.errors[hand as usize] = None;
        self.answered(hand);
    }

    /// There is a lease, which is renewed from now on: that says nothing of what is to stand under it.
    pub(super) fn granted(&mut self) {
        self.answered(Hand::Work);
        self.errors[Hand::Renewal as usize] = None;
    }

    /// etcd has said something, be it well or ill.
    fn answered(&mut self, hand: Hand) {
        self.failures[hand as usize] = 0;
        if std::mem::take(&mut self.is_away) {
            self.again.notify_one();
        }
    }

    /// What that means to the machine.
    pub(super) fn failed(&mut self, hand: Hand, failure: Failure) -> Trouble {
        let class = failure.class;
        let failures = &mut self.failures[hand as usize];
        if matches!(class, Class::Transient | Class::TimedOut) {
            (*failures, self.is_away) = (failures.saturating_add(1), true);
        } else {
            self.answered(hand);
        }
        let error = failure.into_error();
        let known = &mut self.errors[hand as usize];
        if known.as_ref().is_some_and(|(known, _)| known.is_like(class)) {
            tracing::debug!(%error, "etcd failed again");
        } else {
            tracing::warn!(%error, "etcd failed; it goes on trying");
            *known = Some((class, error));
        }
        match class {
            Class::LeaseNotFound => Trouble::LeaseGone,
            // A token was fetched in vain.
            Class::Permanent | Class::Denied | Class::Token | Class::TooLarge | Class::AuthenticationIsOff => {
                Trouble::Permanent
            }
            Class::Transient | Class::TimedOut | Class::Revision | Class::LeaseExists => Trouble::Transient,
        }
    }
}
