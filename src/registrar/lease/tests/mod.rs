//! The lease machine against a simulated etcd whose answers get lost, whose leases end and whose keys are tampered with.

mod etcd;
mod keys;
pub(crate) mod late;
mod many;
mod moves;
mod refused;
mod unwatchable;
mod world;

use std::time::Duration;

use proptest::prelude::*;

use self::etcd::THEIRS;
use self::world::{Fate, TTL, World, fate, record, secs};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_wanted_stands_in_the_end((seed, fates) in seed_and_fates()) {
        settles(seed, &fates);
    }

    #[test]
    fn two_renewals_may_fail_in_a_row_each_after_all_its_time(
        seed: u64, fates in proptest::collection::vec((any::<bool>(), 0u32..=100), 50..200),
    ) {
        let mut world = registered_with(seed);
        let lease = world.machine.lease();
        let mut failed = 0;
        for (fails, slowness) in fates {
            if let Renewal::At(at) = world.machine.renewal(world.now, &[]) {
                world.now = at;
            }
            let Renewal::Now { lease: id } = world.machine.renewal(world.now, &[]) else { panic!("it is due") };
            world.etcd.expire(world.now);
            let patience = world.machine.request_timeout().unwrap();
            if fails && failed < 2 {
                failed += 1;
                world.now += patience;
                world.tell(Input::RenewalFailed { lease: id, failure: FailureKind::Transient });
            } else {
                failed = 0;
                let answer = world.etcd.renew(world.now, id);
                world.now += patience * slowness / 100;
                world.tell(answer);
            }
            prop_assert_eq!(world.machine.lease(), lease);
            prop_assert_eq!(world.etcd.leases.len(), 1);
        }
    }

    #[test]
    fn a_healthy_etcd_never_loses_the_lease(seed: u64, minutes in 1u64..20) {
        let mut world = World::new(seed);
        world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
        world.settle();
        let lease = world.machine.lease();
        let (before, began) = (world.etcd.renewals, world.now);
        while world.now < secs(minutes * 60) {
            world.work(None);
            prop_assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Registered);
        }
        prop_assert_eq!(world.machine.lease(), lease);
        let thirds = world.now.saturating_sub(began).as_secs_f64() * 3.0 / TTL as f64;
        let renewed = world.etcd.renewals - before;
        prop_assert!(f64::from(renewed) <= thirds + 1.0, "{} renewals in {} thirds", renewed, thirds);
        prop_assert!(f64::from(renewed) >= thirds / 1.2 - 1.0, "{} renewals in {} thirds", renewed, thirds);
    }
}

fn seed_and_fates() -> impl Strategy<Value = (u64, Vec<Fate>)> {
    (any::<u64>(), proptest::collection::vec(fate(), 0..150))
}

fn settles(seed: u64, fates: &[Fate]) {
    let mut world = World::new(seed);
    for fate in fates {
        world.suffer(fate);
    }
    world.settle();
}

/// The fuzz target: the same property.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, any::<u64>(), fate(), |seed, fates| {
        settles(seed, &fates);
        Ok(())
    });
}

fn registered() -> World {
    registered_with(3)
}

fn registered_with(seed: u64) -> World {
    let mut world = World::new(seed);
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    world.settle();
    world
}

#[test]
fn renews_after_a_third_of_the_life() {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    world.work(None);
    let Renewal::At(at) = world.machine.renewal(world.now, &[]) else { panic!("it is granted") };
    assert!(at >= world.now + secs(5) && at <= world.now + secs(6), "{at:?}");
    assert!(matches!(world.machine.renewal(at, &[]), Renewal::Now { .. }));
}

