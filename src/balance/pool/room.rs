//! The room that the ready servers have for further calls, and how they get more of it.

use crate::balance::pool::ready::{Published, PublishedServer};
use crate::connection::Connection;

/// How many idle servers are sent a PING at a time. One that answers is enough for a call; of three, two may be dead.
pub(crate) const MAX_PROBES: usize = 3;

/// The limits that the ready servers are at, while none of them has room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Servers whose connections have as many streams as they accept, …
    pub(crate) at_stream_limit: usize,
    /// … their connections, and the streams over those.
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    /// Servers at [`max_in_flight_per_server`](crate::BalancedChannelBuilder::max_in_flight_per_server).
    pub(crate) at_server_limit: usize,
    /// Servers with a connection that was idle and has not answered a PING yet.
    pub(crate) idle: usize,
}

impl Published {
    /// How many further calls all servers together take now; first those that take what they get, and then those that
    /// have refused a call since they last took one.
    pub(crate) fn free_slots(&self) -> [usize; 2] {
        let mut slots = [0_usize; 2];
        for server in &self.servers {
            let sum = &mut slots[usize::from(server.refuses())];
            *sum = sum.saturating_add(server.free_slots());
        }
        slots
    }

    /// Whether a server takes a further call now: it is below its limits, and its connection is not waiting for a sign of life.
    pub(crate) fn has_room(&self) -> bool {
        self.servers.iter().any(PublishedServer::has_capacity)
    }

    /// The number of connections to all servers.
    pub(crate) fn connections(&self) -> usize {
        self.servers.iter().map(|server| 1 + server.further.len()).sum()
    }

    /// Whether a server could be asked for room: by a PING, or for a further connection.
    pub(crate) fn may_get_room(&self) -> bool {
        self.servers.iter().any(|server| server.may_grow() || server.connections().any(Connection::is_idle))
    }

    /// Sends PINGs to some idle servers. Returns whether there may be more of them.
    pub(crate) fn probe(&self) -> bool {
        self.servers.iter().filter(|server| server.probe()).take(MAX_PROBES).count() == MAX_PROBES
    }

    /// Asks one server for a further connection, if fewer are being made than calls wait. To be called if no server has room.
    /// Returns whether one was asked: then there may be others to ask.
    ///
    /// Of those that can have one it is a server with the fewest connections, from a random one on: so they grow alike.
    pub(crate) fn grow(&self, waiting: usize, random: usize) -> bool {
        // One that is idle may have room in a moment: it was sent a PING, or is about to be replaced.
        let is_idle = |server: &PublishedServer| server.connections().any(Connection::is_idle);
        let making = || self.servers.iter().filter(|server| server.first.subchannel.growth.is_asked()).count();
        if self.servers.is_empty() || self.servers.iter().any(is_idle) || making() >= waiting {
            return false;
        }
        let (before, after) = self.servers.split_at(random % self.servers.len());
        let may_grow = after.iter().chain(before).filter(|server| server.may_grow());
        let server = may_grow.min_by_key(|server| server.further.len());
        if let Some(server) = server {
            server.first.subchannel.growth.ask();
        }
        server.is_some()
    }

    /// Why no server has room. `None` if one has, or if none is left.
    pub(crate) fn limits(&self) -> Option<Limits> {
        if self.servers.is_empty() || self.has_room() {
            return None;
        }
        let mut limits = Limits::default();
        for server in self.servers.iter().filter(|server| !server.is_closing()) {
            if server.is_at_server_limit() {
                limits.at_server_limit += 1;
            } else if server.connections().any(Connection::is_idle) {
                limits.idle += 1;
            } else {
                limits.at_stream_limit += 1;
                limits.connections += server.connections().count();
                limits.streams += server.connections().map(Connection::in_flight).sum::<usize>();
            }
        }
        (limits != Limits::default()).then_some(limits)
    }
}

impl PublishedServer {
    fn free_slots(&self) -> usize {
        let slots = self.connections().map(Connection::available_streams).fold(0, usize::saturating_add);
        self.first.subchannel.streams().map_or(slots, |streams| slots.min(streams.available()))
    }

    /// Whether it has as many calls as the channel gives it at most: another connection gives it no room.
    fn is_at_server_limit(&self) -> bool {
        self.first.subchannel.streams().is_some_and(|streams| streams.available() == 0)
    }

    fn may_grow(&self) -> bool {
        self.first.subchannel.growth.is_open() && !self.is_at_server_limit()
    }
}
