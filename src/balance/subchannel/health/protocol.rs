//! `Watch` of gRPC's health service (`grpc.health.v1.Health`): its messages, as `health.proto` defines them, and the stream over
//! one connection.
//!
//! They are declared here, because `tonic-health` is an optional dependency, for servers.

use std::error::Error;
use std::pin::Pin;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use prost::Message;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic::{Code, Status, Streaming};

use crate::connection::{Connection, Failure, FailureKind, Uncounted, UncountedBody};

/// Which service's health is asked for.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    /// Empty for the server as a whole.
    #[prost(string, tag = "1")]
    service: String,
}

/// One answer. A stream gives one at once, and another one with each change.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

/// What a server says of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    /// The server knows no service of this name. The stream goes on: it may come to know it.
    ServiceUnknown = 3,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum WatchEnd {
    /// The server has no health service, and says why.
    NotSupported(String),
    /// The connection has ended, or takes no more streams.
    Disconnected,
    /// The stream has ended, or was refused. The reason is for error texts.
    Ended(String),
}

/// The parts of a request that are the same for each stream to a server.
#[derive(Clone)]
pub(super) struct WatchRequest {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    pub(super) user_agent: HeaderValue,
}

/// A `Watch` over one connection.
pub(super) struct HealthStream {
    /// Until the server is asked: other streams may use all that it accepts.
    opening: Option<Opening>,
    response: WatchResponse,
}

/// Ready when the request is sent.
type Opening = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What happens on a stream.
pub(super) enum WatchNews {
    /// The server was asked. The first.
    Opened,
    Answer(ServingStatus),
}

/// What has come of the response.
enum WatchResponse {
    /// The response has not begun.
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<HealthCheckResponse>, WatchEnd>> + Send>>),
    /// The response has begun.
    Open(Box<Streaming<HealthCheckResponse>>),
}

const PATH: &str = "/grpc.health.v1.Health/Watch";
/// Bytes. An answer has two, and may have fields that are not known yet.
const MAX_ANSWER: usize = 4 << 10;
/// Bytes. As large as an answer with its prefix, and not tonic's 8 KiB: there is a stream for each connection.
const BUFFER: usize = 64;
/// Letters of a server's text, or of a service's name, that are kept.
pub(super) const MAX_TEXT: usize = 200;

/// A message as it stands in a body of gRPC: a flag that it is not compressed, its length, itself.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32); // names of services are shorter than 4 GiB
    bytes.extend_from_slice(&message.encode_to_vec());
    bytes.freeze()
}

impl WatchRequest {
    /// The head of the request.
    fn head(&self) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        (uri.scheme, uri.authority) = (Some(self.scheme.clone()), Some(self.authority.clone()));
        uri.path_and_query = Some(PathAndQuery::from_static(PATH));
        let mut head = Request::new(());
        *head.method_mut() = http::Method::POST;
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default(); // valid: all three parts are there
        head.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers_mut().insert(USER_AGENT, self.user_agent.clone());
        head
    }
}

