//! What is doubtful: by the rules, one by one, and against a model that keeps all of history.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;
use crate::instance::Instance;
use crate::resolver::snapshot::diff;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn key_of(key: u8) -> [u8; 3] {
    [b's', b'/', key]
}

fn entry(key: u8, lease: i64) -> SnapshotEntry {
    let instance = Instance::new(format!("h:{}", u16::from(key) + 1)).unwrap();
    SnapshotEntry::new(&key_of(key), Ok(vec![instance])).with_lease(lease)
}

/// A snapshot and the machine beside it.
struct World {
    losses: DoubtfulLosses,
    snapshot: Snapshot,
    now: Duration,
}

impl World {
    fn new(options: MassLoss) -> Self {
        Self { losses: DoubtfulLosses::new(options), snapshot: Snapshot::default(), now: secs(100) }
    }

    /// Instances 1 to `count`, each under a lease of its own.
    fn with(count: u8) -> Self {
        let mut world = Self::new(MassLoss::default());
        world.list((1..=count).map(|key| (key, key.into())));
        assert!(world.doubtful().is_empty());
        world
    }

    fn step<R>(&mut self, cause: Cause, change: impl FnOnce(&mut Snapshot) -> R) {
        let before = self.snapshot.clone();
        change(&mut self.snapshot);
        let mut step = Step { cause, known: before.len(), left: self.snapshot.len(), gone: vec![], came: vec![] };
        for difference in diff(&before, &self.snapshot) {
            match (difference.before, difference.after) {
                (Some(entry), None) => step.gone.push(entry),
                (None, Some(entry)) => step.came.push(entry.key().into()),
                _ => {}
            }
        }
        self.losses.on_step(self.now, step);
    }

    fn list(&mut self, keys: impl IntoIterator<Item = (u8, i64)>) {
        self.step(Cause::ListAfterBreak, |snapshot| {
            snapshot.restore(1, keys.into_iter().map(|(key, lease)| entry(key, lease)).collect())
        });
    }

    fn delete(&mut self, keys: &[u8]) {
        self.step(Cause::Events, |snapshot| keys.iter().for_each(|key| drop(snapshot.remove(&key_of(*key)))));
    }

    fn put(&mut self, key: u8) {
        self.step(Cause::Events, |snapshot| snapshot.put(entry(key, key.into())));
    }

    fn doubtful(&mut self) -> Vec<(u8, Doubt)> {
        self.losses.expire(self.now);
        self.losses.doubtful.entries().map(|entry| (entry.key()[2], entry.doubt().unwrap())).collect()
    }
}

#[test]
fn a_list_with_fewer_than_half_is_a_sudden_loss() {
    for (left, doubtful) in [(vec![1, 2], vec![]), (vec![1], vec![2, 3, 4]), (vec![], vec![1, 2, 3, 4])] {
        let mut world = World::with(4);
        world.list(left.into_iter().map(|key| (key, key.into())));
        let expected: Vec<_> = doubtful.into_iter().map(|key| (key, Doubt::Sudden)).collect();
        assert_eq!(world.doubtful(), expected);
    }
}

#[test]
fn new_instances_count_as_left() {
    let mut world = World::with(4);
    world.list([(7, 7), (8, 8)]);
    assert!(world.doubtful().is_empty(), "as many as half are there");
}

#[test]
fn one_revision_is_sudden_if_its_keys_have_several_owners() {
    for (leases, doubt) in [
        ([1, 2, 3, 4], Doubt::Sudden),
        ([0, 0, 0, 0], Doubt::Sudden),
        ([0, 1, 1, 1], Doubt::Sudden),
        ([5, 5, 5, 5], Doubt::Gradual), // one owner has left
    ] {
        let mut world = World::new(MassLoss::default());
        world.list((1..=4).zip(leases));
        world.delete(&[1, 2, 3]);
        assert_eq!(world.doubtful(), [(1, doubt), (2, doubt), (3, doubt)], "{leases:?}");
    }
}

#[test]
fn a_lease_counts_as_it_is_now() {
    let mut world = World::new(MassLoss::default());
    world.list((1..=4).map(|key| (key, 5)));
    world.step(Cause::Events, |snapshot| assert!(!snapshot.put(entry(1, 9)), "an equal record")); // its registrar has moved
    world.delete(&[1, 2, 3]);
    assert_eq!(world.doubtful()[0], (1, Doubt::Sudden));
}

