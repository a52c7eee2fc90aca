//! What callers are told: statuses of the channel's own making, and those that servers sent.

pub(super) mod call_error;
pub(super) mod not_grpc;
pub(super) mod redact;
pub(super) mod unavailable;

use std::error::Error;

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::status::call_error::CallError;
use crate::balance::status::redact::without_addresses;
use crate::connection::{Failure, FailureKind, Reason};

/// Under which a status carries the server's address, where that is asked for: `host:port` or `unix:/path`.
pub(crate) const SERVER: HeaderName = HeaderName::from_static("x-served-by-address");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The status of a call that failed without the server's having said one.
pub(crate) fn of_failure(failure: Failure, address: &Address) -> Status {
    let failure = match failure.into_source() {
        Ok(source) => return of_body(source),
        Err(failure) => failure,
    };
    let what = match failure.kind {
        FailureKind::NotSent | FailureKind::Refused => "not processed",
        FailureKind::GoAwayError(_) => "not processed, and the connection ended over it or another call",
        FailureKind::TooLarge => "the answer is too large",
        FailureKind::HeadersOverflow => "connection ended, and nobody knows whether the call was processed",
        FailureKind::Lost => "connection lost, and nobody knows whether the call was processed",
        // Of its own accord: what a caller cancels, or its deadline, is told otherwise.
        FailureKind::Reset(Reason::CANCEL) => "the server cancelled the call, as it does where a handler panics",
        FailureKind::Reset(_) => "the stream was reset",
        FailureKind::LocalGoAway(_) => {
            "this client ended the connection over what the server sent, and nobody knows whether the call was processed"
        }
        FailureKind::RequestBody => "the request's body failed",
        FailureKind::InvalidRequest => "the request cannot be sent over HTTP/2",
        FailureKind::RequestBodyPanic => return named(Code::Internal, format!("{address}: {failure}"), address),
    };
    named(code_of(&failure), format!("{address}: {what}: {failure}"), address)
}

pub(crate) fn code_of(failure: &Failure) -> Code {
    match failure.kind {
        FailureKind::NotSent
        | FailureKind::Refused
        | FailureKind::GoAwayError(_)
        | FailureKind::Lost
        | FailureKind::HeadersOverflow
        | FailureKind::LocalGoAway(_) => Code::Unavailable,
        FailureKind::TooLarge => Code::ResourceExhausted,
        FailureKind::Reset(reason) => of_reset(reason),
        FailureKind::RequestBody | FailureKind::RequestBodyPanic | FailureKind::InvalidRequest => Code::Internal,
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

/// A status of the channel's own: its text has no addresses, its source has them.
pub(crate) fn named(code: Code, message: String, address: &Address) -> Status {
    let told = without_address(&message, address);
    named_as(code, told, message, address)
}

/// The same where `told` is the text without addresses already.
pub(super) fn named_as(code: Code, told: String, message: String, address: &Address) -> Status {
    CallError::told(Status::new(code, told), Some(address), message)
}

/// A text about a server, without its address and any other.
pub(crate) fn without_address(text: &str, server: &Address) -> String {
    let authority = server.parsed_authority().as_str();
    // Of a socket the text may name the path alone; no word is empty, so that "" stands for none.
    without_addresses(text, &[authority, server.host(), server.unix_path().unwrap_or_default()])
}

/// The same for a call that no server had; `told` is the text as far as its addresses are known already.
pub(crate) fn unplaced(code: Code, message: String, told: &str) -> Status {
    CallError::told(Status::new(code, without_addresses(told, &[])), None, message)
}

/// The status that a server sent, in headers or trailers, as tonic reads it.
pub(crate) fn sent(headers: &HeaderMap, address: &Address) -> Status {
    let status = Status::from_header_map(headers).unwrap_or_else(|| Status::unknown("no status"));
    CallError::sent(status, address)
}

/// Takes out details that are no base64: tonic panics over them.
pub(crate) fn check_details(headers: &mut HeaderMap) {
    if headers.contains_key(DETAILS) {
        let metadata = MetadataMap::from_headers(std::mem::take(headers));
        let readable = metadata.get_bin(DETAILS.as_str()).is_some_and(|details| details.to_bytes().is_ok());
        *headers = metadata.into_headers();
        if !readable {
            headers.remove(DETAILS);
        }
    }
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
