//! How etcd answers the registrar's two kinds of request: their timeouts, their last errors, and
//! what is logged of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Error;
use crate::etcd::{Class, Failure, RequestLimits};
use crate::registrar::lease::{Action, FailureKind, Id};

/// How long the first attempt of a request may take before another member is asked too. etcd loses
/// requests around an election and says so only after seconds. Each request may be repeated, so
/// asking twice does no harm.
const FIRST_ATTEMPT: Duration = Duration::from_millis(500);

/// How many registrations that are refused at the same time are logged as warnings: a fleet of them
/// has one cause.
const MAX_WARNED: usize = 10;

/// The kinds of request. Each has its own errors, since one may fail while the other succeeds.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestKind {
    /// Everything but renewals.
    Work,
    /// The keep-alive requests of leases.
    Renewal,
}

/// The failures of each kind of request since the last success.
pub(super) struct RequestHealth {
    /// The last error of each kind, cleared by a success of that kind.
    errors: [Option<KnownFailure>; 2],
    /// The error of each registration that etcd refuses alone, such as for a missing permission.
    refused: BTreeMap<Id, KnownFailure>,
    /// Numbers the failures.
    count: u64,
    /// For each kind: the requests without an answer since the last answer.
    unanswered: [u32; 2],
    /// The longest time that a request may take.
    max_timeout: Duration,
}

/// A failure that no success has cleared yet.
struct KnownFailure {
    /// Its class. A failure of a like class is not logged as a warning again.
    class: Class,
    error: Error,
    /// Its place in the order of all failures.
    number: u64,
}

impl RequestHealth {
    pub(super) fn new(max_timeout: Duration) -> Self {
        Self { errors: [None, None], refused: BTreeMap::new(), count: 0, unanswered: [0, 0], max_timeout }
    }

    /// The last error of etcd as a whole, unless a success has cleared it.
    pub(super) fn last_error(&self) -> Option<Error> {
        last(self.errors.iter().flatten())
    }

    /// The place of that error in the order of all failures.
    pub(super) fn last_number(&self) -> Option<u64> {
        self.errors.iter().flatten().map(|known| known.number).max()
    }

    /// The registrations that etcd refuses alone: whether their own error is the last one depends on
    /// [`RequestHealth::last_number`].
    pub(super) fn refused(&self) -> impl Iterator<Item = Id> {
        self.refused.keys().copied()
    }

    /// The last error that concerns a registration: of etcd as a whole, or of this one alone.
    pub(super) fn last_error_of(&self, id: Id) -> Option<Error> {
        last(self.errors.iter().flatten().chain(self.refused.get(&id)))
    }

    /// The registration was changed or has left: what was refused before no longer matters.
    pub(super) fn forget(&mut self, id: Id) {
        self.refused.remove(&id);
    }

    /// The timeouts of a request: `limit` is what the lease leaves time for. After each request
    /// without an answer another member is asked later, so that an overloaded etcd is not asked
    /// twice for everything.
    pub(super) fn timeouts(&self, kind: RequestKind, limit: Option<Duration>) -> RequestLimits {
        let total = limit.map_or(self.max_timeout, |limit| limit.min(self.max_timeout));
        let late_after = FIRST_ATTEMPT.saturating_mul(1 << self.unanswered[kind as usize].min(8));
        RequestLimits { late_after, total, may_repeat: true }
    }

    /// A request has succeeded. `id` is its registration, if it is of one.
    pub(super) fn succeeded(&mut self, kind: RequestKind, id: Option<Id>, is_put: bool) {
        self.clear(kind, is_put);
        id.into_iter().for_each(|id| self.forget(id));
        self.unanswered[kind as usize] = 0;
    }

    /// A lease was granted. Its renewals begin anew; the puts under it have proven nothing yet.
    pub(super) fn granted(&mut self) {
        self.unanswered[RequestKind::Work as usize] = 0;
        self.errors[RequestKind::Renewal as usize] = None;
    }

    /// Clears the error of a kind. Only a put proves that etcd is no longer full: it answers
    /// everything else all the while.
    fn clear(&mut self, kind: RequestKind, is_put: bool) {
        let error = &mut self.errors[kind as usize];
        *error = error.take().filter(|known| known.class == Class::NoSpace && !is_put);
    }

