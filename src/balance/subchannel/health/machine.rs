//! What follows from the answers of one connection's health service. PURE.
//!
//! ```text
//!          ┌────────── the backoff is over ──────────┐
//!          ▼                                         │
//! new ─▶ Watch ──the stream ends, or is refused──▶ Wait
//!          │ each answer: healthy or not
//!          └──the server has no health service──▶ Rest: healthy
//! ```
//!
//! An answer that is due has a time limit, which counts from when the server can have heard the question: calls may use all of its
//! streams. An answer is due at first, and again when a stream ends over which the server said for a while that it serves: a proxy or a
//! maximum age of streams ends it, and nothing is known of the server until it is asked again.

use std::time::Duration;

use crate::backoff::Backoff;

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::balance) enum Health {
    /// The server has not answered yet, or has to be asked again. Calls wait.
    Unknown,
    /// Calls go over the connection: the server says so, or it cannot be asked.
    Healthy,
    /// No call goes over it.
    Unhealthy,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Open a stream, unless one is open, and wait for what comes, until this time if there is one.
    Watch { until: Option<Duration> },
    /// Wait until this time, without a stream.
    Wait { until: Duration },
    /// Nothing, for the rest of the connection.
    Rest,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The server has answered: it serves, or it does not.
    Answered { serving: bool },
    /// The stream was opened: the server hears the question from now on.
    Opened,
    /// The stream has ended, with whatever status, or it was refused.
    Ended,
    /// The connection has ended, or is about to.
    Disconnected,
    /// The server cannot be asked over this connection.
    NotSupported,
    /// The time of the action has come.
    TimeOver,
}

/// The health of one connection under one service name. Times count from any fixed start.
#[derive(Debug)]
pub(super) struct Machine {
    health: Health,
    action: Action,
    answer: Answer,
    /// How long an answer may take.
    answer_within: Duration,
    /// When the stream was begun.
    opened: Duration,
    /// The stream has given an answer.
    has_answered: bool,
    backoff: Backoff,
}

/// Whether an answer has a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It comes when it comes: there was one, or the limit has passed.
    NotDue,
    /// It is due some time after a stream is opened.
    DueOnceOpened,
    DueBy(Duration),
}

/// A stream that has lasted so long, and has given an answer, is asked for again at once. A server
/// that answers and ends each stream is asked again with backoff: gRFC A17 would ask it without a
/// pause.
const LASTING: Duration = Duration::from_secs(1);

impl Machine {
    /// Begins to ask. What is `known` of the connection from before, under another name, stays until
    /// the first answer, which may take `answer_within`.
    pub(super) fn new(known: Health, now: Duration, answer_within: Duration, seed: u64) -> Self {
        Self {
            health: known,
            action: Action::Watch { until: None },
            answer: Answer::DueOnceOpened,
            answer_within,
            opened: now,
            has_answered: false,
            backoff: Backoff::new(seed),
        }
    }

    /// What is known now.
    pub(super) fn health(&self) -> Health {
        self.health
    }

    /// What to do next.
    pub(super) fn action(&self) -> Action {
        self.action
    }

    /// Takes in what has happened.
    pub(super) fn on(&mut self, input: Input, now: Duration) {
        match (input, self.action) {
            (_, Action::Rest) | (Input::TimeOver, Action::Watch { until: None }) => {}
            (Input::Opened, _) => {
                self.opened = now;
                if self.answer == Answer::DueOnceOpened {
                    self.answer = Answer::DueBy(now + self.answer_within);
                }
                self.watch();
            }
            (Input::Answered { serving }, _) => {
                self.health = if serving { Health::Healthy } else { Health::Unhealthy };
                (self.has_answered, self.answer) = (true, Answer::NotDue);
                self.watch();
            }
            (Input::NotSupported, _) => {
                self.health = Health::Healthy;
                self.action = Action::Rest;
            }
            (Input::Ended, _) => {
                (self.health, self.answer) = if self.health == Health::Healthy && self.has_lasted(now) {
                    (Health::Unknown, Answer::DueOnceOpened)
                } else {
                    (Health::Unhealthy, Answer::NotDue)
                };
                self.wait(now);
            }
            // The connection's end says what becomes of it.
            (Input::Disconnected, _) => self.wait(now),
            // The answer is late. It still counts when it comes.
            (Input::TimeOver, Action::Watch { .. }) => {
                (self.health, self.answer) = (Health::Unhealthy, Answer::NotDue);
                self.watch();
            }
            (Input::TimeOver, Action::Wait { .. }) => {
                (self.opened, self.has_answered) = (now, false);
                if matches!(self.answer, Answer::DueBy(time) if time <= now) {
                    (self.health, self.answer) = (Health::Unhealthy, Answer::NotDue);
                }
                self.watch();
            }
        }
    }

