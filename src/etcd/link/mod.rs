//! One connection to one member of etcd, and the client that speaks over it.

pub(super) mod connect;
pub(super) mod links;
pub(super) mod search;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions};
use http::header::USER_AGENT;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service;
use tower::util::BoxCloneSyncService;

use crate::connection::{Connection, ConnectionState};
use crate::error::BoxError;
use crate::etcd::token::Token;

const USER_AGENT_VALUE: &str = concat!("tonic-etcd/", env!("CARGO_PKG_VERSION"));
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// A connection to a member, or the user's own client, whose connections are not known. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MemberLink(Arc<Shared>);

struct Shared {
    member: usize,
    name: String,
    client: Client,
    service: Option<LinkService>,
    /// How long an answer takes of late, in microseconds: what takes longer is late.
    latency_us: AtomicU64,
    made: Instant,
    /// When it was last used, in milliseconds since it was made.
    used: AtomicU64,
    /// Something has been asked since then, and nothing at all was heard.
    unanswered: Mutex<Option<Instant>>,
    /// Why it was closed here.
    closed: OnceLock<String>,
    /// The number of the last token that was answered over it, and who is trying one.
    confirmed_token: AtomicU64,
    token_check: tokio::sync::Mutex<()>,
}

/// How long the answer to a PING may take at least.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

impl MemberLink {
    /// Speaks over a connection of our own.
    pub(super) async fn from_connection(
        member: usize,
        name: String,
        service: LinkService,
        round_trip: Duration,
    ) -> Result<Self, etcd_client::Error> {
        let channel = Channel::Custom(BoxCloneSyncService::new(service.clone()));
        // A user given here would be authenticated with each connection: the token is the service's.
        let options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(false);
        let client = Client::from_channel(channel, Some(options)).await?;
        Ok(Self::new(member, name, client, Some(service), round_trip))
    }

    /// Speaks with the user's own client.
    pub(super) fn from_client(client: Client) -> Self {
        Self::new(0, "etcd".into(), client, None, Duration::ZERO)
    }

    fn new(member: usize, name: String, client: Client, service: Option<LinkService>, round_trip: Duration) -> Self {
        let (made, used, unanswered) = (Instant::now(), AtomicU64::new(0), Mutex::default());
        let latency_us = AtomicU64::new(capped_micros(round_trip));
        Self(Arc::new(Shared {
            member,
            name,
            client,
            service,
            latency_us,
            made,
            used,
            unanswered,
            closed: OnceLock::new(),
            confirmed_token: AtomicU64::new(u64::MAX),
            token_check: tokio::sync::Mutex::default(),
        }))
    }

    pub(super) fn member(&self) -> usize {
        self.0.member
    }

    /// The member's endpoint, as the user wrote it.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn client(&self) -> Client {
        let used = u64::try_from(self.0.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.used.store(used, Ordering::Relaxed);
        self.0.client.clone()
    }

    pub(super) fn service(&self) -> Option<&LinkService> {
        self.0.service.as_ref()
    }

    /// How much longer than on a near network an answer may take before it is late: twice what it takes of late.
    pub(super) fn grace(&self) -> Duration {
        Duration::from_micros(self.0.latency_us.load(Ordering::Relaxed)) * 2
    }

    /// An answer took so long: at first no less than the SETTINGS took, and then the longest of late, which fades.
    pub(super) fn record_latency(&self, after: Duration) {
        let before = self.0.latency_us.load(Ordering::Relaxed);
        self.0.latency_us.store(capped_micros(after).max(before - before / 8), Ordering::Relaxed);
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether a request that carried this token was answered over it.
    pub(super) fn has_confirmed(&self, token: u64) -> bool {
        self.0.confirmed_token.load(Ordering::Relaxed) == token
    }

    pub(super) fn confirm_token(&self, token: u64) {
        self.0.confirmed_token.store(token, Ordering::Relaxed);
    }

    pub(super) fn token_check(&self) -> &tokio::sync::Mutex<()> {
        &self.0.token_check
    }

    pub(super) fn has_ended(&self) -> bool {
        self.connection().is_some_and(Connection::is_over)
    }

    fn connection(&self) -> Option<&Connection> {
        self.service().map(|service| &service.connection)
    }

    /// Whether nobody has used it for so long.
    pub(super) fn is_idle(&self, long: Duration) -> bool {
        let used = self.0.made + Duration::from_millis(self.0.used.load(Ordering::Relaxed));
        self.connection().is_some_and(|connection| connection.in_flight() == 0) && used.elapsed() > long
    }

    /// When anything was last heard over it; of the user's own client that is not known.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.connection().map(Connection::heard)
    }

