//! Publishes what the pool has: for each partition its ready servers with their pickers, and its status; and the channel as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::address_index::Doubt;
use crate::balance::connectivity::{ChannelStatus, ConnectivityState, DirectoryStatus, Unserved};
use crate::balance::metrics::StateCounts;
use crate::balance::partition::Partition;
use crate::balance::policy::{LeastRequest, Picker, Policy, ReadySet, ReadySetParts, SelectedServers};
use crate::balance::pool::Pool;
use crate::balance::pool::ready::{Published, PublishedServer, Tier};
use crate::balance::pool::select::{Reason, RouteValues, Verdict};
use crate::balance::pool::server::PoolServer;
use crate::balance::subchannel::{ServerState, SubchannelState};
use crate::panics::catch;

/// A partition, as the pool has it.
pub(super) struct OwnPartition {
    pub(super) values: RouteValues,
    pub(super) partition: Arc<Partition>,
    /// Its servers that are to be connected.
    selected: SelectedServers,
}

/// The servers of one partition that are connected, and what the others are.
struct Gathered {
    status: ChannelStatus,
    ready: Vec<Connected>,
    ejected: Vec<Connected>,
}

/// A server with a connection.
#[derive(Clone)]
struct Connected {
    server: PublishedServer,
    verdict: Verdict,
    doubt: Option<Doubt>,
}

impl OwnPartition {
    pub(super) fn new(values: RouteValues, partition: Arc<Partition>) -> Self {
        Self { values, partition, selected: SelectedServers::new([]) }
    }
}

/// A partition has no server. Its calls wait as long as it is not known whether there will be one.
fn clear(partition: &Partition, directory: &Arc<DirectoryStatus>) {
    let mut status = ChannelStatus::new(directory.clone());
    if directory.resolved {
        status.state = ConnectivityState::TransientFailure;
    }
    let before = partition.ready.swap(Arc::default());
    partition.subchannels.store(Arc::default());
    partition.publish_status(status);
    if !before.servers.is_empty() {
        partition.pick_notifier.notify();
    }
}

impl Pool {
    /// Publishes the present state, and wakes the calls that can use what is new.
    pub(super) fn publish(&mut self) {
        self.select();
        if self.servers_changed {
            // Before the statuses that wake calls, whose texts need it.
            self.shared.unserved.store(Arc::new(self.unserved()));
        }
        let mut whole = ChannelStatus::new(self.directory.clone());
        whole.state = ConnectivityState::TransientFailure;
        let new = |_: &OwnPartition| Gathered {
            status: ChannelStatus::new(self.directory.clone()),
            ready: Vec::new(),
            ejected: Vec::new(),
        };
        let mut gathered: Vec<_> = self.own.iter().map(new).collect();
        // The default partition is always there. Of routes: see `unserved`.
        gathered[0].status.draining = self.draining.get(&self.own[0].values).copied().unwrap_or(0);
        let mut counts = StateCounts::default();
        for server in self.servers.values_mut() {
            let verdict = server.verdict;
            let Gathered { status, ready, ejected } = &mut gathered[verdict.partition];
            let Some(entry) = &mut server.entry else {
                counts.add(ServerState::Idle);
                match verdict.reason {
                    Reason::Filtered => status.filtered += 1,
                    Reason::BeyondRouteValues => {} // of no partition: see `unserved`
                    _ => status.idle += 1,
                }
                continue;
            };
            let (state, seen) = entry.subchannel.states();
            seen.into_iter().for_each(|state| counts.add(state));
            match entry.ready(&self.shared, &state) {
                Some(server) => {
                    let list = if entry.subchannel.is_ejected() { ejected } else { ready };
                    list.push(Connected { server, verdict, doubt: entry.doubt() });
                }
                None if matches!(state, SubchannelState::TransientFailure) => status.failing += 1,
                None if matches!(state, SubchannelState::Unhealthy(_)) => status.unhealthy += 1,
                // One whose connection has ended is about to connect again.
                None => status.connecting += 1,
            }
        }
        (self.last_published, self.publish_at) = (Instant::now(), None);
        let policy_changed = std::mem::take(&mut self.policy_changed);
        let subchannels_changed = std::mem::take(&mut self.servers_changed);
        for (index, Gathered { mut status, ready, ejected }) in gathered.into_iter().enumerate() {
            (status.ready, status.ejected) = (ready.len(), ejected.len());
            // A server that fails some calls is better than none.
            let are_ejected = ready.is_empty() && !ejected.is_empty();
            let mut servers = if are_ejected { ejected } else { ready };
            // All servers may have left in order: such a one gets no call that a listed one can take.
            let has_listed = servers.iter().any(|server| server.doubt.is_none());
            servers.retain(|server| !has_listed || server.doubt != Some(Doubt::Gradual));
            status.state = if !servers.is_empty() {
                ConnectivityState::Ready
            } else if !self.directory.resolved || status.connecting > 0 {
                ConnectivityState::Connecting
            } else {
                ConnectivityState::TransientFailure
            };
            whole.add(&status);
            // In this order, so that a call that is woken finds the servers that it was woken for.
            let selected_changed = subchannels_changed && self.update_selected(index);
            self.publish_servers(index, servers, are_ejected, policy_changed || selected_changed);
            if subchannels_changed {
                self.publish_subchannels(index);
            }
            self.own[index].partition.publish_status(status);
        }
        if subchannels_changed {
            self.publish_list();
        }
        let is_leaving_zone = self.own.iter().any(|own| self.is_leaving_zone(&own.partition));
        self.shared.metrics.servers.set(&counts, is_leaving_zone);
        self.shared.channel_status.send_if_modified(|known| whole.replace(known));
        // After that: a call that begins to wait for servers of its route looks at the status of the channel.
        for partition in self.partitions.all() {
            if !self.own.iter().any(|own| Arc::ptr_eq(&own.partition, &partition)) {
                clear(&partition, &self.directory);
            }
        }
    }

