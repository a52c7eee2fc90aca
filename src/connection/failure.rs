//! Why an exchange failed, and whether the server can have processed it.
//!
//! Three things prove that a server has not processed a call, in h2 0.4.20:
//! - `SendRequest::poll_ready` or `send_request` fails: nothing was written
//!   (`proto/streams/streams.rs`, `send_request` returns before a frame is queued);
//! - the stream ends with a GOAWAY error from the remote: its id is above the last one that the
//!   server says it processed (`recv_go_away` ends only those streams with it);
//! - the stream is reset with `REFUSED_STREAM` (RFC 9113, 8.7).
//!
//! The tests in `proof` hold each of them against h2's own server. `balance` decides by the
//! [`FailureKind`] whether a call goes to another server.

use std::error::Error;
use std::fmt;

use crate::connection::state::{CloseReason, is_too_many_pings};

/// The error of a request's body.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Why an exchange failed. Its `Display` is the text for the caller's status, without the server's
/// address.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    message: String,
    /// The error of the request's own body; set only for [`FailureKind::RequestBody`].
    source: Option<BoxError>,
}

/// What a failure means for the call: may it be retried, and who is at fault?
///
/// "Not processed" calls may always be retried (gRPC's transparent retry). Calls that "may have been
/// processed" may be retried only if the user has declared that safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Not processed: no byte of the request was written.
    NotSent,
    /// Not processed: the server refused the stream, or announced with a GOAWAY that it does not
    /// process it.
    Refused,
    /// Not processed: the server sent a GOAWAY with this error code. This call may be what the
    /// server cannot take.
    GoAwayError(h2::Reason),
    /// The server reset the stream with this error code. The call may have been processed.
    Reset(h2::Reason),
    /// The response's headers or trailers are larger than h2 accepts. The server has processed the
    /// call.
    TooLarge,
    /// The connection ended because of such headers on another stream. The call may have been
    /// processed.
    HeadersOverflow,
    /// The connection ended. The call may have been processed.
    Lost,
    /// This side closed the connection because of what the server sent, with this error code. The
    /// call may have been processed.
    LocalGoAway(h2::Reason),
    /// The request's body returned an error.
    RequestBody,
    /// The request's body panicked.
    RequestBodyPanic,
    /// No connection can send the request: it has a header that HTTP/2 forbids.
    InvalidRequest,
}

impl Failure {
    /// A failure without a source.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The request was not sent: connecting failed.
    pub(super) fn not_connected(message: impl Into<String>) -> Self {
        Self::new(FailureKind::NotSent, message)
    }

    /// The request's body returned this error.
    pub(super) fn of_request_body(source: BoxError) -> Self {
        Self { kind: FailureKind::RequestBody, message: source.to_string(), source: Some(source) }
    }

    /// Whether the request itself failed. Neither the server nor the connection is at fault then.
    pub(crate) fn is_of_request(&self) -> bool {
        use FailureKind::{InvalidRequest, RequestBody, RequestBodyPanic};
        matches!(self.kind, RequestBody | RequestBodyPanic | InvalidRequest)
    }

    /// The error of the request's body, if it is the failure.
    pub(crate) fn source(&self) -> Option<&BoxError> {
        self.source.as_ref()
    }

    /// The error of the request's body.
    ///
    /// # Errors
    /// The failure itself, if it has another cause.
    pub(crate) fn into_source(self) -> Result<BoxError, Self> {
        match self.source {
            Some(source) => Ok(source),
            None => Err(self),
        }
    }

    /// From an error of `SendRequest::poll_ready` or `send_request`.
    pub(super) fn of_send_request(error: &h2::Error) -> Self {
        // h2's errors about the connection are of one of these kinds, and none about the request
        // itself is.
        let is_of_connection = error.is_go_away() || error.is_io() || error.is_reset() || error.reason().is_some();
        let kind = if is_of_connection { FailureKind::NotSent } else { FailureKind::InvalidRequest };
        Self::new(kind, error.to_string())
    }

    /// From the error of a stream that has no response yet. `closed` is why its connection is
    /// closing, if it is.
    pub(super) fn before_response(error: &h2::Error, closed: Option<CloseReason>) -> Self {
        let kind = match error.reason() {
            Some(reason) if error.is_go_away() && error.is_remote() => {
                // An orderly shutdown, or keep-alive's fault: this call is not what the server
                // complains of.
                let is_of_others = reason == h2::Reason::NO_ERROR || is_too_many_pings(error);
                if is_of_others { FailureKind::Refused } else { FailureKind::GoAwayError(reason) }
            }
            Some(h2::Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => FailureKind::Refused,
            _ => return Self::in_response(error, closed),
        };
        Self::new(kind, error.to_string())
    }

    /// From the error of a stream that has a response. The server has processed the call, whatever
    /// it says later.
    pub(super) fn in_response(error: &h2::Error, closed: Option<CloseReason>) -> Self {
        let kind = match error.reason() {
            Some(reason) if error.is_reset() => FailureKind::Reset(reason),
            Some(reason) if error.is_go_away() && error.is_library() => FailureKind::LocalGoAway(reason),
            _ => FailureKind::Lost,
        };
        match closed {
            // "broken pipe" says less than the GOAWAY before it.
            Some(reason) if reason.is_goaway() && error.is_io() => {
                Self::new(kind, format!("{error}, after a GOAWAY: {reason}"))
            }
            _ => Self::new(kind, error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}
