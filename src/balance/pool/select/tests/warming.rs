//! Servers that warm up.

use std::time::Duration;

use proptest::prelude::*;

use super::fleet::{Fleet, Server, any_fleet, any_time};
use crate::balance::policy::set::weights::Weights;
use crate::balance::pool::select::CandidateState::{Ejected, Ready};
use crate::balance::pool::select::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn slow_start(window: u64) -> SelectConfig {
    let slow_start = Some(SlowStart::new(MS(window)));
    SelectConfig { slow_start, uses_slow_start: true, ..SelectConfig::default() }
}

#[test]
fn the_first_set_is_warm_and_a_short_loss_changes_nothing() {
    let mut first = Warmth::added(true);
    first.down(MS(0));
    first.ready(MS(5_000));
    assert_eq!(first.since(), None);
    first.down(MS(6_000));
    first.down(MS(6_900)); // it was down before
    first.ready(MS(7_000));
    assert_eq!(first.since(), None);
    first.ready(MS(7_500));
    first.down(MS(8_000));
    first.ready(MS(9_001));
    assert_eq!(first.since(), Some(MS(9_001)));

    let mut later = Warmth::added(false);
    assert_eq!(later.since(), None);
    later.down(MS(1_000));
    later.ready(MS(1_500));
    assert_eq!(later.since(), Some(MS(1_500)));
    later.down(MS(2_000));
    later.ready(MS(3_000)); // exactly a second
    assert_eq!(later.since(), Some(MS(1_500)));
    later.down(MS(4_000));
    later.ready(MS(6_000));
    assert_eq!(later.since(), Some(MS(6_000)));
}

/// The factor of one new server beside nine that are warm, at so many milliseconds after it became ready; and the
/// time for which the selection asks.
fn factor(config: &SelectConfig, after: u64) -> (f64, Option<Duration>) {
    let mut fleet = Fleet::of(10, |_, key| Server::ready(key));
    let mut warmth = Warmth::added(false);
    warmth.ready(MS(1_000));
    fleet.0.first_entry().unwrap().get_mut().warmth = warmth;
    let selection = fleet.select(config, &[], MS(1_000 + after));
    assert!(selection.servers[1..].iter().all(|verdict| verdict.factor >= 1.0));
    (selection.servers[0].factor, selection.next)
}

fn is_near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9
}

#[test]
fn the_factor_is_that_of_envoy() {
    let config = slow_start(20_000);
    for (after, expected) in [(0, 0.1), (1_999, 0.1), (3_000, 0.15), (10_000, 0.5), (19_900, 0.995), (20_000, 1.0)] {
        assert!(is_near(factor(&config, after).0, expected), "{after}: {}", factor(&config, after).0);
    }
    let with = |slow_start: SlowStart| SelectConfig { slow_start: Some(slow_start), ..config.clone() };
    let short = SlowStart::new(MS(4_000));
    assert!(is_near(factor(&with(short), 0).0, 0.25), "at least one second counts");
    assert!(is_near(factor(&with(short.aggression(2.0)), 1_000).0, 0.5));
    assert!(is_near(factor(&with(short.aggression(0.5)), 2_000).0, 0.25));
    assert!(is_near(factor(&with(short.min_weight_percent(60)), 2_000).0, 0.6));
    for off in [SelectConfig { slow_start: None, ..config.clone() }, SelectConfig { uses_slow_start: false, ..config }]
    {
        assert_eq!(factor(&off, 3_000), (1.0, None));
    }
}

#[test]
fn factors_change_every_100_ms_while_one_warms() {
    let config = slow_start(20_000);
    assert_eq!(factor(&config, 5_000), (0.25, Some(MS(6_100))));
    assert_eq!(factor(&config, 5_099), (0.25, Some(MS(6_100))));
    assert!(factor(&config, 5_100).0 > 0.25);
    assert_eq!(factor(&config, 19_999).1, Some(MS(21_000)));
    assert_eq!(factor(&config, 20_000), (1.0, None));
}

/// Only servers that are connected keep the timer.
#[test]
fn who_is_not_ready_does_not_warm() {
    let mut warmth = Warmth::added(false);
    warmth.ready(MS(1_000));
    for state in [CandidateState::Connecting, CandidateState::Failing, CandidateState::Unhealthy] {
        let fleet = Fleet::of(2, |_, key| Server { state, warmth, ..Server::ready(key) });
        let selection = fleet.select(&slow_start(20_000), &[], MS(2_000));
        assert!(selection.next.is_none() && selection.servers.iter().all(|verdict| verdict.factor >= 1.0));
    }
}