impl HealthStream {
    /// Begins to watch a service.
    pub(super) fn open(connection: &Connection, request: &WatchRequest, service: &str) -> Self {
        let message = framed(&HealthCheckRequest { service: service.to_owned() });
        let mut sent = connection.open_uncounted(request.head(), message);
        let opened = sent.as_mut().ok().map(Uncounted::opened);
        let response = WatchResponse::Opening(Box::pin(async move {
            let response = sent.map_err(|failure| WatchEnd::of_failure(&failure))?.response().await;
            let (head, body) = response.map_err(|failure| WatchEnd::of_failure(&failure))?.into_parts();
            // OK in the head of a response that goes on is no status: the trailers have it.
            let status = Status::from_header_map(&head.headers);
            match status.filter(|status| status.code() != Code::Ok || body.is_empty()) {
                Some(status) => Err(WatchEnd::of(&status)),
                None => Ok(stream(body, head.status)),
            }
        }));
        Self { opening: opened.map(|opened| Box::pin(opened) as _), response }
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// The stream has ended. It is not to be used any more.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing: the futures and the stream are kept in `self`.
    pub(super) async fn next(&mut self) -> Result<WatchNews, WatchEnd> {
        let opened = async |opening: &mut Option<Opening>| {
            match opening {
                Some(opening) => opening.await,
                None => std::future::pending().await,
            }
            *opening = None;
        };
        tokio::select! {
            biased; // in the order in which they happen
            () = opened(&mut self.opening) => Ok(WatchNews::Opened),
            answer = self.response.answer() => answer.map(WatchNews::Answer),
        }
    }
}

impl WatchResponse {
    /// Waits for the next answer.
    async fn answer(&mut self) -> Result<ServingStatus, WatchEnd> {
        loop {
            match self {
                Self::Opening(opening) => *self = Self::Open(Box::new(opening.await?)),
                Self::Open(stream) => {
                    let message = stream.message().await.map_err(|status| WatchEnd::of(&status))?;
                    let answer =
                        message.ok_or_else(|| WatchEnd::Ended("the server has ended the stream".to_owned()))?;
                    return Ok(answer.status()); // one that is not known is `UNKNOWN`
                }
            }
        }
    }
}

/// Reads the answers out of a response.
fn stream(body: UncountedBody, status: http::StatusCode) -> Streaming<HealthCheckResponse> {
    Streaming::new_response(AnswerDecoder, body, status, None, Some(MAX_ANSWER))
}

impl WatchEnd {
    /// A stream that ended with this status, or broke off.
    fn of(status: &Status) -> Self {
        if let Some(failure) = status.source().and_then(|source| source.downcast_ref::<Failure>()) {
            return Self::of_failure(failure);
        }
        let text: String = status.message().chars().take(MAX_TEXT).collect();
        match status.code() {
            Code::Unimplemented => Self::NotSupported(text),
            Code::Ok => Self::Ended("the server has ended the stream".to_owned()),
            code => Self::Ended(format!("{code:?}: {text}")),
        }
    }

    /// A stream that broke off.
    fn of_failure(failure: &Failure) -> Self {
        use FailureKind::{GoAwayError, HeadersOverflow, LocalGoAway, Lost, NotSent, Refused};
        match failure.kind {
            // `Refused` is mostly a GOAWAY. If it is not, the connection stays, and is asked again.
            NotSent | Refused | GoAwayError(_) | LocalGoAway(_) | HeadersOverflow | Lost => Self::Disconnected,
            _ => Self::Ended(failure.to_string()),
        }
    }
}

/// Decodes answers with prost.
struct AnswerDecoder;

impl Decoder for AnswerDecoder {
    type Item = HealthCheckResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<HealthCheckResponse>, Status> {
        HealthCheckResponse::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, BUFFER)
    }
}

impl ServingStatus {
    /// Its name in `health.proto`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_health_service() {
        assert_eq!(framed(&HealthCheckRequest::default()), [0; 5][..], "the server as a whole");
        let named = framed(&HealthCheckRequest { service: "a.B".to_owned() });
        assert_eq!(named, [&[0, 0, 0, 0, 5, 0x0a, 3][..], b"a.B"].concat());
        for (bytes, status) in [
            (&[][..], ServingStatus::Unknown),
            (&[8, 1], ServingStatus::Serving),
            (&[8, 2], ServingStatus::NotServing),
            (&[8, 3], ServingStatus::ServiceUnknown),
            (&[8, 77], ServingStatus::Unknown),
            (&[8, 1, 18, 1, 0], ServingStatus::Serving),
        ] {
            assert_eq!(HealthCheckResponse::decode(bytes).unwrap().status(), status, "{bytes:?}");
        }
    }

    #[test]
    fn the_end_of_a_stream_says_whether_the_server_can_be_asked() {
        let long = "x".repeat(10_000);
        for (status, text) in [
            (Status::unimplemented("no such service"), "NotSupported(\"no such service\")"),
            (Status::permission_denied("who are you"), "Ended(\"PermissionDenied: who are you\")"),
            (Status::ok(""), "Ended(\"the server has ended the stream\")"),
            (Status::from_error(Box::new(Failure::new(FailureKind::Lost, "gone"))), "Disconnected"),
        ] {
            assert_eq!(format!("{:?}", WatchEnd::of(&status)), text);
        }
        let WatchEnd::Ended(text) = WatchEnd::of(&Status::internal(long)) else { panic!() };
        assert!(text.len() < 300, "{}", text.len());
        let reset = Failure::new(FailureKind::Reset(crate::connection::Reason::CANCEL), "reset");
        assert!(matches!(WatchEnd::of_failure(&reset), WatchEnd::Ended(_)));
    }
}
