//! The watch machine against a simulated etcd that drops, doubles, compacts, cancels, restarts and is wiped, and whose lists
//! are answered and arrive whenever they like.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::address_index::Doubt;
use crate::codec::DecodeError;
use crate::instance::Instance;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn entry(key: u8, value: u8) -> SnapshotEntry {
    let read = match value {
        0 => Err(DecodeError::new("bad")),
        value => Ok(vec![Instance::new(format!("h:{value}")).unwrap()]),
    };
    SnapshotEntry::new(&[b's', b'/', key], read)
}

type Keys = BTreeMap<u8, u8>;

fn entries(keys: &Keys) -> Vec<SnapshotEntry> {
    keys.iter().map(|(key, value)| entry(*key, *value)).collect()
}

/// An etcd with one prefix: its keys at each revision, and the history that has not been compacted.
#[derive(Clone, Debug, Default)]
struct Etcd {
    cluster: u64,
    revision: i64,
    compacted: i64,
    states: BTreeMap<i64, Keys>,
    history: Vec<(i64, u8, Option<u8>)>,
}

impl Etcd {
    fn new() -> Self {
        Self { cluster: 1, revision: 1, states: BTreeMap::from([(1, Keys::new())]), ..Self::default() }
    }

    fn keys(&self) -> &Keys {
        &self.states[&self.revision]
    }

    fn write(&mut self, key: u8, value: Option<u8>) {
        let mut keys = self.keys().clone();
        match value {
            Some(value) => drop(keys.insert(key, value)),
            None if keys.remove(&key).is_none() => return,
            None => {}
        }
        self.revision += 1;
        self.history.push((self.revision, key, value));
        self.states.insert(self.revision, keys);
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

/// What may happen between two steps.
#[derive(Clone, Debug)]
enum Fate {
    Write(u8, Option<u8>),
    Compact,
    Wipe,
    /// A list that was asked for is answered, and is on its way from then on.
    Answer,
    /// What is asked for fails.
    Fail(FailureKind),
    Lose(FailureKind),
    Cancel(FailureKind),
    Reconnect,
    /// Nothing comes for a while.
    Silence,
    /// The next message comes twice.
    Double,
    /// The watch goes on, whatever becomes of what is asked for.
    Watch,
    Work,
}

fn kind() -> impl Strategy<Value = FailureKind> {
    prop_oneof![4 => Just(FailureKind::Transient), 1 => Just(FailureKind::Revision), 1 => Just(FailureKind::Permanent)]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        10 => (0u8..20, proptest::option::of(0u8..4)).prop_map(|(key, value)| Fate::Write(key, value)),
        2 => Just(Fate::Compact),
        1 => Just(Fate::Wipe),
        4 => Just(Fate::Answer),
        2 => kind().prop_map(Fate::Fail),
        2 => kind().prop_map(Fate::Lose),
        2 => kind().prop_map(Fate::Cancel),
        1 => Just(Fate::Reconnect),
        2 => Just(Fate::Silence),
        2 => Just(Fate::Double),
        6 => Just(Fate::Watch),
        8 => Just(Fate::Work),
    ]
}

/// What was asked for.
#[derive(Clone, Debug)]
enum Asked {
    List(Option<(i64, Vec<SnapshotEntry>)>),
    Verify,
}

/// The task around the machine, in miniature.
struct World {
    etcd: Etcd,
    machine: Machine,
    now: Duration,
    asked: Option<Asked>,
    /// The watch's place in the history, once it is created.
    watch: Option<i64>,
    to_create: Option<i64>,
    /// Whether there were wipes, whose new history may already have passed the old revision.
    wiped: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let (etcd, machine) = (Etcd::new(), Machine::new(seed, MassLoss::default()));
        Self { etcd, machine, now: Duration::ZERO, asked: None, watch: None, to_create: None, wiped: false }
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
        // What is doubtful stands beside the snapshot.
        self.machine.doubt_changed(self.now);
        let after = self.machine.snapshot();
        for doubtful in after.doubtful() {
            assert!(after.get(doubtful.key()).is_none(), "{doubtful:?} is listed");
            assert!(!doubtful.instances().is_empty());
        }
        assert_eq!(after.unreadable(), after.entries().filter(|e| e.error().is_some()).count());
        // F2: a list never takes back what events after its revision said, nor do old events.
        if !self.wiped && self.machine.status(self.now) != WatchStatus::Unresolved {
            let keys = &self.etcd.states[&self.machine.revision];
            assert!(after.entries().cloned().eq(entries(keys)), "not as etcd was at {}", self.machine.revision);
        }
        self.hands();
    }

