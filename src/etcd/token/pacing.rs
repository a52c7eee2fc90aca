//! When a password is checked: each check costs etcd a bcrypt. PURE: the clock and the seed are
//! arguments.
//!
//! There is one token at a time, known by its number. A check follows where there is no token, or
//! where etcd has refused the one in use. A missing permission is no reason for a check, except
//! where it may mean an expired token.
//!
//! ```text
//!             fetched                      refused as invalid, or denied (not fresh)
//! no token ─────────────▶ token number n ─────────────────────────────────────────────▶ no token
//!    └ refused: 5 s; not answered: backoff ┘
//! ```

use std::time::Duration;

use crate::backoff::Backoff;

/// The interval after a check that etcd refused, and in the long run between any two checks.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// This many tokens may be fetched without that interval: each change of a user or a role
/// invalidates all tokens of etcd.
const BURST: u32 = 3;
/// A token younger than this is not expired. "Denied" then means a missing permission.
const FRESH_TOKEN: Duration = Duration::from_secs(2);
/// For this long after a fresh token was denied something, "denied" means a missing permission and
/// no new token is fetched.
const DENIAL_VALID: Duration = Duration::from_secs(60);

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckOutcome {
    /// etcd gave a token.
    Fetched,
    /// Authentication is off. Requests carry no token.
    NotNeeded,
    /// etcd refused the user or the password.
    Refused,
    /// etcd was not reached, or did not answer.
    Unanswered,
}

/// The state of the token and of its checks. All times are since one fixed start.
#[derive(Debug)]
pub(crate) struct TokenPacing {
    /// The number of the last token; 0 before the first.
    number: u64,
    /// Whether that token, or no token, is to be used.
    is_present: bool,
    /// Whether authentication was off at the last check.
    is_anonymous: bool,
    /// When the token was fetched.
    fetched: Duration,
    /// When a fresh token was last denied something.
    denied: Option<Duration>,
    /// When the next check may start.
    next: Duration,
    /// Tokens that may be fetched without an interval.
    burst_left: u32,
    /// When `burst_left` was last computed.
    burst_counted_at: Duration,
    /// The intervals after checks without an answer.
    backoff: Backoff,
}

impl TokenPacing {
    /// The start. With `is_present` no check is made before a request is refused: no token is
    /// needed, or the client has one.
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

    /// The number of the token to use; `None` where a check is needed first.
    pub(crate) fn current(&self) -> Option<u64> {
        self.is_present.then_some(self.number)
    }

    /// The number that the next token will have.
    pub(crate) fn next(&self) -> u64 {
        self.number + 1
    }

    /// Whether requests carry no token because authentication was off.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.is_present && self.is_anonymous
    }

    /// When the next check may start.
    pub(crate) fn next_check(&self) -> Duration {
        self.next
    }

    /// Takes the result of a check, and sets when the next one may start.
    ///
    /// | result | next check |
    /// |---|---|
    /// | a token, or none needed | at once while the burst lasts, otherwise after [`CHECK_INTERVAL`] |
    /// | refused | after [`CHECK_INTERVAL`] |
    /// | no answer | after the backoff |
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

    /// etcd refused the token of this number as invalid. Whether the request may be repeated with a
    /// new one, which is always so.
    pub(crate) fn on_refused(&mut self, number: u64) -> bool {
        if self.is_present && self.number == number {
            self.is_present = false;
        }
        true
    }

    /// etcd denied something to a request with this token. Whether the request may be repeated with
    /// a new token: some releases say "denied" of an expired one.
    pub(crate) fn on_denied(&mut self, now: Duration, number: u64) -> bool {
        if self.number != number || !self.is_present {
            return true; // a newer one is there already, or is being fetched
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

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// A check is made, if one is needed and may start.
        Check(CheckOutcome),
        /// A request with the token of so many checks ago is refused, or denied.
        Refused(u64),
        Denied(u64),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let outcome = prop_oneof![
            3 => Just(CheckOutcome::Fetched),
            1 => Just(CheckOutcome::NotNeeded),
            1 => Just(CheckOutcome::Refused),
            1 => Just(CheckOutcome::Unanswered),
        ];
        prop_oneof![
            5 => outcome.prop_map(Step::Check),
            3 => (0_u64..3).prop_map(Step::Refused),
            2 => (0_u64..3).prop_map(Step::Denied),
            4 => (0_u64..8_000).prop_map(Step::Pass),
        ]
    }

    fn steps() -> impl Strategy<Value = (bool, u64, Vec<Step>)> {
        (any::<bool>(), any::<u64>(), proptest::collection::vec(step(), 0..200))
    }

    /// F8: whatever is refused, a password is seldom checked, and a token that etcd has refused is not used again.
    fn checks_are_few(is_present: bool, seed: u64, steps: &[Step]) {
        let (mut machine, mut now) = (TokenPacing::new(is_present, seed), Duration::ZERO);
        let (mut number, mut refused, mut answered) = (0, None, 0);
        let mut failed: Vec<Duration> = Vec::new();
        for step in steps {
            let old = |ago: &u64| number - (*ago).min(number);
            match step {
                Step::Check(outcome) => {
                    if machine.current().is_some() || now < machine.next_check() {
                        continue;
                    }
                    machine.on_checked(now, *outcome);
                    match outcome {
                        CheckOutcome::Fetched | CheckOutcome::NotNeeded => {
                            (number, answered) = (number + 1, answered + 1);
                            assert_eq!(machine.current(), Some(number));
                            assert_eq!(machine.is_anonymous(), *outcome == CheckOutcome::NotNeeded);
                        }
                        CheckOutcome::Refused => {
                            assert!(failed.last().is_none_or(|last| now >= *last + CHECK_INTERVAL));
                            failed.push(now);
                            assert_eq!(machine.current(), None);
                        }
                        CheckOutcome::Unanswered => assert_eq!(machine.current(), None),
                    }
                }
                Step::Refused(ago) => {
                    assert!(machine.on_refused(old(ago)));
                    refused = refused.max(Some(old(ago)));
                }
                Step::Denied(ago) => {
                    if !machine.on_denied(now, old(ago)) {
                        assert_eq!(machine.current(), Some(old(ago)), "only of the token in use");
                    }
                }
                Step::Pass(millis) => now += Duration::from_millis(*millis),
            }
            assert!(machine.current().is_none_or(|current| current == number && refused < Some(current)));
            assert_eq!(machine.next(), number + 1);
            assert!(
                answered <= u64::from(BURST) + now.as_secs() / CHECK_INTERVAL.as_secs() + 1,
                "{answered} by {now:?}"
            );
            assert!(machine.next_check() <= now + CHECK_INTERVAL);
        }
    }

    proptest! {
        #[test]
        fn a_password_is_seldom_checked((is_present, seed, steps) in steps()) {
            checks_are_few(is_present, seed, &steps);
        }
    }

    /// The fuzz target: the same property.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with_steps(bytes, any::<(bool, u64)>(), step(), |(is_present, seed), steps| {
            checks_are_few(is_present, seed, &steps);
            Ok(())
        });
    }

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
