//! Puts that are done after their registration has left.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::registrar::lease::tests::etcd::THEIRS;
use crate::registrar::lease::tests::world::{Fate, TTL, World, fate, secs};
use crate::registrar::lease::tests::{
    Action, Conflict, FailureKind, Input, RegistrationStatus, Relevance, Renewal, is_ours, registered, until, wanted_at,
};

/// Everything that happens on the way to etcd and on the way back, at any time; nobody else touches keys or leases.
fn on_the_way() -> impl Strategy<Value = Fate> {
    fate().prop_map(|fate| match fate {
        Fate::Revoke | Fate::Delete(_) | Fate::Put(..) | Fate::Want(_, _, Conflict::UniqueKey) => Fate::Work,
        Fate::Fail(_) => Fate::Fail(FailureKind::Transient),
        Fate::Pass(seconds) => Fate::Pass(seconds % 3),
        fate => fate,
    })
}

/// What may never happen, at any moment.
#[derive(Default)]
struct Promises {
    /// Keys of registrations that stood since they were last wanted, and are wanted.
    stood: BTreeSet<u8>,
    /// Keys of registrations that have left, or are paused.
    out: BTreeSet<u8>,
    /// Registrations that are leaving, and their keys.
    leaving: Vec<(u64, u8)>,
}

impl Promises {
    fn before(&mut self, world: &World, fate: &Fate) {
        match fate {
            Fate::Leave(key) => {
                self.stood.remove(key);
                self.leaving.extend(world.wanted.get(key).map(|wish| (wish.id, *key)));
            }
            Fate::Want(key, ..) => {
                self.leaving.retain(|(_, other)| other != key);
                if !world.wanted.contains_key(key) {
                    self.out.remove(key);
                }
            }
            Fate::Pause(key, true) => {
                self.stood.remove(key);
            }
            Fate::Pause(key, false) => {
                self.out.remove(key);
            }
            _ => {}
        }
    }

