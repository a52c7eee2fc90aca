//! Servers by their keys, as the pool keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use crate::balance::pool::select::*;

/// One server, with what a candidate says of it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) instance: Instance,
    pub(super) matches_filter: bool,
    pub(super) state: CandidateState,
    pub(super) last_failure: Option<Duration>,
    pub(super) warmth: Warmth,
}

impl Server {
    /// A ready server that has always been there.
    pub(super) fn ready(key: &str) -> Self {
        let mut warmth = Warmth::added(true);
        warmth.ready(Duration::ZERO);
        let instance = Instance::new(key).unwrap();
        Self { instance, matches_filter: true, state: CandidateState::Ready, last_failure: None, warmth }
    }

    pub(super) fn with(mut self, change: impl FnOnce(Instance) -> Instance) -> Self {
        self.instance = change(self.instance);
        self
    }

    pub(super) fn in_zone(self, zone: &str) -> Self {
        self.with(|instance| instance.with_zone(zone))
    }
}

/// The key of a server by its number.
pub(super) fn key(number: usize) -> String {
    format!("h{number:03}:1")
}

/// All servers of a channel.
#[derive(Clone, Debug, Default)]
pub(super) struct Fleet(pub(super) BTreeMap<String, Server>);

impl Fleet {
    /// Ready servers, made from their numbers and keys.
    pub(super) fn of(count: usize, server: impl Fn(usize, &str) -> Server) -> Self {
        let pair = |number| {
            let key = key(number);
            let server = server(number, &key);
            (key, server)
        };
        Self((0..count).map(pair).collect())
    }

    pub(super) fn select(&self, config: &SelectConfig, known: &[RouteValues], now: Duration) -> Selection {
        let candidate = |(key, server): (&'_ String, &'_ Server)| {
            (key.clone(), server.clone(), rank(config.client_id, &server.instance, key))
        };
        let owned: Vec<_> = self.0.iter().map(candidate).collect();
        let candidates: Vec<_> = owned
            .iter()
            .map(|(key, server, rank)| Candidate {
                key,
                instance: &server.instance,
                rank: *rank,
                matches_filter: server.matches_filter,
                state: server.state,
                last_failure: server.last_failure,
                warmth: server.warmth,
            })
            .collect();
        select(config, known, &candidates, now)
    }

    /// The verdicts at the beginning of time, by key.
    pub(super) fn verdicts(&self, config: &SelectConfig) -> BTreeMap<&str, Verdict> {
        let selection = self.select(config, &[], Duration::ZERO);
        self.0.keys().map(String::as_str).zip(selection.servers).collect()
    }

    /// The keys of those that are to be connected.
    pub(super) fn connected(&self, config: &SelectConfig) -> BTreeSet<String> {
        let verdicts = self.verdicts(config).into_iter();
        verdicts.filter(|(_, verdict)| verdict.reason.is_connected()).map(|(key, _)| key.to_owned()).collect()
    }
}

/// The clients of zone `a` with a subset.
pub(super) fn config(client_id: u64, zone: Option<&str>, subset: Option<usize>) -> SelectConfig {
    let zone = zone.map(Into::into);
    SelectConfig { client_id, zone, subset, uses_zones: true, ..SelectConfig::default() }
}

pub(super) fn any_state() -> impl Strategy<Value = CandidateState> {
    use CandidateState::*;
    proptest::sample::select(vec![Idle, Connecting, Failing, Ready, Ready, Ready, Ejected, Unhealthy])
}

/// A number of seconds, mostly small, or the end of time.
pub(super) fn any_time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        8 => (0_u64..100_000).prop_map(Duration::from_millis),
        1 => Just(Duration::MAX),
        1 => Just(Duration::from_secs(u64::MAX - 10)),
    ]
}

/// A name of few, or none.
pub(super) fn any_name() -> impl Strategy<Value = Option<&'static str>> {
    proptest::sample::select(vec![None, None, Some(""), Some("a"), Some("b"), Some("c"), Some("ä \u{0}")])
}

pub(super) fn any_warmth() -> impl Strategy<Value = Warmth> {
    (any::<bool>(), proptest::collection::vec((any::<bool>(), any_time()), 0..4)).prop_map(|(is_first, steps)| {
        let mut warmth = Warmth::added(is_first);
        for (is_ready, now) in steps {
            if is_ready { warmth.ready(now) } else { warmth.down(now) }
        }
        warmth
    })
}

/// Any server at a key; several may have one id.
fn any_server(key: String) -> impl Strategy<Value = (String, Server)> {
    let names = (any_name(), any_name(), any_name(), any_name());
    let weight = proptest::option::of(prop_oneof![1_u32..5, Just(u32::MAX)]);
    let rest = (any::<bool>(), any_state(), proptest::option::of(any_time()), any_warmth(), weight);
    (names, rest).prop_map(move |((zone, version, id, lane), (filtered, state, last_failure, warmth, weight))| {
        let mut instance = Instance::new(key.as_str()).unwrap();
        if let Some(weight) = weight {
            instance = instance.with_weight(weight).unwrap();
        }
        instance = zone.into_iter().fold(instance, Instance::with_zone);
        instance = version.into_iter().fold(instance, Instance::with_version);
        instance = id.into_iter().fold(instance, Instance::with_id);
        instance = lane.into_iter().fold(instance, |instance, lane| instance.with_metadata("lane", lane));
        (key.clone(), Server { instance, matches_filter: !filtered || weight.is_none(), state, last_failure, warmth })
    })
}

pub(super) fn any_fleet(max: usize) -> impl Strategy<Value = Fleet> {
    let servers = (0..=max).prop_flat_map(|count| {
        (0..count).map(|number| any_server(format!("h{number:03}:1")).boxed()).collect::<Vec<_>>()
    });
    servers.prop_map(|servers| Fleet(servers.into_iter().collect()))
}

pub(super) fn any_config() -> impl Strategy<Value = SelectConfig> {
    let keys = proptest::sample::subsequence(vec!["lane", "version", "zone", "lane"], 0..4);
    let subset = prop_oneof![Just(None), (0_usize..8).prop_map(Some), Just(Some(usize::MAX))];
    let zones = (any_name(), proptest::collection::vec(any_name(), 0..3), any::<bool>());
    let slow_start = (any_time(), any::<f64>(), any::<u32>(), any::<bool>(), any::<bool>());
    (keys, subset, zones, any::<u64>(), slow_start).prop_map(|(keys, subset, zones, client_id, slow)| SelectConfig {
        route_keys: keys.into_iter().map(Into::into).collect(),
        zone: zones.0.map(Into::into),
        further_zones: zones.1.into_iter().flatten().map(Into::into).collect(),
        uses_zones: zones.2,
        subset,
        client_id,
        slow_start: slow.3.then(|| SlowStart::new(slow.0).aggression(slow.1).min_weight_percent(slow.2)),
        uses_slow_start: slow.4,
    })
}