    /// Publishes all servers for users.
    fn publish_list(&mut self) {
        let routes: Vec<_> = self.servers.values().map(|server| self.route_of(server)).collect();
        let listed = self.servers.values_mut().zip(routes).map(|(server, route)| server.listed(route));
        self.shared.servers.store(Arc::new(listed.collect()));
    }

    /// Whether the calls of a partition go to servers outside of the channel's zone, because none of its own is ready.
    fn is_leaving_zone(&self, partition: &Partition) -> bool {
        let Some(zone) = self.shared.settings.selection.zone() else { return false };
        let ready = partition.ready.load();
        let is_home = |server: &PublishedServer| server.first.server.instance().zone() == Some(zone);
        !ready.servers.is_empty() && !ready.servers.iter().any(is_home)
    }

    /// Counts the instances of routes that are registered and take no calls.
    fn unserved(&self) -> BTreeMap<Arc<str>, Unserved> {
        let mut unserved: BTreeMap<Arc<str>, Unserved> = BTreeMap::new();
        for (values, draining) in &self.draining {
            if let Some(route) = self.text_of(values) {
                unserved.entry(route).or_default().draining += draining;
            }
        }
        for server in self.servers.values().filter(|server| server.verdict.reason == Reason::BeyondRouteValues) {
            if let Some(route) = self.route_of(server) {
                unserved.entry(route).or_default().beyond += 1;
            }
        }
        unserved
    }

    /// The values of route keys that a server has, for texts. `None`: it is one of the default servers.
    fn route_of(&self, server: &PoolServer) -> Option<Arc<str>> {
        if server.verdict.reason == Reason::BeyondRouteValues {
            return self.text_of(&RouteValues::of(self.shared.settings.routes.keys(), &server.instance));
        }
        self.own[server.verdict.partition].partition.route().cloned()
    }

    /// These values, for texts. `None` if there are none.
    fn text_of(&self, values: &RouteValues) -> Option<Arc<str>> {
        let text = values.text(self.shared.settings.routes.keys());
        (!text.is_empty()).then(|| text.into())
    }

