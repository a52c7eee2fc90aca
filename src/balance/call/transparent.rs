//! PURE: when a call that no server has processed is sent again (gRFC A6's transparent retry).
//!
//! The first retry of a refused call is at once and costs nothing, as A6 has it: a server that refuses everything takes
//! nothing from the calls that others take. Each further refusal takes a token of the retry budget, as a failed attempt
//! does. Up to [`MOST_AT_ONCE`] retries are at once as long as the budget allows: a few servers that refuse cost a call
//! no time. Each further one waits for the backoff: a fleet that refuses everything gets a few attempts of each call,
//! however many servers it has. Nothing here ends a call: its deadline does, or the wait limit.
//!
//! Time counts from the call's start; the seed is for the jitter of the pauses.

use std::time::Duration;

use crate::backoff::Backoff;

/// So many retries follow at once: even if half of all servers refuse, 31 of 32 calls are taken without a pause.
const MOST_AT_ONCE: u32 = 4;
/// The transparent retries of one call.
#[derive(Debug)]
pub(super) struct TransparentRetries {
    /// Attempts that no server has processed.
    unprocessed: u32,
    /// A server has refused one of them.
    was_refused: bool,
    backoff: Backoff,
    /// What is left to wait before the next one.
    pause: Option<Duration>,
}

impl TransparentRetries {
    pub(super) fn new(seed: u64) -> Self {
        Self { unprocessed: 0, was_refused: false, backoff: Backoff::new(seed), pause: None }
    }

    /// An attempt was not sent, because its connection was closing. No server has seen anything of it.
    pub(super) fn on_not_sent(&mut self, now: Duration) {
        self.on_unprocessed(true, now);
    }

    /// Whether the next refusal takes a token of the retry budget.
    pub(super) fn next_refusal_takes_token(&self) -> bool {
        self.was_refused
    }

    /// A server has refused an attempt, or a GOAWAY does not cover it. `budget_allows` tells whether the retry budget
    /// allows a retry, once it has paid for this one.
    pub(super) fn on_refused(&mut self, budget_allows: bool, now: Duration) {
        let is_first = !std::mem::replace(&mut self.was_refused, true);
        self.on_unprocessed(is_first || budget_allows, now);
    }

    fn on_unprocessed(&mut self, is_allowed: bool, now: Duration) {
        self.unprocessed = self.unprocessed.saturating_add(1);
        self.pause = if is_allowed && self.unprocessed <= MOST_AT_ONCE { None } else { Some(self.next_pause(now)) };
    }

    /// Each ready server has refused the call. Returns the pause before they are asked again: none the first time.
    pub(super) fn on_all_refused(&mut self, now: Duration) -> Duration {
        self.backoff.fail(now, false)
    }

    /// Those that have not refused the call have no room. Returns how long it waits for that, before it goes to others.
    pub(super) fn on_no_room(&mut self, now: Duration) -> Duration {
        self.pause.take().unwrap_or_else(|| self.next_pause(now))
    }

    /// Whether the next retry has to wait.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Takes the pause before the next retry, if there is one. It is for the caller to make, or to spare the call.
    pub(super) fn take_pause(&mut self) -> Option<Duration> {
        self.pause.take()
    }

    /// Whether a server has refused the call.
    pub(super) fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// A pause that is one: the first one of a backoff is zero.
    fn next_pause(&mut self, now: Duration) -> Duration {
        let pause = self.backoff.fail(now, false);
        if pause.is_zero() { self.backoff.fail(now, false) } else { pause }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    /// What becomes of one attempt: whether it was sent, what the budget says, and whether no other server is left.
    #[derive(Clone, Copy, Debug)]
    struct Step {
        is_sent: bool,
        budget_allows: bool,
        all_refused: bool,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (any::<bool>(), any::<bool>(), any::<bool>());
        let step = step.prop_map(|(is_sent, budget_allows, all_refused)| Step { is_sent, budget_allows, all_refused });
        proptest::collection::vec(step, 1..100)
    }

    /// A call as `next_round` makes it: the pauses of its retries.
    fn pauses(seed: u64, steps: &[Step]) -> Vec<Duration> {
        let (mut retries, mut now) = (TransparentRetries::new(seed), NO_TIME);
        let pause = |step: &Step| {
            if step.is_sent {
                retries.on_refused(step.budget_allows, now);
            } else {
                retries.on_not_sent(now);
            }
            let pause = match retries.take_pause() {
                Some(pause) => pause,
                None if step.all_refused => retries.on_all_refused(now),
                None => NO_TIME,
            };
            now += pause;
            pause
        };
        steps.iter().map(pause).collect()
    }

    proptest! {
        #[test]
        fn the_first_is_at_once_a_few_more_may_be_and_no_others(seed: u64, steps in steps()) {
            let pauses = pauses(seed, &steps);
            prop_assert_eq!(pauses[0], NO_TIME);
            let mut was_refused = false;
            for (number, pause) in pauses.iter().enumerate() {
                prop_assert!(*pause <= Duration::from_secs(5));
                prop_assert!(number < MOST_AT_ONCE as usize || !pause.is_zero(), "{number}: {pauses:?}");
                let Step { is_sent, budget_allows, all_refused } = steps[number];
                let is_free = !is_sent || !was_refused || budget_allows;
                was_refused |= is_sent;
                prop_assert!(is_free || !pause.is_zero(), "the budget forbids it: {number}: {pauses:?}");
                if number < MOST_AT_ONCE as usize && is_free && !all_refused {
                    prop_assert_eq!(*pause, NO_TIME, "{}", number);
                }
            }
        }

        /// However many servers there are: the bound for a call of two seconds that all of them refuse.
        #[test]
        fn two_seconds_have_few_attempts(seed: u64, steps in steps()) {
            let mut now = NO_TIME;
            let retries = pauses(seed, &steps).into_iter().take_while(|pause| {
                now += *pause;
                now < Duration::from_secs(2)
            });
            prop_assert!(retries.count() <= MOST_AT_ONCE as usize + 8);
        }
    }

    #[test]
    fn the_first_refusal_takes_no_token_and_each_further_one_does() {
        let mut retries = TransparentRetries::new(7);
        for _ in 0..3 {
            retries.on_not_sent(NO_TIME);
            assert!(!retries.next_refusal_takes_token() && !retries.was_refused());
        }
        for _ in 0..3 {
            retries.on_refused(false, NO_TIME);
            assert!(retries.next_refusal_takes_token() && retries.was_refused());
        }
    }

    #[test]
    fn a_pause_is_taken_once() {
        let mut retries = TransparentRetries::new(7);
        retries.on_refused(false, NO_TIME);
        assert!(!retries.is_paused() && retries.take_pause().is_none());
        retries.on_refused(false, NO_TIME);
        assert!(retries.is_paused() && retries.take_pause().is_some() && !retries.is_paused());
    }
}