    /// What the machine asks for is asked for.
    fn hands(&mut self) {
        if let Some(from) = self.machine.watch(self.now) {
            (self.to_create, self.watch) = (Some(from), None);
        } else if !self.machine.wants_watch() {
            (self.to_create, self.watch) = (None, None);
        }
        if self.asked.is_none() {
            self.asked = match self.machine.action(self.now) {
                Action::List => Some(Asked::List(None)),
                Action::Verify => Some(Asked::Verify),
                Action::Wait { .. } => None,
            };
        }
    }

    /// A step of the watch; whether there was one.
    fn watch(&mut self) -> bool {
        if let Some(from) = self.to_create.take() {
            let revision = self.etcd.revision;
            if from < self.etcd.compacted {
                self.give(Input::Created { revision });
                self.give(Input::Canceled(FailureKind::Revision));
            } else {
                self.watch = Some(from);
                self.give(Input::Created { revision });
            }
            return true;
        }
        let Some(from) = self.watch else { return false };
        if from < self.etcd.compacted {
            self.watch = None;
            self.give(Input::Canceled(FailureKind::Revision));
            return true;
        }
        let events = self.etcd.events(from);
        if events.is_empty() {
            return false;
        }
        self.watch = Some(self.etcd.revision + 1);
        self.give(Input::Events(events));
        true
    }

    fn answer(&mut self) {
        if let Some(Asked::List(answer @ None)) = &mut self.asked {
            *answer = Some((self.etcd.revision, entries(self.etcd.keys())));
        }
    }

    /// What was asked for arrives; whether anything was.
    fn arrive(&mut self) -> bool {
        self.answer();
        match self.asked.take() {
            Some(Asked::List(Some((revision, entries)))) => {
                self.give(Input::Listed { revision, cluster: self.etcd.cluster, entries });
            }
            Some(Asked::Verify) => self.give(Input::Verified { revision: self.etcd.revision }),
            Some(Asked::List(None)) | None => return false,
        }
        true
    }

    /// Whatever there is to do, done by an etcd that works; else time passes.
    fn work(&mut self) {
        self.now += Duration::from_millis(1);
        self.hands();
        if self.arrive() | self.watch() {
            return;
        }
        let wake = self.machine.wake(self.now).into_iter();
        let due = match self.machine.action(self.now) {
            Action::Wait { until } => Some(until),
            _ => unreachable!("the hand is empty, and was just asked"),
        };
        let at = wake.chain(due).min().unwrap_or(self.now);
        self.now = self.now.max(at.min(self.now + secs(1)));
        self.hands();
    }

