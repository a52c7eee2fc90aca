//! Substitutes, in a world where servers come, go, fail and recover.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::fleet::{Fleet, Server, config};
use crate::balance::pool::select::CandidateState::{Connecting, Failing, Idle, Ready, Unhealthy};
use crate::balance::pool::select::substitutes::RETRY_AFTER;
use crate::balance::pool::select::*;

/// A channel that does what selections say.
struct World {
    config: SelectConfig,
    fleet: Fleet,
    now: Duration,
    selection: Selection,
    /// Those whose attempts succeed.
    up: BTreeSet<String>,
    /// Who was ever connected to.
    tried: BTreeSet<String>,
}

impl World {
    fn new(config: SelectConfig, fleet: Fleet) -> Self {
        let selection = fleet.select(&config, &[], Duration::ZERO);
        let (up, tried) = <_>::default();
        let mut world = Self { config, fleet, now: Duration::ZERO, selection, up, tried };
        world.fleet.0.values_mut().for_each(|server| server.state = Idle);
        world.select();
        world
    }

    fn subset(&self) -> usize {
        self.config.subset.unwrap().max(1)
    }

    /// Selects, checks what is selected, and connects and disconnects servers by it.
    fn select(&mut self) {
        self.selection = self.fleet.select(&self.config, &[], self.now);
        let mut well = self.fleet.clone();
        well.0.values_mut().for_each(|server| server.state = Ready);
        let principals = well.connected(&self.config);
        let reasons = self.fleet.0.keys().cloned().zip(self.selection.servers.iter().map(|verdict| verdict.reason));
        let reasons: BTreeMap<String, Reason> = reasons.collect();
        let count = |is_counted: &dyn Fn(&str, Reason) -> bool| {
            reasons.iter().filter(|(key, reason)| is_counted(key, **reason)).count()
        };
        let state = |key: &str| self.fleet.0[key].state;
        let ready = count(&|key, reason| reason.is_connected() && state(key).is_connected());
        let substitutes = count(&|_, reason| reason == Reason::Substitute);
        let failing = count(&|key, _| principals.contains(key) && state(key).fails());
        assert!(ready <= self.subset());
        assert!(count(&|_, reason| reason.is_connected()) <= self.subset() + (self.subset() / 2).max(2));
        assert!(substitutes <= failing, "{substitutes} for {failing}");
        for (key, reason) in &reasons {
            // The principals are always connected, and nobody else is when they are well.
            assert_eq!(principals.contains(key), matches!(reason, Reason::Selected | Reason::OtherZone), "{key}");
            let server = &self.fleet.0[key];
            if *reason == Reason::Substitute {
                assert!(!server.state.fails());
                let since = server.last_failure.map(|failure| self.now - failure);
                assert!(server.state == Ready || since.is_none_or(|since| since >= RETRY_AFTER), "{key} {since:?}");
            }
        }
        for (key, server) in &mut self.fleet.0 {
            match (reasons[key].is_connected(), server.state) {
                (false, _) => server.state = Idle,
                (true, Idle) => {
                    server.state = Connecting;
                    self.tried.insert(key.clone());
                }
                (true, _) => {}
            }
        }
    }

    /// The attempt to connect to a server ends.
    fn end_attempt(&mut self, key: &str) {
        let Some(server) = self.fleet.0.get_mut(key).filter(|server| matches!(server.state, Connecting | Failing))
        else {
            return;
        };
        if self.up.contains(key) {
            server.state = Ready;
        } else {
            (server.state, server.last_failure) = (Failing, Some(self.now));
        }
    }

