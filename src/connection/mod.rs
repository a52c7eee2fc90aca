//! One server's HTTP/2 connection, straight on h2: made, driven, watched for silence, and used for exchanges.
//!
//! Knows http, h2, tokio and rustls, and nobody of ours. A unary exchange needs no queue, no oneshot and no task of its
//! own: the caller's task writes the request into h2 and reads the answer out of it.

mod capacity;
mod connect;
mod driver;
mod exchange;
mod failure;
mod options;
mod resets;
mod shared;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use crate::connection::capacity::CapacityListener;
#[cfg(feature = "_tls")]
pub(crate) use crate::connection::connect::Tls;
pub(crate) use crate::connection::connect::panics::{caught, text as panic_text};
#[cfg(feature = "_tls")]
pub use crate::connection::connect::tls::ClientTls;
#[cfg(feature = "_tls")]
pub(crate) use crate::connection::connect::tls::Invalid;
pub(crate) use crate::connection::connect::{Connector, Destination, Io, Place, Transport};
pub(crate) use crate::connection::exchange::Exchange;
pub(crate) use crate::connection::exchange::excerpt::read_some;
pub(crate) use crate::connection::exchange::header_limits::RequestLimit;
pub(crate) use crate::connection::exchange::recv_body::RecvBody;
pub(crate) use crate::connection::failure::{Failure, Kind};
pub use crate::connection::options::KeepAlive;
pub(crate) use crate::connection::options::{Options, TcpKeepalive};
use crate::connection::shared::Shared;
pub(crate) use crate::connection::shared::{CloseReason, ConnectionLoad, ConnectionState, StreamPermit};
pub(crate) use h2::Reason;
/// What is still to come of an answer whose head is there.
pub(crate) use h2::RecvStream as Incoming;

use self::driver::commands::{Command, CommandSender};
use self::driver::read_tracking::LastRead;

/// A connection that the server has accepted. Cheap to clone; it closes when the last clone is gone and the last exchange
/// has ended, or when the server wants it to.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Handle>);

struct Handle {
    send: SendRequest<Bytes>,
    shared: Arc<Shared>,
    last_read: Arc<LastRead>,
    /// After so many the connection takes no more exchanges.
    most_exchanges: u32,
    /// Dropped after `send`, so that h2 sees the last `SendRequest` go before the driver is told that nobody holds the
    /// connection.
    commands: CommandSender,
}

impl Connection {
    /// Takes a place for one exchange, if the server takes a further one now.
    pub(crate) fn reserve(&self) -> Option<StreamPermit> {
        if self.is_over() {
            return None;
        }
        let shared = &self.0.shared;
        let limit = shared.limit.load(Ordering::Relaxed);
        let further = |count: usize| (count < limit).then_some(count + 1);
        let reserved = shared.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, further);
        if reserved.is_err() {
            return None;
        }
        shared.used.store(true, Ordering::Relaxed);
        Some(StreamPermit(shared.clone()))
    }

    /// Whether the two are one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether a further exchange would be taken at once.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight() < self.0.shared.limit.load(Ordering::Relaxed) && !self.is_over()
    }

    /// How many further exchanges would be taken at once.
    pub(crate) fn free_slots(&self) -> usize {
        if self.is_over() { 0 } else { self.stream_limit().saturating_sub(self.in_flight()) }
    }

    /// Exchanges from their start to the end of their answers.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Its load, for whoever must not hold the connection.
    pub(crate) fn load(&self) -> ConnectionLoad {
        ConnectionLoad(self.0.shared.clone())
    }

    /// Whether the server takes no more exchanges.
    pub(crate) fn is_over(&self) -> bool {
        self.0.shared.over.load(Ordering::Acquire)
    }

    /// When anything was last read from the server.
    pub(crate) fn heard(&self) -> Instant {
        self.0.last_read.at()
    }

    /// How many exchanges the server takes at once, as its SETTINGS say; a very large number where they do not.
    pub(crate) fn stream_limit(&self) -> usize {
        self.0.shared.limit.load(Ordering::Relaxed)
    }

    /// How many bytes of headers the server takes with a request.
    pub(crate) fn request_limit(&self) -> RequestLimit {
        self.0.shared.headers.request_limit()
    }

    /// When a PING was last sent.
    pub(crate) fn pinged(&self) -> Option<Instant> {
        self.0.last_read.pinged()
    }

    /// Sends a PING soon, whose answer shows in [`Connection::heard`]; none where keep-alive is off, and none where one was
    /// sent less than 5.5 s ago, because servers end connections that are pinged more often than every 5 s (etcd's default).
    pub(crate) fn ping(&self) {
        self.0.commands.send(Command::Ping);
    }

    /// Takes no more exchanges, before h2 refuses them: those in flight may finish.
    fn retire(&self) {
        self.0.shared.over.store(true, Ordering::Release);
        self.0.shared.stage.send_if_modified(|stage| {
            let ready = *stage == ConnectionState::Ready;
            if ready {
                *stage = ConnectionState::Draining(CloseReason::because("its stream ids are nearly used up"));
            }
            ready
        });
    }

    /// Lets a connection that was silent for long, and takes no exchange for that, find out whether it is alive; whether it
    /// was this that began it. Costs a look where there is nothing to find out.
    pub(crate) fn prove(&self) -> bool {
        let unproven = &self.0.shared.unproven;
        let begins = unproven.load(Ordering::Relaxed) && unproven.swap(false, Ordering::Relaxed);
        if begins {
            self.0.commands.send(Command::Prove);
        }
        begins
    }

    /// Closes the connection at once: its exchanges fail.
    pub(crate) fn close(&self, why: impl Into<String>) {
        self.0.shared.over.store(true, Ordering::Release);
        self.0.commands.send(Command::Close(why.into()));
    }

    /// The stages of the connection, the present one first.
    pub(crate) fn stages(&self) -> watch::Receiver<ConnectionState> {
        self.0.shared.stage.subscribe()
    }
}

#[cfg(test)]
mod proof;
#[cfg(test)]
mod tests;