    fn suffer(&mut self, fate: &Fate) {
        match *fate {
            Fate::Write(key, value) => self.etcd.write(key, value),
            Fate::Compact => {
                self.etcd.compacted = self.etcd.revision;
                self.etcd.history.retain(|(revision, ..)| *revision >= self.etcd.compacted);
            }
            Fate::Wipe => {
                // Every other one is another cluster, with a history that may be longer.
                let other = Etcd { cluster: self.etcd.cluster + 1, ..Etcd::new() };
                self.etcd = if self.etcd.revision % 2 == 0 {
                    other
                } else {
                    Etcd { cluster: self.etcd.cluster, ..Etcd::new() }
                };
                self.wiped = true;
                self.suffer(&Fate::Lose(FailureKind::Transient));
                self.suffer(&Fate::Fail(FailureKind::Transient));
                self.give(Input::Connected { is_new: true });
            }
            Fate::Answer => self.answer(),
            Fate::Fail(kind) => match self.asked.take() {
                Some(Asked::List(_)) => self.give(Input::ListFailed(kind)),
                Some(Asked::Verify) => self.give(Input::VerifyFailed(kind)),
                None => {}
            },
            Fate::Lose(kind) => {
                if self.machine.wants_watch() {
                    (self.watch, self.to_create) = (None, None);
                    self.give(Input::Lost { kind, last_heard: self.now });
                }
            }
            Fate::Cancel(kind) => {
                if self.watch.take().is_some() {
                    self.give(Input::Canceled(kind));
                }
            }
            Fate::Reconnect => self.give(Input::Connected { is_new: true }),
            Fate::Silence => {
                self.now += secs(2);
                self.hands();
            }
            Fate::Double => {
                if let Some(from) = self.watch.filter(|from| *from >= self.etcd.compacted) {
                    let events = self.etcd.events(from);
                    self.watch = Some(self.etcd.revision + 1);
                    if !events.is_empty() {
                        self.give(Input::Events(events.clone()));
                        self.give(Input::Events(events));
                    }
                }
            }
            Fate::Watch => drop(self.watch()),
            Fate::Work => self.work(),
        }
    }

    fn agrees(&self) -> bool {
        self.machine.snapshot().entries().cloned().eq(entries(self.etcd.keys()))
    }

    /// Lets a healthy etcd serve until the snapshot is right.
    fn settle(&mut self) {
        let end = self.now + if self.wiped { secs(60) } else { secs(20) };
        while !(self.agrees() && self.machine.is_watching() && self.asked.is_none()) {
            assert!(self.now < end, "not right in time: {:?}\n{:?}", self.machine, self.etcd);
            self.work();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn converges_to_etcds_set_whatever_happens((seed, fates) in seed_and_fates()) {
        converges(seed, &fates);
    }
}

fn seed_and_fates() -> impl Strategy<Value = (u64, Vec<Fate>)> {
    (any::<u64>(), proptest::collection::vec(fate(), 0..200))
}

fn converges(seed: u64, fates: &[Fate]) {
    let mut world = World::new(seed);
    world.hands();
    for fate in fates {
        world.suffer(fate);
    }
    world.settle();
}

/// The fuzz target: the same property.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, any::<u64>(), fate(), |seed, fates| {
        converges(seed, &fates);
        Ok(())
    });
}

fn settled(keys: u8) -> World {
    let mut world = World::new(1);
    (0..keys).for_each(|key| world.etcd.write(key, Some(1)));
    world.hands();
    world.settle();
    world
}

fn from(world: &World) -> i64 {
    world.to_create.expect("a watch is to be opened")
}

/// F1: what the list holds is watched too, and dropped: a watch that begins later cannot be asked for progress.
#[test]
fn the_watch_begins_where_the_list_was_read() {
    let mut world = World::new(1);
    world.etcd.write(1, Some(1));
    world.hands();
    assert!(world.arrive());
    assert_eq!(from(&world), world.etcd.revision);
}

#[test]
fn goes_on_from_the_last_event_not_from_the_header() {
    for (progress, expected) in [(None, 4), (Some(74), 74)] {
        let mut world = settled(3);
        if let Some(revision) = progress {
            world.wiped = true; // it is not this etcd that says so
            world.give(Input::Progress { revision });
        }
        world.give(Input::Lost { kind: FailureKind::Transient, last_heard: world.now });
        assert_eq!(from(&world), expected);
    }
}

