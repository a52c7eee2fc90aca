//! Partitions by route, and which of them keep their places.

use std::time::Duration;

use super::fleet::{Fleet, Server};
use crate::balance::pool::select::*;

fn by(keys: &[&str]) -> SelectConfig {
    SelectConfig { route_keys: keys.iter().map(|key| (*key).into()).collect(), ..SelectConfig::default() }
}

fn values(selection: &Selection) -> Vec<Vec<Option<&str>>> {
    selection.partitions.iter().map(|partition| partition.values().collect()).collect()
}

#[test]
fn servers_are_parted_by_all_keys() {
    let fleet = Fleet::of(5, |number, key| {
        Server::ready(key).with(|instance| match number {
            0 => instance,
            2 => instance.with_version("v2").with_metadata("lane", "blue"),
            3 => instance.with_metadata("lane", "blue"),
            _ => instance.with_version("v2"), // 1 and 4
        })
    });
    let selection = fleet.select(&by(&["lane", "version"]), &[], Duration::ZERO);
    let expected = [[None, None], [None, Some("v2")], [Some("blue"), None], [Some("blue"), Some("v2")]];
    assert_eq!(values(&selection), expected);
    assert_eq!(selection.servers.iter().map(|verdict| verdict.partition).collect::<Vec<_>>(), [0, 1, 3, 2, 1]);
    // Without keys all are in the default partition.
    let selection = fleet.select(&by(&[]), &[], Duration::ZERO);
    assert_eq!(values(&selection), [[]]);
    assert!(selection.servers.iter().all(|verdict| verdict.partition == 0 && verdict.reason == Reason::Selected));
}

/// A partition that comes takes no connected server's place, however its value sorts.
#[test]
fn what_is_known_keeps_its_place() {
    let lanes = |lanes: std::ops::Range<usize>| {
        let lane = |number: usize, key: &str| {
            let lane = format!("{:03}", number + lanes.start);
            Server::ready(key).with(|instance| instance.with_metadata("lane", lane))
        };
        Fleet::of(lanes.len(), lane)
    };
    let config = by(&["lane"]);
    let first = lanes(10..30).select(&config, &[], Duration::ZERO);
    assert_eq!((first.partitions.len(), first.beyond), (17, 4));
    assert_eq!(first.partitions[1].values().collect::<Vec<_>>(), [Some("010")]);
    let places = first.servers.iter().filter(|verdict| verdict.reason == Reason::BeyondRouteValues).count();
    assert_eq!(places, 4);
    // Ten come before those that are there.
    let second = lanes(0..30).select(&config, &first.partitions, Duration::ZERO);
    assert_eq!((&second.partitions, second.beyond), (&first.partitions, 14));
    // 10 to 14 go: their places are taken by the first of the others.
    let third = lanes(15..31).select(&config, &second.partitions, Duration::ZERO);
    assert_eq!((&third.partitions[1..12], third.beyond), (&first.partitions[6..17], 0));
    let new: Vec<_> = third.partitions[12..].iter().flat_map(RouteValues::values).collect();
    assert_eq!(new, ["026", "027", "028", "029", "030"].map(Some));
}

/// A filtered server makes no partition.
#[test]
fn the_filter_goes_first() {
    let fleet = Fleet::of(2, |number, key| Server {
        matches_filter: number == 0,
        ..Server::ready(key).with(|instance| instance.with_metadata("lane", format!("{number}")))
    });
    let selection = fleet.select(&by(&["lane"]), &[], Duration::ZERO);
    assert_eq!(values(&selection), [[None], [Some("0")]]);
    assert_eq!(selection.servers[1].reason, Reason::Filtered);
}

/// Each partition has a subset, and zones, of its own.
#[test]
fn each_partition_is_selected_alone() {
    let fleet = Fleet::of(20, |number, key| {
        let server = Server::ready(key).in_zone(if number % 4 < 2 { "a" } else { "b" });
        if number % 2 == 0 { server } else { server.with(|instance| instance.with_version("v2")) }
    });
    let config = SelectConfig { zone: Some("a".into()), uses_zones: true, subset: Some(4), ..by(&["version"]) };
    let selection = fleet.select(&config, &[], Duration::ZERO);
    for partition in [0, 1] {
        let of = selection.servers.iter().filter(|verdict| verdict.partition == partition);
        let mut reasons: Vec<_> =
            of.filter(|verdict| verdict.reason.is_connected()).map(|verdict| verdict.tier).collect();
        reasons.sort_unstable();
        assert_eq!(reasons, [0, 0, 1, 1]);
    }
}