    /// Publishes the servers of a partition for picks, if they have changed.
    fn publish_servers(&self, index: usize, mut servers: Vec<Connected>, are_ejected: bool, builds_anew: bool) {
        servers.sort_by_key(|server| server.verdict.tier); // stable: by address within a tier
        let partition = &self.own[index].partition;
        let known = partition.ready.load();
        let are_pairs = |same: fn(&PublishedServer, &PublishedServer) -> bool| {
            known.servers.len() == servers.len()
                && known.servers.iter().zip(&servers).all(|(known, new)| same(known, &new.server))
        };
        let tiers: Vec<&[Connected]> = servers.chunk_by(|one, other| one.verdict.tier == other.verdict.tier).collect();
        // Policies look at servers and weights: further connections make no other set.
        let same_sets = !builds_anew
            && known.are_ejected == are_ejected
            && are_pairs(PublishedServer::is_same_first)
            && known.tiers.len() == tiers.len()
            && known.tiers.iter().zip(&tiers).all(|(known, tier)| {
                known.factors.len() == tier.len()
                    && known
                        .factors
                        .iter()
                        .zip(*tier)
                        .all(|(known, new)| known.to_bits() == new.verdict.factor.to_bits())
            });
        if same_sets && are_pairs(PublishedServer::is_same) {
            return;
        }
        let tiers = if same_sets {
            known.tiers.clone()
        } else {
            let mut start = 0;
            let tiers = tiers.into_iter().map(|tier| {
                let set = self.set_of(tier, &self.own[index].selected);
                let range = start..start + tier.len();
                start = range.end;
                let factors = tier.iter().map(|server| server.verdict.factor);
                Tier::new(range, self.build_picker(&set), &set, factors, self.uses_weights)
            });
            tiers.collect()
        };
        let servers: Box<[_]> = servers.into_iter().map(|server| server.server).collect();
        for (index, server) in servers.iter().enumerate() {
            server.first.subchannel.waiting.set_place(index);
        }
        partition.ready.store(Arc::new(Published { servers, tiers, are_ejected }));
        self.shared.pick_notifier.notify();
    }

    fn set_of(&self, servers: &[Connected], selected: &SelectedServers) -> ReadySet {
        let factors = servers.iter().map(|server| server.verdict.factor).collect();
        let servers = servers.iter().map(|server| server.server.first.server.clone()).collect();
        let (selected, notifier) = (selected.clone(), self.shared.pick_notifier.clone());
        ReadySet::new(ReadySetParts { servers, factors: Some(factors), selected, seed: self.seed, notifier })
    }

    /// Asks the policy for a picker. The policy is the user's code: if it panics, calls are
    /// still picked for.
    fn build_picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        catch(|| self.policy.picker(set)).unwrap_or_else(|panic| {
            let service = &*self.directory.service;
            tracing::error!(parent: None, service, panic, "policy panicked, picking by least request");
            LeastRequest::new().picker(set)
        })
    }

    /// Looks which servers of a partition are to be connected. Returns whether they are others than before.
    fn update_selected(&mut self, index: usize) -> bool {
        let of_partition = |server: &&PoolServer| server.verdict.partition == index && server.entry.is_some();
        let servers = || self.servers.values().filter(of_partition);
        let known = self.own[index].selected.servers();
        let are_same = known.len() == servers().count()
            && known.iter().zip(servers()).all(|(known, server)| {
                *known.address() == server.address && std::ptr::eq(known.instance(), &raw const *server.instance)
            });
        if !are_same {
            let selected = servers().map(|server| (server.address.clone(), server.instance.clone()));
            self.own[index].selected = SelectedServers::new(selected.collect::<Vec<_>>());
        }
        !are_same
    }

    /// Publishes the subchannels of a partition for statuses.
    fn publish_subchannels(&self, index: usize) {
        let of_partition = self.servers.values().filter(|server| server.verdict.partition == index);
        let subchannels = of_partition.filter_map(|server| Some(server.entry.as_ref()?.subchannel.clone()));
        self.own[index].partition.subchannels.store(Arc::new(subchannels.collect()));
    }
}
