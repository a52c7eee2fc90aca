//! Substitutes, in a world where servers come, go, fail and recover.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::fleet::{Fleet, Server, config, key};
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
        let fails = |key: &str| {
            let server = &self.fleet.0[key];
            server.state.fails() || !server.state.is_connected() && server.last_failure.is_some()
        };
        let failing = count(&|key, _| principals.contains(key) && fails(key));
        let tried = count(&|key, reason| reason.is_connected() && principals.contains(key) && fails(key));
        assert!(tried >= failing.min((self.subset() / 2).max(2)), "{tried} of {failing}");
        assert!(ready <= self.subset());
        assert!(count(&|_, reason| reason.is_connected()) <= self.subset() + (self.subset() / 2).max(2));
        assert!(substitutes <= failing, "{substitutes} for {failing}");
        for (key, reason) in &reasons {
            // The principals that are well are always connected, and nobody else is when all are.
            let is_chosen = matches!(reason, Reason::Selected | Reason::OtherZone);
            assert!(principals.contains(key) || !is_chosen, "{key}");
            assert!(is_chosen || !principals.contains(key) || fails(key), "{key}");
            let server = &self.fleet.0[key];
            if *reason == Reason::Substitute {
                assert!(!server.state.fails());
                let since = server.last_failure.map(|failure| self.now.saturating_sub(failure));
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
            (server.state, server.last_failure) = (Ready, None);
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

fn any_zone() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["a", "b", "c"])
}

fn any_event() -> impl Strategy<Value = Event> {
    let server = 0_usize..16;
    prop_oneof![
        2 => (server.clone(), any_zone()).prop_map(|(server, zone)| Event::Comes(server, zone)),
        1 => server.clone().prop_map(Event::Goes),
        3 => (server.clone(), any::<bool>()).prop_map(|(server, is_up)| Event::IsUp(server, is_up)),
        6 => server.clone().prop_map(Event::EndsAttempt),
        2 => Just(Event::AllEndAttempts),
        2 => (server, any::<bool>()).prop_map(|(server, is_unhealthy)| Event::Loses(server, is_unhealthy)),
        3 => (1_u64..15_000).prop_map(Event::Passes),
    ]
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
        let fleet = Fleet::of(8, |number, key| Server::ready(key).in_zone(["a", "b"][number % 2]));
        let mut world = World::new(config, fleet);
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
        for _ in 0..20 {
            for number in 0..16 {
                if let Some(server) = world.fleet.0.get_mut(&key(number)).filter(|server| server.state == Unhealthy) {
                    server.state = Connecting;
                }
                world.end_attempt(&key(number));
            }
            world.now += RETRY_AFTER;
            world.select();
        }
        prop_assert!(world.selection.servers.iter().all(|verdict| verdict.reason != Reason::Substitute));
    }

    /// While all are down each is tried in the end, however long attempts take. The time that each selection asks
    /// for is enough.
    #[test]
    fn each_is_tried_while_all_are_down(
        attempts in proptest::collection::vec((0_u64..20_000, any_zone()), 1..30),
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
            let next = ends.values().copied().chain(world.selection.next).min();
            let now = next.expect("something happens").max(world.now);
            world.now = now;
            ends.iter().filter(|(_, end)| **end <= now).for_each(|(number, _)| world.end_attempt(&key(*number)));
            world.select();
            prop_assert!(world.now <= Duration::from_secs(20) * (1 + attempts.len() as u32), "{:?}", world.tried);
        }
    }
}
