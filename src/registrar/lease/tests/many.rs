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