#[test]
fn a_lease_whose_life_nobody_told_is_asked_for_it() {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    let grant = world.machine.action(world.now);
    let Action::Grant { lease: id, .. } = grant else { panic!("{grant:?}") };
    world.machine.on(world.now, &grant, Input::Granted { asked: world.now, seconds: None });
    assert_eq!(world.machine.renewal(world.now, &[]), Renewal::Now { lease: id });
    world.tell(Input::Renewed { lease: id, asked: world.now, seconds: None });
    assert_eq!(world.machine.renewal(world.now, &[]), Renewal::Now { lease: id }, "opening the stream tells nothing");
    world.tell(Input::Renewed { lease: id, asked: world.now, seconds: Some(60) });
    assert!(matches!(world.machine.renewal(world.now + secs(19), &[]), Renewal::At(_)));
    assert_eq!(world.machine.renewal(world.now + secs(24), &[]), Renewal::Now { lease: id });
}

/// The key stands under a lease that lives again, as of an early revision, until the machine puts it anew.
fn restored(world: &mut World, lease: i64) {
    world.suffer(&Fate::Break);
    world.suffer(&Fate::Revoke);
    world.etcd.leases.insert(lease, world.now + secs(TTL.cast_unsigned()));
    world.etcd.revision = 1;
    world.etcd.put(&[1], &[1], lease);
    world.etcd.events.clear();
    let end = world.now + secs(TTL.cast_unsigned());
    while !is_ours(world, 1) {
        assert!(world.now < end, "{:?}", world.machine);
        world.watch();
        if let Renewal::Now { lease: id } = world.machine.renewal(world.now, &[]) {
            world.renew(id, None);
        }
        let action = world.machine.action(world.now);
        if let Action::Wait { .. } = action {
            world.now += Duration::from_millis(100);
        } else {
            let input = world.etcd.serve(world.now, &action);
            world.machine.on(world.now, &action, input);
        }
    }
}

#[test]
fn a_key_that_a_snapshot_brings_back_is_known_by_its_former_lease() {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, Conflict::Wait));
    world.settle();
    let former = world.machine.lease().expect("a lease");
    world.suffer(&Fate::Revoke);
    world.settle();
    assert_ne!(world.machine.lease(), Some(former));
    restored(&mut world, former);
}

#[test]
fn a_key_that_a_snapshot_brings_back_of_who_had_it_before_is_taken_over_again() {
    let mut world = World::new(3);
    world.etcd.put(&[1], &[1], THEIRS);
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    until(&mut world, "taken over", |world| is_ours(world, 1));
    restored(&mut world, THEIRS);
}

#[test]
fn tells_late_from_lost_and_keeps_the_lease_through_both() {
    let mut world = registered();
    let lease = world.machine.lease();
    world.now += secs(5);
    let Renewal::Now { lease: id } = world.machine.renewal(world.now, &[]) else { panic!() };
    world.tell(Input::RenewalFailed { lease: id, failure: FailureKind::Transient });
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Renewing);
    world.now += secs(11);
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Lost);
    let Renewal::Now { lease: id } = world.machine.renewal(world.now, &[]) else {
        panic!("renews what etcd may still hold")
    };
    assert_eq!(Some(id), lease);
    world.tell(Input::Renewed { lease: id, asked: world.now, seconds: Some(TTL) });
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Registered);
}

#[test]
fn one_record_that_is_refused_holds_up_no_other() {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    world.suffer(&Fate::Want(2, 2, Conflict::TakeOver));
    world.work(None);
    let action = world.machine.action(world.now);
    assert!(matches!(action, Action::Put { id: 1, .. }));
    world.machine.on(world.now, &action, Input::Failed(FailureKind::Permanent));
    world.work(None);
    assert_eq!(world.machine.status(world.now, 2), RegistrationStatus::Registered);
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Pending);
}

/// The next request, which is on its way then.
fn begun(world: &mut World) -> Action {
    let action = world.begin().expect("a request");
    world.flying.push((action.clone(), None));
    action
}

#[test]
fn one_of_several_leaves_by_delete_and_the_last_by_revocation() {
    let mut world = registered();
    world.suffer(&Fate::Want(2, 2, Conflict::TakeOver));
    world.settle();
    world.suffer(&Fate::Leave(1));
    let leaves = begun(&mut world);
    assert!(matches!(leaves, Action::Delete { id: 1, .. }), "{leaves:?}");
    world.settle();
    world.suffer(&Fate::Leave(2));
    let leaves = begun(&mut world);
    assert!(matches!(leaves, Action::Revoke { .. }), "{leaves:?}");
    world.settle();
}

