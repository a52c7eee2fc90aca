//! Who is a substitute, and when that changes.

use std::time::Duration;

use super::fleet::{Fleet, Server, config, key};
use crate::balance::pool::select::CandidateState::{Connecting, Failing, Idle, Ready, Unhealthy};
use crate::balance::pool::select::*;

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
