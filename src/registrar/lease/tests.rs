//! The lease machine against a simulated etcd whose answers get lost, whose leases end and whose keys are tampered with.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::codec::Record;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const TTL: i64 = 15;

fn record(key: u8, value: u8) -> Arc<Record> {
    Arc::new(Record::new([key], [value]))
}

/// An etcd with leases, keys that may belong to others, and a history.
#[derive(Debug, Default)]
struct Etcd {
    leases: BTreeMap<i64, Duration>,
    keys: BTreeMap<Vec<u8>, Found>,
    revision: i64,
    events: Vec<(Vec<u8>, i64, Option<Found>)>,
}

/// A lease of somebody else's.
const THEIRS: i64 = -7;

impl Etcd {
    fn expire(&mut self, now: Duration) {
        let ended: Vec<i64> = self.leases.iter().filter(|(_, ends)| **ends <= now).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.revoke(id));
    }

    fn revoke(&mut self, id: i64) {
        self.leases.remove(&id);
        let keys: Vec<_> =
            self.keys.iter().filter(|(_, found)| found.lease == id).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.delete(key));
    }

    fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> i64 {
        self.revision += 1;
        let found = Found { lease, revision: self.revision, value: value.to_vec(), id: None };
        self.keys.insert(key.to_vec(), found.clone());
        self.events.push((key.to_vec(), self.revision, Some(found)));
        self.revision
    }

    fn delete(&mut self, key: &[u8]) {
        if self.keys.remove(key).is_some() {
            self.revision += 1;
            self.events.push((key.to_vec(), self.revision, None));
        }
    }

    fn renew(&mut self, now: Duration, id: i64) -> Input {
        match self.leases.get_mut(&id) {
            Some(ends) => {
                *ends = now + secs(TTL.cast_unsigned());
                Input::Renewed { id, asked: now, seconds: Some(TTL) }
            }
            None => Input::RenewalFailed { id, trouble: Trouble::LeaseGone },
        }
    }

    fn serve(&mut self, now: Duration, action: &Action) -> Input {
        match action {
            Action::Grant { id, seconds } => match self.leases.insert(*id, now + secs(*seconds as u64)) {
                Some(_) => Input::Granted { asked: now, seconds: None },
                None => Input::Granted { asked: now, seconds: Some(*seconds) },
            },
            Action::Put { record, lease, expected, .. } => {
                let there = self.keys.get(&record.key).map_or(0, |found| found.revision);
                if expected.is_some_and(|expected| expected != there) {
                    return Input::Conflict;
                }
                if !self.leases.contains_key(lease) {
                    return Input::Failed(Trouble::LeaseGone);
                }
                Input::Put { revision: self.put(&record.key, &record.value, *lease) }
            }
            Action::Delete { record, lease, .. } => {
                if self.keys.get(&record.key).is_none_or(|found| found.lease != *lease) {
                    return Input::NotThere;
                }
                self.delete(&record.key);
                Input::Done
            }
            Action::Look { record, .. } => Input::Seen {
                key: record.key.clone(),
                revision: self.revision,
                found: self.keys.get(&record.key).cloned(),
            },
            Action::Revoke { id } => {
                self.revoke(*id);
                Input::Done
            }
            Action::Wait { .. } => unreachable!("waiting is not served"),
        }
    }
}

#[derive(Clone, Debug)]
enum Fate {
    Want(u8, u8, Conflict),
    Update(u8, u8),
    Pause(u8, bool),
    Leave(u8),
    /// The next request never arrives.
    Fail(Trouble),
    /// The next request is done, and its answer is lost.
    LoseAnswer,
    /// All leases end at once, as in a wipe.
    Revoke,
    /// Somebody deletes a key by hand.
    Delete(u8),
    /// Somebody puts a key, by hand or under a lease of his.
    Put(u8, i64),
    /// The watch breaks, with all that it had to tell.
    Break,
    /// The watch is opened, or tells one event.
    Tell,
    Pass(u8),
    Work,
}

