//! How etcd answers the registrar's two hands: how long each waits, and what went wrong.

use std::time::Duration;

use super::lease::Trouble;
use crate::error::Error;
use crate::etcd::{Class, Failure, Patience};

/// How long the first try of a request may take before another member is asked beside it: etcd loses what is asked of it around an
/// election, and says so only after seconds. Every request may be repeated.
const TRY: Duration = Duration::from_millis(500);

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hand {
    Work,
    Renewal,
}

/// What each hand has met.
pub(super) struct Answers {
    /// What last went wrong since it last went well.
    errors: [Option<Known>; 2],
    /// Counts what went wrong.
    count: u64,
    /// How often there was no answer since there was one.
    failures: [u32; 2],
    /// What a request may take at all.
    most: Duration,
}

struct Known {
    class: Class,
    error: Error,
    /// What came later has a greater one.
    number: u64,
}

impl Answers {
    pub(super) fn new(most: Duration) -> Self {
        Self { errors: [None, None], count: 0, failures: [0, 0], most }
    }

    /// What last went wrong, and has not gone well since.
    pub(super) fn why(&self) -> Option<Error> {
        self.errors.iter().flatten().max_by_key(|known| known.number).map(|known| known.error.clone())
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

    /// What that means to the machine.
    pub(super) fn failed(&mut self, hand: Hand, failure: Failure) -> Trouble {
        let class = failure.class;
        let failures = &mut self.failures[hand as usize];
        if matches!(class, Class::Transient | Class::TimedOut) {
            *failures = failures.saturating_add(1);
        } else {
            self.answered(hand);
        }
        let error = failure.into_error();
        let before = self.errors[hand as usize].take();
        // Each kind of failure is told once in an outage, and the last failure is what there is to be said of it.
        if before.as_ref().is_some_and(|known| known.class.is_like(class)) {
            tracing::debug!(parent: None, %error, "etcd failed again");
        } else {
            tracing::warn!(parent: None, %error, "etcd failed; it goes on trying");
        }
        self.count += 1;
        let is_same = |known: &Known| known.error.to_string() == error.to_string();
        // One that repeats is shown once.
        let error = before.filter(is_same).map_or(error, |known| known.error);
        self.errors[hand as usize] = Some(Known { class, error, number: self.count });
        match class {
            Class::LeaseNotFound => Trouble::LeaseGone,
            // A token was fetched in vain.
            Class::Permanent | Class::Denied | Class::Token | Class::TooLarge | Class::AuthenticationIsOff => {
                Trouble::Permanent
            }
            Class::Transient
            | Class::Changed
            | Class::TimedOut
            | Class::TooSlow
            | Class::Revision
            | Class::LeaseExists => Trouble::Transient,
        }
    }
}
