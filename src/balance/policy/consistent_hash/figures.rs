//! The figures that the policy's documentation gives, with fixed seeds. PURE.

use std::collections::VecDeque;

use super::bound::bound;
use super::ring::{MOST_POINTS, Ring, RingSize, xxh64};

const SERVERS: usize = 20;
const KEYS: u64 = 10_000;
const SEEDS: u64 = 10;

/// Servers of equal weight, other ones for each seed.
fn fleet(seed: u64, servers: usize) -> Vec<(String, f64)> {
    (0..servers).map(|server| (format!("10.{seed}.0.{server}:50051"), 1.0)).collect()
}

/// The name of the server that each key belongs to.
fn owners(servers: &[(String, f64)], seed: u64) -> Vec<String> {
    let ring = Ring::new(servers, RingSize::default());
    let owner = |key: u64| ring.walk(xxh64(format!("{seed}/{key}").as_bytes())).next().unwrap();
    (0..KEYS).map(|key| servers[owner(key)].0.clone()).collect()
}

#[test]
fn few_keys_move_and_none_between_servers_that_stay() {
    let (mut most_moved, mut fullest) = (0.0_f64, 0.0_f64);
    for seed in 0..SEEDS {
        let with = fleet(seed, SERVERS);
        let mut without = with.clone();
        let (gone, _) = without.remove(seed as usize);
        let (before, after) = (owners(&with, seed), owners(&without, seed));
        // One leaves, or joins: the same two sets.
        let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        assert!(moved.iter().all(|(before, _)| **before == gone), "moved between two that stayed");
        assert_eq!(owners(&with, seed), before, "not back");
        most_moved = most_moved.max(moved.len() as f64 / KEYS as f64);
        let counts = with.iter().map(|(name, _)| before.iter().filter(|owner| *owner == name).count());
        fullest = fullest.max(counts.max().unwrap() as f64 / (KEYS as f64 / SERVERS as f64));
    }
    println!("at most {:.1} % of the keys moved; largest / mean {fullest:.2}", most_moved * 100.0);
    assert!(most_moved <= 0.075, "{most_moved}");
    assert!(fullest <= 1.3, "{fullest}");
}

#[test]
fn points_follow_the_own_weight_and_are_bounded() {
    let numbers = |weights: &[f64], size| {
        let servers: Vec<_> =
            weights.iter().enumerate().map(|(server, weight)| (server.to_string(), *weight)).collect();
        let ring = Ring::new(&servers, size);
        let mut numbers = vec![0; weights.len()];
        ring.points().iter().for_each(|server| numbers[*server as usize] += 1);
        numbers
    };
    let by_default = RingSize::default();
    assert_eq!(numbers(&[1.0, 3.0, 2.5], by_default), [320, 960, 800]);
    assert_eq!(numbers(&[1.0; 204], by_default), [320; 204]);
    assert_eq!(numbers(&[1.0; 409], by_default), [160; 409]);
    // One that comes or goes changes nothing for the others.
    assert_eq!(numbers(&[100.0; 20], by_default)[..19], numbers(&[100.0; 19], by_default));
    let uneven = numbers(&[1.0, 1e9, f64::NAN, f64::INFINITY, -1.0], by_default);
    assert!(uneven.iter().sum::<usize>() <= MOST_POINTS as usize + 5 && uneven.iter().all(|number| *number >= 1));
    assert_eq!(numbers(&[1.0; 3], RingSize { least: 1_024, most: 4_096 }), [640; 3]);
    assert_eq!(numbers(&[1.0; 3], RingSize { least: 4_096, most: 1_024 }), [320; 3]);
    assert_eq!(numbers(&[1.0; 3], RingSize { least: 0, most: 0 }), [1; 3]);
    assert_eq!(numbers(&[1.0; 3], RingSize { least: u32::MAX, most: u32::MAX })[0], 20_480);
    assert!(numbers(&[], by_default).is_empty());
}

#[test]
fn a_walk_meets_each_server_once() {
    for servers in [0, 1, 2, 20, 1_500] {
        let ring = Ring::new(&fleet(0, servers), RingSize::default());
        for hash in [0, 1, xxh64(b"key"), u64::MAX] {
            let mut met: Vec<_> = ring.walk(hash).collect();
            assert_eq!(met.len(), servers);
            met.sort_unstable();
            met.dedup();
            assert_eq!(met.len(), servers);
        }
    }
}

#[test]
fn bounds_are_rounded_up_and_leave_room_for_one_more_call() {
    for (percent, all, share, expected) in [
        (125, 0, 0.05, 1),
        (125, 63, 0.05, 4),
        (125, 64, 0.05, 5),
        (125, 79, 0.5, 50),
        (101, 99, 0.5, 51),
        (125, 7, 0.0, 1),
    ] {
        assert_eq!(bound(percent, all, share), expected, "{percent} % of {all}, {share}");
    }
}

/// 64 callers, of whose calls 30 % carry the same key: the policy's walk and bound, where calls take equally long.
#[test]
fn one_busy_key_does_not_fill_its_server() {
    const CALLERS: usize = 64;
    let mut fullest = 0.0_f64;
    for seed in 0..SEEDS {
        let ring = Ring::new(&fleet(seed, SERVERS), RingSize::default());
        let (mut in_flight, mut calls) = ([0_u64; SERVERS], VecDeque::new());
        let mut own = 0;
        for call in 0..20_000_u64 {
            if calls.len() == CALLERS {
                in_flight[calls.pop_front().unwrap()] -= 1_u64;
            }
            let random = xxh64(&call.to_be_bytes());
            let hash = if random % 10 < 3 { xxh64(b"busy") } else { xxh64(&random.to_be_bytes()) };
            let bound = bound(125, calls.len() as u64, 1.0 / SERVERS as f64);
            let server = ring.walk(hash).find(|server| in_flight[*server] < bound).expect("one has room");
            own += u64::from(ring.walk(hash).next() == Some(server));
            in_flight[server] += 1;
            calls.push_back(server);
            if calls.len() == CALLERS {
                fullest = fullest.max(*in_flight.iter().max().unwrap() as f64);
            }
        }
        assert!(own >= 8_000, "{own} of 20,000 calls at their own server");
    }
    let mean = CALLERS as f64 / SERVERS as f64;
    println!("in flight at the fullest / mean: {fullest} / {mean}");
    assert!(fullest <= 1.25 * mean + 1.0);
}
