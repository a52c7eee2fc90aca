//! Which servers a channel connects to, and which of them it prefers.

use crate::balance::builder::BalancedChannelBuilder;
use crate::balance::filter::Filter;
use crate::balance::pool::select::{SelectConfig, SlowStart};
use crate::error::Error;

/// Calls in flight, for a server of mean weight, from which on a call looks at other zones.
const BUSY: usize = 64;

/// What the builder says of the selection of servers.
#[derive(Clone, Debug)]
pub(crate) struct SelectionSettings {
    pub(crate) filters: Vec<Filter>,
    zone: Option<String>,
    further_zones: Vec<String>,
    pub(crate) busy: usize,
    pub(crate) subset: Option<usize>,
    client_id: Option<String>,
    slow_start: Option<SlowStart>,
}

impl Default for SelectionSettings {
    fn default() -> Self {
        let (filters, further_zones) = (Vec::new(), Vec::new());
        Self { filters, zone: None, further_zones, busy: BUSY, subset: None, client_id: None, slow_start: None }
    }
}

impl SelectionSettings {
    /// Refuses settings outside of their ranges.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.subset == Some(0) {
            return Err(Error::invalid("subset", "0", "it must be at least 1"));
        }
        if self.busy == 0 {
            return Err(Error::invalid("zone_busy", "0", "it must be at least 1"));
        }
        if self.zone.is_none() && !self.further_zones.is_empty() {
            let zones = self.further_zones.join(", ");
            return Err(Error::invalid("further zones", zones, "the channel has no zone of its own: call `zone` too"));
        }
        if let Some((setting, value, bound)) = self.slow_start.and_then(|slow_start| slow_start.invalid()) {
            return Err(Error::invalid("slow start", value, format!("the {setting} must be {bound}")));
        }
        Ok(())
    }

    /// The zone of the channel, if it has one.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// For a selection by these keys of routes.
    pub(crate) fn to_config<'a>(&self, route_keys: impl Iterator<Item = &'a str>) -> SelectConfig {
        let client_id = self.client_id.as_deref();
        SelectConfig {
            route_keys: route_keys.map(Into::into).collect(),
            zone: self.zone.as_deref().map(Into::into),
            further_zones: self.further_zones.iter().map(|zone| zone.as_str().into()).collect(),
            uses_zones: true,
            subset: self.subset,
            client_id: client_id.map_or_else(|| fastrand::u64(..), crate::balance::pool::select::client_id),
            slow_start: self.slow_start,
            uses_slow_start: true,
        }
    }
}

impl BalancedChannelBuilder {
    /// Leaves out the instances that do not match: they are not connected, and get no call whatever happens to the others. None by
    /// default. Several filters have to match together. It is fixed for the channel;
    /// [`route_key`](Self::route_key) is for what differs from call to call.
    ///
    /// If no instance is left, calls fail with `UNAVAILABLE`, and the text says how many were registered.
    /// [`BalancedChannel::servers`](crate::BalancedChannel::servers) lists those that do not match as
    /// [`Idle`](crate::ServerState::Idle).
    pub fn filter(mut self, filter: Filter) -> Self {
        self.settings.selection.filters.push(filter);
        self
    }

