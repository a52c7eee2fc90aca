//! One server of the pool: its subchannel, the task that connects it, and what was last published of it.

use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::address::Address;
use crate::address_index::Doubt;
use crate::balance::pool::hold::Hold;
use crate::balance::pool::ready::{PublishedServer, ReadySubchannel};
use crate::balance::shared::ChannelShared;
use crate::balance::subchannel::supervisor::supervise;
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
    /// While its instances are in doubt.
    hold: Option<Hold>,
}

impl Drop for PoolEntry {
    fn drop(&mut self) {
        self.supervisor.abort();
        // The supervisor may be in the middle of a step: the subchannel takes no connection from it any more.
        self.subchannel.set_state(SubchannelState::Shutdown, None);
    }
}

impl PoolEntry {
    /// Begins to connect to a server, in a task of its own. `streams` counts its calls.
    pub(super) fn start(
        shared: &ChannelShared,
        address: Address,
        instance: Arc<Instance>,
        streams: Option<Arc<ServerStreams>>,
    ) -> Self {
        let peer = match address.unix_path() {
            Some(path) => PeerAddress::Unix(path.into()),
            None => PeerAddress::Tcp(address.host().to_owned(), address.port()),
        };
        let to = Destination { address: peer, secure: address.is_secure() };
        let subchannel = Arc::new(Subchannel::new(address, shared.epoch, streams));
        let supervisor = tokio::spawn(supervise(shared.connect_context.clone(), subchannel.clone(), to)).abort_handle();
        Self { subchannel, instance, supervisor, ready: None, hold: None }
    }

    /// The server for calls, while it is connected: the same one until its connections or its
    /// instance change.
    pub(super) fn ready(&mut self, shared: &ChannelShared, state: &SubchannelState) -> Option<PublishedServer> {
        let known = self.ready.take();
        let SubchannelState::Ready(connections) = state else { return None };
        let (hold, now) = (self.hold, Instant::now());
        let open = || connections.iter().filter(move |connection| is_usable(connection, hold, now));
        self.ready = match known {
            Some(known) if known.first.is_of(&self.instance) && known.is_over(open()) => Some(known),
            known => self.connected(shared, known.as_ref(), open()),
        };
        self.ready.clone()
    }

    /// Keeps the server with the connections that it has, although its instances are in doubt. Returns
    /// whether it has one. Each is sent a PING.
    pub(super) fn hold(&mut self, doubt: Doubt) -> bool {
        if let Some(hold) = &mut self.hold {
            hold.doubt = doubt; // no PING again
            return true;
        }
        // In this order: from here on the supervisor makes no connection.
        self.subchannel.set_held(true);
        let SubchannelState::Ready(connections) = self.subchannel.state() else { return false };
        let now = Instant::now();
        let open = connections.iter().filter(|connection| !connection.is_closing());
        let is_held = open.fold(false, |_, connection| {
            connection.prove();
            true
        });
        self.hold = is_held.then(|| Hold::new(doubt, now));
        is_held
    }

    /// Its instances are no longer in doubt. Returns whether the entry serves on: if its connections have
    /// ended meanwhile, its supervisor makes no others.
    pub(super) fn release(&mut self) -> bool {
        if self.hold.take().is_none() {
            return true;
        }
        self.subchannel.set_held(false);
        matches!(self.subchannel.state(), SubchannelState::Ready(_))
    }

    /// In which way its instances are in doubt, if they are.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.hold.map(|hold| hold.doubt)
    }

    /// When its connections must have proven that the server lives, if it is held and that time has not
    /// passed.
    pub(super) fn proof_due(&self) -> Option<Instant> {
        self.hold.and_then(|hold| hold.proof_due())
    }

    /// Whether it is held and has no connection any more that may be used.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let Some(hold) = &mut self.hold else { return false };
        hold.check(now);
        let SubchannelState::Ready(connections) = self.subchannel.state() else { return true };
        !connections.iter().any(|connection| is_usable(connection, self.hold, now))
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

/// Whether calls may go over a connection of a server that may be held.
fn is_usable(connection: &Connection, hold: Option<Hold>, now: Instant) -> bool {
    !connection.is_closing() && hold.is_none_or(|hold| hold.accepts(connection.last_read(), now))
}
