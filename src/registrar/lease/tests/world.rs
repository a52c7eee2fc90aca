//! The lease machine and a simulated etcd: answers get lost or late, leases end, keys are tampered with, the watch breaks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::codec::Record;
use crate::registrar::lease::tests::etcd::{Etcd, THEIRS};
use crate::registrar::lease::{
    Action, Conflict, Desired, FailureKind, Id, Input, KeyValue, Machine, RegistrationStatus, Relevance, Renewal,
};

pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) const TTL: i64 = 15;

pub(super) fn record(key: u8, value: u8) -> Arc<Record> {
    Arc::new(Record::new([key], [value]))
}

#[derive(Clone, Debug)]
pub(super) enum Fate {
    Want(u8, u8, Conflict),
    Update(u8, u8),
    Pause(u8, bool),
    Leave(u8),
    /// A request begins: it is done at once, or when its answer comes.
    Begin(bool),
    /// A request that is on its way is given up where it is worth little; it may still arrive.
    BreakOff,
    /// One of those that were given up arrives.
    Arrive(u8),
    /// The next request does not arrive, or not yet.
    Fail(FailureKind),
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

pub(super) fn conflict() -> impl Strategy<Value = Conflict> {
    prop_oneof![2 => Just(Conflict::TakeOver), 1 => Just(Conflict::Wait), 1 => Just(Conflict::UniqueKey)]
}

pub(super) fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => (0u8..4, 0u8..3, conflict()).prop_map(|(key, value, conflict)| Fate::Want(key, value, conflict)),
        2 => (0u8..4, 0u8..3).prop_map(|(key, value)| Fate::Update(key, value)),
        2 => (0u8..4, any::<bool>()).prop_map(|(key, paused)| Fate::Pause(key, paused)),
        3 => (0u8..4).prop_map(Fate::Leave),
        3 => prop_oneof![Just(FailureKind::Transient), Just(FailureKind::Permanent)].prop_map(Fate::Fail),
        4 => any::<bool>().prop_map(Fate::Begin),
        1 => Just(Fate::BreakOff),
        1 => any::<u8>().prop_map(Fate::Arrive),
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
pub(super) struct Wish {
    pub(super) id: Id,
    pub(super) value: u8,
    pub(super) conflict: Conflict,
    pub(super) paused: bool,
}

impl Wish {
    pub(super) fn wanted(&self, key: u8) -> Desired {
        let records = vec![record(key, self.value)];
        Desired { records, conflict: self.conflict, id: None, paused: self.paused }
    }
}

pub(super) struct World {
    pub(super) etcd: Etcd,
    pub(super) machine: Machine,
    pub(super) now: Duration,
    pub(super) next: Id,
    pub(super) wanted: BTreeMap<u8, Wish>,
    /// The keys that are watched, and for which registration each, while there is a stream.
    pub(super) stream: Option<BTreeMap<Vec<u8>, Id>>,
    /// The keys to watch, as the machine has told their changes.
    pub(super) to_watch: BTreeMap<Vec<u8>, Id>,
    /// The requests that are on their way, and what etcd said, if it has.
    pub(super) flying: Vec<(Action, Option<Input>)>,
    /// Those that were given up: each may arrive at any time.
    pub(super) given_up: Vec<Action>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut etcd = Etcd::default();
        etcd.put(&[99], &[1], 0);
        let (machine, wanted) = (Machine::new(TTL, seed), BTreeMap::new());
        let (flying, given_up) = (Vec::new(), Vec::new());
        let (stream, to_watch) = (None, BTreeMap::new());
        Self { etcd, machine, now: Duration::ZERO, next: 0, wanted, stream, to_watch, flying, given_up }
    }

    pub(super) fn tell(&mut self, input: Input) {
        self.machine.on(self.now, &Action::Wait { until: None }, input);
    }

    /// Watches what is to be watched; then tells the first event.
    pub(super) fn watch(&mut self) {
        if self.stream.is_none() {
            self.etcd.events.clear();
        }
        let stream = self.stream.get_or_insert_default();
        for (key, id) in self.machine.watch_changes() {
            match id {
                Some(id) => drop(self.to_watch.insert(key, id)),
                None => drop(self.to_watch.remove(&key)),
            }
        }
        assert_eq!(self.to_watch, self.machine.keys(), "the changes of what is watched");
        for (key, id) in self.to_watch.clone() {
            let before = stream.insert(key.clone(), id);
            if before.is_none() {
                self.etcd.events.retain(|(other, ..)| *other != key);
            }
            if before != Some(id) {
                let input = Input::Watched { key, new_watch: before.is_none() };
                self.machine.on(self.now, &Action::Wait { until: None }, input);
            }
        }
        if !self.etcd.events.is_empty() {
            let (key, revision, found) = self.etcd.events.remove(0);
            if self.stream.as_ref().is_some_and(|stream| stream.contains_key(&key)) {
                self.tell(Input::Observed { key, revision, found });
            }
        }
    }

