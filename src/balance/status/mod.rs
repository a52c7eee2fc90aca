//! The statuses that callers get: those that the channel makes, and those that servers sent.
//!
//! A status of the channel has two texts. Its message has no addresses, because handlers pass statuses on to their own callers.
//! Its source, [`CallError`], has them.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | statuses of failures, and the statuses that servers sent |
//! | `call_error.rs` | the source of a status |
//! | `headers.rs` | what headers say, and the statuses of those that are too large |
//! | `not_grpc.rs` | responses that do not come from a gRPC server |
//! | `redact.rs` | takes addresses out of texts |
//! | `unavailable.rs` | the text that explains why no server takes a call |

pub(super) mod call_error;
pub(super) mod headers;
pub(super) mod not_grpc;
pub(crate) mod redact;
pub(super) mod unavailable;

use http::{HeaderMap, HeaderName};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::status::call_error::CallError;
use crate::balance::status::redact::without_addresses;
use crate::connection::{Failure, FailureKind, Reason};

const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Makes the status of a call that failed without a status of the server.
///
/// The text has three parts: the server, whether the call was processed as far as the client can know, and the reason that the
/// connection or h2 gave. It is what an operator searches logs for, so that each kind of failure has a constant middle part.
pub(crate) fn from_failure(failure: Failure, address: &Address) -> Status {
    let failure = match failure.into_source() {
        // The user's own request stream failed: its status is passed on, if it has one.
        Ok(source) => {
            return source.downcast::<Status>().map_or_else(Status::from_error, |status| *status);
        }
        Err(failure) => failure,
    };
    let what = match failure.kind {
        FailureKind::NotSent | FailureKind::Refused => "not processed",
        FailureKind::GoAwayError(_) => "not processed, and the connection ended because of this call or another one",
        FailureKind::TooLarge => "the answer is too large",
        FailureKind::HeadersOverflow => "connection ended, and it is unknown whether the call was processed",
        FailureKind::Lost => "connection lost, and it is unknown whether the call was processed",
        // By the server's own decision: calls that the caller or the deadline cancels get another status.
        FailureKind::Reset(Reason::CANCEL) => "the server cancelled the call, as it does when a handler panics",
        FailureKind::Reset(_) => "the stream was reset",
        FailureKind::LocalGoAway(_) => {
            "this client ended the connection because of what the server sent, and it is unknown whether the call was processed"
        }
        FailureKind::RequestBody => "the request's body failed",
        FailureKind::InvalidRequest => "the request cannot be sent over HTTP/2",
        FailureKind::RequestBodyPanic => return with_server(Code::Internal, format!("{address}: {failure}"), address),
    };
    with_server(code_of_failure(&failure), format!("{address}: {what}: {failure}"), address)
}

/// Returns the code of a call that failed without a status of the server.
pub(crate) fn code_of_failure(failure: &Failure) -> Code {
    match failure.kind {
        FailureKind::NotSent
        | FailureKind::Refused
        | FailureKind::GoAwayError(_)
        | FailureKind::Lost
        | FailureKind::HeadersOverflow
        | FailureKind::LocalGoAway(_) => Code::Unavailable,
        FailureKind::TooLarge => Code::ResourceExhausted,
        FailureKind::Reset(reason) => code_of_reset(reason),
        FailureKind::RequestBody | FailureKind::RequestBodyPanic | FailureKind::InvalidRequest => Code::Internal,
    }
}

/// Returns the code of the status that [`from_failure`] makes.
pub(crate) fn code_told(failure: &Failure) -> Code {
    match failure.source() {
        Some(source) => source.downcast_ref::<Status>().map_or(Code::Unknown, Status::code),
        None => code_of_failure(failure),
    }
}

/// Maps HTTP/2 error codes to gRPC's codes, after the table in gRPC's HTTP/2 protocol.
fn code_of_reset(reason: Reason) -> Code {
    match reason {
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// Makes a status about a server. `text` may have addresses: the status's message has none, its source has them.
pub(crate) fn with_server(code: Code, text: String, address: &Address) -> Status {
    let message = without_address(&text, address);
    with_texts(code, message, text, address)
}

/// Makes a status about a server, where `message` is the text without addresses already.
fn with_texts(code: Code, message: String, text: String, address: &Address) -> Status {
    CallError::of_channel(Status::new(code, message), Some(address), text)
}

/// Takes a server's address, and any other, out of a text about it.
pub(crate) fn without_address(text: &str, server: &Address) -> String {
    let authority = server.parsed_authority().as_str();
    // A text about a Unix socket may name its path alone. No word of a text is empty, so that "" stands for no path.
    without_addresses(text, &[authority, server.host(), server.unix_path().unwrap_or_default()])
}

/// Makes the status of a call that no server had. `message` is `text` without the addresses that are known.
pub(crate) fn without_server(code: Code, text: String, message: &str) -> Status {
    CallError::of_channel(Status::new(code, without_addresses(message, &[])), None, text)
}

/// Reads the status that a server sent in headers or trailers, as tonic reads it.
pub(crate) fn from_server(headers: &HeaderMap, address: &Address) -> Status {
    let status = Status::from_header_map(headers).unwrap_or_else(|| Status::unknown("no status"));
    CallError::of_server(status, address)
}

/// Removes details of a status that are not base64: tonic panics when it reads them.
pub(crate) fn remove_invalid_details(headers: &mut HeaderMap) {
    if headers.contains_key(DETAILS) {
        let metadata = MetadataMap::from_headers(std::mem::take(headers));
        let is_valid = metadata.get_bin(DETAILS.as_str()).is_some_and(|details| details.to_bytes().is_ok());
        *headers = metadata.into_headers();
        if !is_valid {
            headers.remove(DETAILS);
        }
    }
}

/// Returns the code in headers or trailers, if they have one.
pub(crate) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// Returns the name of a code as gRPC's documents write it: `NOT_FOUND`.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
