//! What a connection's driver shares with its handles and its exchanges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use h2::{RecvStream, StreamId};
use tokio::sync::watch;

use crate::connection::capacity::{CapacityListener, StreamCapacity};
use crate::connection::exchange::header_sizes::HeaderSizes;
use crate::connection::failure::Failure;
use crate::connection::finished::FinishedStream;
use crate::connection::resets::order::StreamCounter;
use crate::connection::server_streams::{Freed, ServerStreams};
use crate::connection::state::{CloseReason, ConnectionState};

/// The shared part of one connection. All transitions of [`ConnectionState`] are methods of it.
///
/// Invariant: `capacity` is closed before `state` becomes `Draining` or `Closed`. So a task that is
/// told of the end never reserves a stream after it.
pub(super) struct Shared {
    pub(super) capacity: StreamCapacity,
    pub(super) state: watch::Sender<ConnectionState>,
    /// A response has progressed since keep-alive last allowed a PING: servers that count PINGs
    /// have then forgiven them.
    pub(super) has_progress: AtomicBool,
    /// Something is waited for that is no exchange, such as a server that says that it serves: the
    /// connection is watched as if an exchange were in flight.
    pub(super) is_awaited: AtomicBool,
    /// For the pace of resets, and for keep-alive: whether any stream was opened since its last
    /// check.
    pub(super) streams: StreamCounter,
    pub(super) headers: Arc<HeaderSizes>,
    pub(super) finished: FinishedStream,
    /// Wakes calls that wait for a stream.
    capacity_listener: Arc<dyn CapacityListener>,
    /// Also counts the streams of this connection; `None` if its server has no other connection and
    /// no limit beside its own.
    pub(super) server: Option<Arc<ServerStreams>>,
}

/// The load of a connection, without the connection: it keeps nothing open.
pub(crate) struct ConnectionLoad(pub(super) Arc<Shared>);

impl ConnectionLoad {
    /// The number of exchanges between their start and the end of their responses.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.capacity.in_flight()
    }
}

/// One stream that the server accepts. A call gets it by
/// [`reserve`](crate::connection::Connection::reserve) before it sends anything; the exchange, the
/// response's body, or the list of cancelled streams holds it then. Held from before the request is
/// sent until the response has ended, so that a server's load counts to the end of the response.
pub(crate) struct StreamPermit(pub(super) Arc<Shared>);

impl Shared {
    /// A connection whose handshake has begun.
    pub(super) fn new(
        headers: Arc<HeaderSizes>,
        capacity_listener: Arc<dyn CapacityListener>,
        server: Option<Arc<ServerStreams>>,
    ) -> Self {
        Self {
            capacity: StreamCapacity::default(),
            state: watch::Sender::new(ConnectionState::Handshaking),
            has_progress: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            streams: StreamCounter::default(),
            headers,
            finished: FinishedStream::default(),
            capacity_listener,
            server,
        }
    }

    /// The number of streams that can be reserved now.
    pub(super) fn available_streams(&self) -> usize {
        let available = self.capacity.available();
        self.server.as_ref().map_or(available, |server| available.min(server.available()))
    }

    /// Whether somebody waits for what the server sends: an exchange is in flight, or something else
    /// is awaited.
    pub(super) fn is_waited_for(&self) -> bool {
        self.capacity.in_flight() > 0 || self.is_awaited.load(Ordering::Relaxed)
    }