    /// Tells all events that there are: the watch is far behind only while things go on.
    pub(super) fn catch_up(&mut self) {
        self.watch();
        while !self.etcd.events.is_empty() {
            self.watch();
        }
    }

    pub(super) fn work(&mut self, fate: Option<&Fate>) {
        self.now += Duration::from_millis(1);
        self.etcd.expire(self.now);
        if let Renewal::Now { lease: id } = self.machine.renewal(self.now, &[]) {
            return self.renew(id, fate);
        }
        let (action, said) = if self.flying.is_empty() {
            match self.begin() {
                Some(action) => (action, None),
                None => return,
            }
        } else {
            self.flying.remove(0)
        };
        let input = match (fate, said) {
            (Some(Fate::Fail(trouble)), None) => {
                if *trouble == FailureKind::Transient && !matches!(action, Action::Grant { .. }) {
                    self.given_up.push(action.clone());
                }
                Input::Failed(*trouble)
            }
            (Some(Fate::LoseAnswer | Fate::Fail(_)), said) => {
                said.unwrap_or_else(|| self.etcd.serve(self.now, &action));
                Input::Failed(FailureKind::Transient)
            }
            (_, said) => said.unwrap_or_else(|| self.etcd.serve(self.now, &action)),
        };
        self.machine.on(self.now, &action, input);
    }

    /// The next request; none where there is nothing to do yet.
    pub(super) fn begin(&mut self) -> Option<Action> {
        let action = self.machine.action(self.now);
        if let Action::Wait { until } = action {
            let renewal = match self.machine.renewal(self.now, &[]) {
                Renewal::At(at) => Some(at),
                _ => None,
            };
            let next = [until, renewal].into_iter().flatten().min().unwrap_or(self.now);
            self.now = self.now.max(next.min(self.now + secs(1)));
            return None;
        }
        if let Action::Grant { lease: id, .. } = action {
            assert!(id > 0, "etcd takes positive ids");
            let mut others = self.etcd.leases.keys().filter(|known| **known != id);
            let is_forgotten = others.any(|id| !self.machine.leases.is_live(*id));
            assert!(!is_forgotten, "a lease that lives is never forgotten: {:?}", self.machine);
        }
        Some(action)
    }

    pub(super) fn break_off(&mut self) {
        let Some(place) = self.flying.iter().position(|(action, _)| self.machine.relevance(action) != Relevance::Full)
        else {
            return;
        };
        let (action, said) = self.flying.remove(place);
        self.machine.on(self.now, &action, Input::Abandoned);
        if said.is_none() && !matches!(action, Action::Grant { .. }) {
            self.given_up.push(action);
        }
    }

    pub(super) fn arrive(&mut self, which: u8) {
        if !self.given_up.is_empty() {
            let action = self.given_up.remove(usize::from(which) % self.given_up.len());
            self.etcd.serve(self.now, &action);
        }
    }

    pub(super) fn all_arrive(&mut self) {
        for action in std::mem::take(&mut self.given_up) {
            self.etcd.serve(self.now, &action);
        }
    }

    pub(super) fn renew(&mut self, id: i64, fate: Option<&Fate>) {
        let input = match fate {
            Some(Fate::Fail(trouble)) => Input::RenewalFailed { lease: id, failure: *trouble },
            Some(Fate::LoseAnswer) => {
                self.etcd.renew(self.now, id);
                Input::RenewalFailed { lease: id, failure: FailureKind::Transient }
            }
            _ => self.etcd.renew(self.now, id),
        };
        self.tell(input);
    }

    pub(super) fn want(&mut self, key: u8, value: u8, conflict: Conflict) {
        if !self.wanted.contains_key(&key) {
            self.next += 1;
            let wish = Wish { id: self.next, value, conflict, paused: false };
            self.tell(Input::Added { id: wish.id, desired: wish.wanted(key) });
            self.wanted.insert(key, wish);
        }
    }

