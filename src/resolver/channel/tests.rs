//! What a channel is told of views, whichever of them it skips.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;
use crate::address_index::{AddressChange, Doubt};
use crate::balance::pool::members::Members;
use crate::instance::Instance;
use crate::resolver::mass_loss::MassLoss;
use crate::resolver::watch::{Action, Change, Event, FailureKind, Input, Machine};

/// The record of a key: one instance for each address.
fn entry(key: &str, addresses: &[&str]) -> SnapshotEntry {
    let instances = addresses.iter().map(|address| Instance::new(*address).unwrap()).collect();
    SnapshotEntry::new(key.as_bytes(), Ok(instances))
}

fn view(listed: &[SnapshotEntry], doubtful: &[(SnapshotEntry, Doubt)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    listed.iter().for_each(|entry| assert!(snapshot.put(entry.clone())));
    let mut lost = Snapshot::default();
    doubtful.iter().for_each(|(entry, doubt)| assert!(lost.put(entry.clone().in_doubt(*doubt))));
    snapshot.set_doubtful(Arc::new(lost));
    snapshot
}

/// The addresses that a channel keeps after these views, with their doubt.
fn kept(views: &[Snapshot]) -> BTreeMap<String, Option<Doubt>> {
    let (mut members, mut seen, mut kept) = (Members::new(), Snapshot::default(), BTreeMap::new());
    for view in views {
        changes(&seen, view).into_iter().for_each(|change| members.apply(change));
        seen = view.clone();
        for change in members.take_changes() {
            match change {
                AddressChange::Present { address, .. } => drop(kept.insert(address.authority().into(), None)),
                AddressChange::InDoubt(authority, doubt) => {
                    kept.insert(authority.as_str().to_owned(), Some(doubt));
                }
                AddressChange::Gone(authority) => drop(kept.remove(authority.as_str())),
            }
        }
    }
    kept
}

/// A record gets one instance fewer, and is lost before the channel has looked.
#[test]
fn what_a_skipped_view_has_removed_is_not_kept_after_the_doubt() {
    let both = entry("s/1", &["h:1", "h:2"]);
    let one = entry("s/1", &["h:1"]);
    let listed = view(&[both], &[]);
    let updated = view(std::slice::from_ref(&one), &[]);
    let lost = view(&[], &[(one, Doubt::Sudden)]);
    let over = view(&[], &[]);
    let (every, some) = ([listed.clone(), updated, lost.clone(), over.clone()], [listed, lost, over]);
    assert_eq!(kept(&every[..3]), [("h:1".to_owned(), Some(Doubt::Sudden))].into());
    assert_eq!(kept(&every), BTreeMap::new());
    assert_eq!(kept(&some), BTreeMap::new(), "nothing is doubtful any more");
    assert_eq!(kept(&some[..2]), kept(&every[..3]), "the record that was lost names one address");
}

/// A server says that it drains, and its key is lost before the channel has looked.
#[test]
fn what_was_draining_when_it_was_lost_is_not_kept() {
    let serving = entry("s/1", &["h:1"]);
    let instance = Instance::new("h:1").unwrap().with_draining(true);
    let draining = SnapshotEntry::new(b"s/1", Ok(vec![instance]));
    let views =
        [view(&[serving], &[]), view(std::slice::from_ref(&draining), &[]), view(&[], &[(draining, Doubt::Sudden)])];
    assert_eq!(kept(&views), BTreeMap::new());
    assert_eq!(kept(&[views[0].clone(), views[2].clone()]), BTreeMap::new(), "one view is skipped");
}

/// A key is put again and lost again, in another way, before the channel has looked.
#[test]
fn the_last_loss_of_a_key_is_the_one_that_counts() {
    let (one, two) = (entry("s/1", &["h:1"]), entry("s/1", &["h:2"]));
    let views = [
        view(&[one.clone(), entry("s/2", &["h:9"])], &[]),
        view(&[entry("s/2", &["h:9"])], &[(one.clone(), Doubt::Sudden)]),
        view(&[entry("s/2", &["h:9"]), one.clone()], &[]),
        view(&[entry("s/2", &["h:9"])], &[(one.clone(), Doubt::Gradual)]),
    ];
    let expected = kept(&views);
    assert_eq!(expected["h:1"], Some(Doubt::Gradual));
    assert_eq!(kept(&[views[0].clone(), views[1].clone(), views[3].clone()]), expected, "one view is skipped");
    let moved = [
        view(std::slice::from_ref(&one), &[]),
        view(&[], &[(one, Doubt::Sudden)]),
        view(std::slice::from_ref(&two), &[]),
        view(&[], &[(two, Doubt::Sudden)]),
    ];
    assert_eq!(kept(&moved), [("h:2".to_owned(), Some(Doubt::Sudden))].into());
    let skipped = kept(&[moved[0].clone(), moved[1].clone(), moved[3].clone()]);
    assert!(!skipped.contains_key("h:1"), "{skipped:?}");
}

#[derive(Clone, Debug)]
enum Step {
    /// The addresses of a record.
    Put(u8, Vec<u8>),
    Delete(Vec<u8>),
    /// Everything is read again, and this is left.
    Relist(Vec<u8>),
    /// Seconds.
    Pass(u64),
    /// The reader sees the present view.
    See,
}

fn step() -> impl Strategy<Value = Step> {
    let keys = |most| proptest::collection::vec(0_u8..6, 0..most);
    prop_oneof![
        4 => (0_u8..6, proptest::collection::vec(0_u8..8, 1..4)).prop_map(|(key, hosts)| Step::Put(key, hosts)),
        2 => keys(7).prop_map(Step::Delete),
        1 => keys(3).prop_map(Step::Relist),
        1 => (0_u64..40).prop_map(Step::Pass),
        3 => Just(Step::See),
    ]
}

fn record(key: u8, hosts: &[u8]) -> SnapshotEntry {
    let instances = hosts.iter().map(|host| Instance::new(format!("h{host}:1")).unwrap()).collect();
    SnapshotEntry::new(&[b's', b'/', key], Ok(instances)).with_lease(i64::from(key) + 1)
}

fn named<'a>(instances: impl Iterator<Item = &'a Instance>) -> BTreeSet<String> {
    instances.flat_map(Instance::addresses).map(|address| address.authority().to_owned()).collect()
}