fn conflict() -> impl Strategy<Value = Conflict> {
    prop_oneof![2 => Just(Conflict::TakeOver), 1 => Just(Conflict::Refuse), 1 => Just(Conflict::UniqueKey)]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => (0u8..4, 0u8..3, conflict()).prop_map(|(key, value, conflict)| Fate::Want(key, value, conflict)),
        2 => (0u8..4, 0u8..3).prop_map(|(key, value)| Fate::Update(key, value)),
        2 => (0u8..4, any::<bool>()).prop_map(|(key, paused)| Fate::Pause(key, paused)),
        3 => (0u8..4).prop_map(Fate::Leave),
        3 => prop_oneof![Just(Trouble::Transient), Just(Trouble::Permanent)].prop_map(Fate::Fail),
        2 => Just(Fate::LoseAnswer),
        1 => Just(Fate::Revoke),
        2 => (0u8..4).prop_map(Fate::Delete),
        2 => (0u8..4, prop_oneof![Just(0), Just(THEIRS)]).prop_map(|(key, lease)| Fate::Put(key, lease)),
        1 => Just(Fate::Break),
        6 => Just(Fate::Tell),
        2 => (0u8..30).prop_map(Fate::Pass),
        8 => Just(Fate::Work),
    ]
}

/// What is wanted of a key.
#[derive(Clone, Debug)]
struct Wish {
    id: Id,
    value: u8,
    conflict: Conflict,
    paused: bool,
}

impl Wish {
    fn wanted(&self, key: u8) -> Wanted {
        let records = vec![record(key, self.value)];
        Wanted { records, conflict: self.conflict, id: None, paused: self.paused }
    }
}