/// F2: `Current` means that a watch stands, or that a list was answered less than 5 s ago.
#[test]
fn a_list_alone_is_current_for_five_seconds() {
    let mut world = World::new(1);
    world.hands();
    assert_eq!(world.machine.status(world.now), WatchStatus::Unresolved);
    world.arrive();
    let listed = world.now;
    assert_eq!(world.machine.status(listed), WatchStatus::Current);
    assert_eq!(world.machine.wake(listed), Some(listed + LIST_VALID));
    assert_eq!(world.machine.status(listed + LIST_VALID), WatchStatus::Stale { since: listed });
    assert!(world.watch(), "the watch is created");
    assert_eq!(world.machine.status(listed + secs(3600)), WatchStatus::Current);
}

/// F2: events are taken in beside a relist that hangs.
#[test]
fn a_list_that_hangs_holds_up_no_event() {
    let mut world = settled(3);
    world.now += secs(600);
    world.hands();
    assert!(matches!(world.asked, Some(Asked::List(None))));
    world.answer();
    world.etcd.write(1, None);
    world.etcd.write(7, Some(2));
    assert!(world.watch());
    assert!(world.agrees());
    world.arrive();
    assert!(world.agrees(), "and the list that was read before them takes nothing back");
}

#[test]
fn a_break_is_mended_at_once_and_tells_since_when_it_is_stale() {
    let mut world = settled(3);
    world.now += secs(60);
    let last_heard = world.now;
    world.now += secs(4);
    world.give(Input::Lost { kind: FailureKind::Transient, last_heard });
    assert_eq!(world.machine.status(world.now), WatchStatus::Stale { since: last_heard });
    assert_eq!(world.machine.snapshot().len(), 3);
    assert!(world.watch(), "another watch is asked for at once");
    assert_eq!(world.machine.status(world.now), WatchStatus::Current);
}

/// Streams that could not be opened were begun later, and etcd has not been heard over them.
#[test]
fn attempts_that_fail_make_nothing_less_stale() {
    let mut world = settled(3);
    world.now += secs(60);
    let last_heard = world.now;
    for _ in 0..5 {
        world.give(Input::Lost { kind: FailureKind::Transient, last_heard: world.now });
        assert_eq!(world.machine.status(world.now), WatchStatus::Stale { since: last_heard });
        world.now += secs(60);
        world.hands();
        assert!(world.to_create.is_some(), "another watch is asked for");
    }
}

#[test]
fn a_lower_revision_is_believed_only_from_a_linearizable_read() {
    for (verified, list_backoff) in [(2, true), (4, false)] {
        let mut world = settled(3);
        assert_eq!(world.etcd.revision, 4);
        world.wiped = true;
        world.give(Input::Lost { kind: FailureKind::Transient, last_heard: world.now });
        world.to_create = None;
        world.give(Input::Created { revision: 1 });
        assert!(matches!(world.asked, Some(Asked::Verify)));
        world.asked = None;
        world.give(Input::Verified { revision: verified });
        world.now += secs(1);
        world.hands();
        assert_eq!(matches!(world.asked, Some(Asked::List(_))), list_backoff);
        assert_eq!(world.machine.is_watching(), !list_backoff);
        assert_eq!(world.machine.snapshot().len(), 3);
    }
}

#[test]
fn what_only_people_can_mend_is_tried_slowly() {
    let mut world = settled(1);
    world.give(Input::Lost { kind: FailureKind::Transient, last_heard: world.now });
    world.give(Input::Canceled(FailureKind::Permanent));
    let wake = world.machine.wake(world.now + secs(1)).unwrap();
    assert!(wake >= world.now + secs(2), "{wake:?}");
    world.give(Input::Connected { is_new: false });
    assert!(world.to_create.is_none(), "another connection mends nothing");
}