    /// Why the connection is `Draining` or `Closed`, if it is.
    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        self.state.borrow().close_reason().cloned()
    }

    /// Sets the number of streams that the server accepts; 0 while the connection is idle. The
    /// first one above 0 makes the connection ready. Costs two loads if nothing has changed: the
    /// driver calls it after each poll.
    pub(super) fn set_stream_limit(&self, limit: usize) {
        let Some(freed) = self.capacity.set_limit(limit) else { return };
        let becomes_ready = limit > 0
            && self.transition(|state| {
                use ConnectionState::{Handshaking, Idle, Probing, Ready};
                matches!(state, Handshaking | Idle | Probing).then_some(Ready)
            });
        let freed = match &self.server {
            None => freed,
            // No server gets a further connection while one is idle: a call that waits has to look again, even if all streams of
            // this one are taken.
            Some(server) if becomes_ready => freed.min(server.available()).max(1),
            // Not more than the server takes over all its connections: nobody is woken for nothing.
            Some(server) => freed.min(server.available()),
        };
        if freed > 0 {
            self.capacity_listener.freed(freed);
        }
    }

    /// Gives back a stream that was no exchange. Calls may wait for it.
    pub(super) fn release_uncounted(&self) {
        let freed = self.capacity.release_uncounted();
        let freed = self.server.as_ref().map_or(freed, |server| freed.min(server.available()));
        if freed > 0 {
            self.capacity_listener.freed(freed);
        }
    }

    /// Nothing was read for the idle timeout: no stream is opened until something is.
    pub(super) fn become_idle(&self) {
        self.transition(|state| matches!(state, ConnectionState::Ready).then_some(ConnectionState::Idle));
        // After the state: a call that finds no capacity has to find an idle connection that it can
        // probe.
        self.set_stream_limit(0);
        self.capacity_listener.freed(0);
    }

    /// A call wants the idle connection. Returns whether this call was the first, so that one PING
    /// is sent for all of them.
    pub(super) fn begin_probe(&self) -> bool {
        // The state is locked only where the limit is 0: calls that merely find a busy connection
        // pay one load.
        self.capacity.limit() == 0
            && self.transition(|state| matches!(state, ConnectionState::Idle).then_some(ConnectionState::Probing))
    }

    /// Opens no more streams. A reason that is known stays, unless the new one is the server's
    /// GOAWAY, which says more than what this side has decided before.
    pub(super) fn drain(&self, reason: CloseReason) {
        self.capacity.close();
        self.transition(|state| match state {
            ConnectionState::Closed(_) => None,
            ConnectionState::Draining(known) if known.is_goaway() || !reason.is_goaway() => None,
            _ => Some(ConnectionState::Draining(reason)),
        });
        self.finished.close();
    }

    /// The connection has ended. All its streams fail.
    pub(super) fn close(&self, reason: CloseReason) {
        self.capacity.close();
        self.state.send_replace(ConnectionState::Closed(reason));
        self.finished.close();
    }

    /// Changes the state to what `next` returns. Returns whether it did. Receivers are woken after
    /// the lock is released.
    fn transition(&self, next: impl FnOnce(&ConnectionState) -> Option<ConnectionState>) -> bool {
        self.state.send_if_modified(|state| match next(state) {
            Some(next) => {
                *state = next;
                true
            }
            None => false,
        })
    }
}

impl StreamPermit {
    /// Takes a stream, if the server accepts one more now.
    pub(super) fn reserve(shared: &Arc<Shared>) -> Option<Self> {
        match &shared.server {
            None => shared.capacity.reserve().then(|| Self(shared.clone())),
            Some(server) => Self::reserve_of_server(shared, server),
        }
    }

    /// The same for a connection whose server counts too.
    fn reserve_of_server(shared: &Arc<Shared>, server: &ServerStreams) -> Option<Self> {
        if server.available() == 0 || !shared.capacity.reserve() {
            return None;
        }
        if server.reserve() {
            return Some(Self(shared.clone()));
        }
        // Another call was faster. While this one had the stream, a third may have found none and begun to wait.
        if shared.capacity.release() {
            shared.capacity_listener.freed(1);
        }
        None
    }

    /// The exchange has ended, and `stream` is the last handle of its stream. The permit goes with it.
    pub(super) fn finish(self, stream: RecvStream) {
        // Other calls wake the driver soon: then the handle costs nothing.
        if self.0.capacity.in_flight() == 1 {
            self.0.finished.keep(stream);
        }
    }

    /// The response has progressed.
    pub(super) fn record_progress(&self) {
        self.0.has_progress.store(true, Ordering::Relaxed);
    }

    /// Why this stream failed: because of large headers, or as `failure` reads h2's error.
    pub(super) fn failure(
        &self,
        stream: StreamId,
        error: &h2::Error,
        failure: impl FnOnce(&h2::Error, Option<CloseReason>) -> Failure,
    ) -> Failure {
        let too_large = self.0.headers.failure(stream, error);
        too_large.unwrap_or_else(|| failure(error, self.0.close_reason()))
    }

    /// What is known of headers on the connection.
    pub(super) fn headers(&self) -> &HeaderSizes {
        &self.0.headers
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut has_room = self.0.capacity.release();
        if let Some(server) = &self.0.server {
            has_room |= server.release() == Freed::Server;
        }
        if has_room {
            self.0.capacity_listener.freed(1);
        }
    }
}