    /// A connection is lost: it is made again, or the server says that it is unhealthy.
    fn lose(&mut self, key: &str, is_unhealthy: bool) {
        let Some(server) = self.fleet.0.get_mut(key).filter(|server| server.state == Ready) else { return };
        if is_unhealthy {
            (server.state, server.last_failure) = (Unhealthy, Some(self.now));
        } else {
            server.state = Connecting;
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Comes(usize, &'static str),
    Goes(usize),
    IsUp(usize, bool),
    EndsAttempt(usize),
    AllEndAttempts,
    Loses(usize, bool),
    Passes(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    let server = 0_usize..16;
    prop_oneof![
        2 => (server.clone(), proptest::sample::select(vec!["a", "b", "c"])).prop_map(|(server, zone)| Event::Comes(server, zone)),
        1 => server.clone().prop_map(Event::Goes),
        3 => (server.clone(), any::<bool>()).prop_map(|(server, is_up)| Event::IsUp(server, is_up)),
        6 => server.clone().prop_map(Event::EndsAttempt),
        2 => Just(Event::AllEndAttempts),
        2 => (server, any::<bool>()).prop_map(|(server, is_unhealthy)| Event::Loses(server, is_unhealthy)),
        3 => (1_u64..15_000).prop_map(Event::Passes),
    ]
}

fn key(number: usize) -> String {
    format!("h{number:03}:1")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// `World::select` checks each selection.
    #[test]
    fn substitutes_stand_in_for_those_that_fail(
        subset in 0_usize..8,
        has_zone in any::<bool>(),
        client in any::<u64>(),
        events in proptest::collection::vec(any_event(), 1..120),
    ) {
        let config = config(client, has_zone.then_some("a"), Some(subset));
        let mut world = World::new(config, Fleet::of(8, |number, key| Server::ready(key).in_zone(["a", "b"][number % 2])));
        for event in events {
            match event {
                Event::Comes(number, zone) => {
                    let new = Server { state: Idle, ..Server::ready(&key(number)).in_zone(zone) };
                    world.fleet.0.entry(key(number)).or_insert(new);
                }
                Event::Goes(number) => drop(world.fleet.0.remove(&key(number))),
                Event::IsUp(number, true) => drop(world.up.insert(key(number))),
                Event::IsUp(number, false) => drop(world.up.remove(&key(number))),
                Event::EndsAttempt(number) => world.end_attempt(&key(number)),
                Event::AllEndAttempts => (0..16).for_each(|number| world.end_attempt(&key(number))),
                Event::Loses(number, is_unhealthy) => world.lose(&key(number), is_unhealthy),
                Event::Passes(time) => world.now += Duration::from_millis(time),
            }
            world.select();
        }
        // When all are up and have been tried, the principals are what is left.
        world.up = (0..16).map(key).collect();
        (0..16).for_each(|number| {
            world.lose(&key(number), false);
            if let Some(server) = world.fleet.0.get_mut(&key(number)).filter(|server| server.state == Unhealthy) {
                server.state = Connecting;
            }
            world.end_attempt(&key(number));
        });
        world.select();
        prop_assert!(world.selection.servers.iter().all(|verdict| verdict.reason != Reason::Substitute));
    }

    /// While all are down each is tried in the end, however long attempts take. The time that each selection asks
    /// for is enough.
    #[test]
    fn each_is_tried_while_all_are_down(
        attempts in proptest::collection::vec((0_u64..20_000, proptest::sample::select(vec!["a", "b", "c"])), 1..30),
        subset in 0_usize..12,
        has_zone in any::<bool>(),
        client in any::<u64>(),
    ) {
        let config = config(client, has_zone.then_some("a"), Some(subset));
        let fleet = Fleet::of(attempts.len(), |number, key| Server::ready(key).in_zone(attempts[number].1));
        let mut world = World::new(config, fleet);
        let mut ends: BTreeMap<usize, Duration> = BTreeMap::new();
        while world.tried.len() < attempts.len() {
            for (number, (time, _)) in attempts.iter().enumerate() {
                if world.fleet.0[&key(number)].state == Connecting {
                    ends.entry(number).or_insert(world.now + Duration::from_millis(*time));
                } else {
                    ends.remove(&number);
                }
            }
            world.now = ends.values().copied().chain(world.selection.next).min().expect("something happens").max(world.now);
            let now = world.now;
            ends.iter().filter(|(_, end)| **end <= now).for_each(|(number, _)| world.end_attempt(&key(*number)));
            world.select();
            prop_assert!(world.now <= Duration::from_secs(20) * (1 + attempts.len() as u32), "{:?}", world.tried);
        }
    }
}

/// The reasons of those that are not where they are when all is well, by number.
fn substitutes(fleet: &Fleet, config: &SelectConfig, now: Duration) -> (Vec<usize>, Option<Duration>) {
    let selection = fleet.select(config, &[], now);
    let numbers = selection.servers.iter().enumerate();
    (
        numbers.filter(|(_, verdict)| verdict.reason == Reason::Substitute).map(|(number, _)| number).collect(),
        selection.next,
    )
}

/// Idle servers of which the first so many are principals of client 3, as they are ordered by rank.
fn ranked(count: usize, principals: usize) -> Fleet {
    let mut keys: Vec<String> = (100..100 + count).map(key).collect();
    keys.sort_by_key(|key| std::cmp::Reverse(rank(3, &Instance::new(key.as_str()).unwrap(), key)));
    // The keys are sorted differently from the ids, by which servers are ranked.
    Fleet::of(count, |number, own| {
        let state = if number < principals { Ready } else { Idle };
        let id = (0..).map(|salt| format!("{number}-{salt}"));
        let rank_of = |id: &String| rank(3, &Instance::new(own).unwrap().with_id(id.as_str()), own);
        // Ranks in equal steps down from the highest.
        let band = u64::MAX / count as u64;
        let mut id = id.filter(|id| (rank_of(id) / band) as usize == count - 1 - number);
        Server { state, ..Server::ready(own).with(|instance| instance.with_id(id.next().unwrap())) }
    })
}

const S: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn substitutes_are_tried_by_rank_and_kept_while_they_are_needed() {
    let config = config(3, None, Some(4));
    let mut fleet = ranked(8, 4);
    assert_eq!(substitutes(&fleet, &config, S(100)), (vec![], None));
    let set = |fleet: &mut Fleet, number: usize, state: CandidateState, failed: Option<u64>| {
        let server = fleet.0.get_mut(&key(number)).unwrap();
        (server.state, server.last_failure) = (state, failed.map(S));
    };
    set(&mut fleet, 1, Failing, Some(100));
    assert_eq!(substitutes(&fleet, &config, S(100)), (vec![4], None));
    // 4 fails: 5 is tried, which is being connected.
    set(&mut fleet, 4, Failing, Some(101));
    assert_eq!(substitutes(&fleet, &config, S(101)), (vec![5], None));
    set(&mut fleet, 4, Idle, Some(101));
    set(&mut fleet, 5, Connecting, None);
    // It stays, although 4 may be tried again.
    assert_eq!(substitutes(&fleet, &config, S(120)), (vec![5], None));
    // Another principal is unhealthy: 6 and 7 have never failed, 4 has.
    set(&mut fleet, 2, Unhealthy, Some(120));
    assert_eq!(substitutes(&fleet, &config, S(120)), (vec![5, 6], None));
    // No more than half of the subset.
    set(&mut fleet, 3, Failing, Some(120));
    assert_eq!(substitutes(&fleet, &config, S(120)), (vec![5, 6], None));
    // A ready one stays before one that is being connected; the one that failed last waits longest.
    set(&mut fleet, 6, Ready, None);
    set(&mut fleet, 3, Ready, None);
    set(&mut fleet, 2, Ready, None);
    assert_eq!(substitutes(&fleet, &config, S(121)), (vec![6], None));
    set(&mut fleet, 2, Failing, Some(121));
    set(&mut fleet, 5, Idle, Some(110));
    set(&mut fleet, 7, Idle, Some(105));
    assert_eq!(substitutes(&fleet, &config, S(121)), (vec![4, 6], None));
    set(&mut fleet, 4, Idle, Some(121));
    assert_eq!(substitutes(&fleet, &config, S(121)), (vec![6, 7], None));
    // All have failed lately: the first may be tried again when ten seconds are over.
    set(&mut fleet, 7, Idle, Some(121));
    set(&mut fleet, 5, Idle, Some(120));
    assert_eq!(substitutes(&fleet, &config, S(122)), (vec![6], Some(S(130))));
    assert_eq!(substitutes(&fleet, &config, S(130)), (vec![5, 6], None));
    // One that fails is disconnected first, and looked at again soon; without a time it has just failed.
    set(&mut fleet, 5, Failing, Some(100));
    assert_eq!(substitutes(&fleet, &config, S(123)), (vec![6], Some(S(124))));
    set(&mut fleet, 5, Unhealthy, None);
    assert_eq!(substitutes(&fleet, &config, S(121)), (vec![6], Some(S(131))));
    // The principals are back.
    set(&mut fleet, 1, Ready, None);
    set(&mut fleet, 2, Ready, None);
    assert_eq!(substitutes(&fleet, &config, S(122)), (vec![], None));
}

/// How many substitutes are in the own zone and in others, with ten servers in each of two.
fn by_zone(subset: usize, change: impl Fn(&mut Server, &Verdict)) -> [usize; 2] {
    let mut fleet = Fleet::of(20, |number, key| Server::ready(key).in_zone(["a", "b"][number % 2]));
    let config = config(5, Some("a"), Some(subset));
    let verdicts = fleet.select(&config, &[], S(100)).servers;
    for (server, verdict) in fleet.0.values_mut().zip(&verdicts) {
        if !verdict.reason.is_connected() {
            server.state = Idle;
        }
        change(server, verdict);
    }
    let (substitutes, _) = substitutes(&fleet, &config, S(100));
    [0, 1].map(|zone| substitutes.iter().filter(|number| *number % 2 == zone).count())
}

#[test]
fn a_substitute_is_of_the_same_zone_if_it_can() {
    let fail = |server: &mut Server| (server.state, server.last_failure) = (Failing, Some(S(100)));
    let one_fails = |reason: Reason| {
        let failed = std::cell::Cell::new(false);
        move |server: &mut Server, verdict: &Verdict| {
            if verdict.reason == reason && !failed.replace(true) {
                fail(server);
            }
        }
    };
    assert_eq!(by_zone(6, one_fails(Reason::Selected)), [1, 0]);
    assert_eq!(by_zone(6, one_fails(Reason::OtherZone)), [0, 1]);
    // All at home fail, so half of those that are tried are elsewhere.
    let home_fails = |server: &mut Server, verdict: &Verdict| {
        if verdict.reason == Reason::Selected {
            fail(server);
        }
    };
    assert_eq!(by_zone(8, home_fails), [2, 2]);
    assert_eq!(by_zone(6, home_fails), [2, 1]);
    // The rest of the zone has failed too.
    let zone_fails = |server: &mut Server, _: &Verdict| {
        if server.instance.zone() == Some("a") {
            fail(server);
        }
    };
    assert_eq!(by_zone(8, zone_fails), [0, 4]);
}