    fn check(&mut self, world: &World) {
        for (key, wish) in &world.wanted {
            match world.machine.status(world.now, wish.id) {
                RegistrationStatus::Registered if !wish.paused => drop(self.stood.insert(*key)),
                RegistrationStatus::Paused if wish.paused => drop(self.out.insert(*key)),
                _ => {}
            }
        }
        self.leaving.retain(|(id, key)| {
            let closed = world.machine.status(world.now, *id) == RegistrationStatus::Closed;
            closed.then(|| self.out.insert(*key)).is_none()
        });
        let ours = world.ours();
        for key in &self.stood {
            assert!(ours.contains_key([*key].as_slice()), "{key} is gone: {:?}\n{:?}", world.machine, world.etcd);
        }
        for key in &self.out {
            assert!(!ours.contains_key([*key].as_slice()), "{key} stands: {:?}\n{:?}", world.machine, world.etcd);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// F7: no key of a registration that has left stands, and no other registration's key is ever gone, whenever whatever was
    /// given up arrives.
    #[test]
    fn what_has_left_stays_away_and_what_stands_stays((seed, fates) in seed_and_fates()) {
        promises_hold(seed, &fates)?;
    }
}

fn promises_hold(seed: u64, fates: &[Fate]) -> TestCaseResult {
    let (mut world, mut promises) = (World::new(seed), Promises::default());
    for fate in fates {
        promises.before(&world, fate);
        world.suffer(fate);
        promises.check(&world);
        renew_in_time(&mut world);
    }
    // What was given up is still on its way.
    let held = std::mem::take(&mut world.given_up);
    world.settle();
    promises.check(&world);
    let end = world.now + secs(TTL.cast_unsigned());
    while !is_clean(&world) || world.etcd.leases.len() > 1 {
        prop_assert!(world.now < end, "a lease is not left: {:?}", world.machine);
        world.work(None);
        promises.check(&world);
    }
    world.given_up = held;
    while !world.given_up.is_empty() {
        world.arrive(0);
        promises.check(&world);
    }
    prop_assert!(world.is_right(), "{:?}\n{:?}", world.machine, world.etcd);
    Ok(())
}

fn seed_and_fates() -> impl Strategy<Value = (u64, Vec<Fate>)> {
    (any::<u64>(), proptest::collection::vec(on_the_way(), 0..150))
}

/// The fuzz target: the same property.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, any::<u64>(), on_the_way(), |seed, fates| promises_hold(seed, &fates));
}

/// No lease ends because its renewals fail for too long: what stood under it would be gone by right.
fn renew_in_time(world: &mut World) {
    let mut asked = Vec::new();
    while let Renewal::Now { lease } = world.machine.renewal(world.now, &asked) {
        asked.push(lease);
        if world.etcd.leases.get(&lease).is_some_and(|ends| *ends < world.now + secs(6)) {
            world.renew(lease, None);
        }
    }
}

/// Nothing is left to do for what has left.
fn is_clean(world: &World) -> bool {
    world.machine.registrations.values().len() == world.wanted.len()
}

/// Two registrations stand, and a put of a third, or of what it is changed to, is on its way.
pub(super) fn with_a_put(changes: bool) -> (World, Action) {
    let mut world = registered();
    world.suffer(&Fate::Want(2, 1, Conflict::TakeOver));
    world.settle();
    if changes {
        world.suffer(&Fate::Want(3, 1, Conflict::TakeOver));
        world.settle();
        world.suffer(&Fate::Update(3, 2));
    } else {
        world.suffer(&Fate::Want(3, 1, Conflict::TakeOver));
    }
    let put = world.begin().expect("a put");
    assert!(matches!(put, Action::Put { .. }), "{put:?}");
    (world, put)
}

/// It is given up, and the others stand all the time until nothing can come of it.
fn given_up(world: &mut World, put: &Action, leaves: impl Fn(&mut World)) {
    let lease = world.machine.lease().expect("a lease");
    leaves(world);
    assert_eq!(world.machine.relevance(put), Relevance::Brief);
    world.machine.on(world.now, put, Input::Abandoned);
    let end = world.now + secs(1);
    while world.etcd.leases.contains_key(&lease) {
        assert!(world.now < end, "{:?}", world.machine);
        assert!(world.etcd.keys.contains_key(&vec![1]) && world.etcd.keys.contains_key(&vec![2]));
        world.catch_up();
        world.work(None);
    }
    assert!(
        matches!(world.etcd.serve(world.now, put), Input::Failed(_) | Input::PutMismatch { .. }),
        "nothing comes of it"
    );
    world.settle();
    assert!(is_ours(world, 1) && is_ours(world, 2) && !is_ours(world, 3));
    assert_eq!(world.etcd.leases.len(), 1);
}

/// F7: a put is held, and its registration leaves, is paused, or gets another key: the others are put under another lease, and
/// the first is revoked.
#[test]
fn what_stays_is_put_under_another_lease() {
    for changes in [false, true] {
        let (mut world, put) = with_a_put(changes);
        given_up(&mut world, &put, |world| world.suffer(&Fate::Leave(3)));
        let (mut world, put) = with_a_put(changes);
        given_up(&mut world, &put, |world| world.suffer(&Fate::Pause(3, true)));
    }
    let (mut world, put) = with_a_put(false);
    let id = world.wanted.remove(&3).expect("the third").id;
    world.machine.on(world.now, &put, Input::Failed(FailureKind::Transient));
    world.tell(Input::Updated { id, desired: wanted_at(4, Conflict::TakeOver) });
    let lease = world.machine.lease().expect("a lease");
    until(&mut world, "the first lease to end", |world| !world.etcd.leases.contains_key(&lease));
    world.etcd.serve(world.now, &put);
    assert!(is_ours(&world, 1) && is_ours(&world, 2) && is_ours(&world, 4) && !is_ours(&world, 3));
}

/// F7: the only one is out with its lease, and needs no other for that.
#[test]
fn the_only_one_is_out_with_its_lease() {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    world.work(None);
    let put = world.begin().expect("a put");
    world.suffer(&Fate::Leave(1));
    world.machine.on(world.now, &put, Input::Abandoned);
    let revoke = world.begin().expect("a revocation");
    assert!(matches!(revoke, Action::Revoke { .. }), "{revoke:?}");
    let done = world.etcd.serve(world.now, &revoke);
    world.machine.on(world.now, &revoke, done);
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Closed);
}

