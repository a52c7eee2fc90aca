use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// All that is to be done now.
fn actions(machine: &mut StreamPlan, now: Duration) -> Vec<Action> {
    let next = || match machine.action(now) {
        Action::Wait { .. } => None,
        action => Some(action),
    };
    std::iter::from_fn(next).collect()
}

fn want(machine: &mut StreamPlan, watches: std::ops::Range<u64>) -> Vec<Action> {
    watches.for_each(|watch| machine.add(secs(0), watch));
    actions(machine, secs(0))
}

fn opened(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Open { .. })).count()
}

#[test]
fn a_thousand_watches_share_a_few_streams() {
    let mut machine = StreamPlan::default();
    let actions = want(&mut machine, 0..1_000);
    assert_eq!(opened(&actions), 8);
    assert_eq!(actions.len(), 1_008);
}

#[test]
fn watch_streams_take_half_of_what_a_connection_admits() {
    for (stream_limit, streams) in [(None, 50), (Some(100), 50), (Some(3), 1), (Some(1), 1)] {
        let mut machine = StreamPlan::default();
        machine.set_stream_limit(stream_limit);
        assert_eq!(opened(&want(&mut machine, 0..10_000)), streams, "{stream_limit:?}");
        let most = machine.open.values().map(|stream| stream.watches.len()).max();
        assert!(most.unwrap() <= 10_000_usize.div_ceil(streams).max(WATCHES_PER_STREAM), "evenly, beyond what is full");
    }
}