    fn watch(&mut self) {
        let until = if let Answer::DueBy(time) = self.answer { Some(time) } else { None };
        self.action = Action::Watch { until };
    }

    /// Whether the stream has given an answer, and was open for a while.
    fn has_lasted(&self, now: Duration) -> bool {
        self.has_answered && now.saturating_sub(self.opened) >= LASTING
    }

    fn wait(&mut self, now: Duration) {
        if self.has_lasted(now) {
            self.backoff.reset();
        }
        self.action = Action::Wait { until: now + self.backoff.fail(now, false) };
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[cfg(test)]
    fn machine() -> Machine {
        Machine::new(Health::Unknown, ms(0), ms(5_000), 7)
    }

    /// One whose stream is opened at once.
    #[cfg(test)]
    fn opened() -> Machine {
        let mut machine = machine();
        machine.on(Input::Opened, ms(0));
        machine
    }

    fn answered(serving: bool) -> Input {
        Input::Answered { serving }
    }

    /// The pause after an input at this time.
    #[cfg(test)]
    fn pause(machine: &mut Machine, input: Input, now: Duration) -> Duration {
        machine.on(input, now);
        let Action::Wait { until } = machine.action() else { panic!("{machine:?}") };
        until.saturating_sub(now)
    }

    #[test]
    fn each_answer_says_whether_calls_go_over_the_connection() {
        let mut machine = opened();
        assert_eq!((machine.health(), machine.action()), (Health::Unknown, Action::Watch { until: Some(ms(5_000)) }));
        for (serving, health) in [(true, Health::Healthy), (false, Health::Unhealthy), (true, Health::Healthy)] {
            machine.on(answered(serving), ms(10));
            assert_eq!((machine.health(), machine.action()), (health, Action::Watch { until: None }));
        }
    }

    #[test]
    fn a_late_first_answer_makes_it_unhealthy_and_still_counts() {
        let mut machine = opened();
        machine.on(Input::TimeOver, ms(5_000));
        assert_eq!((machine.health(), machine.action()), (Health::Unhealthy, Action::Watch { until: None }));
        machine.on(answered(true), ms(60_000));
        assert_eq!(machine.health(), Health::Healthy);
    }

    #[test]
    fn the_time_of_an_answer_counts_from_when_the_server_was_first_asked() {
        for known in [Health::Unknown, Health::Healthy] {
            let mut machine = Machine::new(known, ms(0), ms(5_000), 7);
            for now in [ms(5_000), ms(60_000)] {
                machine.on(Input::TimeOver, now);
                assert_eq!((machine.health(), machine.action()), (known, Action::Watch { until: None }));
            }
            machine.on(Input::Opened, ms(61_000));
            assert_eq!(machine.action(), Action::Watch { until: Some(ms(66_000)) });
            // Refused, and asked again: no more time.
            machine.on(Input::Disconnected, ms(61_000));
            machine.on(Input::TimeOver, ms(61_000));
            machine.on(Input::Opened, ms(62_000));
            assert_eq!((machine.health(), machine.action()), (known, Action::Watch { until: Some(ms(66_000)) }));
            machine.on(Input::Disconnected, ms(65_000));
            machine.on(Input::TimeOver, ms(66_001));
            assert_eq!((machine.health(), machine.action()), (Health::Unhealthy, Action::Watch { until: None }));
        }
    }

    #[test]
    fn a_server_without_a_health_service_is_healthy_for_good() {
        let mut machine = machine();
        for input in [Input::NotSupported, Input::Ended, Input::TimeOver, answered(false), Input::Disconnected] {
            machine.on(input, ms(1));
            assert_eq!((machine.health(), machine.action()), (Health::Healthy, Action::Rest), "{input:?}");
        }
    }

    #[test]
    fn a_stream_that_ends_is_asked_for_again_later_and_later() {
        let mut machine = machine();
        assert_eq!(pause(&mut machine, Input::Ended, ms(1)), ms(0));
        assert_eq!(machine.health(), Health::Unhealthy);
        let mut now = ms(1);
        for most in [100, 200, 400, 800, 800] {
            machine.on(Input::TimeOver, now);
            machine.on(answered(true), now);
            let pause = pause(&mut machine, Input::Ended, now);
            assert!(pause >= ms(most / 2) && pause <= ms(most), "an answer alone does not help: {pause:?}");
            assert_eq!(machine.health(), Health::Unhealthy);
            now += pause;
        }
    }

    #[test]
    fn a_stream_that_has_answered_and_lasted_is_asked_for_again_at_once() {
        let mut machine = machine();
        for round in 0..5 {
            let began = ms(round * 10_000);
            machine.on(answered(true), began);
            assert_eq!(pause(&mut machine, Input::Ended, began + LASTING), ms(0));
            machine.on(Input::TimeOver, began + LASTING);
            assert_eq!(pause(&mut machine, Input::Ended, began + LASTING).min(ms(50)), ms(50), "no answer: backoff");
            machine.on(Input::TimeOver, began + ms(2_000));
        }
    }

    #[test]
    fn calls_wait_after_the_end_of_a_stream_over_which_the_server_served_for_a_while() {
        for serves_again in [true, false] {
            let mut machine = opened();
            machine.on(answered(true), ms(10));
            assert_eq!(pause(&mut machine, Input::Ended, LASTING), ms(0));
            assert_eq!(machine.health(), Health::Unknown);
            machine.on(Input::TimeOver, LASTING);
            machine.on(Input::Opened, ms(1_500));
            assert_eq!(machine.action(), Action::Watch { until: Some(ms(6_500)) });
            if serves_again {
                machine.on(answered(true), ms(1_600));
                assert_eq!(machine.health(), Health::Healthy);
                machine.on(Input::Ended, ms(1_700));
            } else {
                machine.on(Input::Ended, ms(60_000));
            }
            assert_eq!(machine.health(), Health::Unhealthy, "an end that comes soon, or without an answer");
        }
        let mut ill = opened();
        ill.on(answered(false), ms(10));
        ill.on(Input::Ended, ms(60_000));
        assert_eq!(ill.health(), Health::Unhealthy, "it did not serve");
    }

    #[test]
    fn the_end_of_the_connection_says_nothing_of_its_health() {
        for (before, after) in
            [(None, Health::Unknown), (Some(true), Health::Healthy), (Some(false), Health::Unhealthy)]
        {
            let mut machine = machine();
            before.into_iter().for_each(|serving| machine.on(answered(serving), ms(1)));
            machine.on(Input::Disconnected, ms(2));
            assert_eq!(machine.health(), after);
        }
    }

    #[test]
    fn the_first_answer_is_late_also_between_two_streams() {
        let mut machine = opened();
        machine.on(Input::Disconnected, ms(4_990));
        machine.on(Input::TimeOver, ms(4_995));
        assert_eq!((machine.health(), machine.action()), (Health::Unknown, Action::Watch { until: Some(ms(5_000)) }));
        machine.on(Input::Disconnected, ms(4_999));
        machine.on(Input::TimeOver, ms(5_080));
        assert_eq!((machine.health(), machine.action()), (Health::Unhealthy, Action::Watch { until: None }));
    }

    #[test]
    fn what_was_known_under_another_name_stays_until_the_first_answer() {
        for (input, after) in [
            (answered(false), Health::Unhealthy),
            (Input::Ended, Health::Unhealthy),
            (Input::TimeOver, Health::Unhealthy),
            (Input::NotSupported, Health::Healthy),
        ] {
            let mut machine = Machine::new(Health::Healthy, ms(0), ms(5_000), 7);
            machine.on(Input::Opened, ms(10));
            assert_eq!(machine.health(), Health::Healthy);
            machine.on(input, ms(100));
            assert_eq!(machine.health(), after, "{input:?}");
        }
    }

    fn input() -> impl Strategy<Value = (Input, u64)> {
        let input = prop_oneof![
            3 => any::<bool>().prop_map(answered),
            2 => Just(Input::Ended),
            2 => Just(Input::Opened),
            2 => Just(Input::TimeOver),
            1 => Just(Input::Disconnected),
        ];
        (input, 0_u64..3_000)
    }

    /// Only an answer makes the connection healthy, and calls wait for no longer than an answer may take.
    fn answers_count(seed: u64, inputs: Vec<(Input, u64)>) -> TestCaseResult {
        let mut machine = Machine::new(Health::Unknown, ms(0), ms(5_000), seed);
        let (mut now, mut serving, mut is_opened) = (ms(0), None, false);
        for (input, step) in inputs {
            now += ms(step);
            machine.on(input, now);
            match input {
                Input::Answered { serving: is_serving } => serving = Some(is_serving),
                Input::Ended => serving = None,
                _ => {}
            }
            match machine.health() {
                Health::Unknown => is_opened |= input == Input::Opened,
                Health::Healthy | Health::Unhealthy => is_opened = false,
            }
            prop_assert_eq!(machine.health() == Health::Healthy, serving == Some(true));
            match machine.action() {
                Action::Wait { until } => prop_assert!(until >= now && until <= now + ms(5_000)),
                Action::Watch { until } => {
                    prop_assert_eq!(until.is_some(), machine.health() == Health::Unknown && is_opened);
                    prop_assert!(until.is_none_or(|until| until <= now + ms(5_000)));
                }
                Action::Rest => prop_assert!(false),
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn only_an_answer_makes_a_connection_healthy(
            seed: u64, inputs in proptest::collection::vec(input(), 1..100)
        ) {
            answers_count(seed, inputs)?;
        }
    }

    /// The fuzz target: the same property.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with_steps(bytes, any::<u64>(), input(), answers_count);
    }
}
