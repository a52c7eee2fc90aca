//! Answers of whoever is no gRPC server: a proxy's error page, another service at the address.

use std::fmt::Write;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderValue, StatusCode};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::call::deadline::Deadline;
use crate::balance::status;
use crate::connection::{RecvStream, StreamPermit, read_prefix};

/// How much of the body is told.
const EXCERPT: usize = 256;
/// How long it may take: what it says is worth less than the caller's time.
const WAIT: Duration = Duration::from_secs(1);

/// Whether an answer of this content type is read as gRPC: `application/grpc`, and that with `+` or `;` behind it, as gRPC
/// over HTTP/2 has it. `application/grpc-web` is not: its trailers are in its body.
#[inline]
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some((start, rest)) = content_type.split_at_checked(GRPC.len()) else { return false };
    start.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// gRPC's table of HTTP status codes, for answers without `grpc-status`.
pub(crate) fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        // 431: what the caller has put into the headers; gRPC's Java library says INTERNAL too.
        400 | 431 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// What a caller is told: the HTTP status, the content type, and how the body begins.
pub(crate) async fn status(
    head: Parts,
    mut stream: RecvStream,
    _place: Option<StreamPermit>,
    deadline: Option<Deadline>,
    address: &Address,
) -> Status {
    let until = Instant::now() + WAIT;
    let until = deadline.map_or(until, |deadline| deadline.at.min(until));
    let mut start = Vec::new();
    // What has come by then is told.
    let _ = timeout_at(until, read_prefix(&mut stream, &mut start, EXCERPT)).await;
    told(&head, Some(&start), address)
}

/// The same where the body is not worth the wait.
pub(crate) fn unread(head: &Parts, address: &Address) -> Status {
    told(head, None, address)
}

/// Addresses are looked for before the text is escaped, which hides where they begin.
fn told(head: &Parts, start: Option<&[u8]>, address: &Address) -> Status {
    let text = |say: &dyn Fn(&str) -> String| text(head.status, head.headers.get(CONTENT_TYPE), start, say);
    let all = text(&str::to_owned);
    let without = text(&|said| status::without_address(said, address));
    status::named_as(code_of(head.status), without, format!("{address}: {all}"), address)
}

fn text(
    status: StatusCode,
    content_type: Option<&HeaderValue>,
    start: Option<&[u8]>,
    say: &dyn Fn(&str) -> String,
) -> String {
    let escaped = |bytes| escaped(bytes, say);
    let mut text = format!("answered HTTP {status} without a gRPC status, ");
    // Writing to a string does not fail.
    let _ = match content_type.map(HeaderValue::as_bytes) {
        Some(value) => write!(text, "content type \"{}\"", escaped(value)),
        None => write!(text, "no content type"),
    };
    let _ = match start {
        None => Ok(()),
        Some([]) => write!(text, ", no body"),
        Some(start) => write!(text, ", body \"{}\"", escaped(start)),
    };
    text
}

/// So that nothing in it is taken for anything but text.
fn escaped(bytes: &[u8], say: &dyn Fn(&str) -> String) -> String {
    let bytes = &bytes[..bytes.len().min(EXCERPT)];
    say(&String::from_utf8_lossy(bytes)).escape_debug().collect()
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
