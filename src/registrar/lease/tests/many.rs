//! Many keys at a time.

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
        world.now += std::time::Duration::from_millis(1);
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