/// F9: one creation that is never answered is tried again after 1 s, 2 s, 4 s … 60 s, on another stream, and touches nothing
/// else.
#[test]
fn a_watch_that_is_not_answered_is_tried_ever_more_slowly_elsewhere() {
    let mut machine = StreamPlan::default();
    want(&mut machine, 0..10);
    let (mut now, mut tries, mut streams) = (secs(0), 1, vec![1]);
    let mut waits = Vec::new();
    while now < secs(400) {
        now += secs(5);
        waits.push(machine.unanswered(now, 0).as_secs());
        let closed = actions(&mut machine, now);
        let is_closed = |action: &Action| matches!(action, Action::Close { stream } if *stream != 1);
        assert!(closed.iter().all(is_closed), "nothing else to do before the wait is over: {closed:?}");
        let before = streams.len();
        while streams.len() == before {
            let Action::Wait { until } = machine.action(now) else { panic!() };
            now = now.max(until);
            for action in actions(&mut machine, now) {
                match action {
                    Action::Attach { watch: 0, stream } => {
                        assert_ne!(streams.last(), Some(&stream), "another stream than the last one");
                        streams.push(stream);
                        tries += usize::from(now <= secs(60));
                    }
                    Action::Open { .. } => {}
                    Action::Close { stream } => assert_ne!(stream, 1, "the others stay where they are"),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(tries, 6);
    machine.created(0);
    assert_eq!(machine.unanswered(now, 0), secs(1));
}

/// An etcd that is too busy to create any of a thousand watches: they share the streams to another member as well, so that requests
/// and keep-alives have room all the time.
#[test]
fn many_that_are_not_answered_share_the_streams_to_another_member() {
    for stream_limit in [None, Some(100), Some(8)] {
        let mut machine = StreamPlan::default();
        machine.set_stream_limit(stream_limit);
        let budget = stream_limit.map_or(DEFAULT_STREAMS, |limit| limit / 2);
        let (mut now, mut elsewhere) = (secs(0), 0);
        (0..1_000).for_each(|watch| machine.add(now, watch));
        while now < secs(300) {
            let mut attached = Vec::new();
            for action in actions(&mut machine, now) {
                match action {
                    Action::Open { other_member: true, .. } => elsewhere += 1,
                    Action::Attach { watch, .. } => attached.push(watch),
                    Action::Open { .. } | Action::Close { .. } | Action::Wait { .. } => {}
                }
                assert!(machine.open.len() <= budget + 1, "{stream_limit:?}: {} at {now:?}", machine.open.len());
            }
            now += secs(5);
            for watch in attached {
                machine.unanswered(now, watch);
            }
        }
        assert!(elsewhere >= 4, "another member is tried again and again: {elsewhere}");
    }
}

#[test]
fn a_stream_whose_token_has_ended_keeps_its_watches_and_takes_no_more() {
    let mut machine = StreamPlan::default();
    want(&mut machine, 0..3);
    assert!(machine.token_refused(secs(0), 2), "tried on another stream");
    let moved = actions(&mut machine, secs(0));
    assert_eq!(moved, [Action::Open { stream: 2, other_member: false }, Action::Attach { watch: 2, stream: 2 }]);
    assert!(!machine.token_refused(secs(0), 2), "once");
    machine.remove(secs(0), 2);
    assert!(machine.open[&1].watches.contains(&0));
    let next = want(&mut machine, 5..6);
    assert!(matches!(next[..], [Action::Open { stream: 3, .. }, Action::Attach { stream: 3, .. }, ..]), "{next:?}");
}

#[test]
fn a_stream_that_dies_is_replaced_once() {
    let mut machine = StreamPlan::default();
    want(&mut machine, 0..100);
    assert_eq!(machine.ended(1).len(), 100);
    let actions = want(&mut machine, 100..200);
    assert_eq!(opened(&actions), 1);
}

#[test]
fn a_stream_without_watches_is_closed_after_a_while() {
    let mut machine = StreamPlan::default();
    want(&mut machine, 0..1);
    assert_eq!(machine.remove(secs(1), 0), Some(1));
    assert_eq!(machine.action(secs(1)), Action::Wait { until: secs(6) });
    assert!(!machine.is_idle());
    assert_eq!(machine.action(secs(6)), Action::Close { stream: 1 });
    assert!(machine.is_idle());
}

#[derive(Clone, Debug)]
enum Step {
    Want,
    Gone(u8),
    Created(u8),
    Unanswered(u8),
    Refused(u8),
    Ended(u8),
    Time(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Want),
        2 => any::<u8>().prop_map(Step::Gone),
        2 => any::<u8>().prop_map(Step::Created),
        2 => any::<u8>().prop_map(Step::Unanswered),
        1 => any::<u8>().prop_map(Step::Refused),
        1 => any::<u8>().prop_map(Step::Ended),
        2 => any::<u8>().prop_map(Step::Time),
    ]
}

proptest! {
    /// Each watch is on the one stream that it was last attached to, or waits; and none is forgotten.
    #[test]
    fn every_watch_is_somewhere((stream_limit, steps) in limit_and_steps()) {
        everybody_is_somewhere(stream_limit, steps)?;
    }
}

fn everybody_is_somewhere(stream_limit: Option<usize>, steps: Vec<Step>) -> TestCaseResult {
    let mut machine = StreamPlan::default();
    machine.set_stream_limit(stream_limit);
    let (mut now, mut next) = (secs(0), 0);
    let mut on: BTreeMap<WatchId, Option<StreamId>> = BTreeMap::new();
    let mut open: BTreeSet<StreamId> = BTreeSet::new();
    for step in steps {
        let nth = |n: u8| on.keys().nth(usize::from(n) % on.len().max(1)).copied();
        match step {
            Step::Want => {
                next += 1;
                machine.add(now, next);
                on.insert(next, None);
            }
            Step::Gone(n) => {
                if let Some(watch) = nth(n) {
                    prop_assert_eq!(machine.remove(now, watch), on.remove(&watch).flatten());
                }
            }
            Step::Created(n) => {
                if let Some(watch) = nth(n) {
                    machine.created(watch);
                }
            }
            Step::Unanswered(n) => {
                if let Some(watch) = nth(n).filter(|watch| on[watch].is_some()) {
                    machine.unanswered(now, watch);
                    on.insert(watch, None);
                }
            }
            Step::Refused(n) => {
                if let Some(watch) = nth(n).filter(|watch| on[watch].is_some())
                    && machine.token_refused(now, watch)
                {
                    on.insert(watch, None);
                }
            }
            Step::Ended(n) => {
                if let Some(stream) = open.iter().nth(usize::from(n) % open.len().max(1)).copied() {
                    open.remove(&stream);
                    let ended = machine.ended(stream);
                    let expected: BTreeSet<_> =
                        on.iter().filter(|(_, at)| **at == Some(stream)).map(|(watch, _)| *watch).collect();
                    prop_assert_eq!(&ended, &expected);
                    on.retain(|watch, _| !ended.contains(watch));
                }
            }
            Step::Time(seconds) => now += secs(seconds.into()),
        }
        for action in actions(&mut machine, now) {
            match action {
                Action::Open { stream, .. } => prop_assert!(open.insert(stream)),
                Action::Attach { watch, stream } => {
                    prop_assert!(open.contains(&stream));
                    prop_assert_eq!(on.insert(watch, Some(stream)), Some(None));
                }
                Action::Close { stream } => {
                    prop_assert!(open.remove(&stream));
                    prop_assert!(!on.values().any(|at| *at == Some(stream)), "nobody is left behind");
                }
                Action::Wait { .. } => {}
            }
        }
    }
    now += secs(60);
    for action in actions(&mut machine, now) {
        if let Action::Attach { watch, stream } = action {
            on.insert(watch, Some(stream));
        }
    }
    prop_assert!(on.values().all(Option::is_some), "{:?}", on);
    Ok(())
}

fn limit_and_steps() -> impl Strategy<Value = (Option<usize>, Vec<Step>)> {
    (proptest::option::of(1usize..20), proptest::collection::vec(step(), 0..200))
}

/// The fuzz target: the same property.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, proptest::option::of(1usize..20), step(), |stream_limit, steps| {
        everybody_is_somewhere(stream_limit, steps)
    });
}
