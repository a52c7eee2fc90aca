//! Many keys at a time.

use std::time::Duration;

use crate::registrar::lease::tests::world::{Fate, World};
use crate::registrar::lease::tests::{Action, Conflict, FailureKind, Input, RegistrationStatus};

/// F12: several keys are put at a time, one request for each; what is refused costs the others nothing.
#[test]
fn many_are_put_at_a_time_and_one_that_is_refused_holds_up_none() {
    let mut world = World::new(3);
    for key in (0..=200).filter(|key| *key != 99) {
        world.suffer(&Fate::Want(key, 1, Conflict::TakeOver));
    }
    world.work(None);
    let mut rounds = 0;
    loop {
        let puts: Vec<_> = std::iter::from_fn(|| world.begin()).collect();
        if puts.is_empty() {
            break;
        }
        rounds += 1;
        for put in puts {
            assert!(matches!(put, Action::Put { .. }), "{put:?}");
            let refused = matches!(put, Action::Put { id: 7, .. });
            let input = if refused { Input::Failed(FailureKind::Permanent) } else { world.etcd.serve(world.now, &put) };
            world.machine.on(world.now, &put, input);
        }
    }
    assert_eq!(rounds, 200_usize.div_ceil(24));
    for id in 1..=200 {
        let wanted = if id == 7 { RegistrationStatus::Pending } else { RegistrationStatus::Registered };
        assert_eq!(world.machine.status(world.now, id), wanted, "{id}");
    }
}

/// F12: those that fail in one outage are one failure to what comes after.
#[test]
fn an_outage_counts_once() {
    let mut world = World::new(3);
    for key in 0..24 {
        world.suffer(&Fate::Want(key, 1, Conflict::TakeOver));
    }
    world.work(None);
    let puts: Vec<_> = std::iter::from_fn(|| world.begin()).collect();
    assert_eq!(puts.len(), 24);
    for put in puts {
        world.now += Duration::from_millis(1);
        world.machine.on(world.now, &put, Input::Failed(FailureKind::Transient));
    }
    assert!(world.begin().is_some(), "the first failure is answered at once");
}

/// F12: what leaves does not wait for what is on its way.
#[test]
fn what_leaves_passes_what_is_held() {
    let mut world = crate::registrar::lease::tests::registered();
    for key in 2..40 {
        world.suffer(&Fate::Want(key, 1, Conflict::TakeOver));
    }
    let held: Vec<_> = std::iter::from_fn(|| world.begin()).collect();
    assert_eq!(held.len(), 24);
    world.suffer(&Fate::Leave(1));
    assert!(matches!(world.begin(), Some(Action::Delete { id: 1, .. })));
}

/// What happens to one of many is looked at for that one alone: its status, its keys, its next request.
#[test]
fn what_happens_to_one_touches_no_other() {
    let mut world = World::new(3);
    for key in (0..=200).filter(|key| *key != 99) {
        world.suffer(&Fate::Want(key, 1, Conflict::TakeOver));
    }
    world.settle();
    let id = world.wanted[&7].id;
    let changed = |world: &mut World, what: &str| {
        let changed = world.machine.take_changed(world.now);
        assert_eq!(changed, [id].into(), "{what}");
    };
    world.machine.take_changed(world.now);
    world.suffer(&Fate::Update(7, 2));
    changed(&mut world, "an update");
    let put = world.begin().expect("a put");
    world.machine.on(world.now, &put, Input::Failed(FailureKind::Permanent));
    changed(&mut world, "a put that is refused");
    world.now += Duration::from_secs(6);
    let put = world.begin().expect("a put");
    let done = world.etcd.serve(world.now, &put);
    world.machine.on(world.now, &put, done);
    changed(&mut world, "a put that is done");
    world.catch_up();
    world.machine.take_changed(world.now);
    world.suffer(&Fate::Delete(7));
    world.watch();
    changed(&mut world, "an event of a watch");
    assert_eq!(world.machine.status(world.now, id), RegistrationStatus::Lost);
    world.suffer(&Fate::Leave(7));
    changed(&mut world, "leaving");
    // What becomes of the lease concerns all.
    let lease = world.machine.lease().expect("a lease");
    world.tell(Input::RenewalFailed { lease, failure: FailureKind::Transient });
    assert!(world.machine.take_changed(world.now).len() >= 199);
}

/// What has left costs nothing any more, also where a request of others is in flight at any time.
#[test]
fn what_has_left_is_forgotten_while_others_have_requests_in_flight() {
    let mut world = World::new(3);
    for key in 0..20 {
        world.suffer(&Fate::Want(key, 1, Conflict::TakeOver));
    }
    world.settle();
    for key in 1..20 {
        world.suffer(&Fate::Update(0, key + 1));
        let put = world.begin().expect("a put");
        world.suffer(&Fate::Leave(key));
        let delete = world.begin().expect("a delete");
        let done = world.etcd.serve(world.now, &delete);
        world.machine.on(world.now, &delete, done);
        assert_eq!(world.machine.registrations.values().len(), 20 - usize::from(key));
        let done = world.etcd.serve(world.now, &put);
        world.machine.on(world.now, &put, done);
    }
}

/// Works for some rounds, in which each response takes a second and these keys may not be written. Returns what was begun in each.
fn rounds(world: &mut World, count: usize, is_refused: impl Fn(u8) -> bool) -> Vec<Vec<Action>> {
    let round = |_| {
        let begun: Vec<_> = std::iter::from_fn(|| world.begin()).collect();
        world.now += Duration::from_secs(1);
        for action in &begun {
            let key = action.record().map_or(0, |record| record.key[0]);
            let input = if is_refused(key) {
                Input::Failed(FailureKind::Permanent)
            } else {
                world.etcd.serve(world.now, action)
            };
            world.machine.on(world.now, action, input);
        }
        begun
    };
    (0..count).map(round).collect()
}

/// Who keeps failing never stands before who is well: among many keys that the role may not write, one that it may is put at
/// once, and read at once where a comparison fails.
#[test]
fn many_that_are_refused_hold_up_none_that_is_not() {
    let mut world = World::new(3);
    for key in 100..250 {
        world.suffer(&Fate::Want(key, 1, Conflict::TakeOver));
    }
    world.work(None);
    let is_refused = |key| key >= 100;
    let begun = rounds(&mut world, 20, is_refused);
    assert!(begun[10..].iter().all(|begun| begun.len() == 24), "as many as may be are tried at a time");

    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    let (id, begun) = (world.wanted[&1].id, rounds(&mut world, 2, is_refused));
    assert!(matches!(begun[0][0], Action::Put { id: first, .. } if first == id), "{:?}", begun[0]);
    assert_eq!(world.machine.status(world.now, id), RegistrationStatus::Registered);

    // A put whose comparison fails is followed by a read, which is less urgent than a put.
    world.etcd.put(&[2], &[7], 0);
    world.etcd.events.clear();
    world.suffer(&Fate::Want(2, 1, Conflict::TakeOver));
    let (id, begun) = (world.wanted[&2].id, rounds(&mut world, 3, is_refused));
    let of_it = |action: &Action| action.record().is_some_and(|record| record.key == [2]);
    assert!(begun.iter().all(|begun| of_it(&begun[0])), "a put, a read and a put, one after the other: {begun:?}");
    assert_eq!(world.machine.status(world.now, id), RegistrationStatus::Registered);

    // What is refused is tried again all the same, each of them.
    let tried: std::collections::BTreeSet<_> =
        rounds(&mut world, 20, is_refused).iter().flatten().filter_map(|put| Some(put.record()?.key[0])).collect();
    assert_eq!(tried.len(), 150);
}
