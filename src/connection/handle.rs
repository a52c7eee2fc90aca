//! The handle of a connection, which callers hold.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::driver::commands::{Command, CommandSender};
use crate::connection::driver::read_tracking::IoActivity;
use crate::connection::exchange::header_sizes::RequestLimit;
use crate::connection::resets::cancelled::CancelledStreams;
use crate::connection::shared::{ConnectionLoad, Shared, StreamPermit};
use crate::connection::state::{CloseKind, CloseReason, ConnectionState};

/// A connection whose handshake is done. Cheap to clone. It closes when the last clone is dropped
/// and the last exchange has ended, or when the server or keep-alive closes it.
#[derive(Clone)]
pub(crate) struct Connection(pub(super) Arc<Handle>);

/// What all clones of a [`Connection`] share. Fields drop in this order.
pub(super) struct Handle {
    pub(super) send_request: SendRequest<Bytes>,
    pub(super) shared: Arc<Shared>,
    pub(super) cancelled: Arc<CancelledStreams>,
    pub(super) activity: Arc<IoActivity>,
    /// The connection drains after so many exchanges.
    pub(super) max_exchanges: u32,
    /// Dropped after `send_request`: h2 must see its last `SendRequest` go before the driver is
    /// told that no handle is left. The driver would otherwise drop its own one first, and nothing
    /// would wake it for the end of this one.
    pub(super) commands: CommandSender,
}

impl Drop for Handle {
    /// Before the fields go: nothing may keep the connection open when the driver is told.
    fn drop(&mut self) {
        self.shared.finished.close();
    }
}

impl Connection {
    /// Reserves a stream for one exchange, if the server accepts one more now.
    pub(crate) fn reserve(&self) -> Option<StreamPermit> {
        StreamPermit::reserve(&self.0.shared)
    }

    /// Whether the two are handles of one connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether [`Connection::reserve`] would succeed now.
    pub(crate) fn has_capacity(&self) -> bool {
        self.available_streams() > 0
    }

    /// The number of streams that can be reserved now.
    pub(crate) fn available_streams(&self) -> usize {
        self.0.shared.available_streams()
    }

    /// The number of exchanges between their start and the end of their responses.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.shared.capacity.in_flight()
    }

    /// Returns its load, for owners that must not hold the connection.
    pub(crate) fn load(&self) -> ConnectionLoad {
        ConnectionLoad(self.0.shared.clone())
    }

    /// The number of exchanges that were begun, modulo 2^32.
    pub(crate) fn begun(&self) -> u32 {
        self.0.shared.streams.opened()
    }

    /// Whether the connection is [`ConnectionState::Draining`] or [`ConnectionState::Closed`].
    pub(crate) fn is_closing(&self) -> bool {
        self.0.shared.capacity.is_closed()
    }

    /// When anything was last read from the server.
    pub(crate) fn last_read(&self) -> Instant {
        self.0.activity.last_read()
    }

    /// The number of exchanges that the server accepts at once, as its SETTINGS say, without its
    /// uncounted streams. Very large if they do not say, and 0 while the connection is idle.
    pub(crate) fn stream_limit(&self) -> usize {
        self.0.shared.capacity.limit()
    }

    /// Whether the connection is [`ConnectionState::Idle`] or [`ConnectionState::Probing`]: it takes no exchange before
    /// something is read from it.
    pub(crate) fn is_idle(&self) -> bool {
        let is_idle = |state: &ConnectionState| matches!(state, ConnectionState::Idle | ConnectionState::Probing);
        self.stream_limit() == 0 && is_idle(&self.0.shared.state.borrow())
    }

    /// The number of bytes of headers that the server accepts in a request.
    pub(crate) fn request_limit(&self) -> RequestLimit {
        self.0.shared.headers.request_limit()
    }

    /// When a PING was last sent.
    pub(crate) fn last_ping(&self) -> Option<Instant> {
        self.0.activity.last_ping()
    }

    /// Asks the driver for a PING; its acknowledgement shows in [`Connection::last_read`]. None is
    /// sent if keep-alive is off, or less than 5.5 s after the last one: servers close
    /// connections that are pinged more often than every 5 s (etcd's default).
    pub(crate) fn ping(&self) {
        self.0.commands.send(Command::Ping);
    }

    /// Asks the server to prove that it lives. It is sent a PING, unless one is unanswered. If nothing is
    /// read within a second, the connection drains; also if it was pinged as often as servers permit.
    pub(crate) fn prove(&self) {
        self.0.commands.send(Command::Prove);
    }

    /// Says whether something is waited for that is no exchange: keep-alive and the idle timeout then
    /// watch the connection as if an exchange were in flight, so that its silent loss is detected.
    pub(crate) fn set_awaited(&self, is_awaited: bool) {
        if self.0.shared.is_awaited.swap(is_awaited, Ordering::Relaxed) != is_awaited && is_awaited {
            self.0.commands.send(Command::Watch);
        }
    }

    /// Begins to probe the connection, if it is idle: a PING is sent, and the connection is ready
    /// again once anything is read. Returns whether this call began it. One load if the connection
    /// is not idle.
    pub(crate) fn probe(&self) -> bool {
        let begins = self.0.shared.begin_probe();
        if begins {
            self.0.commands.send(Command::Probe);
        }
        begins
    }

    /// Lets the connection drain before its stream ids are used up. Exchanges in flight may finish.
    pub(super) fn retire(&self) {
        self.0.shared.drain(CloseReason::new(CloseKind::Other, "its stream ids are nearly used up"));
    }

    /// Closes the connection at once. Its exchanges fail, and `reason` is in their errors.
    pub(crate) fn close(&self, reason: impl Into<String>) {
        self.0.shared.capacity.close();
        self.0.commands.send(Command::Close(reason.into()));
    }

    /// The states of the connection, the present one first.
    pub(crate) fn states(&self) -> watch::Receiver<ConnectionState> {
        self.0.shared.state.subscribe()
    }

    /// Waits until the connection is `Draining` or `Closed`, and returns why. The future holds no
    /// handle.
    pub(crate) fn closing(&self) -> impl Future<Output = CloseReason> + Send + use<> {
        let mut states = self.states();
        async move {
            let closing = states.wait_for(|state| state.close_reason().is_some()).await;
            let reason = closing.ok().and_then(|state| state.close_reason().cloned());
            // The driver publishes `Closed` however it ends, so the sender is never gone before.
            reason.unwrap_or_else(|| CloseReason::new(CloseKind::Other, "the connection has ended"))
        }
    }
}
