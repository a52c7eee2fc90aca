//! The watch machine against a simulated etcd that drops, doubles, compacts, cancels, restarts and is wiped.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::codec::DecodeError;
use crate::instance::Instance;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn entry(key: u8, value: u8) -> Entry {
    let read = match value {
        0 => Err(DecodeError::new("bad")),
        value => Ok(vec![Instance::new(format!("h:{value}")).unwrap()]),
    };
    Entry::new(&[b's', b'/', key], read)
}

/// An etcd with one prefix: its live keys, and the history that has not been compacted.
#[derive(Clone, Debug, Default)]
struct Etcd {
    revision: i64,
    compacted: i64,
    live: BTreeMap<u8, u8>,
    history: Vec<(i64, u8, Option<u8>)>,
}

impl Etcd {
    fn new() -> Self {
        Self { revision: 1, ..Self::default() }
    }

    fn write(&mut self, key: u8, value: Option<u8>) {
        if value.is_none() && !self.live.contains_key(&key) {
            return;
        }
        self.revision += 1;
        self.history.push((self.revision, key, value));
        match value {
            Some(value) => self.live.insert(key, value),
            None => self.live.remove(&key),
        };
    }

    fn entries(&self) -> Vec<Entry> {
        self.live.iter().map(|(key, value)| entry(*key, *value)).collect()
    }

    fn events(&self, from: i64) -> Vec<Event> {
        let change = |key, value| match value {
            Some(value) => Change::Put(entry(key, value)),
            None => Change::Delete(entry(key, 1).key().into()),
        };
        let since = self.history.iter().filter(|(revision, ..)| *revision >= from);
        since.map(|&(revision, key, value)| Event { revision, change: change(key, value) }).collect()
    }
}

/// What may happen between two actions.
#[derive(Clone, Debug)]
enum Fate {
    Write(u8, Option<u8>),
    Compact,
    Wipe,
    /// The next action fails, or the stream breaks.
    Break(Trouble),
    Cancel(Trouble),
    /// Nothing comes for a while.
    Silence,
    /// The next message comes twice, and after a while its events once more.
    Double,
    Work,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => Just(Trouble::Transient),
        1 => Just(Trouble::Revision),
        1 => Just(Trouble::Token),
        1 => Just(Trouble::Permanent),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        10 => (0u8..20, proptest::option::of(0u8..4)).prop_map(|(key, value)| Fate::Write(key, value)),
        2 => Just(Fate::Compact),
        1 => Just(Fate::Wipe),
        3 => trouble().prop_map(Fate::Break),
        2 => trouble().prop_map(Fate::Cancel),
        2 => Just(Fate::Silence),
        2 => Just(Fate::Double),
        10 => Just(Fate::Work),
    ]
}

