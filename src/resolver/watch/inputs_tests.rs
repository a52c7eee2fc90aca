//! The watch machine and inputs that no etcd would give: any revisions, in any order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::codec::DecodeError;
use crate::instance::Instance;
use crate::resolver::snapshot::diff;

#[derive(Clone, Debug)]
enum Step {
    /// The request that runs is answered, with this revision, by this cluster, and with these keys.
    Answer(i64, u64, Vec<(u8, u8)>),
    Fail(FailureKind),
    Created(i64),
    /// Revision, key, value; none is a deletion.
    Events(Vec<(i64, u8, Option<u8>)>),
    Progress(i64),
    Canceled(FailureKind),
    Lost(FailureKind, u16),
    Late,
    Connected(bool),
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let revision = || prop_oneof![4 => 0_i64..20, 1 => any::<i64>()];
    let kinds = [FailureKind::Transient, FailureKind::Revision, FailureKind::Permanent, FailureKind::Denied];
    let kind = || proptest::sample::select(kinds.to_vec());
    let keys = proptest::collection::vec((0_u8..8, 0_u8..3), 0..8);
    let event = (revision(), 0_u8..8, proptest::option::of(0_u8..3));
    prop_oneof![
        4 => (revision(), 0_u64..3, keys).prop_map(|(revision, cluster, keys)| Step::Answer(revision, cluster, keys)),
        1 => kind().prop_map(Step::Fail),
        2 => revision().prop_map(Step::Created),
        4 => proptest::collection::vec(event, 0..5).prop_map(Step::Events),
        1 => revision().prop_map(Step::Progress),
        1 => kind().prop_map(Step::Canceled),
        1 => (kind(), any::<u16>()).prop_map(|(kind, ago)| Step::Lost(kind, ago)),
        1 => Just(Step::Late),
        1 => any::<bool>().prop_map(Step::Connected),
        4 => (0_u32..700_000).prop_map(Step::Pass),
    ]
}

fn seed_and_steps() -> impl Strategy<Value = (u64, Vec<Step>)> {
    (any::<u64>(), proptest::collection::vec(step(), 0..100))
}

fn entry(key: u8, value: u8) -> SnapshotEntry {
    let read = match value {
        0 => Err(DecodeError::new("bad")),
        value => Ok(vec![Instance::new(format!("h:{value}")).unwrap()]),
    };
    SnapshotEntry::new(&[b's', b'/', key], read)
}

/// What the task makes of a step: the machine is told of what it asked for alone.
fn input(step: &Step, asked: &mut Option<Action>, now: Duration) -> Option<Input> {
    Some(match step {
        Step::Answer(revision, cluster, keys) => match asked.take()? {
            Action::List => {
                let entries = keys.iter().map(|(key, value)| entry(*key, *value)).collect();
                Input::Listed { revision: *revision, cluster: *cluster, entries }
            }
            _ => Input::Verified { revision: *revision },
        },
        Step::Fail(kind) => match asked.take()? {
            Action::List => Input::ListFailed(*kind),
            _ => Input::VerifyFailed(*kind),
        },
        Step::Created(revision) => Input::Created { revision: *revision },
        Step::Events(events) => {
            let change = |key, value| match value {
                Some(value) => Change::Put(entry(key, value)),
                None => Change::Delete(entry(key, 1).key().into()),
            };
            let event = |&(revision, key, value): &(i64, u8, _)| Event { revision, change: change(key, value) };
            Input::Events(events.iter().map(event).collect())
        }
        Step::Progress(revision) => Input::Progress { revision: *revision },
        Step::Canceled(kind) => Input::Canceled(*kind),
        Step::Lost(kind, ago) => {
            let last_heard = now.saturating_sub(Duration::from_millis((*ago).into()));
            Input::Lost { kind: *kind, last_heard }
        }
        Step::Late => Input::Late,
        Step::Connected(is_new) => Input::Connected { is_new: *is_new },
        Step::Pass(_) => return None,
    })
}

fn nothing_is_removed_by_errors(seed: u64, steps: &[Step]) {
    let (mut machine, mut now, mut asked) = (Machine::new(seed, MassLoss::default()), Duration::ZERO, None);
    for step in steps {
        if let Step::Pass(millis) = step {
            now += Duration::from_millis((*millis).into());
        }
        if let Some(input) = input(step, &mut asked, now) {
            let before = machine.snapshot().clone();
            let is_list = matches!(input, Input::Listed { .. });
            let told: BTreeSet<Box<[u8]>> = match &input {
                Input::Events(events) => events.iter().map(|event| event.change.key().into()).collect(),
                _ => BTreeSet::new(),
            };
            let is_changed = machine.on(now, input);
            machine.doubt_changed(now);
            let after = machine.snapshot();
            assert!(after.doubtful().all(|entry| after.get(entry.key()).is_none()));
            let differences: Vec<_> = diff(&before, after).collect();
            assert!(is_changed || differences.is_empty(), "a change is told");
            for difference in &differences {
                let entry = difference.before.as_ref().or(difference.after.as_ref()).unwrap();
                assert!(is_list || told.contains(entry.key()), "neither a list nor an event has changed {entry:?}");
            }
            assert_eq!(after.unreadable(), after.entries().filter(|entry| entry.error().is_some()).count());
            assert_eq!(after.revision(), machine.revision);
        }
        machine.doubt_changed(now);
        if let Some(from) = machine.watch(now) {
            assert!(from >= 1, "{from} is no revision");
            assert!(machine.wants_watch() && !machine.must_list);
        }
        if asked.is_none() {
            match machine.action(now) {
                Action::Wait { until } => assert!(until > now, "a time that has passed"),
                action => asked = Some(action),
            }
        }
        assert!(machine.wake(now).is_none_or(|at| at > now), "a time that has passed: {machine:?}");
        if let WatchStatus::Stale { since } = machine.status(now) {
            assert!(since <= now && machine.listed.is_some());
        }
    }
}

proptest! {
    #[test]
    fn no_input_removes_what_neither_a_list_nor_an_event_has((seed, steps) in seed_and_steps()) {
        nothing_is_removed_by_errors(seed, &steps);
    }
}

/// The fuzz target: the same property.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, any::<u64>(), step(), |seed, steps| {
        nothing_is_removed_by_errors(seed, &steps);
        Ok(())
    });
}
