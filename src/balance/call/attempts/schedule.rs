//! PURE: when a call gets a further attempt beside the attempts in flight, or in place of one.
//!
//! The machine knows no server and no token. It says what is due, and is told whether that was possible. All times count from
//! one epoch.

use std::time::Duration;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing now.
    Wait,
    /// One more attempt, in place of one that no server has processed.
    Resend,
    /// One more attempt, beside those in flight.
    Hedge,
    /// The attempt at this index is given up, and another takes its place.
    Replace(usize),
}

/// An attempt in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentAttempt {
    sent_at: Duration,
    /// When its timeout passes. Later, if no attempt could take its place then.
    times_out_at: Option<Duration>,
}

/// The further attempts of one call.
#[derive(Debug)]
pub(super) struct Schedule {
    hedge_after: Option<Duration>,
    attempt_timeout: Option<Duration>,
    max_attempts: u32,
    last_sent_at: Duration,
    next_hedge_at: Option<Duration>,
    /// When an attempt that no server has processed is sent again.
    resend_at: Option<Duration>,
    /// A server wants no further attempt before.
    not_before: Duration,
    /// A server wants no further attempt at all.
    is_forbidden: bool,
}

impl Schedule {
    pub(super) fn new(hedge_after: Option<Duration>, attempt_timeout: Option<Duration>, max_attempts: u32) -> Self {
        Self {
            hedge_after,
            attempt_timeout,
            max_attempts,
            last_sent_at: Duration::ZERO,
            next_hedge_at: None,
            resend_at: None,
            not_before: Duration::ZERO,
            is_forbidden: false,
        }
    }

    /// An attempt was sent. The next hedge is due this long after it.
    pub(super) fn sent(&mut self, now: Duration) -> SentAttempt {
        self.last_sent_at = now;
        self.next_hedge_at = self.hedge_after.and_then(|delay| now.checked_add(delay));
        SentAttempt { sent_at: now, times_out_at: self.attempt_timeout.and_then(|timeout| now.checked_add(timeout)) }
    }

    /// A server has said when it wants a further attempt.
    pub(super) fn delay(&mut self, until: Duration) {
        self.not_before = self.not_before.max(until);
        self.next_hedge_at = self.next_hedge_at.map(|_| until);
    }

    /// A server has said that it wants none.
    pub(super) fn forbid(&mut self) {
        self.is_forbidden = true;
    }

    /// Sets when an attempt that no server has processed is sent again. What servers say of further attempts does not bind it.
    pub(super) fn resend_at(&mut self, at: Option<Duration>) {
        self.resend_at = at;
    }

    /// Nothing is due any more.
    pub(super) fn stop(&mut self) {
        self.is_forbidden = true;
        self.resend_at = None;
    }

    /// Returns when something is due. `ended` is the number of attempts that are over.
    pub(super) fn due_at<'a>(
        &self,
        ended: u32,
        in_flight: impl ExactSizeIterator<Item = &'a SentAttempt>,
    ) -> Option<Duration> {
        let count = u32::try_from(in_flight.len()).unwrap_or(u32::MAX).saturating_add(ended);
        if count >= self.max_attempts {
            return None;
        }
        let timeouts = in_flight.filter_map(|attempt| attempt.times_out_at);
        let further = timeouts.chain(self.next_hedge_at).min().map(|due| due.max(self.not_before));
        further.filter(|_| !self.is_forbidden).into_iter().chain(self.resend_at).min()
    }

    /// Returns what is due. What is sent again comes first, a hedge before a timeout, and the oldest attempt's timeout before the others'.
    pub(super) fn action<'a>(
        &self,
        now: Duration,
        ended: u32,
        in_flight: impl ExactSizeIterator<Item = &'a SentAttempt> + Clone,
    ) -> Action {
        if self.due_at(ended, in_flight.clone()).is_none_or(|due| now < due) {
            return Action::Wait;
        }
        if self.resend_at.is_some_and(|due| due <= now) {
            return Action::Resend;
        }
        if self.next_hedge_at.is_some_and(|due| due <= now) {
            return Action::Hedge;
        }
        let mut timeouts = in_flight.map(|attempt| attempt.times_out_at);
        timeouts.position(|due| due.is_some_and(|due| due <= now)).map_or(Action::Wait, Action::Replace)
    }

    /// The hedge that was due could not be sent. It is due again when twice the time has passed since the last attempt was sent:
    /// a call that lasts long must not look often.
    pub(super) fn hedge_impossible(&mut self, now: Duration) {
        self.next_hedge_at = twice(self.last_sent_at, now);
    }
}

impl SentAttempt {
    /// No attempt could take its place. That is tried again when it has twice the age.
    pub(super) fn replacement_impossible(&mut self, now: Duration) {
        self.times_out_at = twice(self.sent_at, now);
    }
}

