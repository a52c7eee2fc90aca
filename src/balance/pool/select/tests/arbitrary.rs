//! What holds of every selection, whatever is selected from.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::fleet::{Fleet, Server, any_config, any_fleet, any_time};
use crate::balance::pool::select::partition::MAX_PARTITIONS;
use crate::balance::pool::select::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_selection_holds(fleet in any_fleet(24), config in any_config(), now in any_time()) {
        let selection = fleet.select(&config, &[], now);
        check(&fleet, &config, &selection, now);
        // Another one from the same is the same, also with the partitions of the one before.
        prop_assert_eq!(&fleet.select(&config, &selection.partitions, now), &selection);
    }

    /// Partitions of any other selection may be known.
    #[test]
    fn any_partitions_may_be_known(
        before in any_fleet(12),
        fleet in any_fleet(12),
        configs in (any_config(), any_config()),
        now in any_time(),
    ) {
        let known = before.select(&configs.0, &[], now).partitions;
        check(&fleet, &configs.1, &fleet.select(&configs.1, &known, now), now);
    }
}

fn check(fleet: &Fleet, config: &SelectConfig, selection: &Selection, now: Duration) {
    assert_eq!(selection.servers.len(), fleet.0.len());
    assert_eq!(selection.partitions[0], RouteValues::none(config.route_keys.len()));
    assert!(selection.partitions.len() <= 1 + MAX_PARTITIONS);
    assert!(selection.next.is_none_or(|next| next > now || now == Duration::MAX), "{:?} at {now:?}", selection.next);
    let distinct: BTreeSet<_> = selection.partitions.iter().collect();
    assert_eq!(distinct.len(), selection.partitions.len());
    let mut tiers: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    let mut connected: BTreeMap<usize, Vec<&Server>> = BTreeMap::new();
    for (server, verdict) in fleet.0.values().zip(&selection.servers) {
        assert_eq!(verdict.reason == Reason::Filtered, !server.matches_filter);
        assert!(verdict.factor > 0.0 && verdict.factor <= 1.0, "{verdict:?}");
        let values = RouteValues::of(&config.route_keys, &server.instance);
        match verdict.reason {
            Reason::Filtered => assert_eq!(verdict.partition, 0),
            Reason::BeyondRouteValues => assert!(!selection.partitions.contains(&values) && selection.beyond > 0),
            _ => assert_eq!(selection.partitions[verdict.partition], values),
        }
        if verdict.reason.is_connected() {
            tiers.entry(verdict.partition).or_default().insert(verdict.tier);
            connected.entry(verdict.partition).or_default().push(server);
        } else {
            assert_eq!((verdict.tier, verdict.factor), (0, 1.0));
        }
        // Without a subset everything is connected that has a partition.
        let is_left_out = matches!(verdict.reason, Reason::OutsideSubset | Reason::Substitute);
        assert!(config.subset.is_some() || !is_left_out);
    }
    for tiers in tiers.values() {
        assert!(tiers.iter().copied().eq(0..tiers.len()), "{tiers:?}");
    }
    let Some(subset) = config.subset.map(|subset| subset.max(1)) else { return };
    for servers in connected.values() {
        let ready = servers.iter().filter(|server| server.state.is_connected()).count();
        assert!(ready <= subset && servers.len() <= subset.saturating_add((subset / 2).max(2)));
    }
}
