pub(crate) mod inputs;

use super::*;

/// The id of the creation of that number.
const fn id(number: i64) -> i64 {
    FIRST_ID + number - 1
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn machine(watches: u64) -> StreamMachine {
    let mut machine = StreamMachine::new(ms(0), PeerTraits::UNKNOWN);
    (1..=watches).for_each(|watch| machine.attach(watch));
    machine
}

/// What is sent now.
fn sent(machine: &mut StreamMachine, now: Duration) -> Vec<Request> {
    let next = || match machine.action(now) {
        Action::Send(request) => Some(request),
        _ => None,
    };
    std::iter::from_fn(next).collect()
}

fn created(id: i64) -> MessageHeader {
    MessageHeader { id, created: true, canceled: false }
}

fn refused() -> MessageHeader {
    MessageHeader { id: -1, created: true, canceled: true }
}

fn message(id: i64) -> MessageHeader {
    MessageHeader { id, created: false, canceled: false }
}

/// With one watch, created at once.
fn quiet() -> StreamMachine {
    let mut machine = machine(1);
    sent(&mut machine, ms(0));
    assert_eq!(machine.on(ms(0), created(id(1))), Recipient::Watch(1));
    machine
}

#[test]
fn answers_are_known_by_their_ids() {
    let mut machine = machine(3);
    let all = [1_u32, 2, 3].map(|number| Request::Create { watch: number.into(), id: id(number.into()) });
    assert_eq!(sent(&mut machine, ms(0)), all);
    assert_eq!(machine.on(ms(2), created(id(3))), Recipient::Watch(3), "in any order");
    assert_eq!(machine.on(ms(2), created(id(2))), Recipient::Watch(2));
    assert_eq!(machine.on(ms(3), message(id(3))), Recipient::Watch(3));
    assert_eq!(machine.on(ms(3), message(id(9))), Recipient::Nobody);
}

/// F9: whoever is not answered holds up no other.
#[test]
fn a_creation_that_is_not_answered_holds_up_no_other() {
    let mut machine = machine(3);
    assert_eq!(sent(&mut machine, ms(0)).len(), 3);
    assert_eq!(machine.on(ms(1), created(id(2))), Recipient::Watch(2));
    assert_eq!(machine.on(ms(1), created(id(3))), Recipient::Watch(3));
    assert_eq!(machine.action(ms(2)), Action::Wait { until: ms(3_500) });
    assert_eq!(machine.action(ms(3_500)), Action::Ping, "its answer shows whether the connection lives");
    assert_eq!(machine.action(ms(3_501)), Action::Wait { until: ms(5_000) });
    assert_eq!(machine.action(ms(5_000)), Action::Unanswered { watch: 1, since: ms(0) });
    assert_eq!(machine.action(ms(5_000)), Action::Send(Request::Cancel(id(1))));
    assert_eq!(machine.on(ms(5_100), created(id(1))), Recipient::Nobody, "too late");
    assert_eq!(sent(&mut machine, ms(5_100)), [Request::Cancel(id(1))]);
    assert_eq!(machine.on(ms(5_100), message(id(2))), Recipient::Watch(2));
}

/// Nothing is to be done before a time that has passed: the task would go round and round.
#[test]
fn more_watches_than_are_created_at_once_wait_for_answers() {
    let mut machine = machine(100);
    assert_eq!(sent(&mut machine, ms(0)).len(), MAX_PENDING);
    for now in [ms(1), ms(600), ms(3_000)] {
        let Action::Wait { until } = machine.action(now) else { panic!() };
        assert!(until > now);
    }
}

#[test]
fn where_another_id_is_answered_one_creation_is_made_at_a_time() {
    let mut machine = machine(1);
    sent(&mut machine, ms(0));
    assert_eq!(machine.on(ms(1), created(0)), Recipient::Watch(1));
    (2..=3).for_each(|watch| machine.attach(watch));
    assert_eq!(sent(&mut machine, ms(1)).len(), 1);
    assert_eq!(sent(&mut machine, ms(600)).len(), 0);
    assert_eq!(machine.on(ms(601), created(1)), Recipient::Watch(2));
    assert_eq!(sent(&mut machine, ms(601)).len(), 1);
    assert_eq!(machine.on(ms(602), created(2)), Recipient::Watch(3));
    assert_eq!(machine.on(ms(603), message(0)), Recipient::Watch(1));
    machine.detach(2);
    assert_eq!(sent(&mut machine, ms(603)), [Request::Cancel(1)]);
    // The next stream to the same member knows it from the beginning.
    let mut next = StreamMachine::new(ms(0), machine.traits());
    (1..=3).for_each(|watch| next.attach(watch));
    assert_eq!(sent(&mut next, ms(600)).len(), 1);
}

#[test]
fn answers_that_cannot_be_told_apart_end_the_stream() {
    let mut machine = machine(3);
    sent(&mut machine, ms(0));
    machine.on(ms(1), created(0));
    assert_eq!(machine.action(ms(1)), Action::Restart);
}

#[test]
fn a_refusal_is_of_the_oldest_creation_that_no_other_has_overtaken() {
    let mut machine = machine(4);
    sent(&mut machine, ms(0));
    machine.on(ms(0), created(id(1)));
    assert_eq!(machine.on(ms(1), created(id(3))), Recipient::Watch(3));
    assert_eq!(machine.on(ms(1), refused()), Recipient::Watch(4), "the second was overtaken");
    assert_eq!(machine.action(ms(5_000)), Action::Unanswered { watch: 2, since: ms(0) });
}

/// F1: quiet for an hour, as etcd answers: one request for progress after each silence, and nothing else, however many watches
/// share the stream.
#[test]
fn a_quiet_stream_that_answers_is_only_asked_for_progress() {
    for watches in [1, 128] {
        let mut machine = machine(watches);
        loop {
            let sent = sent(&mut machine, ms(0));
            for request in &sent {
                let Request::Create { watch, id } = *request else { panic!("{request:?}") };
                assert_eq!(machine.on(ms(0), created(id)), Recipient::Watch(watch));
            }
            if sent.is_empty() {
                break;
            }
        }
        assert_eq!(machine.live.len() as u64, watches);
        let mut now = ms(0);
        for _ in 0..720 {
            let Action::Wait { until } = machine.action(now) else { panic!() };
            assert_eq!(until, now + QUIET_LIMIT);
            now = until;
            assert_eq!(sent(&mut machine, now), [Request::Progress]);
            assert_eq!(machine.on(now, message(-1)), Recipient::Nobody);
        }
    }
}

/// F1: as grpc-proxy answers: no request for progress after the first, and never a second watch that stays.
#[test]
fn a_quiet_stream_that_answers_no_request_for_progress_is_asked_for_a_second_watch() {
    let mut machine = quiet();
    let (mut now, mut progress, mut probes, mut next) = (ms(0), 0, 0, 2);
    while now < ms(60_000) {
        match machine.action(now) {
            Action::Send(Request::Progress) => progress += 1,
            Action::Send(Request::Probe { watch: 1, id }) => {
                (probes, next) = (probes + 1, id);
                assert_eq!(machine.on(now, created(id)), Recipient::Nobody);
            }
            Action::Send(Request::Cancel(id)) => assert_eq!(id, next),
            Action::Ping => {}
            Action::Wait { until } => now = until,
            other => panic!("{other:?} at {now:?}"),
        }
    }
    assert_eq!(progress, 1);
    assert!(probes >= 10, "{probes}");
}

/// As grpc-proxy answers, with one creation that it never does: the watches beside it are asked for all the same, and stay.
#[test]
fn a_creation_that_is_never_answered_takes_no_other_watch_along() {
    for (asked, progress) in
        [(0, ProgressSupport::Never), (4_900, ProgressSupport::Never), (0, ProgressSupport::Unknown)]
    {
        let mut machine = StreamMachine::new(ms(0), PeerTraits { ids: IdChoice::Theirs, progress });
        machine.attach(1);
        assert_eq!(sent(&mut machine, ms(0)).len(), 1);
        assert_eq!(machine.on(ms(0), created(1)), Recipient::Watch(1));
        let (mut now, mut unanswered, mut probes) = (ms(asked), 0, 1);
        machine.attach(2);
        while now < ms(60_000) {
            match machine.action(now) {
                Action::Send(Request::Probe { watch: 1, .. }) => {
                    probes += 1;
                    assert_eq!(machine.on(now, created(probes)), Recipient::Nobody);
                }
                Action::Send(Request::Cancel(id)) => assert_eq!(id, probes),
                Action::Send(Request::Create { watch: 2, .. } | Request::Progress) | Action::Ping => {}
                Action::Unanswered { watch: 2, .. } => unanswered += 1,
                Action::Wait { until } => now = until,
                other => panic!("{other:?} at {now:?}"),
            }
        }
        assert!(unanswered == 1 && (5..=12).contains(&probes), "{unanswered}, {probes}");
        assert_eq!(machine.on(now, message(1)), Recipient::Watch(1));
    }
}

/// The stream is dead 8 s after it was last heard, and its connection was asked too.
#[test]
fn a_stream_that_says_nothing_is_dead_after_eight_seconds() {
    for traits in [PeerTraits::UNKNOWN, PeerTraits { progress: ProgressSupport::Never, ..PeerTraits::UNKNOWN }] {
        let mut machine = quiet();
        machine.traits = traits;
        let (mut now, mut pings) = (ms(0), 0);
        let dead = loop {
            match machine.action(now) {
                Action::Wait { until } => now = until,
                Action::Ping => pings += 1,
                Action::Dead { asked } => break (now, asked),
                Action::Send(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(dead, (ms(8_000), ms(5_000)));
        assert_eq!(pings, 1);
    }
}

#[test]
fn any_message_proves_the_stream() {
    let mut machine = quiet();
    let mut now = ms(0);
    for _ in 0..100 {
        now += ms(4_900);
        machine.on(now, message(id(1)));
        assert!(matches!(machine.action(now), Action::Wait { .. }));
    }
    // Also one that comes while the answer is awaited.
    now += QUIET_LIMIT;
    assert_eq!(sent(&mut machine, now), [Request::Progress]);
    machine.on(now + ms(2_900), message(id(1)));
    assert_eq!(machine.action(now + ms(2_900)), Action::Wait { until: now + ms(2_900) + QUIET_LIMIT });
}

/// A machine that was suspended asks first.
#[test]
fn a_late_look_is_not_taken_for_the_silence_of_the_other_side() {
    let mut machine = quiet();
    assert_eq!(sent(&mut machine, ms(3_600_000)), [Request::Progress]);
    assert!(matches!(machine.action(ms(3_600_001)), Action::Wait { .. }));
}

#[test]
fn a_compacted_watch_is_canceled_here_too() {
    let mut machine = quiet();
    let compacted = MessageHeader { id: id(1), created: false, canceled: true };
    assert_eq!(machine.on(ms(1), compacted), Recipient::Watch(1));
    assert_eq!(sent(&mut machine, ms(1)), [Request::Cancel(id(1))], "else it keeps the stream from answering");
}

#[test]
fn what_nobody_wants_any_more_is_canceled() {
    let mut machine = machine(3);
    machine.detach(3);
    assert_eq!(sent(&mut machine, ms(0)).len(), 2);
    machine.detach(1);
    assert_eq!(machine.action(ms(0)), Action::Send(Request::Cancel(id(1))));
    assert_eq!(machine.on(ms(1), created(id(1))), Recipient::Nobody);
    assert_eq!(sent(&mut machine, ms(1)), [Request::Cancel(id(1))]);
}

/// An endpoint behind which grpc-proxy answers from now on: its ids are known for what they are.
#[test]
fn a_member_that_begins_to_choose_ids_ends_the_stream() {
    let mut first = machine(3);
    sent(&mut first, ms(0));
    first.on(ms(0), created(id(1)));
    sent(&mut first, ms(0));
    first.on(ms(1), created(1));
    assert_eq!(first.action(ms(1)), Action::Restart);
    let mut next = StreamMachine::new(ms(0), PeerTraits { ids: IdChoice::Ours, ..PeerTraits::UNKNOWN });
    (1..=3).for_each(|watch| next.attach(watch));
    assert_eq!(sent(&mut next, ms(0)).len(), 3);
    next.on(ms(1), created(0));
    assert_eq!(next.action(ms(1)), Action::Restart);
    assert!(next.is_careful(), "and the next stream makes one creation at a time");
}

/// grpc-proxy answers a creation that was given up: its answer must not be taken for that of another.
#[test]
fn where_ids_are_not_ours_none_is_created_after_one_that_was_not_answered() {
    let mut machine = StreamMachine::new(ms(0), PeerTraits { ids: IdChoice::Theirs, ..PeerTraits::UNKNOWN });
    (1..=3).for_each(|watch| machine.attach(watch));
    assert_eq!(sent(&mut machine, ms(0)).len(), 1);
    assert_eq!(machine.action(ms(3_500)), Action::Ping);
    assert_eq!(machine.action(ms(5_000)), Action::Unanswered { watch: 1, since: ms(0) });
    assert_eq!(machine.action(ms(5_000)), Action::Displaced(2));
    assert_eq!(machine.action(ms(5_000)), Action::Displaced(3));
    assert_eq!(machine.on(ms(6_000), created(1)), Recipient::Nobody);
    assert_eq!(sent(&mut machine, ms(6_000)), [Request::Cancel(1)]);
    // The same for one that nobody wants any more.
    let mut machine = StreamMachine::new(ms(0), PeerTraits { ids: IdChoice::Theirs, ..PeerTraits::UNKNOWN });
    (1..=2).for_each(|watch| machine.attach(watch));
    sent(&mut machine, ms(0));
    machine.detach(1);
    assert_eq!(sent(&mut machine, ms(1)), []);
    assert_eq!(machine.on(ms(2), created(7)), Recipient::Nobody);
    assert_eq!(sent(&mut machine, ms(2)).len(), 2, "canceled, and then the next");
}
