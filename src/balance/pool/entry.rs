//! One server of the pool: its subchannel, the task that connects it, and what was last published of it.

use std::sync::{Arc, Weak};

use tokio::task::AbortHandle;

use crate::address::{Address, Authority};
use crate::address_index::Doubt;
use crate::balance::metrics::ServerConnections;
use crate::balance::pool::ready::{PublishedServer, ReadySubchannel};
use crate::balance::queue::Queue;
use crate::balance::shared::ChannelShared;
use crate::balance::subchannel::supervisor::supervise;
use crate::balance::subchannel::waiting::{PartitionQueue, WaitingCalls};
use crate::balance::subchannel::{Subchannel, SubchannelState};
use crate::connection::{Connection, Destination, PeerAddress, ServerStreams};
use crate::instance::Instance;

/// One address of the set. Dropped, it ends its supervisor and shuts down its subchannel: calls in
/// flight finish over the connection, which closes then.
pub(super) struct PoolEntry {
    /// Shared with the supervisor, with calls and with statuses.
    pub(super) subchannel: Arc<Subchannel>,
    /// The instance that was put last of those that name the address.
    pub(super) instance: Arc<Instance>,
    /// Connects the subchannel until this entry is dropped.
    supervisor: AbortHandle,
    /// As it was last published, while it is connected.
    ready: Option<PublishedServer>,
    /// In which way its instances are in doubt, while they are.
    hold: Option<Doubt>,
}

/// What is known of the calls of a server that has gone, while it has some: one that comes back has to know of them.
pub(super) struct Leaving {
    /// Counts them.
    streams: Weak<ServerStreams>,
    /// Is told when they end.
    told: Option<Weak<PartitionQueue>>,
}

impl Leaving {
    /// Whether there are any.
    pub(super) fn has_calls(&self) -> bool {
        self.streams.strong_count() > 0
    }

    fn upgrade(&self) -> (Option<Arc<ServerStreams>>, Option<Arc<PartitionQueue>>) {
        (self.streams.upgrade(), self.told.as_ref().and_then(Weak::upgrade))
    }
}

impl Drop for PoolEntry {
    fn drop(&mut self) {
        self.supervisor.abort();
        // The supervisor may be in the middle of a step: the subchannel takes no connection from it any more.
        self.subchannel.set_state(SubchannelState::Shutdown, None);
    }
}

impl PoolEntry {
    /// Begins to connect to a server, in a task of its own. `before` is of the calls that it had before it
    /// went, `queue` has those that wait for it.
    pub(super) fn start(
        shared: &ChannelShared,
        address: Address,
        instance: Arc<Instance>,
        before: Option<&Leaving>,
        queue: Arc<Queue>,
    ) -> Self {
        let peer = match address.unix_path() {
            Some(path) => PeerAddress::Unix(path.into()),
            None => PeerAddress::Tcp(address.host().to_owned(), address.port()),
        };
        let to = Destination { address: peer, secure: address.is_secure() };
        let (known, told) = before.map_or((None, None), Leaving::upgrade);
        let new = || Arc::new(ServerStreams::new(shared.settings.max_in_flight_per_server));
        let streams = shared.settings.counts_by_server().then(|| known.unwrap_or_else(new));
        let waiting = WaitingCalls::new(queue, shared.settings.has_routes(), told);
        let connections = ServerConnections::new(shared.metrics.connections.clone(), &address, instance.zone());
        let subchannel = Arc::new(Subchannel::new(address, shared.epoch, streams, waiting, connections));
        let supervisor = tokio::spawn(supervise(shared.connect_context.clone(), subchannel.clone(), to)).abort_handle();
        Self { subchannel, instance, supervisor, ready: None, hold: None }
    }

    /// The server for calls, while it is connected: the same one until its connections or its
    /// instance change.
    pub(super) fn ready(&mut self, shared: &ChannelShared, state: &SubchannelState) -> Option<PublishedServer> {
        let known = self.ready.take();
        let SubchannelState::Ready(connections) = state else { return None };
        let open = || connections.iter().filter(|connection| !connection.is_closing());
        self.ready = match known {
            Some(known) if known.first.is_of(&self.instance) && known.is_over(open()) => Some(known),
            known => self.connected(shared, known.as_ref(), open()),
        };
        self.ready.clone()
    }

    /// Keeps the server with the connections that it has, although its instances are in doubt. Returns
    /// whether it has one. Each has to prove that the server lives, or takes no more calls.
    pub(super) fn hold(&mut self, doubt: Doubt) -> bool {
        if let Some(known) = &mut self.hold {
            *known = doubt; // they have proven it, or are about to
            return true;
        }
        // In this order: from here on the supervisor makes no connection.
        self.subchannel.set_held(true);
        let state = self.subchannel.state();
        let mut is_held = false;
        for connection in state.connections().iter().filter(|connection| !connection.is_closing()) {
            connection.prove();
            is_held = true;
        }
        self.hold = is_held.then_some(doubt);
        is_held
    }

    /// Its instances are no longer in doubt. Returns whether the entry serves on: if its connections have
    /// ended meanwhile, its supervisor makes no others.
    pub(super) fn release(&mut self) -> bool {
        if self.hold.take().is_none() {
            return true;
        }
        self.subchannel.set_held(false);
        !self.subchannel.state().connections().is_empty()
    }

    /// What stays of a server that goes while it has calls, with its address, if anything counts those.
    pub(super) fn leaving(&self, authority: &Authority) -> Option<(Authority, Leaving)> {
        let told = self.subchannel.waiting.handed_on().map(Arc::downgrade);
        let streams = self.subchannel.streams().map(Arc::downgrade)?;
        Some((authority.clone(), Leaving { streams, told }))
    }

    /// In which way its instances are in doubt, if they are.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.hold
    }

    /// Whether it is held and has no connection any more that takes calls.
    pub(super) fn is_over(&self) -> bool {
        self.hold.is_some() && self.subchannel.state().connections().iter().all(Connection::is_closing)
    }

    /// The server over these connections. What is `known` of them stays. `None` if there is none.
    fn connected<'a>(
        &self,
        shared: &ChannelShared,
        known: Option<&PublishedServer>,
        open: impl Iterator<Item = &'a Connection>,
    ) -> Option<PublishedServer> {
        let authority = shared.settings.authority_of(self.subchannel.address())?;
        let mut known: Vec<_> = known.into_iter().flat_map(PublishedServer::all).cloned().collect();
        known.retain(|known| known.is_of(&self.instance));
        let mut all = open.map(|connection| {
            let same = known.iter().find(|known| known.connection.is_same(connection)).cloned();
            same.unwrap_or_else(|| {
                let (subchannel, instance) = (self.subchannel.clone(), self.instance.clone());
                let other = known.first().map(|known| &**known);
                let new = ReadySubchannel::new(subchannel, connection.clone(), instance, authority.clone(), other);
                let new = Arc::new(new);
                known.push(new.clone()); // the next one shares how policies see the server
                new
            })
        });
        let first = all.next()?;
        Some(PublishedServer { first, further: all.collect() })
    }
}