#[test]
fn keys_that_go_one_by_one_are_doubtful_from_half_on() {
    let mut world = World::with(5);
    for key in 1..=5 {
        world.delete(&[key]);
        world.now += secs(1);
    }
    assert_eq!(world.doubtful(), [(3, Doubt::Gradual), (4, Doubt::Gradual), (5, Doubt::Gradual)]);
}

#[test]
fn the_most_of_the_last_thirty_seconds_counts() {
    let mut world = World::with(5);
    world.delete(&[1]);
    world.now += secs(31);
    world.delete(&[2]); // 4 a moment before, 5 half a minute before
    world.delete(&[3]);
    assert!(world.doubtful().is_empty(), "2 of 4");
    world.now += secs(30);
    world.delete(&[4]);
    assert_eq!(world.doubtful(), [(4, Doubt::Gradual)], "1 of 4: they were there 30 s ago");
    world.now += secs(31);
    world.put(6);
    world.delete(&[6]);
    assert_eq!(world.doubtful(), [(4, Doubt::Gradual)], "1 of 2");
}

#[test]
fn a_key_that_is_put_again_is_ordinary_and_its_next_loss_is_believed() {
    let mut world = World::with(3);
    world.delete(&[1, 2, 3]);
    assert_eq!(world.doubtful().len(), 3);
    for key in 1..=3 {
        world.put(key);
    }
    assert!(world.doubtful().is_empty());
    world.now += secs(59);
    world.delete(&[1, 2]);
    assert!(world.doubtful().is_empty());
    world.put(1);
    world.put(2);
    world.now += secs(1);
    world.delete(&[1, 2, 3]);
    assert_eq!(world.doubtful().len(), 3, "a minute later it is a loss as any other");
}

#[test]
fn a_doubt_ends_after_its_time_and_says_when() {
    let mut world = World::new(MassLoss::default().delay_removals(secs(10)));
    world.list((1..=3).map(|key| (key, 0)));
    assert_eq!(world.losses.wake(), None);
    world.delete(&[1, 2, 3]);
    let began = world.now;
    assert_eq!(world.losses.take_changes().unwrap().len(), 3);
    assert!(world.losses.take_changes().is_none());
    assert!(world.losses.delay_changed() && !world.losses.delay_changed());
    world.losses.expire(began + Duration::from_millis(9_999));
    assert_eq!((world.losses.delayed().len(), world.losses.wake()), (3, Some(began + secs(10))));
    assert!(!world.losses.delay_changed());
    world.losses.expire(began + secs(10));
    assert_eq!((world.losses.delayed().len(), world.losses.wake()), (0, Some(began + secs(60))));
    assert!(world.losses.delay_changed() && world.losses.take_changes().is_none());
    world.now = began + secs(60);
    assert!(world.doubtful().is_empty());
    assert_eq!(world.losses.take_changes().unwrap().len(), 0);
    assert_eq!(world.losses.wake(), None);
}

/// Time passes between two looks at the clock: what is over by then, and has not been taken in, is due at once.
#[test]
fn a_doubt_that_is_over_and_was_not_yet_ended_is_due() {
    let mut world = World::with(3);
    world.delete(&[1, 2, 3]);
    let end = world.now + secs(60);
    world.losses.expire(world.now + Duration::from_millis(59_999));
    assert_eq!((world.losses.doubtful.len(), world.losses.wake()), (3, Some(end)));
}

#[test]
fn a_key_that_is_lost_again_is_doubtful_for_the_whole_time() {
    let mut world = World::with(3);
    world.list([]);
    world.now += secs(50);
    (1..=3).for_each(|key| world.put(key));
    world.list([]);
    world.now += secs(50); // the first end has come
    assert_eq!(world.doubtful().len(), 3);
    world.now += secs(10);
    assert!(world.doubtful().is_empty());
}