#[test]
fn a_revocation_that_cannot_be_done_is_over_when_the_lease_ends() {
    let mut world = registered();
    world.suffer(&Fate::Leave(1));
    let end = world.now + secs(2 * TTL.cast_unsigned() + 6);
    while !world.machine.is_idle() {
        assert!(world.now < end);
        world.work(Some(&Fate::Fail(FailureKind::Transient)));
    }
}

/// Renewals that had no answer may have been done: it lives for longer than is known.
#[test]
fn a_lease_whose_last_renewals_had_no_answer_is_not_forgotten_while_it_may_live() {
    let mut world = registered();
    let lease = world.machine.lease().expect("a lease");
    for _ in 0..2 {
        world.now += secs(14);
        assert_eq!(world.machine.renewal(world.now, &[]), Renewal::Now { lease });
        world.renew(lease, Some(&Fate::LoseAnswer));
    }
    world.suffer(&Fate::Leave(1));
    while !world.machine.is_idle() {
        world.work(Some(&Fate::Fail(FailureKind::Transient)));
    }
    world.etcd.expire(world.now);
    assert!(world.etcd.leases.is_empty(), "{:?}", world.etcd);
}

fn wanted_at(key: u8, conflict: Conflict) -> Desired {
    Desired { records: vec![record(key, 1)], conflict, id: None, paused: false }
}

/// Watches and works until the condition holds.
fn until(world: &mut World, what: &str, condition: impl Fn(&World) -> bool) {
    let end = world.now + secs(200);
    while !condition(world) {
        assert!(world.now < end, "not in time: {what}: {:?}\n{:?}", world.machine, world.etcd);
        world.watch();
        world.work(None);
    }
}

fn is_ours(world: &World, key: u8) -> bool {
    world.etcd.keys.get(&vec![key]).is_some_and(|found| Some(found.lease) == world.machine.lease())
}

/// Whichever of the two is heard of first: what both want now is told in the order of their ids.
#[test]
fn a_key_given_up_may_be_another_registrations_at_once() {
    for (value, leaves, given_up, taken) in (0..8).map(|bits| {
        let (given_up, taken) = if bits & 4 == 0 { (1, 2) } else { (2, 1) };
        (1 + (bits & 1), bits & 2 != 0, given_up, taken)
    }) {
        let mut world = World::new(3);
        world.tell(Input::Added { id: given_up, desired: wanted_at(50, Conflict::TakeOver) });
        world.tell(Input::Added { id: taken, desired: wanted_at(52, Conflict::TakeOver) });
        until(&mut world, "both", |world| is_ours(world, 50) && is_ours(world, 52));
        let mut other = wanted_at(50, Conflict::TakeOver);
        other.records = vec![record(50, value)];
        let gives_up = if leaves {
            Input::Leaving { id: given_up }
        } else {
            Input::Updated { id: given_up, desired: wanted_at(51, Conflict::TakeOver) }
        };
        let takes = Input::Updated { id: taken, desired: other };
        let in_order = if given_up < taken { [gives_up, takes] } else { [takes, gives_up] };
        in_order.into_iter().for_each(|input| world.tell(input));
        let standing = |world: &World, id| world.machine.status(world.now, id);
        let (gone, there) = if leaves { (RegistrationStatus::Closed, 1) } else { (RegistrationStatus::Registered, 2) };
        until(&mut world, "the key has its owner", |world| {
            standing(world, taken) == RegistrationStatus::Registered
                && standing(world, given_up) == gone
                && is_ours(world, 50)
        });
        let stands = |world: &World| world.etcd.keys.values().filter(|found| found.lease != 0).count();
        until(&mut world, "nothing else stands", |world| stands(world) == there);
        assert_eq!(world.etcd.keys[&vec![50]].value, [value]);
    }
}

