//! Keys that the role may not write any more, while others stand under the same lease.

use super::world::{Fate, World};
use super::{Action, Conflict, FailureKind, Input, RegistrationStatus, TTL, is_ours, secs};

/// Two registrations under one lease.
fn two() -> (World, i64) {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    world.suffer(&Fate::Want(2, 2, Conflict::TakeOver));
    world.settle();
    let lease = world.machine.lease().unwrap();
    (world, lease)
}

/// Goes on while nothing of the first key is permitted, nor what concerns the lease that it stands under.
fn goes_on(world: &mut World, lease: i64, what: &str, condition: impl Fn(&World) -> bool) {
    let end = world.now + secs(3 * TTL.cast_unsigned());
    while !condition(world) {
        assert!(world.now < end, "not in time: {what}: {:?}\n{:?}", world.machine, world.etcd);
        world.now += std::time::Duration::from_millis(1);
        world.etcd.expire(world.now);
        assert!(world.etcd.keys.contains_key(&vec![2]), "what is permitted stands all the time: {:?}", world.machine);
        world.catch_up();
        if let super::Renewal::Now { lease: id } = world.machine.renewal(world.now, &[]) {
            if id != lease || !world.etcd.leases.contains_key(&lease) {
                world.renew(id, None);
                continue;
            }
            world.tell(Input::RenewalFailed { lease: id, failure: FailureKind::Permanent });
            world.tell(Input::LeaseRefused { lease: id });
            continue;
        }
        let Some(action) = world.begin() else { continue };
        let is_refused = match &action {
            Action::Put { record, .. } | Action::Delete { record, .. } | Action::Read { record, .. } => {
                record.key == [1]
            }
            Action::Revoke { lease: id } => *id == lease && world.etcd.leases.contains_key(id),
            Action::Grant { .. } | Action::Wait { .. } => false,
        };
        let input =
            if is_refused { Input::Failed(FailureKind::Permanent) } else { world.etcd.serve(world.now, &action) };
        world.machine.on(world.now, &action, input);
    }
}

#[test]
fn what_is_under_a_lease_that_is_not_renewed_any_more_stands_under_another_before_it_ends() {
    let (mut world, lease) = two();
    goes_on(&mut world, lease, "the lease ends", |world| !world.etcd.leases.contains_key(&lease));
    goes_on(&mut world, lease, "one is lost", |world| world.machine.status(world.now, 1) == RegistrationStatus::Lost);
    assert!(is_ours(&world, 2) && !world.etcd.keys.contains_key(&vec![1]));
    assert_eq!(world.machine.status(world.now, 2), RegistrationStatus::Registered);
}

#[test]
fn what_may_not_be_deleted_leaves_with_its_lease() {
    let (mut world, lease) = two();
    world.suffer(&Fate::Leave(1));
    goes_on(&mut world, lease, "it has left", |world| world.machine.status(world.now, 1) == RegistrationStatus::Closed);
    assert!(is_ours(&world, 2) && !world.etcd.keys.contains_key(&vec![1]));
}

#[test]
fn what_stood_is_updated_also_where_something_of_it_was_refused() {
    let mut world = World::new(3);
    let at = |keys: &[u8]| super::Desired {
        records: keys.iter().map(|key| super::record(*key, 1)).collect(),
        conflict: Conflict::TakeOver,
        id: None,
        paused: false,
    };
    world.tell(Input::Added { id: 1, desired: at(&[50, 51]) });
    for _ in 0..3 {
        let Some(action) = world.begin() else { continue };
        let is_refused = matches!(&action, Action::Put { record, .. } if record.key == [51]);
        let input =
            if is_refused { Input::Failed(FailureKind::Permanent) } else { world.etcd.serve(world.now, &action) };
        world.machine.on(world.now, &action, input);
    }
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Pending);
    world.tell(Input::Updated { id: 1, desired: at(&[50]) });
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Registered);
    world.tell(Input::Updated { id: 1, desired: at(&[51]) });
    assert_eq!(world.machine.status(world.now, 1), RegistrationStatus::Updating);
}