/// What names no instance that takes calls has no owner that could leave, and is not missed.
#[test]
fn keys_that_cannot_be_read_and_servers_that_drain_are_no_owners() {
    let draining = |key| {
        let instance = Instance::new("h:1").unwrap().with_draining(true);
        SnapshotEntry::new(&key_of(key), Ok(vec![instance])).with_lease(8)
    };
    let unreadable = |key| SnapshotEntry::new(&key_of(key), Err(crate::codec::DecodeError::new("bad")));
    let mut world = World::new(MassLoss::default());
    world.step(Cause::ListAfterBreak, |snapshot| {
        let entries = (1..=4).map(|key| entry(key, 5)).chain([draining(8), unreadable(9)]);
        snapshot.restore(1, entries.collect())
    });
    world.delete(&[1, 2, 3, 4, 8, 9]); // one owner has left, with all that it had below the prefix
    let expected: Vec<_> = (1..=4).map(|key| (key, Doubt::Gradual)).collect();
    assert_eq!(world.doubtful(), expected);
}

/// An etcd that was wiped is restored from its backup after its servers have registered again.
#[test]
fn a_list_is_no_deletion_that_is_believed() {
    let mut world = World::with(3);
    world.list([]);
    (1..=3).for_each(|key| world.put(key));
    world.list([]);
    assert_eq!(world.doubtful().len(), 3);
}

#[test]
fn a_list_beside_an_open_watch_is_no_sudden_loss() {
    let mut world = World::with(4);
    world.step(Cause::List, |snapshot| snapshot.restore(1, vec![]));
    assert!(world.doubtful().iter().all(|(_, doubt)| *doubt == Doubt::Gradual));
}

#[test]
fn only_sudden_losses_are_delayed() {
    let mut world = World::new(MassLoss::default().delay_removals(secs(10)));
    world.list((1..=3).map(|key| (key, key.into())));
    world.delete(&[1]);
    world.delete(&[2]);
    assert_eq!(world.doubtful(), [(2, Doubt::Gradual)]);
    assert!(world.losses.delayed().is_empty());
}

#[test]
fn nothing_is_doubtful_if_it_is_turned_off() {
    for options in [MassLoss::never_doubtful(), MassLoss::default().percent_left(0)] {
        let mut world = World::new(options);
        world.list((1..=9).map(|key| (key, 0)));
        world.list([]);
        assert!(world.doubtful().is_empty(), "{options:?}");
    }
    let mut world = World::new(MassLoss::default().within(Duration::ZERO));
    world.list((1..=3).map(|key| (key, key.into())));
    (1..=3).for_each(|key| world.delete(&[key]));
    assert!(world.doubtful().is_empty());
}

#[derive(Clone, Debug)]
enum Move {
    /// After a break, or not.
    List(bool, Vec<(u8, i64)>),
    /// Keys that are put, and keys that are deleted, in one revision.
    Revision(Vec<(u8, i64)>, Vec<u8>),
    /// Tenths of seconds.
    Pass(u16),
}

fn moves() -> impl Strategy<Value = Move> {
    let keys = |most| proptest::collection::vec((0_u8..12, 0_i64..4), 0..most);
    prop_oneof![
        1 => (any::<bool>(), keys(12)).prop_map(|(after_break, keys)| Move::List(after_break, keys)),
        4 => (keys(4), proptest::collection::vec(0_u8..12, 0..3)).prop_map(|(puts, deletes)| Move::Revision(puts, deletes)),
        2 => (0_u16..400).prop_map(Move::Pass),
    ]
}

fn options() -> impl Strategy<Value = MassLoss> {
    (0_usize..5, 0_u32..=100, 0_u64..40, 0_u64..70).prop_map(|(least, percent, within, time)| {
        MassLoss::default().min_instances(least).percent_left(percent).within(secs(within)).doubtful_for(secs(time))
    })
}

/// What the rules say, from all that ever happened.
#[derive(Default)]
struct Model {
    /// The number of instances from each time on.
    counts: Vec<(Duration, usize)>,
    doubtful: BTreeMap<u8, (Doubt, Duration)>,
    /// When a key that was doubtful was put again, if it was not lost since.
    returned: BTreeMap<u8, Duration>,
}

