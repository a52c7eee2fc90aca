//! Registrations of several keys each, which change hands: what is wanted stands in the end, whatever happens on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::codec::Record;
use crate::registrar::lease::tests::world::{Fate, TTL, World, fate, record, secs};
use crate::registrar::lease::{Conflict, Desired, Id, Input, RegistrationStatus};

/// How many keys and how many registrations there are.
const KEYS: usize = 5;
const REGISTRATIONS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Who has each key from now on (the first registration is 0, and who is beyond the last is nobody), and with which value.
    Assign([u8; KEYS], u8),
    /// A registration is paused or resumed.
    Pause(u8, bool),
    /// A registration leaves, and comes back as another one.
    Again(u8),
    Suffer(Fate),
}

fn step() -> impl Strategy<Value = Step> {
    // What is wanted is changed by other steps.
    let others = fate().prop_map(|fate| match fate {
        Fate::Want(..) | Fate::Update(..) | Fate::Pause(..) | Fate::Leave(_) => Fate::Work,
        other => other,
    });
    prop_oneof![
        3 => (any::<[u8; KEYS]>(), 0_u8..3).prop_map(|(owners, value)| Step::Assign(owners.map(|owner| owner % 4), value)),
        1 => (0_u8..3, any::<bool>()).prop_map(|(which, paused)| Step::Pause(which, paused)),
        1 => (0_u8..3).prop_map(Step::Again),
        10 => others.prop_map(Step::Suffer),
    ]
}

/// What is wanted of one registration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    id: Id,
    records: Vec<Arc<Record>>,
    paused: bool,
}

impl Wish {
    fn desired(&self) -> Desired {
        Desired { records: self.records.clone(), conflict: Conflict::TakeOver, id: None, paused: self.paused }
    }
}

struct Fleet {
    world: World,
    next: Id,
    wishes: [Option<Wish>; REGISTRATIONS],
}

impl Fleet {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Assign(owners, value) => self.assign(*owners, *value),
            Step::Pause(which, paused) => {
                let Some(wish) = &mut self.wishes[usize::from(*which)] else { return };
                wish.paused = *paused;
                let (id, desired) = (wish.id, wish.desired());
                self.world.tell(Input::Updated { id, desired });
            }
            Step::Again(which) => {
                let Some(mut wish) = self.wishes[usize::from(*which)].take() else { return };
                self.world.tell(Input::Leaving { id: wish.id });
                self.next += 1;
                wish.id = self.next;
                self.world.tell(Input::Added { id: wish.id, desired: wish.desired() });
                self.wishes[usize::from(*which)] = Some(wish);
            }
            Step::Suffer(fate) => self.world.suffer(fate),
        }
        self.world.machine.assert_right(self.world.now);
    }

    /// One update of all of them, which the task tells in the order of their ids.
    fn assign(&mut self, owners: [u8; KEYS], value: u8) {
        let mut told = BTreeMap::new();
        for (which, place) in self.wishes.iter_mut().enumerate() {
            let of_it = (0_u8..).zip(owners).filter(|(_, owner)| usize::from(*owner) == which);
            let records: Vec<_> = of_it.map(|(key, _)| record(key, value)).collect();
            match place {
                Some(wish) if records.is_empty() => {
                    told.insert(wish.id, Input::Leaving { id: wish.id });
                    *place = None;
                }
                Some(wish) if wish.records != records => {
                    wish.records = records;
                    told.insert(wish.id, Input::Updated { id: wish.id, desired: wish.desired() });
                }
                None if !records.is_empty() => {
                    self.next += 1;
                    let wish = Wish { id: self.next, records, paused: false };
                    told.insert(wish.id, Input::Added { id: wish.id, desired: wish.desired() });
                    *place = Some(wish);
                }
                Some(_) | None => {}
            }
        }
        told.into_values().for_each(|input| self.world.tell(input));
    }

    fn is_right(&self) -> bool {
        let wanted = || self.wishes.iter().flatten();
        let stands = wanted().filter(|wish| !wish.paused).flat_map(|wish| &wish.records);
        let stands: BTreeMap<&[u8], &[u8]> =
            stands.map(|record| (record.key.as_slice(), record.value.as_slice())).collect();
        let is_told = |wish: &Wish| {
            let status = self.world.machine.status(self.world.now, wish.id);
            status == if wish.paused { RegistrationStatus::Paused } else { RegistrationStatus::Registered }
        };
        self.world.ours() == stands && wanted().all(is_told)
    }

    fn settle(&mut self) {
        self.world.all_arrive();
        let theirs = |lease: i64| lease < 0;
        let theirs: Vec<_> = self.world.etcd.keys.iter().filter(|(_, found)| theirs(found.lease)).collect();
        let theirs: Vec<_> = theirs.into_iter().map(|(key, _)| key.clone()).collect();
        theirs.iter().for_each(|key| self.world.etcd.delete(key));
        let end = self.world.now + secs(2 * TTL.cast_unsigned());
        let mut rounds = 0;
        while rounds < 20 {
            rounds = if self.is_right() { rounds + 1 } else { 0 };
            let (wishes, world) = (&self.wishes, &mut self.world);
            assert!(world.now < end, "not right in time: {wishes:?}\n{:?}\n{:?}", world.machine, world.etcd);
            world.catch_up();
            world.work(None);
            world.machine.assert_right(world.now);
        }
        assert_eq!(self.world.machine.is_idle(), self.wishes.iter().all(Option::is_none));
    }
}

fn settles(seed: u64, steps: &[Step]) {
    let mut fleet = Fleet { world: World::new(seed), next: 0, wishes: [const { None }; REGISTRATIONS] };
    steps.iter().for_each(|step| fleet.step(step));
    fleet.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn keys_that_change_hands_stand_in_the_end(
        seed: u64, steps in proptest::collection::vec(step(), 0..120),
    ) {
        settles(seed, &steps);
    }
}
