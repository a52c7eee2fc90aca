//! The states of a connection, and why it closes.
//!
//! The state is published in one `watch`, by methods of
//! [`Shared`](crate::connection::shared::Shared) alone. Supervisors wait on it for the end; calls
//! never read it, because all that they need is in the
//! [`StreamCapacity`](crate::connection::capacity::StreamCapacity).
//!
//! ```text
//! Handshaking ──SETTINGS──▶ Ready ◀──something is read──┬─────────────┐
//!      │                     │ │                        │             │
//!      │                     │ └──idle timeout──▶ Idle ──a call──▶ Probing
//!      │                     │                     │                  │
//!      │                     └──GOAWAY, ids used up, PING unanswered──┴──▶ Draining
//!      └──────────────── from every state: the connection ends ──────────────┴────▶ Closed
//! ```

use std::fmt;
use std::io::ErrorKind;

/// The state of a connection. Only `Ready` admits new streams; in the others the stream limit is 0
/// or the capacity is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    /// The first state. The server's SETTINGS have not come: a frozen process still accepts
    /// connections, so this is not `Ready`. Becomes `Ready` with SETTINGS that admit a stream. The
    /// handshake gives up after its timeout and drops the connection.
    Handshaking,
    /// The server accepts streams. Becomes `Idle` after the idle timeout, and `Draining` or
    /// `Closed` at its end.
    Ready,
    /// Nothing was read for the idle timeout, and no call has asked for the connection since. NATs
    /// may have forgotten it.
    Idle,
    /// A call has asked for the idle connection. A PING is on its way; whatever is read makes the
    /// connection `Ready`.
    Probing,
    /// No stream is opened any more. Those in flight may finish. Becomes `Closed` when they have.
    /// Its supervisor makes a new connection at once.
    Draining(CloseReason),
    /// The last state: the connection has ended, and all its streams with it.
    Closed(CloseReason),
}

/// Why a connection is `Draining` or `Closed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    pub(crate) kind: CloseKind,
    /// For metrics.
    pub(crate) disconnect: Disconnect,
    /// For error texts and logs.
    message: String,
}

/// What ended a connection, as gRFC A94 tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disconnect {
    /// The server sent GOAWAY.
    GoAway(h2::Reason),
    Reset,
    /// Nothing was heard from the server when it should have been.
    TimedOut,
    Aborted,
    /// Any other error of the socket.
    Socket,
    /// The server closed the connection, or HTTP/2 or TLS failed.
    Unknown,
}

/// What closed a connection, as far as anyone acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseKind {
    /// The server sent GOAWAY.
    GoAway,
    /// The server sent GOAWAY because it was pinged too often (gRFC A8). The next connection pings
    /// half as often.
    TooManyPings,
    /// This side closed the connection to a server that does not respond.
    Unresponsive,
    /// The socket closed or failed, an HTTP/2 error ended the connection, or it is replaced before
    /// it is used up.
    Other,
}

impl ConnectionState {
    /// Why the connection accepts no more streams. `None` while it does or may do so again.
    pub(crate) fn close_reason(&self) -> Option<&CloseReason> {
        match self {
            Self::Draining(reason) | Self::Closed(reason) => Some(reason),
            Self::Handshaking | Self::Ready | Self::Idle | Self::Probing => None,
        }
    }
}

impl CloseReason {
    pub(super) fn new(kind: CloseKind, message: impl Into<String>) -> Self {
        let disconnect = if kind == CloseKind::Unresponsive { Disconnect::TimedOut } else { Disconnect::Unknown };
        Self { kind, disconnect, message: message.into() }
    }

    /// The same, because the server was silent.
    pub(super) fn silent(message: impl Into<String>) -> Self {
        Self { disconnect: Disconnect::TimedOut, ..Self::new(CloseKind::Other, message) }
    }

    /// From the error that h2 reports for the whole connection.
    pub(super) fn of(error: &h2::Error) -> Self {
        let kind = match error.is_go_away() && error.is_remote() {
            false => CloseKind::Other,
            true if is_too_many_pings(error) => CloseKind::TooManyPings,
            true => CloseKind::GoAway,
        };
        let disconnect = match (kind, error.get_io()) {
            (CloseKind::GoAway | CloseKind::TooManyPings, _) => {
                Disconnect::GoAway(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR)) // a GOAWAY has one
            }
            (_, Some(error)) => match error.kind() {
                ErrorKind::ConnectionReset => Disconnect::Reset,
                ErrorKind::TimedOut => Disconnect::TimedOut,
                ErrorKind::ConnectionAborted => Disconnect::Aborted,
                // TLS, a connector of the user's, or the end of what is read.
                ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::Other => Disconnect::Unknown,
                _ => Disconnect::Socket,
            },
            (_, None) => Disconnect::Unknown,
        };
        Self { disconnect, ..Self::new(kind, error.to_string()) }
    }

    /// Whether the server announced the end by a GOAWAY.
    pub(super) fn is_goaway(&self) -> bool {
        matches!(self.kind, CloseKind::GoAway | CloseKind::TooManyPings)
    }
}

/// Whether the server sent GOAWAY because of keep-alive PINGs (gRFC A8). h2 shows the debug data of
/// a GOAWAY only in its text.
pub(super) fn is_too_many_pings(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) && error.to_string().contains("too_many_pings")
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
