//! Why an exchange failed, and whether the server can have processed it.
//!
//! What proves that a call was never processed, in h2 0.4.20:
//! - `SendRequest::poll_ready` and `send_request` fail: nothing was written (`proto/streams/streams.rs`, `send_request`
//!   returns before a frame is queued);
//! - the stream ends with a GOAWAY error from the remote: its id lies beyond the last one that the server says it
//!   processed (`recv_go_away` ends those streams alone with it);
//! - the stream is reset with `REFUSED_STREAM` (RFC 9113, 8.7).

use std::error::Error;
use std::fmt;

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
    /// The connection broke; nobody knows what the server has done.
    Lost,
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

    /// Whether it is the request's own body that failed, and nobody else.
    pub(crate) fn is_of_body(&self) -> bool {
        matches!(self.kind, Kind::Body | Kind::Panicked)
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
        let kind = if connection || is_exhausted(error) { Kind::NotSent } else { Kind::Unsendable };
        Self::new(kind, error.to_string())
    }

    /// From a stream that was opened.
    pub(crate) fn of_stream(error: &h2::Error) -> Self {
        let kind = match error.reason() {
            Some(reason) if error.is_go_away() && error.is_remote() => {
                let nobodys_fault = reason == h2::Reason::NO_ERROR || is_of_pings(error);
                if nobodys_fault { Kind::Refused } else { Kind::Suspected(reason) }
            }
            Some(h2::Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Kind::Refused,
            Some(reason) if error.is_reset() => Kind::Reset(reason),
            _ => Kind::Lost,
        };
        Self::new(kind, error.to_string())
    }
}

/// GOAWAY over keep-alive, as gRFC A8 has it. h2 shows what a GOAWAY adds in words alone.
pub(super) fn is_of_pings(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) && error.to_string().contains("too_many_pings")
}

/// Stream ids are used up: another connection has new ones. h2 says so in words alone.
fn is_exhausted(error: &h2::Error) -> bool {
    error.to_string().contains("stream ID overflowed")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}