#[test]
fn each_other_etcd_in_the_place_of_the_known_one_is_counted() {
    let mut machine = Machine::new(1, MassLoss::default());
    // The revision and the cluster of each list, and how many others there were by then.
    for (round, (revision, cluster, restores)) in
        [(9, 1, 0), (9, 1, 0), (3, 1, 1), (4, 1, 1), (4, 2, 2), (5, 0, 2)].into_iter().enumerate()
    {
        let now = secs(round as u64 * 1_000);
        assert!(matches!(machine.action(now), Action::List));
        machine.on(now, Input::Listed { revision, cluster, entries: vec![] });
        assert_eq!(machine.restores(), restores, "round {round}");
    }
}

#[test]
fn what_a_role_need_not_permit_is_asked_for_about_once_a_minute() {
    let mut machine = Machine::new(1, MassLoss::default());
    for round in 0..5 {
        let now = secs(round * 100);
        assert!(matches!(machine.action(now), Action::List));
        machine.on(now, Input::ListFailed(FailureKind::Denied));
        machine.on(now, Input::Connected { is_new: false });
        let Action::Wait { until } = machine.action(now) else { panic!("asked again at once") };
        assert!((now + secs(30)..=now + secs(60)).contains(&until), "{until:?}");
    }
}

#[test]
fn a_new_connection_ends_the_wait_for_one() {
    let mut world = settled(1);
    for _ in 0..5 {
        world.give(Input::Lost { kind: FailureKind::Transient, last_heard: world.now });
    }
    assert!(world.to_create.is_none());
    world.give(Input::Connected { is_new: false });
    assert!(world.to_create.is_some());
}

/// Lists alone tell what etcd holds where the watch is not created.
#[test]
fn while_the_watch_is_late_lists_go_on() {
    let mut world = World::new(1);
    world.hands();
    world.arrive();
    for _ in 0..5 {
        world.give(Input::Late);
        let Action::Wait { until } = world.machine.action(world.now) else { panic!() };
        assert!(until <= world.now + secs(11), "{until:?}");
        world.now = until;
        world.hands();
        assert!(world.arrive());
    }
}

#[test]
fn watches_that_end_soon_are_not_opened_without_end() {
    let mut world = settled(1);
    let (began, mut opened) = (world.now, 0);
    while world.now < began + secs(30) {
        if world.watch() {
            opened += 1;
            world.give(Input::Progress { revision: 1 });
            world.watch = None;
            world.give(Input::Lost { kind: FailureKind::Transient, last_heard: world.now });
        }
        world.now += Duration::from_millis(10);
        world.hands();
    }
    assert!(opened < 80, "{opened}");
}

#[test]
fn a_relist_that_fails_leaves_the_watch_as_it_is() {
    let mut world = settled(2);
    world.now += secs(600);
    world.hands();
    world.suffer(&Fate::Fail(FailureKind::Permanent));
    assert!(world.machine.is_watching());
    assert_eq!(world.machine.status(world.now), WatchStatus::Current);
}

/// The watch has not broken: a periodic list may only be faster than the events, and these say that keys went one by one.
#[test]
fn a_list_that_overtakes_the_events_of_an_open_watch_makes_no_loss_sudden() {
    for is_broken in [false, true] {
        let mut world = settled(4);
        if is_broken {
            world.give(Input::Lost { kind: FailureKind::Transient, last_heard: world.now });
            assert!(world.watch(), "another one is opened at once");
        }
        world.now += secs(600);
        world.hands();
        assert!(matches!(world.asked, Some(Asked::List(None))) && world.machine.is_watching());
        (0..4).for_each(|key| world.etcd.write(key, None));
        assert!(world.arrive());
        assert!(world.watch(), "the events come a moment later");
        let kinds: Vec<_> = world.machine.snapshot().doubtful().filter_map(SnapshotEntry::doubt).collect();
        let kind = if is_broken { Doubt::Sudden } else { Doubt::Gradual };
        assert_eq!(kinds, [kind; 4]);
    }
}
