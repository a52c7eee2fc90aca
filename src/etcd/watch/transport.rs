//! A watch stream on the service: over a connection of our own, or by the user's own client.

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
use crate::etcd::watch::message::{CreateRequest, RequestUnion, WatchCodec, WatchRequest, WatchResponse};

/// Requests out, messages in.
pub(super) enum WatchTransport {
    Own { requests: UnboundedSender<WatchRequest>, responses: Responses },
    Client(Box<ClientTransport>),
}

/// The answer begins with the first message: until then requests go out, and this waits for it.
pub(super) enum Responses {
    Opening(Opening<Streaming<WatchResponse>>),
    Open(Box<Streaming<WatchResponse>>),
}

type Opening<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

impl WatchTransport {
    pub(super) fn new(link: &MemberLink) -> Self {
        let client = link.client(); // also tells that the link is used
        let Some(service) = link.service() else {
            let (outgoing, opening, open) = (VecDeque::new(), None, None);
            return Self::Client(Box::new(ClientTransport { client, outgoing, opening, open }));
        };
        let (requests, outgoing) = unbounded_channel();
        let responses = Responses::Opening(Box::pin(open(service.clone(), UnboundedReceiverStream::new(outgoing))));
        Self::Own { requests, responses }
    }

    /// Sends a request, as soon as the connection takes it.
    pub(super) fn send(&mut self, request: RequestUnion) {
        match self {
            // Where the stream has ended, its messages tell so.
            Self::Own { requests, .. } => drop(requests.send(WatchRequest::new(request))),
            Self::Client(client) => client.outgoing.push_back(request),
        }
    }

    /// The next message. Cancel safe.
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

async fn open(
    service: link::LinkService,
    requests: UnboundedReceiverStream<WatchRequest>,
) -> Result<Streaming<WatchResponse>, Failure> {
    let mut client = Grpc::new(service).max_decoding_message_size(MAX_MESSAGE);
    let mut request = Request::new(requests);
    // A member that is cut off from its cluster says so, in place of keeping silent.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    Ok(client.streaming(request, path, WatchCodec).await.map_err(refused)?.into_inner())
}

fn refused(status: Status) -> Failure {
    etcd_client::Error::GRpcStatus(status).into()
}

fn ended() -> Failure {
    Failure::new(Class::Transient, "etcd ended the stream")
}

/// A stream of the user's own client, which is opened with its first watch.
pub(super) struct ClientTransport {
    client: Client,
    outgoing: VecDeque<RequestUnion>,
    opening: Option<Opening<(WatchRequestSender, WatchResponseStream)>>,
    open: Option<(WatchRequestSender, WatchResponseStream)>,
}

impl ClientTransport {
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

fn created(create: CreateRequest) -> (Vec<u8>, WatchOptions) {
    let options = WatchOptions::new().with_start_revision(create.start_revision).with_watch_id(create.watch_id);
    let options = if create.range_end.is_empty() { options } else { options.with_range(create.range_end) };
    let options = if create.progress_notify { options.with_progress_notify() } else { options };
    (create.key, options)
}
