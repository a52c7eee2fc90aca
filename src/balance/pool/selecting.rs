//! Which servers of the set are connected, and for whom: the pool's side of [`select`](super::select).

use tokio::time::Instant;

use crate::address::Authority;
use crate::address_index::Doubt;
use crate::balance::filter::Filter;
use crate::balance::pool::Pool;
use crate::balance::pool::entry::PoolEntry;
use crate::balance::pool::publish::OwnPartition;
use crate::balance::pool::select::{
    self, Candidate, CandidateState, RouteValues, SelectConfig, Selection, Verdict, Warmth,
};
use crate::balance::pool::server::{PoolServer, SelectTraits};
use crate::balance::shared::Settings;
use crate::instance::Instance;

/// What a channel needs whose servers are selected.
pub(super) struct Selector {
    pub(super) config: SelectConfig,
    filters: Vec<Filter>,
    /// The partitions of the last selection.
    partitions: Vec<RouteValues>,
    /// When to select again, if nothing changes before.
    pub(super) next: Option<Instant>,
    /// A server of the channel has been ready: those that come from now on are new to the fleet.
    has_been_ready: bool,
    /// There are too many partitions, which was logged.
    has_warned: bool,
}

impl Selector {
    /// As the builder says. `None` if all servers are connected, and for all calls.
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        let selector = Self::new(settings);
        (!selector.filters.is_empty() || selector.config.selects()).then_some(selector)
    }

    fn new(settings: &Settings) -> Self {
        let config = settings.selection.to_config(settings.routes.keys().iter().map(|key| &**key));
        let (filters, partitions) = (settings.selection.filters.clone(), Vec::new());
        Self { config, filters, partitions, next: None, has_been_ready: false, has_warned: false }
    }

    /// What a selection, if there is one, needs to know of a server that has come, or whose instance has changed.
    pub(super) fn traits_of(
        selector: Option<&Self>,
        key: &Authority,
        instance: &Instance,
        known: Option<SelectTraits>,
    ) -> SelectTraits {
        let is_first_set = selector.is_none_or(|selector| !selector.has_been_ready);
        let new =
            SelectTraits { matches_filter: true, rank: 0, warmth: Warmth::added(is_first_set), last_failure: None };
        let known = known.unwrap_or(new);
        let Some(selector) = selector else { return known };
        SelectTraits {
            matches_filter: selector.filters.iter().all(|filter| filter.matches(instance)),
            rank: select::rank(selector.config.client_id, instance, key.as_str()),
            ..known
        }
    }
}

impl Pool {
    /// Takes over what the policy, and the service config beside it, say of the selection.
    pub(super) fn follow_policy(&mut self, subset: Option<usize>) {
        let (uses_zones, uses_slow_start) = (self.policy.uses_zones(), self.policy.uses_slow_start());
        self.uses_weights = self.policy.uses_weights();
        if self.selector.is_none() && subset.is_some() {
            self.selector = Some(Selector::new(&self.shared.settings));
            for (authority, server) in &mut self.servers {
                server.traits = Selector::traits_of(self.selector.as_ref(), authority, &server.instance, None);
            }
        }
        if let Some(selector) = &mut self.selector {
            let config = &mut selector.config;
            (config.uses_zones, config.uses_slow_start) = (uses_zones, uses_slow_start);
            config.subset = subset.into_iter().chain(self.shared.settings.selection.subset).min();
        }
    }

    /// Selects anew, connects those that are chosen now, and lets go of the others. Without a selection all are connected already.
    pub(super) fn select(&mut self) {
        let Some(selector) = &mut self.selector else { return };
        let (now, epoch) = (Instant::now(), self.shared.epoch);
        let since_epoch = self.shared.since_epoch(now);
        let states: Vec<_> = self.servers.values_mut().map(|server| server.observe(since_epoch, epoch)).collect();
        let candidates: Vec<_> = self.servers.iter().zip(states).map(candidate).collect();
        let Selection { servers: verdicts, partitions, beyond, next } =
            select::select(&selector.config, &selector.partitions, &candidates, since_epoch);
        selector.has_been_ready |= candidates.iter().any(|candidate| candidate.state == CandidateState::Ready);
        drop(candidates);
        selector.next = next.map(|next| now + next.saturating_sub(since_epoch));
        let warns = beyond > 0 && !selector.has_warned;
        selector.has_warned = beyond > 0;
        if partitions != selector.partitions {
            selector.partitions.clone_from(&partitions);
            self.set_partitions(partitions);
        }
        if warns {
            let service = &*self.directory.service;
            tracing::warn!(parent: None, service, beyond, "too many values to route by, servers left out");
        }
        self.apply_verdicts(&verdicts);
    }

    fn apply_verdicts(&mut self, verdicts: &[Verdict]) {
        let mut lost = Vec::new();
        let mut chosen = Vec::new();
        for ((authority, server), verdict) in self.servers.iter_mut().zip(verdicts) {
            self.servers_changed |= server.verdict != *verdict;
            server.verdict = *verdict;
            match (verdict.reason.is_connected(), &server.entry) {
                (true, Some(entry)) => entry.subchannel.waiting.set(&self.own[verdict.partition].partition.queue),
                (true, None) => chosen.push(authority.clone()),
                // Who is kept although etcd has lost it is gone without its connections.
                (false, Some(entry)) if entry.doubt().is_some() => lost.push(authority.clone()),
                (false, Some(_)) => {
                    let entry = server.entry.take();
                    server.idle_since = Instant::now();
                    self.leaving.extend(entry.and_then(|entry| entry.leaving(authority)));
                }
                (false, None) => {}
            }
        }
        self.remove_in_doubt(&lost);
        chosen.iter().for_each(|authority| self.connect(authority));
    }

    /// Begins to connect to a server of the set.
    pub(super) fn connect(&mut self, authority: &Authority) {
        let before = self.leaving.remove(authority);
        let Some(server) = self.servers.get_mut(authority) else { return };
        let queue = self.own[server.verdict.partition].partition.queue.clone();
        let (address, instance) = (server.address.clone(), server.instance.clone());
        server.entry = Some(PoolEntry::start(&self.shared, address, instance, before.as_ref(), queue));
        self.servers_changed = true;
        self.look_for_outliers(); // it may have been ejected before
    }

    /// Has one partition for each of these values, the default one first. Those that were there before stay the same, so that calls
    /// which wait in them go on waiting.
    fn set_partitions(&mut self, values: Vec<RouteValues>) {
        let mut before = std::mem::take(&mut self.own);
        // Those that are left out here are published without servers.
        for values in values {
            let known = before.iter().position(|own| own.values == values);
            let own = if let Some(known) = known {
                before.swap_remove(known)
            } else {
                let partition = self.partitions.get_or_make(&values);
                OwnPartition::new(values, partition)
            };
            self.own.push(own);
        }
        let routed = self.own.iter().skip(1).map(|own| (own.values.clone(), own.partition.clone()));
        self.partitions.publish(routed.collect());
    }
}

fn candidate<'a>(((authority, server), state): ((&'a Authority, &'a PoolServer), CandidateState)) -> Candidate<'a> {
    let SelectTraits { matches_filter, rank, warmth, last_failure } = server.traits;
    let (key, instance) = (authority.as_str(), &*server.instance);
    let has_left = server.entry.as_ref().is_some_and(|entry| entry.doubt() == Some(Doubt::Gradual));
    Candidate { key, instance, rank, matches_filter, state, has_left, last_failure, warmth }
}
