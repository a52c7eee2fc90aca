//! Why an exchange failed, and whether the server can have processed it.
//!
//! What proves that a call was never processed, in h2 0.4.20:
//! - `SendRequest::poll_ready` and `send_request` fail: nothing was written (`proto/streams/streams.rs`, `send_request`
//!   returns before a frame is queued);
//! - the stream ends with a GOAWAY error from the remote: its id lies beyond the last one that the server says it
//!   processed (`recv_go_away` ends those streams alone with it);
//! - the stream is reset with `REFUSED_STREAM` (RFC 9113, 8.7).
//!
//! `proof.rs` and its parts hold each of these against h2's own server.

use std::error::Error;
use std::fmt;

use crate::connection::CloseReason;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why an exchange failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    message: String,
    /// What the request's own body said.
    source: Option<BoxError>,
}

/// What a failure means for the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not a byte of the call has left.
    NotSent,
    /// It was sent, and the server has not processed it.
    Refused,
    /// The same, and the server has ended the connection over an error: it may be this very call that it cannot take.
    Suspected(h2::Reason),
    /// The server ended the stream with this HTTP/2 error code.
    Reset(h2::Reason),
    /// The answer's headers are larger than HTTP/2 takes here.
    TooLarge,
    /// The connection ended over such headers of another exchange; nobody knows what the server has done.
    Overrun,
    /// The connection broke; nobody knows what the server has done.
    Lost,
    /// This side has ended the connection over what the server sent; nobody knows what the server has done.
    Violation(h2::Reason),
    /// The request's own body failed.
    Body,
    /// The request's own body panicked.
    Panicked,
    /// What was asked cannot be sent by anyone: a header that HTTP/2 forbids.
    Unsendable,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn of_body(source: BoxError) -> Self {
        Self { kind: Kind::Body, message: source.to_string(), source: Some(source) }
    }

    /// Whether it is the request itself that failed, and nobody else.
    pub(crate) fn is_of_body(&self) -> bool {
        matches!(self.kind, Kind::Body | Kind::Panicked | Kind::Unsendable)
    }

    /// What the request's own body said, where that is why.
    pub(crate) fn into_source(self) -> Result<BoxError, Self> {
        match self.source {
            Some(source) => Ok(source),
            None => Err(self),
        }
    }

    /// From `poll_ready` and `send_request`.
    pub(crate) fn not_sent(error: &h2::Error) -> Self {
        // Errors of the connection and none of the caller's carry one of these.
        let connection = error.is_go_away() || error.is_io() || error.is_reset() || error.reason().is_some();
        let kind = if connection { Kind::NotSent } else { Kind::Unsendable };
        Self::new(kind, error.to_string())
    }

    /// From a stream that was opened and has no answer. `ended` is how its connection was ended by then.
    pub(super) fn of_stream(error: &h2::Error, ended: Option<CloseReason>) -> Self {
        let kind = match error.reason() {
            Some(reason) if error.is_go_away() && error.is_remote() => {
                let nobodys_fault = reason == h2::Reason::NO_ERROR || is_of_pings(error);
                if nobodys_fault { Kind::Refused } else { Kind::Suspected(reason) }
            }
            Some(h2::Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Kind::Refused,
            _ => return Self::of_answer(error, ended),
        };
        Self::new(kind, error.to_string())
    }

    /// From a stream that has an answer: the server has processed it, whatever it says later.
    pub(super) fn of_answer(error: &h2::Error, ended: Option<CloseReason>) -> Self {
        let kind = match error.reason() {
            Some(reason) if error.is_reset() => Kind::Reset(reason),
            Some(reason) if error.is_go_away() && error.is_library() => Kind::Violation(reason),
            _ => Kind::Lost,
        };
        match ended {
            // An error of the socket says less than what the server said before.
            Some(end) if end.goaway && error.is_io() => {
                Self::new(kind, format!("{error}, after a GOAWAY: {}", end.why))
            }
            _ => Self::new(kind, error.to_string()),
        }
    }
}

/// GOAWAY over keep-alive, as gRFC A8 has it. h2 shows what a GOAWAY adds in words alone.
pub(super) fn is_of_pings(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) && error.to_string().contains("too_many_pings")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}