    /// Whether nothing at all was heard since something was asked then.
    pub(super) fn is_silent_since(&self, asked: Instant) -> bool {
        self.heard().is_some_and(|heard| heard < asked)
    }

    /// Whether the connection is dead: nothing was heard since something was asked then, nor since a PING that had its time.
    /// A PING may be sent only every 5.5 s: until it was, a member that says nothing is slow.
    pub(super) fn is_dead_since(&self, asked: Instant) -> bool {
        let is_unanswered = |connection: &Connection| {
            let heard = connection.heard();
            connection.pinged().is_some_and(|pinged| heard < pinged && pinged.elapsed() >= PING_TIMEOUT)
        };
        self.is_silent_since(asked) && self.connection().is_some_and(is_unanswered)
    }

    /// How long something has been asked, and nothing at all was heard, now that a request that was made then has no answer.
    pub(super) fn silent_for(&self, asked: Instant) -> Duration {
        let Some(heard) = self.heard() else { return Duration::ZERO };
        let mut unanswered = self.0.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        *unanswered = unanswered.filter(|since| heard < *since).or((heard < asked).then_some(asked));
        unanswered.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How many streams the member admits, where that is known.
    pub(super) fn stream_limit(&self) -> Option<usize> {
        self.connection().map(Connection::stream_limit)
    }

    /// Asks for a sign of liveness of the connection.
    pub(super) fn ping(&self) {
        self.connection().into_iter().for_each(Connection::ping);
    }

    /// Why the connection was ended at this side, if so.
    pub(super) fn close_reason(&self) -> Option<String> {
        let closed = self.0.closed.get().cloned();
        closed.or_else(|| match &*self.connection()?.stages().borrow() {
            ConnectionState::Closed(end) if end.silent => Some(end.why.clone()),
            _ => None,
        })
    }

    /// Ends the connection, with all that is in flight over it.
    pub(super) fn close(&self, why: &str) {
        let _ = self.0.closed.set(why.to_owned());
        self.connection().into_iter().for_each(|connection| connection.close(why));
    }
}

/// As a measure of what is latency_us: what takes longer than a second is not.
fn capped_micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(1_000_000)
}

/// A connection as etcd-client's channel: it adds the token, and waits where the member takes no further stream.
#[derive(Clone)]
pub(super) struct LinkService {
    pub(super) connection: Connection,
    pub(super) room: Arc<Notify>,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    pub(super) token: Token,
}

impl Service<Request<Body>> for LinkService {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(service.exchange(request))
    }
}

impl LinkService {
    async fn exchange(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (mut parts, body) = request.into_parts();
        let slot = loop {
            // Registered before the look, so that room that comes in between is not missed.
            let room = self.room.notified();
            if let Some(slot) = self.connection.reserve() {
                break slot;
            }
            let mut stages = self.connection.stages();
            tokio::select! {
                () = room => {}
                over = stages.wait_for(|stage| matches!(stage, ConnectionState::Draining(_) | ConnectionState::Closed(_))) => {
                    let why = match over.as_deref() {
                        Ok(ConnectionState::Draining(end) | ConnectionState::Closed(end)) => end.why.clone(),
                        _ => "the connection has ended".to_owned(),
                    };
                    return Err(unavailable(why));
                }
            }
        };
        // Only one of those who wait is told of room: whoever finds more of it passes that on.
        if self.connection.has_room() {
            self.room.notify_one();
        }
        let path = parts.uri.into_parts().path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
        if path.path() != AUTHENTICATE
            && let Some(token) = self.token.value()
        {
            parts.headers.insert("token", token);
        }
        let mut uri = http::uri::Parts::default();
        (uri.scheme, uri.authority, uri.path_and_query) = (Some(self.scheme), Some(self.authority), Some(path));
        let mut head = Request::new(());
        *head.version_mut() = Version::HTTP_2;
        *head.method_mut() = parts.method;
        *head.uri_mut() = Uri::from_parts(uri)?;
        *head.headers_mut() = parts.headers;
        let mut exchange =
            self.connection.exchange(slot, head, body).map_err(|(failure, _)| unavailable(failure.to_string()))?;
        let response = std::future::poll_fn(|cx| exchange.poll_head(cx))
            .await
            .map_err(|failure| unavailable(failure.to_string()))?;
        let (head, stream) = response.into_parts();
        let (answer, _) = exchange.answer(stream, |_| {});
        Ok(Response::from_parts(head, Body::new(answer)))
    }
}

/// As tonic's own channel says it: another connection may fare better.
fn unavailable(why: impl Into<String>) -> BoxError {
    tonic::Status::unavailable(why).into()
}