impl Model {
    fn step(&mut self, options: MassLoss, now: Duration, cause: Cause, before: &Snapshot, after: &Snapshot) {
        self.doubtful.retain(|_, (_, since)| now < *since + options.doubtful_for);
        let returned: Vec<u8> =
            self.doubtful.keys().copied().filter(|key| after.get(&key_of(*key)).is_some()).collect();
        for key in returned {
            self.doubtful.remove(&key);
            self.returned.insert(key, now);
        }
        // Each count held until the next one came.
        let until = self.counts.iter().skip(1).map(|(at, _)| *at).chain([now]);
        let recent = self.counts.iter().zip(until).filter(|(_, until)| *until + options.within >= now);
        let peak = recent.map(|((_, count), _)| *count).max().unwrap_or(0).max(before.len());
        let peak = if options.within.is_zero() { 0 } else { peak };
        self.counts.push((now, after.len()));
        let gone: Vec<&SnapshotEntry> = before.entries().filter(|entry| after.get(entry.key()).is_none()).collect();
        let owners: BTreeSet<(i64, u8)> =
            gone.iter().map(|entry| (entry.lease(), if entry.lease() == 0 { entry.key()[2] } else { 0 })).collect();
        let at_once = match cause {
            Cause::Events => owners.len() > 1,
            Cause::List => false,
            Cause::ListAfterBreak => true,
        };
        let doubt = if at_once && options.is_doubtful(before.len(), after.len()) {
            Some(Doubt::Sudden)
        } else {
            options.is_doubtful(peak, after.len()).then_some(Doubt::Gradual)
        };
        for entry in gone {
            let Some(doubt) = doubt else { continue };
            let is_believed = cause == Cause::Events
                && self.returned.remove(&entry.key()[2]).is_some_and(|at| now < at + options.doubtful_for);
            if !is_believed {
                self.doubtful.insert(entry.key()[2], (doubt, now));
            }
        }
    }
}

fn follows_the_rules(options: MassLoss, steps: &[Move]) -> TestCaseResult {
    let (mut world, mut model) = (World::new(options), Model::default());
    for step in steps {
        let before = world.snapshot.clone();
        let cause = match step {
            Move::Pass(tenths) => {
                world.now += Duration::from_millis(u64::from(*tenths) * 100);
                None
            }
            Move::List(after_break, keys) => {
                let cause = if *after_break { Cause::ListAfterBreak } else { Cause::List };
                let entries = keys.iter().map(|(key, lease)| entry(*key, *lease)).collect();
                world.step(cause, |snapshot| snapshot.restore(1, entries));
                Some(cause)
            }
            Move::Revision(puts, deletes) => {
                world.step(Cause::Events, |snapshot| {
                    deletes.iter().for_each(|key| drop(snapshot.remove(&key_of(*key))));
                    for (key, lease) in puts {
                        snapshot.put(entry(*key, *lease));
                    }
                });
                Some(Cause::Events)
            }
        };
        if let Some(cause) = cause {
            model.step(options, world.now, cause, &before, &world.snapshot);
        }
        model.doubtful.retain(|_, (_, since)| world.now < *since + options.doubtful_for);
        let expected: Vec<(u8, Doubt)> = model.doubtful.iter().map(|(key, (doubt, _))| (*key, *doubt)).collect();
        prop_assert_eq!(world.doubtful(), expected);
        let next = model.doubtful.values().map(|(_, since)| *since + options.doubtful_for).min();
        let wake = world.losses.wake();
        prop_assert!(wake.is_none_or(|at| at > world.now), "nothing is left to do");
        prop_assert!(next.is_none_or(|next| wake.is_some_and(|at| at <= next)), "a doubt ends by time alone");
        if let Some(changed) = world.losses.take_changes() {
            let keys: Vec<u8> = changed.entries().map(|entry| entry.key()[2]).collect();
            prop_assert!(keys.is_sorted() && keys.iter().all(|key| world.snapshot.get(&key_of(*key)).is_none()));
        }
        prop_assert!(world.losses.peaks.iter().is_sorted_by(|one, next| one.0 <= next.0 && one.1 > next.1));
        prop_assert!(world.losses.peaks.len() <= steps.len());
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_is_doubtful_follows_from_the_rules(options in options(), steps in proptest::collection::vec(moves(), 0..60)) {
        follows_the_rules(options, &steps)?;
    }
}

/// The fuzz target: the same property.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, options(), moves(), |options, steps| follows_the_rules(options, &steps));
}
