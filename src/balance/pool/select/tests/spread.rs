//! How clients spread over servers, and how little one server changes.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::fleet::{Fleet, Server, config};
use crate::balance::pool::select::*;

/// The figure of issue 18: 1 000 clients with 20 of 100 servers each.
#[test]
fn a_thousand_clients_spread_evenly() {
    let fleet = Fleet::of(100, |_, key| Server::ready(key));
    let mut clients = vec![0_u32; 100];
    let mut random = fastrand::Rng::with_seed(18);
    for _ in 0..1_000 {
        let selection = fleet.select(&config(random.u64(..), None, Some(20)), &[], Duration::ZERO);
        let counts = clients.iter_mut().zip(&selection.servers);
        counts.for_each(|(count, verdict)| *count += u32::from(verdict.reason.is_connected()));
    }
    assert_eq!(clients.iter().sum::<u32>(), 20_000);
    let (most, least) = (clients.iter().max().unwrap(), clients.iter().min().unwrap());
    println!(
        "clients of the fullest server / mean: {:.3}, of the emptiest: {:.3}",
        f64::from(*most) / 200.0,
        f64::from(*least) / 200.0
    );
    assert!(*most <= 250, "{clients:?}");
}

/// The ids of clients may be numbers that differ little: the order of servers does not show it.
#[test]
fn clients_in_sequence_are_spread_as_well() {
    let keys: Vec<_> = (0..10).map(|number| format!("10.0.0.{number}:50051")).collect();
    let instances: Vec<_> = keys.iter().map(|key| Instance::new(key.as_str()).unwrap()).collect();
    let mut first = [0; 10];
    for client in 0..10_000 {
        let ranks = keys.iter().zip(&instances).map(|(key, instance)| rank(client, instance, key));
        first[ranks.enumerate().max_by_key(|(_, rank)| *rank).unwrap().0] += 1;
    }
    assert!(first.iter().all(|count| (880..1_120).contains(count)), "{first:?}");
}

#[test]
fn a_server_keeps_its_rank_under_its_id() {
    let named = |address: &str| Instance::new(address).unwrap().with_id("pod-1");
    let rank_of = |instance: &Instance, key: &str| rank(5, instance, key);
    assert_eq!(rank_of(&named("h:1"), "h:1"), rank_of(&named("k:2"), "k:2"));
    assert_ne!(rank(5, &named("h:1"), "h:1"), rank(6, &named("h:1"), "h:1"));
    // Its further addresses are servers of their own.
    let two = named("h:1").with_address("k:2").unwrap();
    assert_eq!(rank_of(&two, "h:1"), rank_of(&named("h:1"), "h:1"));
    assert_ne!(rank_of(&two, "k:2"), rank_of(&two, "h:1"));
    let unnamed = |address: &str| Instance::new(address).unwrap();
    assert_ne!(rank_of(&unnamed("h:1"), "h:1"), rank_of(&unnamed("k:2"), "k:2"));
    // An id that reads like an address is none.
    assert_ne!(rank_of(&unnamed("h:1").with_id("h:1"), "h:1"), rank_of(&unnamed("h:1"), "h:1"));
}

/// Instances that have one id by mistake are not all the same to all clients.
#[test]
fn one_id_for_all_does_not_gather_the_clients() {
    let fleet = Fleet::of(20, |_, key| Server::ready(key).with(|instance| instance.with_id("greeter")));
    let chosen: BTreeSet<_> = (0..100).flat_map(|client| fleet.connected(&config(client, None, Some(2)))).collect();
    assert_eq!(chosen.len(), 20);
}

/// The figure of issue 18: 20 of 500 servers, of which 100 are replaced one by one.
#[test]
fn a_replaced_server_exchanges_no_other() {
    let config = config(18, None, Some(20));
    let mut fleet = Fleet::of(500, |_, key| Server::ready(key));
    let mut chosen = fleet.connected(&config);
    let mut exchanged = 0;
    for number in 0..100 {
        let gone = format!("h{:03}:1", number * 5);
        let step = |fleet: &Fleet, before: &BTreeSet<String>, changed: &str| {
            let after = fleet.connected(&config);
            let others = |from: &BTreeSet<String>, to: &BTreeSet<String>| {
                from.difference(to).filter(|key| *key != changed).count()
            };
            assert!(others(&after, before) <= 1 && others(before, &after) <= 1);
            (others(&after, before), after)
        };
        fleet.0.remove(&gone);
        let (came, left) = step(&fleet, &chosen, &gone);
        let new = format!("n{number:03}:1");
        fleet.0.insert(new.clone(), Server::ready(&new));
        let (_, joined) = step(&fleet, &left, &new);
        assert!(came == usize::from(chosen.contains(&gone)));
        exchanged += joined.difference(&chosen).count();
        chosen = joined;
    }
    println!("servers that were exchanged in 100 steps: {exchanged}");
    assert_eq!(chosen.len(), 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn one_server_exchanges_at_most_one_other(
        zones in proptest::collection::vec(proptest::sample::select(vec!["", "a", "b", "c"]), 1..30),
        subset in 0_usize..12,
        further in any::<bool>(),
        client in any::<u64>(),
    ) {
        let mut config = config(client, Some("a"), Some(subset));
        if further {
            config.further_zones.push("c".into());
        }
        let mut fleet = Fleet::of(zones.len(), |number, key| Server::ready(key).in_zone(zones[number]));
        let before = fleet.connected(&config);
        prop_assert_eq!(before.len(), subset.max(1).min(zones.len()));
        let (key, _) = fleet.0.pop_first().unwrap();
        let after = fleet.connected(&config);
        // Going and coming are the same two sets.
        prop_assert!(after.difference(&before).count() <= usize::from(before.contains(&key)));
        let gone = before.difference(&after).filter(|gone| **gone != key).count();
        prop_assert!(gone <= usize::from(!before.contains(&key)));
    }
}
