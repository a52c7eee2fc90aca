//! How etcd answers the registrar's two hands: how long each waits, and what went wrong.

use std::time::Duration;

use super::lease::Trouble;
use crate::error::Error;
use crate::etcd::{Class, Failure, Patience};

/// How long the first try of a request may take before another member is asked beside it: etcd loses what is asked of it around an
/// election, and says so only after seconds. Every request may be repeated.
const TRY: Duration = Duration::from_millis(500);

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
    /// What a request may take at all.
    most: Duration,
}

impl Answers {
    pub(super) fn new(most: Duration) -> Self {
        Self { errors: [None, None], failures: [0, 0], most }
    }

    /// What etcd does not do.
    pub(super) fn why(&self) -> Option<Error> {
        self.errors.iter().flatten().next().map(|(_, error)| error.clone())
    }

    /// How long a request may take: what it may take at all, or what the lease has time for. When another member is asked
    /// beside the first is later with each request that had no answer.
    pub(super) fn patience(&self, hand: Hand, patience: Option<Duration>) -> Patience {
        let total = patience.map_or(self.most, |patience| patience.min(self.most));
        Patience { late: TRY.saturating_mul(1 << self.failures[hand as usize].min(8)), total, again: true }
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
    }

    /// What that means to the machine. It `counts` unless another request that was on its way beside it has failed already.
    pub(super) fn failed(&mut self, hand: Hand, failure: Failure, counts: bool) -> Trouble {
        let (class, in_doubt) = (failure.class, failure.in_doubt);
        let failures = &mut self.failures[hand as usize];
        if matches!(class, Class::Transient | Class::TimedOut) {
            *failures = failures.saturating_add(u32::from(counts));
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
            Class::Permanent
            | Class::Denied
            | Class::Token
            | Class::TooLarge
            | Class::NoSpace
            | Class::AuthenticationIsOff => {
                if in_doubt {
                    Trouble::PermanentInDoubt
                } else {
                    Trouble::Permanent
                }
            }
            Class::Transient
            | Class::Changed
            | Class::TimedOut
            | Class::TooSlow
            | Class::Revision
            | Class::LeaseExists => {
                if in_doubt {
                    Trouble::Transient
                } else {
                    Trouble::NotDone
                }
            }
        }
    }
}
