//! How often a password is checked: each check costs etcd a bcrypt. PURE: the clock and the seed are arguments.
//!
//! There is one token at a time, known by its number. A check follows where there is none, or where etcd has refused the one
//! that there is; what a role may not do is no reason for one.

use std::time::Duration;

use crate::backoff::Backoff;

/// Between two checks, the first of which failed; and in the long run between any two.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// So many tokens may be fetched at once before that: each change of a user or role ends all tokens.
const BURST: u32 = 3;
/// A refusal of a token younger than this is not the token's fault: a new one is used within moments.
const FRESH_TOKEN: Duration = Duration::from_secs(2);
/// How long after such a refusal none is taken for a token's fault.
const DENIAL_VALID: Duration = Duration::from_secs(60);

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckOutcome {
    Fetched,
    /// TokenPacing is off: requests go without a token.
    NotNeeded,
    /// etcd has refused the user or the password.
    Refused,
    /// etcd was not reached, or has not answered.
    Unanswered,
}

#[derive(Debug)]
pub(crate) struct TokenPacing {
    /// Counts the tokens.
    number: u64,
    is_present: bool,
    is_anonymous: bool,
    fetched: Duration,
    /// When a fresh token was last denied something.
    denied: Option<Duration>,
    next: Duration,
    /// Tokens that may be fetched at once, and when that was burst_counted_at.
    burst_left: u32,
    burst_counted_at: Duration,
    backoff: Backoff,
}

impl TokenPacing {
    /// Where a token is present, or none is needed, no check is made before it is refused.
    pub(crate) fn new(is_present: bool, seed: u64) -> Self {
        Self {
            number: 0,
            is_present,
            is_anonymous: false,
            fetched: Duration::ZERO,
            denied: None,
            next: Duration::ZERO,
            burst_left: BURST,
            burst_counted_at: Duration::ZERO,
            backoff: Backoff::new(seed),
        }
    }

    /// The number of the token that is to be used, if there is one.
    pub(crate) fn current(&self) -> Option<u64> {
        self.is_present.then_some(self.number)
    }

    /// The number that the next token will have.
    pub(crate) fn next(&self) -> u64 {
        self.number + 1
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.is_present && self.is_anonymous
    }

    /// When the next check may be made.
    pub(crate) fn next_check(&self) -> Duration {
        self.next
    }

    pub(crate) fn on_checked(&mut self, now: Duration, outcome: CheckOutcome) {
        match outcome {
            CheckOutcome::Fetched | CheckOutcome::NotNeeded => {
                (self.number, self.is_present) = (self.number + 1, true);
                (self.is_anonymous, self.fetched) = (outcome == CheckOutcome::NotNeeded, now);
                self.backoff.reset();
                let regained =
                    u32::try_from(now.saturating_sub(self.burst_counted_at).as_secs() / CHECK_INTERVAL.as_secs());
                self.burst_left = self.burst_left.saturating_add(regained.unwrap_or(BURST)).min(BURST);
                self.burst_counted_at = now;
                self.burst_left = self.burst_left.saturating_sub(1);
                self.next = if self.burst_left > 0 { now } else { now + CHECK_INTERVAL };
            }
            CheckOutcome::Refused => self.next = now + CHECK_INTERVAL,
            CheckOutcome::Unanswered => self.next = now + self.backoff.fail(now, false),
        }
    }

    /// etcd has refused the token of that number. Whether a request is worth another try with a new one.
    pub(crate) fn on_refused(&mut self, number: u64) -> bool {
        if self.is_present && self.number == number {
            self.is_present = false;
        }
        true
    }

    /// Permission was denied to a request with the token of that number: some releases say so of a token that has ended.
    pub(crate) fn on_denied(&mut self, now: Duration, number: u64) -> bool {
        if self.number != number || !self.is_present {
            return true; // there is a newer one already, or soon
        }
        if now.saturating_sub(self.fetched) < FRESH_TOKEN && number > 0 {
            self.denied = Some(now);
            return false;
        }
        if self.denied.is_some_and(|denied| now.saturating_sub(denied) < DENIAL_VALID) {
            return false;
        }
        self.is_present = false;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// F8: however many ask, a password that is wrong is checked once in five seconds.
    #[test]
    fn a_wrong_password_is_checked_once_in_five_seconds() {
        let mut machine = TokenPacing::new(false, 1);
        let (mut now, mut checks) = (Duration::ZERO, 0);
        while now < secs(30) {
            if machine.current().is_none() && now >= machine.next_check() {
                machine.on_checked(now, CheckOutcome::Refused);
                checks += 1;
            }
            now += Duration::from_millis(10);
        }
        assert_eq!(checks, 6);
        machine.on_checked(secs(30), CheckOutcome::Fetched);
        assert_eq!(machine.current(), Some(1));
    }

    #[test]
    fn a_token_that_is_refused_again_and_again_is_not_fetched_without_end() {
        let mut machine = TokenPacing::new(false, 1);
        let (mut now, mut checks) = (Duration::ZERO, 0);
        while now < secs(60) {
            if let Some(number) = machine.current() {
                assert!(machine.on_refused(number));
            } else if now >= machine.next_check() {
                machine.on_checked(now, CheckOutcome::Fetched);
                checks += 1;
            }
            now += Duration::from_millis(10);
        }
        assert!((12..=16).contains(&checks), "{checks}");
    }

    #[test]
    fn what_a_role_may_not_do_costs_one_check_in_a_minute_at_most() {
        let mut machine = TokenPacing::new(false, 1);
        machine.on_checked(secs(0), CheckOutcome::Fetched);
        assert!(!machine.on_denied(secs(1), 1), "a fresh token is not to blame");
        assert!(!machine.on_denied(secs(30), 1), "and was not to blame a moment ago");
        assert!(machine.on_denied(secs(62), 1));
        assert_eq!(machine.current(), None);
        machine.on_checked(secs(62), CheckOutcome::Fetched);
        assert!(machine.on_denied(secs(63), 1), "an old token has a successor");
        assert!(!machine.on_denied(secs(63), 2));
    }

    #[test]
    fn an_etcd_without_authentication_needs_none_until_it_is_turned_on() {
        let mut machine = TokenPacing::new(false, 1);
        machine.on_checked(secs(0), CheckOutcome::NotNeeded);
        assert!(machine.is_anonymous() && machine.current() == Some(1));
        assert!(machine.on_refused(1));
        assert_eq!(machine.current(), None);
    }
}
