//! One server's HTTP/2 connection, directly on h2: how it is made, driven, checked for silence, and used for calls.
//!
//! This folder knows http, h2, tokio and rustls, and nothing else of this crate. It alone names h2's connections and streams. A
//! unary call needs no queue, no channel and no task of its own: the caller's task writes the request into h2 and reads the
//! response out of it.
//!
//! # The way of a connection
//! 1. [`connect`] makes a socket (TCP, Unix, or a connector of the user's), does the TLS handshake over it, exchanges SETTINGS,
//!    and returns a [`Connection`].
//! 2. [`driver`] is the task of the connection. It polls h2, copies the server's stream limit to where calls read it, and sends
//!    PINGs: for keep-alive, on request, and to probe a connection that was idle.
//! 3. [`handle`] is the [`Connection`] that callers hold. [`shared`] is what handles, exchanges and the driver share: the
//!    [`StreamCapacity`](capacity::StreamCapacity) and the [`ConnectionState`] ([`state`]).
//! 4. [`exchange`] is one request and its response on a stream, in the caller's task.
//! 5. [`resets`] takes over streams of calls that were cancelled before a response, and resets them at a pace that servers accept.
//!
//! [`failure`] says why an exchange failed and whether the server can have processed it; [`options`] holds the settings.
//! `proof` tests what the crate relies on of h2.

mod capacity;
mod connect;
mod driver;
mod exchange;
mod failure;
mod handle;
mod options;
mod resets;
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
pub(crate) use crate::connection::exchange::excerpt::read_prefix;
pub(crate) use crate::connection::exchange::header_sizes::RequestLimit;
pub(crate) use crate::connection::exchange::recv_body::RecvBody;
pub(crate) use crate::connection::failure::{Failure, FailureKind};
pub(crate) use crate::connection::handle::Connection;
pub use crate::connection::options::KeepAlive;
pub(crate) use crate::connection::options::{Options, TcpKeepalive};
pub(crate) use crate::connection::shared::StreamPermit;
pub(crate) use crate::connection::state::{CloseKind, ConnectionState};
pub(crate) use h2::{Reason, RecvStream};

#[cfg(test)]
mod proof;
#[cfg(test)]
mod tests;
