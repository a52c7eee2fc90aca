//! Tiers by zone.

use super::fleet::{Fleet, Server, config};
use crate::balance::pool::select::*;

/// Two servers in each of the zones a, b, c and d, and two without one.
fn fleet() -> Fleet {
    let zones = ["a", "b", "c", "d", ""];
    Fleet::of(10, |number, key| Server::ready(key).in_zone(zones[number % 5]))
}

/// The tiers of a, b, c, d and of those without a zone.
fn tiers(fleet: &Fleet, config: &SelectConfig) -> Vec<(Reason, usize)> {
    let verdicts: Vec<_> = fleet.verdicts(config).into_values().collect();
    verdicts[..5].iter().map(|verdict| (verdict.reason, verdict.tier)).collect()
}

#[test]
fn the_own_zone_comes_first_then_the_further_ones() {
    use Reason::{OtherZone, Selected};
    let own = config(1, Some("b"), None);
    let (home, next) = ((Selected, 0), (OtherZone, 1));
    assert_eq!(tiers(&fleet(), &own), [next, home, next, next, next]);
    // The own zone and a zone that is named twice count once; one without servers leaves no gap.
    let further = ["x", "d", "b", "a", "d"].map(Into::into).to_vec();
    let further = SelectConfig { further_zones: further, ..own.clone() };
    let expected = [(OtherZone, 2), home, (OtherZone, 3), next, (OtherZone, 3)];
    assert_eq!(tiers(&fleet(), &further), expected);
    // With nobody at home the nearest come first.
    let away = SelectConfig { zone: Some("x".into()), ..own.clone() };
    assert_eq!(tiers(&fleet(), &away), [(OtherZone, 0); 5]);
    for without in [
        SelectConfig { zone: None, ..further.clone() },
        SelectConfig { zone: Some("".into()), ..further.clone() },
        SelectConfig { uses_zones: false, ..further },
    ] {
        assert_eq!(tiers(&fleet(), &without), [home; 5]);
    }
}

/// How many of a subset are of the own zone, of zone b and of zone c.
fn taken(subset: usize, counts: [usize; 3], further: &[&str]) -> [usize; 3] {
    let zone = |number: usize| match number {
        number if number < counts[0] => "a",
        number if number < counts[0] + counts[1] => "b",
        _ => "c",
    };
    let fleet = Fleet::of(counts.iter().sum(), |number, key| Server::ready(key).in_zone(zone(number)));
    let further_zones = further.iter().map(|zone| (*zone).into()).collect();
    let config = SelectConfig { further_zones, ..config(7, Some("a"), Some(subset)) };
    let connected = fleet.connected(&config);
    ["a", "b", "c"].map(|zone| connected.iter().filter(|key| fleet.0[*key].instance.zone() == Some(zone)).count())
}

#[test]
fn some_of_a_subset_are_on_standby_elsewhere() {
    assert_eq!(taken(20, [50, 50, 0], &[]), [18, 2, 0]);
    assert_eq!(taken(40, [50, 50, 0], &[]), [36, 4, 0]);
    // Either side fills up where the other is short.
    assert_eq!(taken(20, [5, 50, 0], &[]), [5, 15, 0]);
    assert_eq!(taken(20, [50, 1, 0], &[]), [19, 1, 0]);
    assert_eq!(taken(20, [0, 50, 0], &[]), [0, 20, 0]);
    assert_eq!(taken(20, [9, 4, 0], &[]), [9, 4, 0]);
    assert_eq!(taken(usize::MAX, [9, 4, 0], &[]), [9, 4, 0]);
    // A small one is at home first.
    assert_eq!([0, 1, 2, 3, 4].map(|subset| taken(subset, [9, 9, 0], &[])[0]), [1, 1, 1, 1, 2]);
    assert_eq!([0, 1, 2, 3, 4].map(|subset| taken(subset, [9, 9, 0], &[])[1]), [0, 0, 1, 2, 2]);
    // The standby members are of the nearest zone.
    assert_eq!(taken(20, [50, 1, 50], &["b"]), [18, 1, 1]);
    assert_eq!(taken(20, [50, 50, 1], &["c"]), [18, 1, 1]);
}