struct World {
    etcd: Etcd,
    machine: Machine,
    now: Duration,
    next: Id,
    wanted: BTreeMap<u8, Wish>,
    /// The keys that are watched, while there is a stream.
    stream: Option<BTreeSet<Vec<u8>>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut etcd = Etcd::default();
        etcd.put(&[99], &[1], 0);
        let (machine, wanted) = (Machine::new(TTL, seed), BTreeMap::new());
        Self { etcd, machine, now: Duration::ZERO, next: 0, wanted, stream: None }
    }

    fn tell(&mut self, input: Input) {
        self.machine.on(self.now, &Action::Wait { until: None }, input);
    }

    /// Watches what is to be watched; then tells the first event.
    fn watch(&mut self) {
        if self.stream.is_none() {
            self.etcd.events.clear();
        }
        let stream = self.stream.get_or_insert_default();
        let missing: Vec<_> = self.machine.keys().difference(stream).cloned().collect();
        stream.extend(missing.iter().cloned());
        for key in missing {
            self.etcd.events.retain(|(other, ..)| *other != key);
            self.tell(Input::Watched { key });
        }
        if !self.etcd.events.is_empty() {
            let (key, revision, found) = self.etcd.events.remove(0);
            if self.stream.as_ref().is_some_and(|stream| stream.contains(&key)) {
                self.tell(Input::Seen { key, revision, found });
            }
        }
    }

    fn work(&mut self, fate: Option<&Fate>) {
        self.now += Duration::from_millis(1);
        self.etcd.expire(self.now);
        if let Renewal::Now { id } = self.machine.renewal(self.now) {
            return self.renew(id, fate);
        }
        let action = self.machine.action(self.now);
        if let Action::Wait { until } = action {
            let renewal = match self.machine.renewal(self.now) {
                Renewal::At(at) => Some(at),
                _ => None,
            };
            let next = [until, renewal].into_iter().flatten().min().unwrap_or(self.now);
            self.now = self.now.max(next.min(self.now + secs(1)));
            return;
        }
        if let Action::Grant { id, .. } = action {
            assert!(id > 0, "etcd takes positive ids");
            let live = self.etcd.leases.keys().filter(|known| **known != id).count();
            assert_eq!(live, 0, "a lease that lives is never given up: {:?}", self.machine);
        }
        let input = match fate {
            Some(Fate::Fail(trouble)) => Input::Failed(*trouble),
            Some(Fate::LoseAnswer) => {
                self.etcd.serve(self.now, &action);
                Input::Failed(Trouble::Transient)
            }
            _ => self.etcd.serve(self.now, &action),
        };
        self.machine.on(self.now, &action, input);
    }

    fn renew(&mut self, id: i64, fate: Option<&Fate>) {
        let input = match fate {
            Some(Fate::Fail(trouble)) => Input::RenewalFailed { id, trouble: *trouble },
            Some(Fate::LoseAnswer) => {
                self.etcd.renew(self.now, id);
                Input::RenewalFailed { id, trouble: Trouble::Transient }
            }
            _ => self.etcd.renew(self.now, id),
        };
        self.tell(input);
    }

    fn want(&mut self, key: u8, value: u8, conflict: Conflict) {
        if !self.wanted.contains_key(&key) {
            self.next += 1;
            let wish = Wish { id: self.next, value, conflict, paused: false };
            self.tell(Input::Wanted { id: wish.id, wanted: wish.wanted(key) });
            self.wanted.insert(key, wish);
        }
    }

    fn change(&mut self, key: u8, change: impl FnOnce(&mut Wish)) {
        if let Some(wish) = self.wanted.get_mut(&key) {
            change(wish);
            let (id, wanted) = (wish.id, wish.wanted(key));
            self.tell(Input::Updated { id, wanted });
        }
    }

    fn suffer(&mut self, fate: &Fate) {
        match fate {
            Fate::Want(key, value, conflict) => self.want(*key, *value, *conflict),
            Fate::Update(key, value) => self.change(*key, |wish| wish.value = *value),
            Fate::Pause(key, paused) => self.change(*key, |wish| wish.paused = *paused),
            Fate::Leave(key) => {
                if let Some(Wish { id, .. }) = self.wanted.remove(key) {
                    self.tell(Input::Leaving { id });
                }
            }
            Fate::Revoke => {
                let leases: Vec<i64> = self.etcd.leases.keys().copied().collect();
                leases.into_iter().for_each(|id| self.etcd.revoke(id));
            }
            Fate::Delete(key) => self.etcd.delete(&[*key]),
            Fate::Put(key, lease) => drop(self.etcd.put(&[*key], b"another", *lease)),
            Fate::Break => {
                self.stream = None;
                self.tell(Input::Unwatched);
            }
            Fate::Tell => self.watch(),
            Fate::Pass(seconds) => self.now += secs(u64::from(*seconds)),
            Fate::Fail(_) | Fate::LoseAnswer | Fate::Work => self.work(Some(fate)),
        }
    }

    /// The keys under a lease of ours, and what stands there.
    fn ours(&self) -> BTreeMap<&[u8], &[u8]> {
        let ours = self.etcd.keys.iter().filter(|(_, found)| self.etcd.leases.contains_key(&found.lease));
        ours.map(|(key, found)| (key.as_slice(), found.value.as_slice())).collect()
    }

    fn is_right(&self) -> bool {
        let ours = self.ours();
        let right = |(key, wish): (&u8, &Wish)| {
            let standing = self.machine.standing(self.now, wish.id);
            let mut own = ours.iter().filter(|(stored, _)| stored[0] == *key).map(|(_, value)| *value);
            if wish.paused {
                standing == Standing::Paused && own.next().is_none()
            } else {
                standing == Standing::Registered && own.eq([[wish.value].as_slice()])
            }
        };
        ours.keys().all(|key| self.wanted.contains_key(&key[0])) && self.wanted.iter().all(right)
    }

    fn settle(&mut self) {
        // Others go in the end, those by hand too where they are respected; a key of ours may then be taken.
        let theirs = |(_, found): &(&Vec<u8>, &Found)| found.lease == THEIRS;
        let theirs: Vec<_> = self.etcd.keys.iter().filter(theirs).map(|(key, _)| key.clone()).collect();
        theirs.iter().for_each(|key| self.etcd.delete(key));
        for (key, _) in self.wanted.clone().iter().filter(|(_, wish)| wish.conflict != Conflict::TakeOver) {
            if self.etcd.keys.get(&vec![*key]).is_some_and(|found| found.lease == 0) {
                self.etcd.delete(&[*key]);
            }
        }
        // A lease that ended without our knowledge is found out at its next renewal.
        let end = self.now + secs(TTL.cast_unsigned());
        while !self.is_right() {
            assert!(self.now < end, "not right in time: {:?}\n{:?}\n{:?}", self.wanted, self.machine, self.etcd);
            self.watch();
            self.work(None);
        }
        for _ in 0..20 {
            self.watch();
            self.work(None);
        }
        assert!(self.is_right(), "not right for long: {:?}\n{:?}\n{:?}", self.wanted, self.machine, self.etcd);
        assert_eq!(self.machine.is_idle(), self.wanted.is_empty());
        assert!(self.etcd.keys.contains_key(&vec![99]), "what others put stays");
        assert!(self.etcd.leases.len() <= 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_wanted_stands_in_the_end(seed: u64, fates in proptest::collection::vec(fate(), 0..150)) {
        let mut world = World::new(seed);
        for fate in &fates {
            world.suffer(fate);
        }
        world.settle();
    }

    #[test]
    fn two_renewals_may_fail_in_a_row_each_after_all_its_time(
        seed: u64, fates in proptest::collection::vec((any::<bool>(), 0u32..=100), 50..200),
    ) {
        let mut world = registered_with(seed);
        let lease = world.machine.lease();
        let mut failed = 0;
        for (fails, slowness) in fates {
            if let Renewal::At(at) = world.machine.renewal(world.now) {
                world.now = at;
            }
            let Renewal::Now { id } = world.machine.renewal(world.now) else { panic!("it is due") };
            world.etcd.expire(world.now);
            let patience = world.machine.patience().unwrap();
            if fails && failed < 2 {
                failed += 1;
                world.now += patience;
                world.tell(Input::RenewalFailed { id, trouble: Trouble::Transient });
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
        let (mut renewed, began) = (0, world.now);
        while world.now < secs(minutes * 60) {
            renewed += u32::from(matches!(world.machine.renewal(world.now), Renewal::Now { .. }));
            world.work(None);
            prop_assert_eq!(world.machine.standing(world.now, 1), Standing::Registered);
        }
        prop_assert_eq!(world.machine.lease(), lease);
        let thirds = world.now.saturating_sub(began).as_secs_f64() * 3.0 / TTL as f64;
        prop_assert!(f64::from(renewed) <= thirds + 1.0, "{} renewals in {} thirds", renewed, thirds);
        prop_assert!(f64::from(renewed) >= thirds / 1.2 - 1.0, "{} renewals in {} thirds", renewed, thirds);
    }
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
    let Renewal::At(at) = world.machine.renewal(world.now) else { panic!("it is granted") };
    assert!(at >= world.now + secs(5) && at <= world.now + secs(6), "{at:?}");
    assert!(matches!(world.machine.renewal(at), Renewal::Now { .. }));
}

#[test]
fn a_lease_whose_life_nobody_told_is_asked_for_it() {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    let grant = world.machine.action(world.now);
    let Action::Grant { id, .. } = grant else { panic!("{grant:?}") };
    world.machine.on(world.now, &grant, Input::Granted { asked: world.now, seconds: None });
    assert_eq!(world.machine.renewal(world.now), Renewal::Now { id });
    world.tell(Input::Renewed { id, asked: world.now, seconds: None });
    assert_eq!(world.machine.renewal(world.now), Renewal::Now { id }, "opening the stream tells nothing");
    world.tell(Input::Renewed { id, asked: world.now, seconds: Some(60) });
    assert!(matches!(world.machine.renewal(world.now + secs(19)), Renewal::At(_)));
    assert_eq!(world.machine.renewal(world.now + secs(24)), Renewal::Now { id });
}

#[test]
fn a_key_that_a_snapshot_brings_back_is_known_by_its_former_lease() {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, Conflict::Refuse));
    world.settle();
    let former = world.machine.lease().expect("a lease");
    world.suffer(&Fate::Revoke);
    world.settle();
    assert_ne!(world.machine.lease(), Some(former));
    // The etcd of before: the key under the lease that it had then, which lives again.
    world.suffer(&Fate::Break);
    world.suffer(&Fate::Revoke);
    world.etcd.leases.insert(former, world.now + secs(TTL.cast_unsigned()));
    world.etcd.put(&[1], &[1], former);
    let end = world.now + secs(TTL.cast_unsigned());
    while world.machine.lease().is_none_or(|lease| world.etcd.keys[&vec![1]].lease != lease) {
        assert!(world.now < end, "{:?}", world.machine);
        world.watch();
        if let Renewal::Now { id } = world.machine.renewal(world.now) {
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
fn tells_late_from_lost_and_keeps_the_lease_through_both() {
    let mut world = registered();
    let lease = world.machine.lease();
    world.now += secs(5);
    let Renewal::Now { id } = world.machine.renewal(world.now) else { panic!() };
    world.tell(Input::RenewalFailed { id, trouble: Trouble::Transient });
    assert_eq!(world.machine.standing(world.now, 1), Standing::Renewing);
    world.now += secs(11);
    assert_eq!(world.machine.standing(world.now, 1), Standing::Lost);
    let Renewal::Now { id } = world.machine.renewal(world.now) else { panic!("renews what etcd may still hold") };
    assert_eq!(Some(id), lease);
    world.tell(Input::Renewed { id, asked: world.now, seconds: Some(TTL) });
    assert_eq!(world.machine.standing(world.now, 1), Standing::Registered);
}

#[test]
fn one_record_that_is_refused_holds_up_no_other() {
    let mut world = World::new(3);
    world.suffer(&Fate::Want(1, 1, Conflict::TakeOver));
    world.suffer(&Fate::Want(2, 2, Conflict::TakeOver));
    world.work(None);
    let action = world.machine.action(world.now);
    assert!(matches!(action, Action::Put { of: 1, .. }));
    world.machine.on(world.now, &action, Input::Failed(Trouble::Permanent));
    assert!(matches!(world.machine.action(world.now), Action::Put { of: 2, .. }));
    world.work(None);
    assert_eq!(world.machine.standing(world.now, 2), Standing::Registered);
    assert_eq!(world.machine.standing(world.now, 1), Standing::Pending);
}

#[test]
fn one_of_several_leaves_by_delete_and_the_last_by_revocation() {
    let mut world = registered();
    world.suffer(&Fate::Want(2, 2, Conflict::TakeOver));
    world.settle();
    world.suffer(&Fate::Leave(1));
    assert!(matches!(world.machine.action(world.now), Action::Delete { of: 1, .. }));
    world.settle();
    world.suffer(&Fate::Leave(2));
    assert!(matches!(world.machine.action(world.now), Action::Revoke { .. }));
    world.settle();
}

#[test]
fn a_revocation_that_cannot_be_done_is_over_when_the_lease_ends() {
    let mut world = registered();
    world.suffer(&Fate::Leave(1));
    let end = world.now + secs(2 * TTL.cast_unsigned() + 6);
    while !world.machine.is_idle() {
        assert!(world.now < end);
        world.work(Some(&Fate::Fail(Trouble::Transient)));
    }
}

#[test]
fn a_put_on_its_way_is_deleted_whenever_it_arrives() {
    let mut world = registered();
    world.suffer(&Fate::Want(2, 2, Conflict::TakeOver));
    let put = world.machine.action(world.now);
    assert!(matches!(put, Action::Put { of: 2, .. }));
    world.suffer(&Fate::Leave(2));
    assert!(world.machine.puts_what_leaves(&put) && world.machine.outweighs(world.now, &put));
    world.machine.on(world.now, &put, Input::BrokenOff);
    // Not there yet: that is no proof.
    let delete = world.machine.action(world.now);
    assert!(matches!(delete, Action::Delete { of: 2, .. }));
    let answer = world.etcd.serve(world.now, &delete);
    assert!(matches!(answer, Input::NotThere));
    world.machine.on(world.now, &delete, answer);
    assert_ne!(world.machine.standing(world.now, 2), Standing::Closed);
    world.etcd.serve(world.now, &put);
    world.settle();
    assert!(!world.etcd.keys.contains_key(&vec![2]));
    assert_eq!(world.machine.standing(world.now, 2), Standing::Closed);
}
