//! How etcd answers the registrar's two hands: how long each waits, and what went wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Error;
use crate::etcd::{Class, Failure, RequestLimits};
use crate::registrar::lease::{Action, FailureKind, Id};

/// How long the first try of a request may take before another member is asked beside it: etcd loses what is asked of it around an
/// election, and says so only after seconds. Every request may be repeated.
const TRY: Duration = Duration::from_millis(500);

/// Registrations that are refused at the same time, of which each is told by a warning.
const TOLD: usize = 10;

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestKind {
    Work,
    Renewal,
}

/// What each hand has met.
pub(crate) struct RequestHealth {
    /// What last went wrong since it last went well.
    errors: [Option<Known>; 2],
    /// What etcd refuses of one registration, which is nothing to the others.
    refused: BTreeMap<Id, Known>,
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

impl RequestHealth {
    pub(crate) fn new(most: Duration) -> Self {
        Self { errors: [None, None], refused: BTreeMap::new(), count: 0, failures: [0, 0], most }
    }

    /// What last went wrong, and has not gone well since.
    pub(crate) fn why(&self) -> Option<Error> {
        last(self.errors.iter().flatten())
    }

    /// The same for one registration.
    pub(crate) fn why_of(&self, id: Id) -> Option<Error> {
        last(self.errors.iter().flatten().chain(self.refused.get(&id)))
    }

    /// It has closed, or is wanted otherwise: what was refused before says nothing of it any more.
    pub(crate) fn forget(&mut self, id: Id) {
        self.refused.remove(&id);
    }

    /// How long a request may take: what it may take at all, or what the lease has time for. When another member is asked
    /// beside the first is later with each request that had no answer.
    pub(crate) fn patience(&self, hand: RequestKind, patience: Option<Duration>) -> RequestLimits {
        let total = patience.map_or(self.most, |patience| patience.min(self.most));
        RequestLimits {
            late_after: TRY.saturating_mul(1 << self.failures[hand as usize].min(8)),
            total,
            may_repeat: true,
        }
    }

    /// `of` is whose request it was, where it was of one registration; `put` where it has put a key.
    pub(crate) fn went_well(&mut self, hand: RequestKind, of: Option<Id>, put: bool) {
        self.clear(hand, put);
        of.into_iter().for_each(|of| self.forget(of));
        self.answered(hand);
    }

    /// There is a lease, which is renewed from now on: that says nothing of what is to stand under it.
    pub(crate) fn granted(&mut self) {
        self.answered(RequestKind::Work);
        self.errors[RequestKind::Renewal as usize] = None;
    }

    /// What was wrong with etcd is over, unless it is full: it answers all the same, but for puts.
    fn clear(&mut self, hand: RequestKind, put: bool) {
        let error = &mut self.errors[hand as usize];
        *error = error.take().filter(|known| known.class == Class::NoSpace && !put);
    }

    /// etcd has said something, be it well or ill.
    fn answered(&mut self, hand: RequestKind) {
        self.failures[hand as usize] = 0;
    }