/// The task around the machine, in miniature.
struct World {
    etcd: Etcd,
    machine: Machine,
    now: Duration,
    /// The stream's place in the history, once it is created.
    stream: Option<i64>,
    doubled: Vec<Event>,
    /// Whether wipes happened whose new history may already have passed the old revision.
    wiped: bool,
    /// The connection broke: what uses it next fails.
    broken: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let machine = Machine::new(seed);
        Self {
            etcd: Etcd::new(),
            machine,
            now: Duration::ZERO,
            stream: None,
            doubled: vec![],
            wiped: false,
            broken: false,
        }
    }

    fn give(&mut self, input: Input) {
        let before = self.machine.snapshot().clone();
        let removed: Vec<Box<[u8]>> = match &input {
            Input::Events(events) => events
                .iter()
                .filter_map(|event| match &event.change {
                    Change::Delete(key) => Some(key.clone()),
                    Change::Put(_) => None,
                })
                .collect(),
            _ => vec![],
        };
        let listed = matches!(input, Input::Listed { .. });
        let changed = self.machine.on(self.now, input);
        let after = self.machine.snapshot();
        let differences: Vec<_> = crate::resolver::snapshot::diff(&before, after).collect();
        assert!(changed || differences.is_empty(), "says when anything differs");
        for gone in differences.iter().filter(|d| d.after.is_none()) {
            let key = gone.before.as_ref().unwrap().key();
            assert!(listed || removed.iter().any(|r| **r == *key), "only a list or a delete removes");
        }
        assert_eq!(after.unreadable(), after.entries().filter(|e| e.error().is_some()).count());
    }

    /// One action of the machine, carried out by an etcd that works.
    fn work(&mut self) {
        self.now += Duration::from_millis(1);
        match self.machine.action() {
            Action::Sleep { .. } => {}
            _ if std::mem::take(&mut self.broken) => return self.give(Input::Failed(Trouble::Transient)),
            _ => {}
        }
        match self.machine.action() {
            Action::List => self.give(Input::Listed { revision: self.etcd.revision, entries: self.etcd.entries() }),
            Action::Open { from } => {
                self.stream = None;
                self.doubled.clear();
                self.give(Input::Opened);
                if from <= self.etcd.compacted {
                    self.give(Input::Created { revision: self.etcd.revision });
                    self.give(Input::Canceled(Trouble::Revision));
                } else {
                    self.stream = Some(from);
                    self.give(Input::Created { revision: self.etcd.revision });
                }
            }
            Action::Verify => self.give(Input::Verified { revision: self.etcd.revision }),
            Action::Refresh => self.give(Input::Refreshed),
            // What a wipe or a break has left open fails when it is used.
            Action::Probe | Action::Read { .. } if self.stream.is_none() => {
                self.give(Input::Failed(Trouble::Transient));
            }
            Action::Probe => {
                self.give(Input::Probed);
                self.give(Input::Progress { revision: None });
            }
            Action::Sleep { until } => {
                assert!(until <= self.now + secs(5), "never waits longer than its slow end");
                self.stream = None;
                self.now = self.now.max(until);
                self.give(Input::Tick);
            }
            Action::Read { until } => {
                let doubled = std::mem::take(&mut self.doubled);
                let from = self.stream.unwrap_or(i64::MAX);
                let events = self.etcd.events(from);
                if !doubled.is_empty() {
                    self.give(Input::Events(doubled));
                } else if from <= self.etcd.compacted {
                    self.stream = None;
                    self.give(Input::Canceled(Trouble::Revision));
                } else if events.is_empty() {
                    self.now = self.now.max(until);
                    self.give(Input::Tick);
                } else {
                    self.stream = Some(self.etcd.revision + 1);
                    self.give(Input::Events(events));
                }
            }
        }
    }

    fn suffer(&mut self, fate: &Fate) {
        match *fate {
            Fate::Write(key, value) => self.etcd.write(key, value),
            Fate::Compact => {
                self.etcd.compacted = self.etcd.revision;
                self.etcd.history.clear();
            }
            Fate::Wipe => {
                self.etcd = Etcd::new();
                (self.wiped, self.broken) = (true, true);
                self.stream = None;
            }
            Fate::Break(trouble) => {
                self.stream = None;
                self.give(Input::Failed(trouble));
            }
            Fate::Cancel(trouble) => {
                if let Action::Read { .. } = self.machine.action() {
                    self.stream = None;
                    self.give(Input::Canceled(trouble));
                }
            }
            Fate::Silence => {
                self.now += secs(2);
                if let Action::Read { until } | Action::Sleep { until } = self.machine.action() {
                    self.now = self.now.max(until);
                    self.give(Input::Tick);
                }
            }
            Fate::Double => {
                if let (Action::Read { .. }, Some(from)) = (self.machine.action(), self.stream)
                    && from > self.etcd.compacted
                {
                    let events = self.etcd.events(from);
                    self.stream = Some(self.etcd.revision + 1);
                    if !events.is_empty() {
                        self.give(Input::Events(events.clone()));
                        self.doubled = events;
                    }
                }
            }
            Fate::Work => self.work(),
        }
    }

    fn agrees(&self) -> bool {
        self.machine.snapshot().entries().cloned().eq(self.etcd.entries())
    }

    /// Lets a healthy etcd serve until the snapshot is right.
    fn settle(&mut self) {
        let end = self.now + if self.wiped { secs(30) } else { secs(10) };
        while !(self.agrees() && self.machine.standing() == Standing::Current) {
            assert!(self.now < end, "not right in time: {:?}\n{:?}", self.machine, self.etcd);
            self.work();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn converges_to_etcds_set_whatever_happens(seed: u64, fates in proptest::collection::vec(fate(), 0..200)) {
        let mut world = World::new(seed);
        for fate in &fates {
            world.suffer(fate);
        }
        world.settle();
    }
}

fn settled(keys: u8) -> World {
    let mut world = World::new(1);
    (0..keys).for_each(|key| world.etcd.write(key, Some(1)));
    world.settle();
    while !matches!(world.machine.action(), Action::Read { .. }) {
        world.work();
    }
    world
}

#[test]
fn resumes_after_the_last_event_not_after_the_header() {
    let mut world = settled(3);
    let revision = world.etcd.revision;
    world.give(Input::Progress { revision: None });
    world.give(Input::Failed(Trouble::Transient));
    world.give(Input::Tick);
    assert_eq!(world.machine.action(), Action::Open { from: revision + 1 });
    let mut world = settled(3);
    world.give(Input::Progress { revision: Some(revision + 70) });
    world.give(Input::Failed(Trouble::Transient));
    world.give(Input::Tick);
    assert_eq!(world.machine.action(), Action::Open { from: revision + 71 });
}

#[test]
fn a_break_is_mended_at_once_and_tells_since_when_it_is_stale() {
    let mut world = settled(3);
    let heard = world.now;
    world.now += secs(4);
    world.give(Input::Failed(Trouble::Transient));
    assert_eq!(world.machine.standing(), Standing::Stale { since: heard });
    assert_eq!(world.machine.action(), Action::Sleep { until: world.now });
    assert_eq!(world.machine.snapshot().len(), 3);
    world.work();
    world.work();
    assert_eq!(world.machine.standing(), Standing::Current);
}

#[test]
fn a_silent_stream_is_probed_and_then_replaced() {
    let mut world = settled(1);
    let Action::Read { until } = world.machine.action() else { panic!() };
    assert!(until <= world.now + SILENCE);
    world.now = until;
    world.give(Input::Tick);
    assert_eq!(world.machine.action(), Action::Probe);
    world.give(Input::Probed);
    let Action::Read { until } = world.machine.action() else { panic!() };
    world.now = until;
    world.give(Input::Tick);
    assert!(matches!(world.machine.action(), Action::Sleep { .. }));
}

#[test]
fn a_lower_revision_is_believed_only_from_a_linearizable_read() {
    for (verified, lists) in [(2, true), (4, false)] {
        let mut world = settled(3);
        assert_eq!(world.etcd.revision, 4);
        world.give(Input::Failed(Trouble::Transient));
        world.give(Input::Tick);
        world.give(Input::Opened);
        world.give(Input::Created { revision: 1 });
        assert_eq!(world.machine.action(), Action::Verify);
        world.give(Input::Verified { revision: verified });
        if let Action::Sleep { until } = world.machine.action() {
            world.now = until;
            world.give(Input::Tick);
        }
        assert_eq!(world.machine.action() == Action::List, lists);
        assert_eq!(world.machine.snapshot().len(), 3);
    }
}

#[test]
fn a_token_is_refreshed_once_and_then_it_is_slow() {
    let mut world = settled(1);
    world.give(Input::Canceled(Trouble::Token));
    assert_eq!(world.machine.action(), Action::Refresh);
    world.give(Input::Refreshed);
    world.work();
    world.give(Input::Opened);
    world.give(Input::Canceled(Trouble::Token));
    let Action::Sleep { until } = world.machine.action() else { panic!() };
    assert!(until >= world.now + secs(2));
}

#[test]
fn a_relist_keeps_the_stream_and_survives_its_own_failure() {
    let mut world = settled(2);
    world.machine.relist_at = world.now;
    world.give(Input::Tick);
    assert_eq!(world.machine.action(), Action::List);
    world.give(Input::Failed(Trouble::Permanent));
    assert!(matches!(world.machine.action(), Action::Read { .. }));
    assert_eq!(world.machine.standing(), Standing::Current);
}