    /// A request has failed: logs that, and returns what it means to the machine. `id` is its
    /// registration, if it is of one. `counts` is false if another request that was in flight
    /// beside it has failed already.
    ///
    /// | failure | recorded as | meaning |
    /// |---|---|---|
    /// | permission, malformed, too large, of one registration | that registration's error | `Permanent` |
    /// | token, quota, authentication off | etcd's error | `Permanent` |
    /// | connection, timeout, changed member, other | etcd's error | `Transient`, or `NotApplied` if etcd cannot have applied it |
    /// | unknown lease | etcd's error | `LeaseGone` |
    ///
    /// A permanent failure of a request whose earlier attempt had no answer is `PermanentInDoubt`.
    pub(super) fn failed(&mut self, kind: RequestKind, id: Option<Id>, failure: Failure, counts: bool) -> FailureKind {
        let (class, in_doubt) = (failure.class, failure.in_doubt);
        let unanswered = &mut self.unanswered[kind as usize];
        *unanswered = match class {
            Class::Transient | Class::TimedOut => unanswered.saturating_add(u32::from(counts)),
            _ => 0,
        };
        let error = failure.into_error();
        let own = id.filter(|_| matches!(class, Class::Permanent | Class::Denied | Class::TooLarge));
        if own.is_some() {
            // etcd has answered, so earlier errors of etcd as a whole are over.
            self.clear(kind, false);
        }
        let before = own.map_or_else(|| self.errors[kind as usize].take(), |own| self.refused.remove(&own));
        // One warning for each kind of failure in an outage or of a registration.
        let is_known = before.as_ref().is_some_and(|known| known.class.is_same_kind(class));
        if is_known || (own.is_some() && self.refused.len() >= MAX_WARNED) {
            tracing::debug!(parent: None, %error, "registrar request failed again");
        } else {
            tracing::warn!(parent: None, %error, "registrar request failed, retrying");
        }
        self.count += 1;
        // An equal error stays the same object: its state is then published once.
        let is_equal = |known: &KnownFailure| known.error.to_string() == error.to_string();
        let error = before.filter(is_equal).map_or(error, |known| known.error);
        let known = KnownFailure { class, error, number: self.count };
        match own {
            Some(own) => drop(self.refused.insert(own, known)),
            None => self.errors[kind as usize] = Some(known),
        }
        match class {
            Class::LeaseNotFound => FailureKind::LeaseGone,
            // `Token`: a new token was fetched and refused too.
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
                    FailureKind::NotApplied
                }
            }
        }
    }
}

/// The latest of these failures.
fn last<'a>(known: impl Iterator<Item = &'a KnownFailure>) -> Option<Error> {
    known.max_by_key(|known| known.number).map(|known| known.error.clone())
}

/// The registration that a request is of, if it is of one.
pub(super) fn registration_of(action: &Action) -> Option<Id> {
    match action {
        Action::Put { id, .. } | Action::Delete { id, .. } | Action::Read { id, .. } => Some(*id),
        Action::Grant { .. } | Action::Revoke { .. } | Action::Wait { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F13: the last error of whichever hand, none once all is well; what is refused of one
    /// registration is said of that one, and neither covered nor cleared by what goes well for
    /// others (F16).
    #[test]
    fn what_is_said_is_the_last_error_and_a_refusal_is_of_one_registration() {
        let mut health = RequestHealth::new(Duration::from_secs(5));
        let said =
            |health: &RequestHealth, id| health.last_error_of(id).map(|error| error.to_string()).unwrap_or_default();
        let fail = |class, text: &str| Failure::new(class, text);
        health.failed(RequestKind::Work, Some(1), fail(Class::Transient, "first"), true);
        health.failed(RequestKind::Renewal, None, fail(Class::TimedOut, "second"), true);
        assert!(said(&health, 1).contains("second") && said(&health, 2).contains("second"));
        health.failed(RequestKind::Work, Some(1), fail(Class::TimedOut, "third"), true);
        assert!(said(&health, 1).contains("third") && said(&health, 2).contains("third"), "of etcd, not of one");
        health.failed(RequestKind::Work, Some(2), fail(Class::Denied, "denied"), true);
        health.succeeded(RequestKind::Renewal, None, false);
        health.succeeded(RequestKind::Work, Some(1), true);
        assert!(said(&health, 1).is_empty() && said(&health, 2).contains("denied"));
        assert!(health.last_error().is_none());
        health.succeeded(RequestKind::Work, Some(2), true);
        assert!(said(&health, 2).is_empty());
    }

    /// F13: etcd stays full whatever else it refuses or health, until a put is done.
    #[test]
    fn that_etcd_is_full_is_over_with_a_put() {
        let mut health = RequestHealth::new(Duration::from_secs(5));
        let is_full =
            |health: &RequestHealth| health.last_error_of(2).is_some_and(|why| why.to_string().contains("full"));
        health.failed(RequestKind::Work, Some(2), Failure::new(Class::NoSpace, "full"), true);
        health.failed(RequestKind::Work, Some(1), Failure::new(Class::Denied, "denied"), true);
        assert!(is_full(&health));
        health.succeeded(RequestKind::Work, Some(3), false);
        assert!(is_full(&health));
        health.succeeded(RequestKind::Work, Some(3), true);
        assert!(!is_full(&health));
    }
}