/// Returns the time at which twice as much has passed since `start` as now; a millisecond from now at the earliest.
fn twice(start: Duration, now: Duration) -> Option<Duration> {
    now.checked_add(now.saturating_sub(start).max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A call that does what is due at once, and what became due when.
    fn run(mut schedule: Schedule, until: u64, mut ended: u32) -> Vec<(u64, Action)> {
        let mut in_flight = vec![schedule.sent(ms(100))];
        let mut done = Vec::new();
        for now in 100..until {
            loop {
                let action = schedule.action(ms(now), ended, in_flight.iter());
                let due = schedule.due_at(ended, in_flight.iter());
                assert_eq!(due.is_some_and(|due| due <= ms(now)), action != Action::Wait, "{now}: {due:?} {action:?}");
                match action {
                    Action::Wait => break,
                    Action::Resend => schedule.resend_at(None),
                    Action::Hedge => {}
                    Action::Replace(index) => {
                        in_flight.remove(index);
                        ended += 1;
                    }
                }
                in_flight.push(schedule.sent(ms(now)));
                done.push((now, action));
            }
        }
        done
    }

    #[test]
    fn a_hedge_follows_the_last_attempt_until_all_are_sent() {
        let schedule = Schedule::new(Some(ms(20)), None, 4);
        assert_eq!(run(schedule, 500, 0), [(120, Action::Hedge), (140, Action::Hedge), (160, Action::Hedge)]);
        assert_eq!(run(Schedule::new(Some(ms(20)), None, 4), 500, 2), [(120, Action::Hedge)]);
        assert_eq!(run(Schedule::new(Some(ms(20)), None, 1), 500, 0), []);
    }

    #[test]
    fn an_attempt_is_given_up_after_its_own_time() {
        let replace = Action::Replace(0);
        assert_eq!(run(Schedule::new(None, Some(ms(50)), 3), 500, 0), [(150, replace), (200, replace)]);
    }

    #[test]
    fn with_both_the_hedge_comes_first_and_each_attempt_has_its_own_timeout() {
        let done = run(Schedule::new(Some(ms(30)), Some(ms(50)), 5), 500, 0);
        let (hedge, replace) = (Action::Hedge, Action::Replace(0));
        assert_eq!(done, [(130, hedge), (150, replace), (180, hedge), (180, replace)]);
    }

    #[test]
    fn a_server_delays_further_attempts_or_forbids_them() {
        let mut schedule = Schedule::new(Some(ms(20)), Some(ms(30)), 5);
        let attempt = schedule.sent(ms(0));
        schedule.delay(ms(45));
        assert_eq!(schedule.due_at(0, [attempt].iter()), Some(ms(45)));
        assert_eq!(schedule.action(ms(44), 0, [attempt].iter()), Action::Wait);
        assert_eq!(schedule.action(ms(45), 0, [attempt].iter()), Action::Hedge);
        schedule.delay(ms(5));
        assert_eq!(schedule.due_at(0, [attempt].iter()), Some(ms(45)), "another server has said later");
        schedule.forbid();
        assert_eq!(schedule.due_at(0, [attempt].iter()), None);
        assert_eq!(schedule.action(ms(99), 0, [attempt].iter()), Action::Wait);
    }

    #[test]
    fn what_no_server_has_processed_is_sent_again_whatever_servers_say() {
        let mut schedule = Schedule::new(Some(ms(20)), None, 2);
        let attempt = schedule.sent(ms(0));
        schedule.resend_at(Some(ms(5)));
        schedule.delay(ms(45));
        schedule.forbid();
        assert_eq!(schedule.due_at(0, [attempt].iter()), Some(ms(5)));
        assert_eq!(schedule.action(ms(4), 0, [attempt].iter()), Action::Wait);
        assert_eq!(schedule.action(ms(5), 0, [attempt].iter()), Action::Resend);
        assert_eq!(schedule.due_at(1, [attempt].iter()), None, "another one has taken its place");
        schedule.stop();
        assert_eq!(schedule.due_at(0, [attempt].iter()), None);
        let mut schedule = Schedule::new(Some(ms(20)), None, 5);
        schedule.resend_at(Some(ms(110)));
        assert_eq!(run(schedule, 135, 0), [(110, Action::Resend), (130, Action::Hedge)]);
    }

    #[test]
    fn what_was_impossible_is_due_again_after_twice_the_time() {
        let mut schedule = Schedule::new(Some(ms(20)), None, 5);
        let mut attempt = schedule.sent(ms(100));
        let mut dues = Vec::new();
        while dues.len() < 4 {
            let due = schedule.due_at(0, [attempt].iter()).unwrap();
            schedule.hedge_impossible(due);
            dues.push(due);
        }
        assert_eq!(dues, [ms(120), ms(140), ms(180), ms(260)]);
        let mut schedule = Schedule::new(None, Some(ms(20)), 5);
        attempt = schedule.sent(ms(100));
        attempt.replacement_impossible(ms(125));
        assert_eq!(schedule.due_at(0, [attempt].iter()), Some(ms(150)));
        attempt.replacement_impossible(ms(100));
        assert_eq!(schedule.due_at(0, [attempt].iter()), Some(ms(101)), "time never stands still");
    }

    #[test]
    fn no_time_is_too_late() {
        let mut schedule = Schedule::new(Some(Duration::MAX), Some(Duration::MAX), 5);
        let mut attempt = schedule.sent(ms(100));
        assert_eq!(schedule.due_at(0, [attempt].iter()), None);
        schedule.hedge_impossible(Duration::MAX);
        attempt.replacement_impossible(Duration::MAX);
        assert_eq!(schedule.due_at(0, [attempt].iter()), None);
    }
}