    /// What that means to the machine. `of` is whose request it was, where it was of one registration. It `counts` unless another
    /// request that was on its way beside it has failed already.
    pub(crate) fn failed(&mut self, hand: RequestKind, of: Option<Id>, failure: Failure, counts: bool) -> FailureKind {
        let (class, in_doubt) = (failure.class, failure.in_doubt);
        let failures = &mut self.failures[hand as usize];
        if matches!(class, Class::Transient | Class::TimedOut) {
            *failures = failures.saturating_add(u32::from(counts));
        } else {
            self.answered(hand);
        }
        let error = failure.into_error();
        let is_refusal = matches!(class, Class::Permanent | Class::Denied | Class::TooLarge);
        let own = of.filter(|_| is_refusal);
        if own.is_some() {
            // It was heard: what was wrong with etcd before is over.
            self.clear(hand, false);
        }
        let before = own.map_or_else(|| self.errors[hand as usize].take(), |own| self.refused.remove(&own));
        // Each kind of failure is told once in an outage or of a registration, and the last failure is what there is to be said of it.
        let is_known = before.as_ref().is_some_and(|known| known.class.is_same_kind(class));
        if is_known || (own.is_some() && self.refused.len() >= TOLD) {
            tracing::debug!(parent: None, %error, "etcd failed again");
        } else {
            tracing::warn!(parent: None, %error, "etcd failed; it goes on trying");
        }
        self.count += 1;
        let is_same = |known: &Known| known.error.to_string() == error.to_string();
        // One that repeats is shown once.
        let error = before.filter(is_same).map_or(error, |known| known.error);
        let known = Known { class, error, number: self.count };
        match own {
            Some(own) => drop(self.refused.insert(own, known)),
            None => self.errors[hand as usize] = Some(known),
        }
        match class {
            Class::LeaseNotFound => FailureKind::LeaseGone,
            // A token was fetched in vain.
            Class::Permanent
            | Class::Denied
            | Class::Token
            | Class::TooLarge
            | Class::NoSpace
            | Class::AuthenticationIsOff => {
                if in_doubt {
                    FailureKind::PermanentInDoubt
                } else {
                    FailureKind::Permanent
                }
            }
            Class::Transient
            | Class::Changed
            | Class::TimedOut
            | Class::TooSlow
            | Class::Revision
            | Class::LeaseExists => {
                if in_doubt {
                    FailureKind::Transient
                } else {
                    FailureKind::NotDone
                }
            }
        }
    }
}

fn last<'a>(known: impl Iterator<Item = &'a Known>) -> Option<Error> {
    known.max_by_key(|known| known.number).map(|known| known.error.clone())
}

/// Whose request it is, where it is of one registration.
pub(crate) fn whose(action: &Action) -> Option<Id> {
    match action {
        Action::Put { of, .. } | Action::Delete { of, .. } | Action::Look { of, .. } => Some(*of),
        Action::Grant { .. } | Action::Revoke { .. } | Action::Wait { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F13: the last error of whichever hand, none once all is well; what is refused of one registration is said of that one, and
    /// neither covered nor cleared by what goes well for others (F16).
    #[test]
    fn what_is_said_is_the_last_error_and_a_refusal_is_of_one_registration() {
        let mut answers = RequestHealth::new(Duration::from_secs(5));
        let said = |answers: &RequestHealth, id| answers.why_of(id).map(|error| error.to_string()).unwrap_or_default();
        let fail = |class, text: &str| Failure::new(class, text);
        answers.failed(RequestKind::Work, Some(1), fail(Class::Transient, "first"), true);
        answers.failed(RequestKind::Renewal, None, fail(Class::TimedOut, "second"), true);
        assert!(said(&answers, 1).contains("second") && said(&answers, 2).contains("second"));
        answers.failed(RequestKind::Work, Some(1), fail(Class::TimedOut, "third"), true);
        assert!(said(&answers, 1).contains("third") && said(&answers, 2).contains("third"), "of etcd, not of one");
        answers.failed(RequestKind::Work, Some(2), fail(Class::Denied, "denied"), true);
        answers.went_well(RequestKind::Renewal, None, false);
        answers.went_well(RequestKind::Work, Some(1), true);
        assert!(said(&answers, 1).is_empty() && said(&answers, 2).contains("denied"));
        assert!(answers.why().is_none());
        answers.went_well(RequestKind::Work, Some(2), true);
        assert!(said(&answers, 2).is_empty());
    }

    /// F13: etcd stays full whatever else it refuses or answers, until a put is done.
    #[test]
    fn that_etcd_is_full_is_over_with_a_put() {
        let mut answers = RequestHealth::new(Duration::from_secs(5));
        let is_full = |answers: &RequestHealth| answers.why_of(2).is_some_and(|why| why.to_string().contains("full"));
        answers.failed(RequestKind::Work, Some(2), Failure::new(Class::NoSpace, "full"), true);
        answers.failed(RequestKind::Work, Some(1), Failure::new(Class::Denied, "denied"), true);
        assert!(is_full(&answers));
        answers.went_well(RequestKind::Work, Some(3), false);
        assert!(is_full(&answers));
        answers.went_well(RequestKind::Work, Some(3), true);
        assert!(!is_full(&answers));
    }
}