    /// Sets the zone (data centre, rack) that this client stands in. Calls stay with the servers of that
    /// [zone](crate::Instance::zone) while these have room. None by default: then zones do not count. An empty text is none.
    ///
    /// - **A call stays** at home while the server that the policy picks there has fewer than [`zone_busy`](Self::zone_busy) calls in
    ///   flight. Otherwise the policy picks in the next zone too, and the call goes there if that server carries less than half as
    ///   much. So a zone that has room keeps its calls, and one that has too little gets help. The same holds from zone to zone: the
    ///   third one is asked while the servers picked in the first two are busy.
    /// - **The other zones** are one group, with the servers that have no zone. [`further_zones`](Self::further_zones) sets an order
    ///   among them.
    /// - **At home count** servers that are ready, and neither ejected, draining nor unhealthy. While there is none, all calls leave;
    ///   they return as soon as there is one.
    /// - **Weights** are compared within a zone. Calls in flight are compared across zones by weight: a server of twice the mean
    ///   weight of its zone is busy at twice as many calls. Under a policy without weights, such as
    ///   [`RoundRobin`](crate::policy::RoundRobin), all servers are busy at the same number
    ///   ([`Policy::uses_weights`](crate::policy::Policy::uses_weights)).
    /// - [`ConsistentHash`](crate::policy::ConsistentHash) ignores zones: a key has one server.
    /// - **A policy of one's own** may keep calls out of further zones: see
    ///   [`Policy::uses_zones`](crate::policy::Policy::uses_zones).
    ///
    /// Envoy and gRPC's xDS spread calls over zones in proportion to their sizes instead. That needs every client to know the sizes
    /// of all zones on the clients' side too, and sends calls away although there is room.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.settings.selection.zone = Some(zone.into()).filter(|zone| !zone.is_empty());
        self
    }

    /// Takes the [zone](Self::zone) of this client from the environment's variable `TONIC_ETCD_ZONE`, if it is set. It is read now.
    /// [`Registrar`](crate::Registrar) and [`Serve`](crate::Serve) fill the zone of an instance that has none from the same variable.
    pub fn zone_from_env(self) -> Self {
        self.zone(crate::zone::from_env().unwrap_or_default())
    }

    /// Sets the zones that come after the own one, the nearest first. All other servers come after them, as one group. Building the
    /// channel fails if there are some without a [`zone`](Self::zone).
    pub fn further_zones(mut self, zones: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.selection.further_zones = zones.into_iter().map(Into::into).collect();
        self
    }

    /// Sets from how many calls in flight on a server of mean weight on a call looks at servers of other [zones](Self::zone). At
    /// least 1; 64 by default: a tonic server with some milliseconds of work a call is busy on several cores then. For servers that
    /// do fewer calls at once, set what they do at once.
    ///
    /// A stream counts as a call in flight until it ends, also while it is idle: for servers with many streams that are open for
    /// long, set a greater number.
    ///
    /// Only this client's own calls count. A fleet of many clients, each with few calls, never reaches it: then calls leave the zone
    /// only when its servers are at their limit of streams, fail, or are gone.
    pub fn zone_busy(mut self, calls: usize) -> Self {
        self.settings.selection.busy = calls;
        self
    }

    /// Connects to at most so many servers, of those that match the filter (for each value that calls are
    /// [routed](Self::route_key) by). All by default. At least 1.
    ///
    /// For clients of hundreds of servers: each connection costs memory and keep-alive at both ends. With many more clients than
    /// servers each server still gets its share. With few clients, some servers get none.
    ///
    /// - **Which ones:** each client has an order of servers of its own (rendezvous hashing over the client's [id](Self::client_id)
    ///   and the server's). A server that comes or goes exchanges one other server at most.
    /// - **With a [`zone`](Self::zone):** servers of the own zone first, but for max(2, n / 10) of the others, which stand by. At least
    ///   one is at home: with n = 3 one is, with n = 5 three, with n = 20 eighteen. If a zone has too few servers, the others fill up.
    /// - **Those that cannot be connected** are replaced while they fail. At most max(2, n / 2) servers beyond n are connected or tried at
    ///   a time, and a substitute is tried once in 10 s at most.
    /// - **A server that is exchanged** keeps its connection until the new one is ready.
    ///
    /// If the service config has a subset too ([`policy_from_service_config`](Self::policy_from_service_config)), the smaller one
    /// holds.
    ///
    /// gRFC A68 has the same for xDS, without zones and substitutes.
    pub fn subset(mut self, servers: usize) -> Self {
        self.settings.selection.subset = Some(servers);
        self
    }

    /// Sets the id that decides which [subset](Self::subset) of the servers this client connects to. Random by default: then a
    /// client that is started again connects to others. With a stable id, such as a pod's name, it comes back to the same ones.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.settings.selection.client_id = Some(id.into());
        self
    }

    /// Gives a server that has become ready fewer calls at first: see [`SlowStart`]. Off by default, as in Envoy: it costs servers
    /// that are warm at once a part of their share.
    ///
    /// It scales weights, under every policy but [`PickFirst`](crate::policy::PickFirst) and
    /// [`ConsistentHash`](crate::policy::ConsistentHash).
    pub fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.settings.selection.slow_start = Some(slow_start);
        self
    }
}