#[test]
fn a_fleet_of_new_servers_is_not_served_by_one_old() {
    let mut warmth = Warmth::added(false);
    warmth.ready(MS(0));
    let new = |number: usize, key: &str| {
        let server = Server::ready(key);
        if number == 0 { server } else { Server { warmth, ..server } }
    };
    let factors = |fleet: &Fleet| {
        let selection = fleet.select(&slow_start(20_000), &[], MS(0));
        selection.servers.iter().map(|verdict| verdict.factor).collect::<Vec<_>>()
    };
    // 1 + 9 f = 5: the old one has 20 % of the calls instead of 10 %.
    let raised = factors(&Fleet::of(10, new));
    assert!(is_near(raised[0], 1.0) && raised[1..].iter().all(|factor| is_near(*factor, 4.0 / 9.0)), "{raised:?}");
    // Without an old one all are alike.
    assert!(factors(&Fleet::of(10, |_, key| new(1, key))).iter().all(|factor| is_near(*factor, 0.5)));
    // An old one that is ejected gets no calls, so it has no share.
    let mut fleet = Fleet::of(4, new);
    fleet.0.insert("z:1".to_owned(), Server { state: Ejected, ..Server::ready("z:1") });
    fleet.0.insert("z:2".to_owned(), Server { state: Ejected, ..Server::ready("z:2") });
    assert!(is_near(factors(&fleet)[1], 1.0 / 3.0), "{:?}", factors(&fleet));
}

#[test]
fn what_is_out_of_bounds_is_named() {
    let valid = SlowStart::new(MS(10_000));
    assert_eq!(valid.invalid(), None);
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let name = |slow_start: SlowStart| slow_start.invalid().map(|(setting, ..)| setting);
    for window in [MS(0), MS(1_000), year + MS(1), Duration::MAX] {
        assert_eq!(name(SlowStart::new(window)), Some("window"), "{window:?}");
    }
    assert_eq!((name(SlowStart::new(MS(1_001))), name(SlowStart::new(year))), (None, None));
    for aggression in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(name(valid.aggression(aggression)), Some("aggression"), "{aggression}");
    }
    assert_eq!(
        [0, 1, 100, 101].map(|percent| name(valid.min_weight_percent(percent)).is_none()),
        [false, true, true, false]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever warms up, no warm server has more than twice its share.
    #[test]
    fn no_warm_server_has_more_than_twice_its_share(
        fleet in any_fleet(16),
        window in 1_001_u64..100_000,
        aggression in 0.1_f64..10.0,
        percent in 1_u32..=100,
        zone in any::<bool>(),
        now in any_time(),
    ) {
        let slow_start = SlowStart::new(MS(window)).aggression(aggression).min_weight_percent(percent);
        let config = SelectConfig {
            slow_start: Some(slow_start),
            uses_slow_start: true,
            uses_zones: true,
            zone: zone.then(|| "a".into()),
            route_keys: vec!["lane".into()],
            ..SelectConfig::default()
        };
        let selection = fleet.select(&config, &[], now);
        let servers = fleet.0.values().zip(&selection.servers);
        let servers: Vec<_> = servers.filter(|(_, verdict)| verdict.reason.is_connected()).collect();
        for (_, of) in &servers {
            let tier = || servers.iter().filter(|(server, verdict)| {
                server.state == Ready && (verdict.partition, verdict.tier) == (of.partition, of.tier)
            });
            let weights = Weights::of(tier().map(|(server, _)| server.instance.weight()));
            let weight = |server: &Server| weights.effective(server.instance.weight()) as f64;
            let all: f64 = tier().map(|(server, _)| weight(server)).sum();
            let warmed: f64 = tier().map(|(server, verdict)| weight(server) * verdict.factor).sum();
            // The share of each that is warm grows by this.
            prop_assert!(all / warmed <= 2.0 + 1e-9 || all == 0.0, "{warmed} of {all}");
            for (server, verdict) in tier() {
                if server.warmth.since().is_none() {
                    prop_assert!(verdict.factor >= 1.0);
                }
            }
        }
    }
}
