//! What callers are told: statuses of the channel's own making, each naming the server.

use std::error::Error;

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::{Code, Status};

use crate::address::Address;
use crate::connection::{Failure, Kind, Reason};

/// Under which a status that a server sent carries the server's address: `host:port` or `unix:/path`.
pub(crate) const SERVER: HeaderName = HeaderName::from_static("x-served-by-address");
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The status of a call that failed without the server's having said one.
pub(crate) fn of_failure(failure: Failure, address: &Address) -> Status {
    let failure = match failure.into_source() {
        Ok(source) => return of_body(source),
        Err(failure) => failure,
    };
    let what = match failure.kind {
        Kind::NotSent | Kind::Refused => "not processed",
        Kind::Suspected(_) => "not processed, and the connection ended over it or another call",
        Kind::TooLarge => "the answer is too large",
        Kind::Overrun => "connection ended, and nobody knows whether the call was processed",
        Kind::Lost => "connection lost, and nobody knows whether the call was processed",
        // Of its own accord: what a caller cancels, or its deadline, is told otherwise.
        Kind::Reset(Reason::CANCEL) => "the server cancelled the call, as it does where a handler panics",
        Kind::Reset(_) => "the stream was reset",
        Kind::Violation(_) => {
            "this client ended the connection over what the server sent, and nobody knows whether the call was processed"
        }
        Kind::Body => "the request's body failed",
        Kind::Unsendable => "the request cannot be sent over HTTP/2",
    };
    named(code_of(&failure), format!("{address}: {what}: {failure}"), address)
}

pub(crate) fn code_of(failure: &Failure) -> Code {
    match failure.kind {
        Kind::NotSent | Kind::Refused | Kind::Lost | Kind::Overrun | Kind::Violation(_) => Code::Unavailable,
        Kind::TooLarge => Code::ResourceExhausted,
        Kind::Suspected(reason) | Kind::Reset(reason) => of_reset(reason),
        Kind::Body | Kind::Unsendable => Code::Internal,
    }
}

/// gRPC's table of HTTP/2 error codes.
fn of_reset(reason: Reason) -> Code {
    match reason {
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// The user's own body failed: with a status, if it has one.
fn of_body(source: Box<dyn Error + Send + Sync>) -> Status {
    match source.downcast::<Status>() {
        Ok(status) => *status,
        Err(source) => Status::from_error(source),
    }
}

pub(crate) fn named(code: Code, message: String, address: &Address) -> Status {
    let mut status = Status::new(code, message);
    let mut headers = std::mem::take(status.metadata_mut()).into_headers();
    name(&mut headers, address);
    *status.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
    status
}

/// Adds the server's address.
pub(crate) fn name(headers: &mut HeaderMap, address: &Address) {
    if let Ok(value) = HeaderValue::from_bytes(address.parsed_authority().as_str().as_bytes()) {
        headers.insert(SERVER, value);
    }
}

/// The status that headers or trailers carry, if they do.
pub(crate) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}
