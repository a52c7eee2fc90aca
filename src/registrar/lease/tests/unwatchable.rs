//! Keys that may not be watched: they are put again now and then.

use crate::registrar::lease::tests::etcd::THEIRS;
use crate::registrar::lease::tests::world::{Fate, World, secs};
use crate::registrar::lease::tests::{Action, Conflict, FailureKind, Input, RegistrationStatus, is_ours};

/// A registration whose key may not be watched.
fn unwatched(conflict: Conflict) -> World {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, conflict));
    world.work(None);
    world.tell(Input::WatchDenied { key: vec![1] });
    world
}

/// No watch is permitted.
fn deny(world: &mut World) {
    for key in world.machine.keys().into_keys() {
        world.tell(Input::WatchDenied { key });
    }
}

/// Works without any watch.
fn works_until(world: &mut World, limit: u64, condition: impl Fn(&World) -> bool) {
    let end = world.now + secs(limit);
    while !condition(world) {
        assert!(world.now < end, "not in time: {:?}\n{:?}", world.machine, world.etcd);
        deny(world);
        world.work(None);
    }
}

#[test]
fn a_key_that_may_not_be_watched_is_put_again_about_once_in_a_minute() {
    let mut world = unwatched(Conflict::TakeOver);
    works_until(&mut world, 1, |world| is_ours(world, 1));
    world.etcd.delete(&[1]);
    works_until(&mut world, 61, |world| is_ours(world, 1));
    // One that fails is made again, and not left for the next minute.
    world.etcd.delete(&[1]);
    let mut failed = None;
    while !is_ours(&world, 1) {
        deny(&mut world);
        match world.begin() {
            Some(put @ Action::Put { .. }) if failed.is_none() => {
                world.machine.on(world.now, &put, Input::Failed(FailureKind::Transient));
                failed = Some(world.now);
            }
            begun => world.flying.extend(begun.map(|action| (action, None))),
        }
        world.work(None);
        assert!(failed.is_none_or(|failed| world.now < failed + secs(2)), "{:?}", world.machine);
    }
}

#[test]
fn a_key_that_may_not_be_watched_is_left_to_others_and_taken_when_it_is_free() {
    let mut world = unwatched(Conflict::Wait);
    works_until(&mut world, 1, |world| is_ours(world, 1));
    world.etcd.put(&[1], b"x", THEIRS);
    works_until(&mut world, 61, |world| world.machine.status(world.now, 1) == RegistrationStatus::HeldByOther);
    assert_eq!(world.etcd.keys[&vec![1]].lease, THEIRS, "a refresh compares as any other put does");
    world.etcd.delete(&[1]);
    works_until(&mut world, 61, |world| is_ours(world, 1));
}

#[test]
fn a_pause_whose_end_nobody_knows_is_no_reason_to_believe_in_the_key() {
    let mut world = unwatched(Conflict::TakeOver);
    works_until(&mut world, 1, |world| is_ours(world, 1));
    world.suffer(&Fate::Pause(1, true));
    world.work(Some(&Fate::LoseAnswer));
    assert!(!world.etcd.keys.contains_key(&vec![1]), "deleted, and nobody knows");
    world.suffer(&Fate::Pause(1, false));
    works_until(&mut world, 2, |world| is_ours(world, 1));
}

#[test]
fn what_may_not_be_watched_is_tried_again_and_forgotten_with_its_registration() {
    let mut world = unwatched(Conflict::TakeOver);
    assert!(world.machine.keys().is_empty());
    for key in 2..100 {
        world.suffer(&Fate::Want(key, 1, Conflict::TakeOver));
        world.tell(Input::WatchDenied { key: vec![key] });
        world.suffer(&Fate::Leave(key));
    }
    let denied = world.machine.registrations.index.count_denied();
    assert!(denied <= 2, "{denied}");
    let end = world.now + secs(61);
    while !world.machine.keys().contains_key(&vec![1]) {
        assert!(world.now < end, "a role may have been granted more since");
        world.work(None);
    }
}