/// A reader that skips views as it likes.
fn reader_knows(steps: &[Step]) -> TestCaseResult {
    let (mut machine, mut now) = (Machine::new(1, MassLoss::default()), Duration::from_secs(1));
    let _ = machine.action(now);
    machine.on(now, Input::Listed { revision: 1, cluster: 1, entries: Vec::new() });
    let (mut members, mut seen) = (Members::new(), Snapshot::default());
    let (mut present, mut in_doubt) = (BTreeSet::new(), BTreeSet::new());
    for (revision, step) in (2..).zip(steps.iter().chain([&Step::See, &Step::Pass(60), &Step::See])) {
        match step {
            Step::Put(key, hosts) => {
                let change = Change::Put(record(*key, hosts));
                machine.on(now, Input::Events(vec![Event { revision, change }]));
            }
            Step::Delete(keys) => {
                let delete = |key: &u8| Event { revision, change: Change::Delete(record(*key, &[0]).key().into()) };
                machine.on(now, Input::Events(keys.iter().map(delete).collect()));
            }
            Step::Relist(keys) => {
                machine.on(now, Input::Canceled(FailureKind::Revision));
                now += Duration::from_secs(30);
                while !matches!(machine.action(now), Action::List) {
                    now += Duration::from_secs(30);
                }
                let left = |entry: &&SnapshotEntry| keys.contains(&entry.key()[2]);
                let entries = machine.snapshot().entries().filter(left).cloned().collect();
                machine.on(now, Input::Listed { revision, cluster: 1, entries });
            }
            Step::Pass(secs) => now += Duration::from_secs(*secs),
            Step::See => {
                machine.doubt_changed(now);
                let view = machine.snapshot().clone();
                changes(&seen, &view).into_iter().for_each(|change| members.apply(change));
                for change in members.take_changes() {
                    match change {
                        AddressChange::Present { address, .. } => {
                            in_doubt.remove(address.authority());
                            present.insert(address.authority().to_owned());
                        }
                        AddressChange::InDoubt(authority, _) => {
                            present.remove(authority.as_str());
                            in_doubt.insert(authority.as_str().to_owned());
                        }
                        AddressChange::Gone(authority) => {
                            present.remove(authority.as_str());
                            in_doubt.remove(authority.as_str());
                        }
                    }
                }
                prop_assert_eq!(&present, &named(view.instances()));
                let doubtful = named(view.doubtful().flat_map(SnapshotEntry::instances));
                prop_assert!(in_doubt.is_subset(&doubtful), "{:?} in doubt, {:?} doubtful", in_doubt, doubtful);
                seen = view;
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_reader_that_skips_views_knows_what_is_listed_and_what_is_doubtful(steps in proptest::collection::vec(step(), 0..60)) {
        reader_knows(&steps)?;
    }
}
