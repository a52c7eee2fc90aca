//! Keys that move to another lease: which one is safe to move to, and what is said of them on the way.

use crate::registrar::lease::tests::late::with_a_put;
use crate::registrar::lease::tests::world::{Fate, World, record, secs};
use crate::registrar::lease::tests::{
    Action, Conflict, FailureKind, Input, RegistrationStatus, Renewal, is_ours, until,
};

/// Another lease is granted, and its answer is lost; a further request for it is refused.
fn granted_unheard(world: &mut World) -> i64 {
    let grant = world.begin().expect("a grant");
    let Action::Grant { lease, .. } = grant else { panic!("{grant:?}") };
    world.etcd.serve(world.now, &grant);
    world.machine.on(world.now, &grant, Input::Failed(FailureKind::PermanentInDoubt));
    lease
}

/// What was to be left is kept, because the key is wanted again: the other lease ends by itself.
#[test]
fn a_lease_that_was_granted_unheard_and_is_not_needed_ends_by_itself() {
    let (mut world, put) = with_a_put(false);
    let lease = world.machine.lease().expect("a lease");
    world.suffer(&Fate::Leave(3));
    world.machine.on(world.now, &put, Input::Abandoned);
    let unheard = granted_unheard(&mut world);
    let ends = world.etcd.leases[&unheard];
    world.suffer(&Fate::Want(3, 1, Conflict::TakeOver));
    until(&mut world, "all stand", World::is_right);
    assert!(world.now + secs(1) < ends && world.etcd.leases.len() == 2);
    world.settle();
    assert!(world.etcd.leases.keys().eq([&lease]) && world.machine.lease() == Some(lease));
}

/// It is asked for again just before its end, and its renewal comes too late: what was put under it would be gone with it.
#[test]
fn nothing_moves_to_a_lease_that_may_be_about_to_end() {
    let (mut world, put) = with_a_put(false);
    world.suffer(&Fate::Leave(3));
    world.machine.on(world.now, &put, Input::Abandoned);
    let unheard = granted_unheard(&mut world);
    until(&mut world, "asked for again", |world| world.machine.lease() == Some(unheard));
    let ends = world.now + secs(1);
    world.etcd.leases.insert(unheard, ends);
    while world.etcd.leases.contains_key(&unheard) {
        assert_eq!(world.machine.renewal(world.now, &[]), Renewal::Now { lease: unheard });
        if let Some(action) = world.begin() {
            let done = world.etcd.serve(world.now, &action);
            world.machine.on(world.now, &action, done);
        }
        world.now += secs(1) / 20;
        world.etcd.expire(world.now);
    }
    assert!(world.etcd.keys.contains_key(&vec![1]) && world.etcd.keys.contains_key(&vec![2]));
    world.settle();
}

