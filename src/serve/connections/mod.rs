//! The accepted connections of a server, and the calls on them.
//!
//! At shutdown, a connection with a call in flight is kept, and one whose client is gone is closed. hyper tells neither, so
//! each connection is wrapped:
//!
//! ```text
//!   listener ──▶ Incoming ──▶ Socket ──▶ tonic, hyper          bytes ──▶ wire ──▶ ConnectionActivity ◀── Registry
//!                   └───────── Registry::admit ──▶ handle                             ▲                    │ closes idle
//!                                                              CountCalls (over TLS) ─┘                    ▼ sockets
//! ```
//!
//! - `listener`: what can be listened on, and where that is.
//! - `incoming`: the accept loop.
//! - `socket`: one connection.
//! - `activity`: what a connection reports of itself.
//! - `wire/`: the calls in flight, read from the bytes.
//! - `calls`: the layer that counts calls, for TLS.
//! - `registry`: all connections, and which of them have nothing to wait for.
//! - `socket_file`: the file of a Unix socket.

mod activity;
pub(super) mod calls;
pub(super) mod incoming;
pub(super) mod listener;
pub(super) mod registry;
mod socket;
#[cfg(unix)]
pub(super) mod socket_file;
mod wire;
