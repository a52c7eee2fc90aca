//! The accepted connections of a server, and the calls on them.
//!
//! At shutdown, a connection with a call in flight is kept, and one whose client is gone is closed.
//! hyper tells neither, so each connection is wrapped:
//!
//! ```text
//!   listener ──▶ Incoming ──▶ Socket ──▶ tonic, hyper          bytes ──▶ wire ──▶ ConnectionActivity ◀── Registry
//!                   └───────── Registry::admit ──▶ handle                             ▲                    │ closes idle
//!                                                         CountCallsLayer (over TLS) ─┘                    ▼ sockets
//! ```
//!
//! # When a connection is idle
//!
//! A connection that stays idle for 0.75 s after GOAWAY is closed.
//!
//! | connection | counts as busy |
//! |---|---|
//! | HTTP/2 without TLS | from the end of the request headers to the end of the response, by its frames |
//! | HTTP/1.1 without TLS | once the head of its first request is complete |
//! | in its TLS handshake | never |
//! | TLS, the client has sent nothing after the handshake | never |
//! | TLS, with the layer of `CountCallsLayer` | while a call is counted, or if the client was heard since GOAWAY |
//! | TLS, without the layer | always: nothing tells |
//!
//! Over TLS the layer sees a call end before its last bytes are written. So each write starts the
//! 0.75 s again, and a client that is heard after GOAWAY is left to h2, which closes the connection
//! in order.
//!
//! # Files
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
pub(crate) mod wire;
