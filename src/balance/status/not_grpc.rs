//! Responses that do not come from a gRPC server: a proxy's error page, or another service at the address.

use std::fmt::Write;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderValue, StatusCode};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::status;
use crate::connection::{RecvStream, StreamPermit, read_prefix};

/// How many bytes of the body the status shows: the title of an error page fits.
const EXCERPT: usize = 256;
/// How long the call waits for the body: the caller's time is worth more than the text.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a response of this content type is read as gRPC: `application/grpc`, alone or followed by `+` or `;` (gRPC's HTTP/2
/// protocol). `application/grpc-web` is not: it has its trailers in the body.
#[inline]
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some((start, rest)) = content_type.split_at_checked(GRPC.len()) else { return false };
    start.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// Maps HTTP status codes to gRPC's codes, for responses without `grpc-status`, after gRPC's `http-grpc-status-mapping.md`.
pub(crate) fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        // 431 is the caller's fault: its headers are too large. gRPC's Java library makes it INTERNAL too.
        400 | 431 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// Makes the status of such a response, with the HTTP status, the content type, and the beginning of the body.
///
/// It waits for the body until [`BODY_TIMEOUT`] or the deadline. The permit keeps the stream counted meanwhile.
pub(crate) async fn read_status(
    head: Parts,
    mut stream: RecvStream,
    _permit: Option<StreamPermit>,
    deadline: Option<Instant>,
    address: &Address,
) -> Status {
    let end = Instant::now() + BODY_TIMEOUT;
    let end = deadline.map_or(end, |deadline| deadline.min(end));
    let mut body = Vec::new();
    // A timeout is no error: the part that has come is shown.
    let _ = timeout_at(end, read_prefix(&mut stream, &mut body, EXCERPT)).await;
    status_of(&head, Some(&body), address)
}

/// Makes the status of such a response. `body` is the part of the body that was read; `None` if none was, for a call that is
/// retried.
pub(crate) fn status_of(head: &Parts, body: Option<&[u8]>, address: &Address) -> Status {
    // Addresses are searched for before the text is escaped: escapes hide where an address begins.
    let text = |redact: &dyn Fn(&str) -> String| text(head.status, head.headers.get(CONTENT_TYPE), body, redact);
    let all = text(&str::to_owned);
    let message = text(&|part| status::without_address(part, address));
    status::with_texts(code_of(head.status), message, format!("{address}: {all}"), address)
}

fn text(
    status: StatusCode,
    content_type: Option<&HeaderValue>,
    body: Option<&[u8]>,
    redact: &dyn Fn(&str) -> String,
) -> String {
    let escaped = |bytes| escaped(bytes, redact);
    let mut text = format!("answered HTTP {status} without a gRPC status, ");
    // Writing to a String does not fail.
    let _ = match content_type.map(HeaderValue::as_bytes) {
        Some(value) => write!(text, "content type \"{}\"", escaped(value)),
        None => write!(text, "no content type"),
    };
    let _ = match body {
        None => Ok(()),
        Some([]) => write!(text, ", no body"),
        Some(body) => write!(text, ", body \"{}\"", escaped(body)),
    };
    text
}

/// Escapes foreign bytes, so that terminals and logs show them as text.
fn escaped(bytes: &[u8], redact: &dyn Fn(&str) -> String) -> String {
    let bytes = &bytes[..bytes.len().min(EXCERPT)];
    redact(&String::from_utf8_lossy(bytes)).escape_debug().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_grpc_are_known() {
        for grpc in
            ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8", "Application/gRPC ; x"]
        {
            assert!(is_grpc(grpc.as_bytes()), "{grpc}");
        }
        for other in [
            "",
            "application/grp",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpcx",
            "text/html",
        ] {
            assert!(!is_grpc(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn texts_are_escaped_and_bounded() {
        let text = |status, content_type, start| text(status, content_type, Some(start), &str::to_owned);
        let html = HeaderValue::from_static("text/html");
        assert_eq!(
            text(StatusCode::OK, Some(&html), b"<p>\"no\"\n\x1b[0m\xff"),
            "answered HTTP 200 OK without a gRPC status, content type \"text/html\", body \"<p>\\\"no\\\"\\n\\u{1b}[0m\u{fffd}\""
        );
        let long = HeaderValue::try_from("x".repeat(10_000)).unwrap();
        assert!(text(StatusCode::BAD_GATEWAY, Some(&long), &[0; 10_000]).len() < 2000);
        assert!(text(StatusCode::OK, None, b"").ends_with("no content type, no body"));
    }
}