#[test]
fn an_update_to_a_key_that_is_leaving_elsewhere_takes_it_over() {
    let mut world = World::new(3);
    world.tell(Input::Added { id: 1, desired: wanted_at(50, Conflict::TakeOver) });
    until(&mut world, "the first", |world| is_ours(world, 50));
    world.tell(Input::Added { id: 2, desired: wanted_at(60, Conflict::TakeOver) });
    world.watch();
    let put = world.machine.action(world.now);
    assert!(matches!(put, Action::Put { id: 2, .. }), "{put:?}");
    world.machine.on(world.now, &put, Input::Failed(FailureKind::Transient));
    world.tell(Input::Leaving { id: 2 });
    world.tell(Input::Updated { id: 1, desired: wanted_at(60, Conflict::TakeOver) });
    until(&mut world, "the new key alone", |world| is_ours(world, 60) && !is_ours(world, 50));
    for _ in 0..20 {
        world.watch();
        world.work(None);
    }
    assert!(is_ours(&world, 60), "nobody deletes it");
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Registered);
}

#[test]
fn an_update_to_a_key_that_another_holds_keeps_the_old_one() {
    let mut world = World::new(3);
    world.tell(Input::Added { id: 1, desired: wanted_at(50, Conflict::Wait) });
    until(&mut world, "the old one", |world| is_ours(world, 50));
    world.etcd.put(&[51], b"x", THEIRS);
    world.tell(Input::Updated { id: 1, desired: wanted_at(51, Conflict::Wait) });
    until(&mut world, "held", |world| world.machine.status(world.now, 1) == RegistrationStatus::HeldByOther);
    for _ in 0..20 {
        world.watch();
        world.work(None);
    }
    assert!(is_ours(&world, 50), "it is in etcd somewhere");
    world.etcd.delete(&[51]);
    until(&mut world, "the new one alone", |world| is_ours(world, 51) && !is_ours(world, 50));
}

#[test]
fn a_resumed_one_is_not_lost_and_neither_is_one_that_gets_a_further_address() {
    let mut world = registered();
    world.suffer(&Fate::Pause(1, true));
    world.settle();
    world.suffer(&Fate::Pause(1, false));
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Pending);
    world.settle();
    let records = vec![record(1, 1), record(2, 1)];
    let wanted = Desired { records, ..wanted_at(1, Conflict::TakeOver) };
    world.tell(Input::Updated { id: 1, desired: wanted });
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Updating);
    until(&mut world, "both", |world| is_ours(world, 1) && is_ours(world, 2));
    world.etcd.delete(&[1]);
    world.watch();
    while !world.etcd.events.is_empty() {
        world.watch();
    }
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Lost);
    assert_eq!(world.machine.loss(1), Some(&Loss::Deleted(vec![1])));
}

#[test]
fn what_was_refused_was_not_done_and_leaves_at_once() {
    let mut world = registered();
    world.suffer(&Fate::Want(2, 1, Conflict::TakeOver));
    let put = world.machine.action(world.now);
    assert!(matches!(put, Action::Put { id: 2, .. }));
    world.machine.on(world.now, &put, Input::Failed(FailureKind::Permanent));
    world.suffer(&Fate::Leave(2));
    assert_eq!(world.machine.status(world.now, 2), RegistrationStatus::Closed);
    // Also where it leaves while it is being refused.
    world.suffer(&Fate::Want(3, 1, Conflict::TakeOver));
    let put = world.machine.action(world.now);
    world.suffer(&Fate::Leave(3));
    world.machine.on(world.now, &put, Input::Failed(FailureKind::Permanent));
    assert_eq!(world.machine.status(world.now, 3), RegistrationStatus::Closed);
}

#[test]
fn what_is_undone_again_and_again_is_put_again_once_in_a_second() {
    let mut world = registered();
    world.watch();
    let (began, mut repairs) = (world.now, 0);
    while world.now < began + secs(60) {
        if world.etcd.keys.remove(&vec![1]).is_some() {
            world.etcd.revision += 1;
            world.etcd.events.push((vec![1], world.etcd.revision, None));
            repairs += 1;
        }
        world.watch();
        world.work(None);
    }
    assert!((55..=66).contains(&repairs), "{repairs}");
}