/// F7: twenty leave at once, the puts of all of them held: one move serves all.
#[test]
fn twenty_that_leave_at_once_cost_one_move() {
    let mut world = registered();
    world.suffer(&Fate::Want(2, 1, Conflict::Wait));
    world.settle();
    for key in 10..30 {
        world.suffer(&Fate::Want(key, 1, Conflict::TakeOver));
    }
    let mut puts = Vec::new();
    for _ in 0..20 {
        let Some(put) = world.begin() else { break };
        puts.push(put);
    }
    assert_eq!(puts.len(), 20);
    let before = world.etcd.revision;
    for key in 10..30 {
        world.suffer(&Fate::Leave(key));
    }
    puts.iter().for_each(|put| world.machine.on(world.now, put, Input::Abandoned));
    let mut grants = 0;
    let end = world.now + secs(5);
    while !world.is_right() || !is_clean(&world) {
        assert!(world.now < end, "{:?}", world.machine);
        let Some(action) = world.begin() else { continue };
        grants += usize::from(matches!(action, Action::Grant { .. }));
        let input = world.etcd.serve(world.now, &action);
        world.machine.on(world.now, &action, input);
    }
    assert_eq!((grants, world.etcd.revision - before), (1, 2), "two keys are put, once each");
    puts.iter().for_each(|put| drop(world.etcd.serve(world.now, put)));
    assert!(world.is_right());
}

/// F7, F61: no other lease is to be had while etcd is full. What wants out is out all the same, the others stand, and once there
/// is room the lease is left.
#[test]
fn what_wants_out_is_out_where_no_other_lease_is_to_be_had() {
    for pauses in [false, true] {
        let (mut world, put) = with_a_put(true);
        let (id, lease) = (world.wanted[&3].id, world.machine.lease().expect("a lease"));
        world.suffer(&if pauses { Fate::Pause(3, true) } else { Fate::Leave(3) });
        world.machine.on(world.now, &put, Input::Abandoned);
        let end = world.now + secs(20);
        while world.now < end {
            world.catch_up();
            assert!(is_ours(&world, 1) && is_ours(&world, 2));
            match world.begin() {
                Some(full @ (Action::Grant { .. } | Action::Put { .. })) => {
                    world.machine.on(world.now, &full, Input::Failed(FailureKind::Permanent));
                }
                Some(action) => {
                    let done = world.etcd.serve(world.now, &action);
                    world.machine.on(world.now, &action, done);
                }
                None => {}
            }
            if let Renewal::Now { lease: id } = world.machine.renewal(world.now, &[]) {
                world.renew(id, None);
            }
        }
        let out = if pauses { RegistrationStatus::Paused } else { RegistrationStatus::Closed };
        assert_eq!(world.machine.status(world.now, id), out);
        assert!(!world.etcd.keys.contains_key(&vec![3]) && world.etcd.leases.contains_key(&lease));
        // What was held arrives where there is room: it goes again, and the lease is left.
        world.etcd.serve(world.now, &put);
        until(&mut world, "the lease to end", |world| !world.etcd.leases.contains_key(&lease));
        world.etcd.serve(world.now, &put);
        world.settle();
    }
}

/// F7: the lease ends while it is being left, or the one it is left for does.
#[test]
fn a_lease_that_ends_on_the_way_costs_no_more_than_itself() {
    for ends_first in [true, false] {
        let (mut world, put) = with_a_put(false);
        let first = world.machine.lease().expect("a lease");
        world.suffer(&Fate::Leave(3));
        world.machine.on(world.now, &put, Input::Abandoned);
        // Granted, and one of the two keys put.
        until(&mut world, "a key under the other lease", |world| {
            world.etcd.keys.values().any(|found| found.lease != first && found.lease != 0)
        });
        let other = world.etcd.leases.keys().copied().find(|id| *id != first).expect("the other");
        world.etcd.revoke(if ends_first { first } else { other });
        world.etcd.serve(world.now, &put);
        world.settle();
        assert!(!world.etcd.keys.contains_key(&vec![3]));
    }
}

/// F7: what another has put is left to it, also while a lease is left.
#[test]
fn a_key_that_another_took_on_the_way_is_left_to_it() {
    let (mut world, put) = with_a_put(false);
    world.suffer(&Fate::Leave(3));
    world.machine.on(world.now, &put, Input::Abandoned);
    // Nobody has told of it yet.
    world.etcd.put(&[2], b"x", THEIRS);
    world.etcd.events.clear();
    until(&mut world, "left to it", |world| world.machine.status(world.now, 2) == RegistrationStatus::HeldByOther);
    assert_eq!(world.etcd.keys[&vec![2]].lease, THEIRS);
}
