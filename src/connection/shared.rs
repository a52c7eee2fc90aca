//! What a connection's driver and those who use the connection share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::connection::capacity::CapacityListener;
use crate::connection::exchange::header_limits::HeaderSizes;
use crate::connection::resets::cancelled::CancelledStreams;

/// What the driver tells, and what it needs to know.
pub(super) struct Shared {
    /// How many exchanges the server takes at once: copied here after each poll, so that nobody else takes h2's lock. 0
    /// while the connection is unproven, so that picks need to look at nothing else.
    pub(super) limit: AtomicUsize,
    /// It was silent for long, and nobody has wanted it since.
    pub(super) unproven: AtomicBool,
    pub(super) in_flight: AtomicUsize,
    /// An exchange has begun since keep-alive last looked.
    pub(super) used: AtomicBool,
    /// An answer has come on since keep-alive last pinged.
    pub(super) progress: AtomicBool,
    /// The server will take no more exchanges, or the connection is gone.
    pub(super) over: AtomicBool,
    pub(super) cancelled: CancelledStreams,
    pub(super) stage: watch::Sender<ConnectionState>,
    pub(super) headers: Arc<HeaderSizes>,
    /// Where those wait who found no room.
    pub(super) room: Arc<dyn CapacityListener>,
}

/// How far a connection has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    /// The server's SETTINGS have not come: whoever accepted may be frozen.
    Greeting,
    Ready,
    /// The server takes no more exchanges; those in flight may finish.
    Draining(CloseReason),
    Closed(CloseReason),
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    pub(crate) why: String,
    /// The server complained of too many pings.
    pub(crate) too_many_pings: bool,
    /// Keep-alive took the server for dead.
    pub(crate) silent: bool,
    /// The server has said GOAWAY.
    pub(crate) goaway: bool,
}

/// The load of a connection, without the connection: it keeps nothing open.
pub(crate) struct ConnectionLoad(pub(super) Arc<Shared>);

impl ConnectionLoad {
    /// Exchanges from their start to the end of their answers.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }
}

/// A place among the exchanges that the server takes at once, held until the answer has ended.
pub(crate) struct StreamPermit(pub(super) Arc<Shared>);

impl Shared {
    pub(super) fn new(
        stage: watch::Sender<ConnectionState>,
        headers: Arc<HeaderSizes>,
        room: Arc<dyn CapacityListener>,
    ) -> Self {
        Self {
            limit: AtomicUsize::new(0),
            unproven: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            progress: AtomicBool::new(false),
            over: AtomicBool::new(false),
            cancelled: CancelledStreams::new(),
            stage,
            headers,
            room,
        }
    }

    /// Whether anyone waits for the server, or did since this was last asked.
    pub(super) fn is_waited_for(&self) -> bool {
        let used = self.used.swap(false, Ordering::Relaxed);
        used || self.in_flight.load(Ordering::Relaxed) > 0
    }
}

impl StreamPermit {
    /// How the connection was ended, if it was.
    pub(super) fn ended(&self) -> Option<CloseReason> {
        match &*self.0.stage.borrow() {
            ConnectionState::Draining(end) | ConnectionState::Closed(end) => Some(end.clone()),
            ConnectionState::Greeting | ConnectionState::Ready => None,
        }
    }

    /// The answer has come on.
    pub(super) fn progress(&self) {
        self.0.progress.store(true, Ordering::Relaxed);
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        // In one order with the look of whoever begins to wait, see `CapacityListener::freed`.
        let before = self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before <= self.0.limit.load(Ordering::Relaxed) && !self.0.over.load(Ordering::Relaxed) {
            self.0.room.freed(1);
        }
    }
}