    pub(super) fn change(&mut self, key: u8, change: impl FnOnce(&mut Wish)) {
        if let Some(wish) = self.wanted.get_mut(&key) {
            change(wish);
            let (id, wanted) = (wish.id, wish.wanted(key));
            self.tell(Input::Updated { id, desired: wanted });
        }
    }

    pub(super) fn suffer(&mut self, fate: &Fate) {
        self.happens(fate);
        self.machine.assert_right(self.now);
    }

    fn happens(&mut self, fate: &Fate) {
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
                for key in self.stream.take().unwrap_or_default().into_keys() {
                    self.tell(Input::WatchLost { key });
                }
            }
            Fate::Tell => self.watch(),
            Fate::Begin(done) => {
                if let Some(action) = self.begin() {
                    let said = done.then(|| self.etcd.serve(self.now, &action));
                    self.flying.push((action, said));
                }
            }
            Fate::BreakOff => self.break_off(),
            Fate::Arrive(which) => self.arrive(*which),
            Fate::Pass(seconds) => self.now += secs(u64::from(*seconds)),
            Fate::Fail(_) | Fate::LoseAnswer | Fate::Work => self.work(Some(fate)),
        }
    }

    /// The keys under a lease of ours, and what stands there.
    pub(super) fn ours(&self) -> BTreeMap<&[u8], &[u8]> {
        let ours = self.etcd.keys.iter().filter(|(_, found)| self.etcd.leases.contains_key(&found.lease));
        ours.map(|(key, found)| (key.as_slice(), found.value.as_slice())).collect()
    }

    pub(super) fn is_right(&self) -> bool {
        let ours = self.ours();
        let right = |(key, wish): (&u8, &Wish)| {
            let standing = self.machine.status(self.now, wish.id);
            let mut own = ours.iter().filter(|(stored, _)| stored[0] == *key).map(|(_, value)| *value);
            if wish.paused {
                standing == RegistrationStatus::Paused && own.next().is_none()
            } else {
                standing == RegistrationStatus::Registered && own.eq([[wish.value].as_slice()])
            }
        };
        ours.keys().all(|key| self.wanted.contains_key(&key[0])) && self.wanted.iter().all(right)
    }

    pub(super) fn settle(&mut self) {
        self.all_arrive();
        // Others go in the end, those by hand too where they are respected; a key of ours may then be taken.
        let theirs = |(_, found): &(&Vec<u8>, &KeyValue)| found.lease == THEIRS;
        let theirs: Vec<_> = self.etcd.keys.iter().filter(theirs).map(|(key, _)| key.clone()).collect();
        theirs.iter().for_each(|key| self.etcd.delete(key));
        for (key, _) in self.wanted.clone().iter().filter(|(_, wish)| wish.conflict != Conflict::TakeOver) {
            if self.etcd.keys.get(&vec![*key]).is_some_and(|found| found.lease == 0) {
                self.etcd.delete(&[*key]);
            }
        }
        // A lease that ended without our knowledge is found out at its next renewal.
        let end = self.now + secs(TTL.cast_unsigned());
        // What is told late may ask for a repair of what is right.
        let mut rounds = 0;
        while rounds < 20 {
            if self.is_right() {
                rounds += 1;
            } else {
                assert!(self.now < end, "not right in time: {:?}\n{:?}\n{:?}", self.wanted, self.machine, self.etcd);
                rounds = 0;
            }
            self.catch_up();
            self.work(None);
        }
        assert!(self.is_right(), "not right for long: {:?}\n{:?}\n{:?}", self.wanted, self.machine, self.etcd);
        let idle = self.machine.is_idle();
        assert_eq!(idle, self.wanted.is_empty(), "{:?}\n{:?}", self.machine, self.flying);
        assert!(self.etcd.keys.contains_key(&vec![99]), "what others put stays");
        // A lease that was granted unheard and is not needed any more holds no key, and ends by itself.
        let end = self.now + secs(TTL.cast_unsigned());
        while self.etcd.leases.len() > usize::from(!idle) {
            assert!(self.now < end, "a lease is kept that nobody needs: {:?}\n{:?}", self.machine, self.etcd);
            self.now += Duration::from_millis(100);
            self.catch_up();
            self.work(None);
            assert!(self.is_right(), "not right for long: {:?}\n{:?}\n{:?}", self.wanted, self.machine, self.etcd);
        }
    }
}
