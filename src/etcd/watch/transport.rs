//! A watch stream on the wire: over a connection of our own, or through the user's own client.
//!
//! Both variants take requests at any time and give messages one by one. They differ in how a
//! stream starts: our own is opened at once and its response is awaited with the first message;
//! etcd-client opens a stream together with its first watch.
//!
//! Sending never waits. The number of requests in the queue is bounded by the machine, which has at
//! most 64 creations pending.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use etcd_client::{Client, WatchOptions, WatchRequestSender, WatchResponseStream, WatchStream};
use http::uri::PathAndQuery;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use crate::etcd::MAX_MESSAGE;
use crate::etcd::failure::{Class, Failure};
use crate::etcd::link::{self, MemberLink};
use crate::etcd::prost_codec::ProstCodec;
use crate::etcd::watch::message::{CreateRequest, RequestUnion, WatchRequest, WatchResponse};

/// Requests out, messages in.
pub(super) enum WatchTransport {
    /// Over a connection of our own.
    Own { requests: UnboundedSender<WatchRequest>, responses: Responses },
    /// Through the user's own client.
    Client(Box<ClientTransport>),
}

/// The messages of a stream. The response begins with the first message: until then requests are
/// sent and the response is waited for.
pub(super) enum Responses {
    /// The response has not begun.
    Opening(Opening<Streaming<WatchResponse>>),
    /// The response has begun.
    Open(Box<Streaming<WatchResponse>>),
}

/// A stream that is being opened.
type Opening<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

impl WatchTransport {
    /// Opens a stream over this link. Nothing is sent before the first request.
    pub(super) fn new(link: &MemberLink) -> Self {
        let client = link.client(); // marks the link as used
        let Some(service) = link.service() else {
            let (outgoing, opening, open) = (VecDeque::new(), None, None);
            return Self::Client(Box::new(ClientTransport { client, outgoing, opening, open }));
        };
        let (requests, outgoing) = unbounded_channel();
        let responses = Responses::Opening(Box::pin(open(service.clone(), UnboundedReceiverStream::new(outgoing))));
        Self::Own { requests, responses }
    }

    /// Sends a request as soon as the connection accepts it. Does not wait. Where the stream has
    /// ended the request is lost, and the next message is the failure.
    pub(super) fn send(&mut self, request: RequestUnion) {
        match self {
            // The receiver is dropped with the stream. Its failure comes with the next message.
            Self::Own { requests, .. } => drop(requests.send(WatchRequest::new(request))),
            Self::Client(client) => client.outgoing.push_back(request),
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// The status with which the stream ended, or that it ended without one.
    ///
    /// # Cancel safety
    /// Dropping it loses no message: the opening future and the stream are kept in `self`.
    pub(super) async fn next(&mut self) -> Result<WatchResponse, Failure> {
        match self {
            Self::Own { responses, .. } => loop {
                match responses {
                    Responses::Opening(opening) => *responses = Responses::Open(Box::new(opening.await?)),
                    Responses::Open(stream) => return stream.message().await.map_err(refused)?.ok_or_else(ended),
                }
            },
            Self::Client(client) => client.next().await,
        }
    }
}

/// Opens a stream over a connection of our own. Completes with the first message of etcd, because
/// its response headers come with it.
///
/// # Errors
/// How the stream was refused.
async fn open(
    service: link::LinkService,
    requests: UnboundedReceiverStream<WatchRequest>,
) -> Result<Streaming<WatchResponse>, Failure> {
    let mut client = Grpc::new(service).max_decoding_message_size(MAX_MESSAGE);
    let mut request = Request::new(requests);
    // With this a member that is cut off from its cluster ends the stream instead of staying
    // silent.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    Ok(client.streaming(request, path, ProstCodec::default()).await.map_err(refused)?.into_inner())
}

/// The failure of a status.
fn refused(status: Status) -> Failure {
    etcd_client::Error::GRpcStatus(status).into()
}

/// The failure of a stream that etcd has ended without a status.
fn ended() -> Failure {
    Failure::new(Class::Transient, "etcd ended the stream")
}

/// A stream of the user's own client.
///
/// Its connection is not known, so that only the machine's probes find out that it is dead.
pub(super) struct ClientTransport {
    /// The user's client.
    client: Client,
    /// Requests that were not sent yet.
    outgoing: VecDeque<RequestUnion>,
    /// The stream that is being opened with the first request.
    opening: Option<Opening<(WatchRequestSender, WatchResponseStream)>>,
    /// The open stream.
    open: Option<(WatchRequestSender, WatchResponseStream)>,
}

impl ClientTransport {
    /// Sends what is outgoing and waits for the next message. etcd-client's sender waits while its
    /// queue is full, so that messages are taken meanwhile.
    ///
    /// # Cancel safety
    /// A request leaves the queue only after it was sent. It may be sent again where the future is
    /// dropped in between.
    async fn next(&mut self) -> Result<WatchResponse, Failure> {
        loop {
            let Some((requests, responses)) = &mut self.open else {
                if let Some(opening) = &mut self.opening {
                    self.open = Some(opening.await?);
                    self.opening = None;
                } else if let Some(RequestUnion::Create(create)) = self.outgoing.pop_front() {
                    let mut client = self.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
                    let (key, options) = created(create);
                    self.opening = Some(Box::pin(async move {
                        client.watch(key, Some(options)).await.map(WatchStream::split).map_err(Failure::from)
                    }));
                } else {
                    std::future::pending::<()>().await;
                }
                continue;
            };
            let Some(request) = self.outgoing.front() else {
                return match responses.message().await.map_err(Failure::from)? {
                    Some(message) => Ok((&message).into()),
                    None => Err(ended()),
                };
            };
            let sending = async {
                match request.clone() {
                    RequestUnion::Create(create) => {
                        let (key, options) = created(create);
                        requests.watch(key, Some(options)).await
                    }
                    RequestUnion::Cancel(cancel) => requests.cancel(cancel.watch_id).await,
                    RequestUnion::Progress(_) => requests.request_progress().await,
                }
            };
            tokio::select! {
                message = responses.message() => return match message.map_err(Failure::from)? {
                    Some(message) => Ok((&message).into()),
                    None => Err(ended()),
                },
                sent = sending => {
                    sent.map_err(Failure::from)?;
                    self.outgoing.pop_front();
                }
            }
        }
    }
}

/// A creation in etcd-client's types.
fn created(create: CreateRequest) -> (Vec<u8>, WatchOptions) {
    let options = WatchOptions::new().with_start_revision(create.start_revision).with_watch_id(create.watch_id);
    let options = if create.range_end.is_empty() { options } else { options.with_range(create.range_end) };
    let options = if create.progress_notify { options.with_progress_notify() } else { options };
    (create.key, options)
}
