//! A snapshot against a plain map, and its diff against what it must lead to.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use std::collections::BTreeMap;

fn entry(key: u16, port: u16) -> SnapshotEntry {
    let read = match port {
        0 => Err(DecodeError::new("bad")),
        port => Ok(vec![Instance::new(format!("h:{port}")).unwrap().with_draining(port == 3)]),
    };
    SnapshotEntry::new(format!("s/{key:05}").as_bytes(), read)
}

/// What a snapshot must agree with.
type Model = BTreeMap<Vec<u8>, SnapshotEntry>;

fn agrees(snapshot: &Snapshot, model: &Model) {
    assert!(snapshot.entries().eq(model.values()));
    assert_eq!(snapshot.len(), model.values().map(|e| e.instances().len()).sum::<usize>());
    let draining = model.values().flat_map(SnapshotEntry::instances).filter(|instance| instance.is_draining());
    assert_eq!(snapshot.draining(), draining.count());
    assert_eq!(snapshot.unreadable(), model.values().filter(|e| e.error().is_some()).count());
    assert!(model.iter().all(|(key, entry)| snapshot.get(key) == Some(entry)));
    assert!(snapshot.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() < 2 * CHUNK_SIZE));
}

#[derive(Clone, Debug)]
enum Step {
    Put(u16, u16),
    Remove(u16),
    Restore(Vec<(u16, u16)>),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u16..300;
    prop_oneof![
        10 => (key.clone(), 0u16..4).prop_map(|(key, port)| Step::Put(key, port)),
        8 => key.clone().prop_map(Step::Remove),
        1 => proptest::collection::vec((key, 0u16..4), 0..200).prop_map(Step::Restore),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 0..400)
}

fn apply(snapshot: &mut Snapshot, model: &mut Model, step: Step) {
    let before = model.clone();
    let changed = match step {
        Step::Put(key, port) => {
            let entry = entry(key, port);
            model.insert(entry.key.to_vec(), entry.clone());
            snapshot.put(entry)
        }
        Step::Remove(key) => {
            model.remove(entry(key, 1).key());
            snapshot.remove(entry(key, 1).key()).is_some()
        }
        Step::Restore(list) => {
            let entries: Vec<SnapshotEntry> = list.into_iter().map(|(key, port)| entry(key, port)).collect();
            *model = entries.iter().map(|entry| (entry.key.to_vec(), entry.clone())).collect();
            snapshot.restore(1, entries)
        }
    };
    assert_eq!(changed, before != *model);
}

proptest! {
    #[test]
    fn holds_what_was_put_into_it(steps in steps()) {
        agrees_after_each(steps);
    }

    #[test]
    fn a_diff_leads_from_one_to_the_other((common, left, right) in (steps(), steps(), steps())) {
        diff_leads_on(common, left, right)?;
    }
}

fn agrees_after_each(steps: Vec<Step>) {
    let (mut snapshot, mut model) = (Snapshot::default(), Model::new());
    for step in steps {
        apply(&mut snapshot, &mut model, step);
        agrees(&snapshot, &model);
    }
}

fn diff_leads_on(common: Vec<Step>, left: Vec<Step>, right: Vec<Step>) -> TestCaseResult {
    let (mut base, mut model) = (Snapshot::default(), Model::new());
    common.into_iter().for_each(|step| apply(&mut base, &mut model, step));
    let (mut before, mut old) = (base.clone(), model.clone());
    left.into_iter().for_each(|step| apply(&mut before, &mut old, step));
    let (mut after, mut new) = (base, model);
    right.into_iter().for_each(|step| apply(&mut after, &mut new, step));

    agrees(&before, &old);
    agrees(&after, &new);

    let mut walked = old.clone();
    let mut last: Option<Vec<u8>> = None;
    for change in diff(&before, &after) {
        let key = change.before.as_ref().or(change.after.as_ref()).unwrap().key().to_vec();
        prop_assert!(last.as_ref() < Some(&key), "in the order of the keys");
        prop_assert_eq!(change.before.as_deref(), walked.get(&key), "never what was not there");
        prop_assert_ne!(&change.before, &change.after, "never what is equal");
        match &change.after {
            Some(entry) => walked.insert(key.clone(), (**entry).clone()),
            None => walked.remove(&key),
        };
        last = Some(key);
    }
    prop_assert_eq!(walked, new);
    Ok(())
}

/// The fuzz target: the second property, and at its end the first.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, (0_usize..=2, 0_usize..=2), step(), |(left, right), mut common| {
        common.truncate(60); // each step copies the model
        // Up to two thirds of the steps are done on one side alone.
        let part = common.len() / 3;
        let right = common.split_off(common.len() - right * part / 2);
        let left = common.split_off(common.len() - left * part / 2);
        diff_leads_on(common, left, right)
    });
}

#[test]
fn a_change_among_many_copies_one_chunk() {
    let mut snapshot = Snapshot::default();
    snapshot.restore(1, (0..10_000).map(|key| entry(key, 1)).collect());
    let before = snapshot.clone();
    snapshot.put(entry(5_000, 2));
    let shared = snapshot.chunks.iter().zip(&before.chunks).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert_eq!(shared, before.chunks.len() - 1);
    let relisted = snapshot.clone();
    let mut again = (0..10_000).map(|key| entry(key, 1)).collect::<Vec<_>>();
    again[5_000] = entry(5_000, 2);
    assert!(!snapshot.restore(9, again), "an equal list changes nothing");
    assert!(snapshot.chunks.iter().zip(&relisted.chunks).all(|(a, b)| Arc::ptr_eq(a, b)));
}

/// Two values that are read alike are no change, and the later one is kept.
#[test]
fn a_value_that_is_read_as_before_is_kept_without_a_change() {
    let value =
        |snapshot: &Snapshot| snapshot.get(entry(1, 1).key()).and_then(SnapshotEntry::value).map(<[u8]>::to_vec);
    let mut snapshot = Snapshot::default();
    assert!(snapshot.put(entry(1, 1).with_value(b"h:1")));
    let before = snapshot.clone();
    assert!(!snapshot.put(entry(1, 1).with_value(b" h:1")));
    assert_eq!(value(&snapshot).unwrap(), b" h:1");
    assert!(!snapshot.restore(2, vec![entry(1, 1).with_value(b"h:1 ")]));
    assert_eq!(value(&snapshot).unwrap(), b"h:1 ");
    assert_eq!(diff(&before, &snapshot).count(), 0);
    assert!(!format!("{:?}", snapshot.get(entry(1, 1).key())).contains("h:1 "), "values are not shown");
}