/// It is paused and resumed while it moves: the put that moves it is given up, and its lease is revoked for that. It is not said to
/// be registered while it may go with that lease.
#[test]
fn what_is_wanted_again_on_the_way_does_not_go_with_the_lease_that_it_may_have_moved_to() {
    // Whether the put is given up or answered late, when it arrives, whether the lease is revoked before the key is wanted again,
    // and whether the key is read then.
    for bits in 0..16 {
        let (answered, arrives, ends, reads) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0);
        let (mut world, third) = with_a_put(false);
        world.suffer(&Fate::Want(4, 1, Conflict::TakeOver));
        until(&mut world, "a key that has not moved yet", |world| is_ours(world, 4));
        world.suffer(&Fate::Leave(3));
        world.machine.on(world.now, &third, Input::Abandoned);
        until(&mut world, "another lease", |world| world.etcd.leases.len() == 2);
        let mut puts = Vec::new();
        while puts.len() < 2 {
            match world.begin() {
                Some(put @ Action::Put { .. }) => puts.push(put),
                Some(action) => {
                    let done = world.etcd.serve(world.now, &action);
                    world.machine.on(world.now, &action, done);
                }
                None => {}
            }
        }
        let [Action::Put { lease, .. }, Action::Put { lease: same, .. }] = puts[..] else { panic!("{puts:?}") };
        assert_eq!(lease, same);
        for key in [1, 2] {
            world.suffer(&Fate::Pause(key, true));
        }
        world.machine.on(world.now, &puts[1], Input::Abandoned);
        let done = arrives.then(|| world.etcd.serve(world.now, &puts[0]));
        if !answered {
            world.machine.on(world.now, &puts[0], Input::Abandoned);
        }
        let revoke = world.begin().expect("a revocation");
        assert_eq!(revoke, Action::Revoke { lease });
        let revoked = |world: &mut World| {
            let done = world.etcd.serve(world.now, &revoke);
            world.machine.on(world.now, &revoke, done);
        };
        if ends {
            revoked(&mut world);
        }
        world.suffer(&Fate::Pause(1, false));
        let stands = |world: &World| {
            let is_registered = world.machine.status(world.now, world.wanted[&1].id) == RegistrationStatus::Registered;
            assert!(!is_registered || world.ours().contains_key([1].as_slice()), "{bits}: {:?}", world.machine);
            is_registered
        };
        assert!(!stands(&world), "{bits}: {:?}", world.machine);
        if answered {
            let done = done.unwrap_or_else(|| world.etcd.serve(world.now, &puts[0]));
            world.machine.on(world.now, &puts[0], done);
            assert!(!stands(&world), "{bits}: {:?}", world.machine);
        }
        if reads && !answered {
            let read = Action::Read { id: world.wanted[&1].id, record: record(1, 1) };
            let found = world.etcd.serve(world.now, &read);
            world.machine.on(world.now, &read, found);
            assert_eq!(stands(&world), ends && !arrives, "{bits}: {:?}", world.machine);
        }
        if !ends {
            revoked(&mut world);
        }
        until(&mut world, "registered", stands);
        world.given_up.extend(puts);
        world.all_arrive();
        assert!(stands(&world), "{bits}: {:?}", world.machine);
        world.settle();
    }
}

/// What is wanted again although its lease is being revoked is in etcd until that has ended.
#[test]
fn what_leaves_again_is_out_once_its_lease_has_ended() {
    for reads in [false, true] {
        let (mut world, put) = with_a_put(false);
        let (id, lease) = (world.wanted[&1].id, world.machine.lease().expect("a lease"));
        for fate in [Fate::Leave(3), Fate::Pause(1, true), Fate::Pause(2, true)] {
            world.suffer(&fate);
        }
        world.machine.on(world.now, &put, Input::Abandoned);
        let revoke = world.begin().expect("a revocation");
        assert_eq!(revoke, Action::Revoke { lease });
        world.suffer(&Fate::Pause(1, false));
        if reads {
            let read = Action::Read { id, record: record(1, 1) };
            let found = world.etcd.serve(world.now, &read);
            world.machine.on(world.now, &read, found);
        }
        assert_ne!(world.machine.status(world.now, id), RegistrationStatus::Registered);
        world.suffer(&Fate::Leave(1));
        assert_ne!(world.machine.status(world.now, id), RegistrationStatus::Closed);
        let done = world.etcd.serve(world.now, &revoke);
        world.machine.on(world.now, &revoke, done);
        assert_eq!(world.machine.status(world.now, id), RegistrationStatus::Closed);
        world.settle();
    }
}

/// It is another registration's in the same moment: the lease that it is under is kept until it is put under the other one.
#[test]
fn a_key_that_is_handed_over_on_the_way_stands_all_the_time() {
    let (mut world, third) = with_a_put(false);
    world.suffer(&Fate::Leave(3));
    world.machine.on(world.now, &third, Input::Abandoned);
    until(&mut world, "another lease", |world| world.etcd.leases.len() == 2);
    world.suffer(&Fate::Leave(1));
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    let mut held = None;
    for _ in 0..20 {
        match world.begin() {
            Some(put @ Action::Put { .. }) if matches!(&put, Action::Put { record, .. } if record.key == [1]) => {
                held = Some(put);
            }
            Some(action) => {
                let done = world.etcd.serve(world.now, &action);
                world.machine.on(world.now, &action, done);
            }
            None => {}
        }
        assert!(world.etcd.keys.contains_key(&vec![1]), "{:?}", world.machine);
    }
    let put = held.expect("the put of the key");
    let done = world.etcd.serve(world.now, &put);
    world.machine.on(world.now, &put, done);
    world.settle();
}
