//! One server's HTTP/2 connection, directly on h2: how it is made, driven, checked for silence, and
//! used for calls.
//!
//! This folder knows http, h2, tokio and rustls, and nothing else of this crate. It alone names
//! h2's connections and streams. A unary call needs no queue, no channel and no task of its own:
//! the caller's task writes the request into h2 and reads the response out of it.
//!
//! # The way of a connection
//! 1. [`connect`] makes a socket (TCP, Unix, or a connector of the user's), does the TLS handshake
//!    over it, exchanges SETTINGS, and returns a [`Connection`].
//! 2. [`driver`] is the task of the connection. It polls h2, copies the server's stream limit to
//!    where calls read it, and sends PINGs: for keep-alive, on request, and to probe a connection
//!    that was idle.
//! 3. [`handle`] is the [`Connection`] that callers hold. [`shared`] is what handles, exchanges and
//!    the driver share: the [`StreamCapacity`](capacity::StreamCapacity) and the
//!    [`ConnectionState`] ([`state`]). [`server_streams`] counts over several connections of one
//!    server, where its owner wants that. [`finished`] keeps the handle of the last stream until the
//!    next request, where there is no other.
//! 4. [`exchange`] is one request and its response on a stream, in the caller's task. Its
//!    [`uncounted`](exchange::uncounted) is a stream beside those of callers, for health checks.
//! 5. [`resets`] takes over streams of calls that were cancelled before a response, and resets them
//!    at a pace that servers accept.
//!
//! [`failure`] says why an exchange failed and whether the server can have processed it;
//! [`options`] holds the settings.
//!
//! ```text
//!  balance, etcd ──▶ Connection ──reserve──▶ StreamPermit ──exchange──▶ Exchange ──head──▶ RecvBody
//!                        │                        │                       │ dropped before the head
//!                        │ commands               │ capacity              ▼
//!                        ▼                        ▼                 CancelledStreams
//!                     Driver ──polls──▶ h2 ──▶ Shared ◀───────────────────┘ resets, paced
//!                        │               │
//!                     Timers        ReadTrackingIo ──▶ TLS ──▶ TCP, Unix socket, connector
//! ```
//!
//! # Tasks
//! The driver is the only task of a connection. One more runs for each request whose body has not
//! ended when its response begins. Whoever drops the last [`Connection`] lets the driver close it;
//! a driver that is dropped closes the connection.
//!
//! # Locks
//! A call takes h2's lock of the connection, as every user of h2 does. Of this crate's locks it takes
//! none but that of the finished stream, and that only where it is alone on its connection: the capacity, the flags for keep-alive and the times of reads are atomics. The mutexes here are
//! for rare things: cancelled streams, commands, large headers, the failure of a request's body, the
//! server's limit of streams when it changes.
//! None of them is held while a task is woken, or while a stream, a waker or a value of the user's
//! is dropped, because those may run other code.
//!
//! # What is relied on of h2
//! Three things beyond its documented API, each with tests in `proof` against h2's own server and
//! frames written by hand:
//! - which errors prove that a call was not processed ([`failure`]);
//! - that its server accepts streams in the order of their ids, and how many resets it tolerates
//!   before it does ([`resets::pacer`]);
//! - when it refuses or cuts large headers ([`exchange::header_sizes`]).
//!
//! `.ci/run` runs these tests with the newest h2 too.

mod capacity;
mod connect;
mod driver;
pub(crate) mod exchange;
mod failure;
mod finished;
mod handle;
mod options;
pub(crate) mod resets;
mod server_streams;
mod shared;
mod state;

pub(crate) use crate::connection::capacity::CapacityListener;
pub(crate) use crate::connection::connect::Transport;
pub(crate) use crate::connection::connect::connector::Connector;
pub use crate::connection::connect::connector::ConnectorIo;
pub(crate) use crate::connection::connect::destination::{Destination, PeerAddress};
pub(crate) use crate::connection::connect::panics::{catch_panic, panic_message};
#[cfg(feature = "_tls")]
pub use crate::connection::connect::tls::ClientTls;
#[cfg(feature = "_tls")]
pub(crate) use crate::connection::connect::tls::{Tls, config::InvalidTls};
pub(crate) use crate::connection::exchange::Exchange;
pub(crate) use crate::connection::exchange::body_guard::SentCounter;
pub(crate) use crate::connection::exchange::excerpt::read_prefix;
pub(crate) use crate::connection::exchange::header_sizes::RequestLimit;
pub(crate) use crate::connection::exchange::recv_body::RecvBody;
pub(crate) use crate::connection::exchange::uncounted::{Uncounted, UncountedBody};
pub(crate) use crate::connection::failure::{Failure, FailureKind};
pub(crate) use crate::connection::handle::Connection;
pub use crate::connection::options::KeepAlive;
pub(crate) use crate::connection::options::{Options, TcpKeepalive};
pub(crate) use crate::connection::server_streams::ServerStreams;
pub(crate) use crate::connection::shared::{ConnectionLoad, StreamPermit};
pub(crate) use crate::connection::state::{CloseKind, CloseReason, ConnectionState, Disconnect};
pub(crate) use h2::{Reason, RecvStream};

#[cfg(test)]
mod proof;
#[cfg(test)]
mod tests;
