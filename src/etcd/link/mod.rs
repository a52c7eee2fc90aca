//! The links to the members: one connection to each member, and the client that uses it.
//!
//! - `mod.rs`: [`MemberLink`], one connection and what was observed of it, and [`LinkService`],
//!   which sends requests over it.
//! - `connect.rs`: from options to a connection to one member.
//! - `search.rs`: connecting in the background, and the search for a member that answers.
//! - `links.rs`: [`MemberLinks`](links::MemberLinks), which member is in use and what is known of
//!   each.
//!
//! One task for each member connects for all who need it. The link in use stays in use while it
//! answers. It is left when its connection ends, or when its member says that it cannot serve.

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

use crate::connection::{CloseKind, Connection, ConnectionState};
use crate::error::BoxError;
use crate::etcd::token::Token;

/// The `user-agent` of all requests to etcd.
const USER_AGENT_VALUE: &str = concat!("tonic-etcd/", env!("CARGO_PKG_VERSION"));
/// The path of a password check, which must not carry a token: an invalid one would be refused.
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// A link to one member: a connection of our own, or the user's own client, whose connections are
/// unknown. Cheap to clone. Two clones are the same link.
#[derive(Clone)]
pub(crate) struct MemberLink(Arc<Shared>);

/// What the clones of a link share.
struct Shared {
    /// The number of the member. A member keeps its number.
    member: usize,
    /// The member's endpoint as the user wrote it, for errors and logs.
    name: String,
    /// etcd-client over [`LinkService`], or the user's own client.
    client: Client,
    /// The connection as a tower service; `None` for a user's own client.
    service: Option<LinkService>,
    /// The usual time of an answer, in microseconds. A request that takes longer is late.
    latency_us: AtomicU64,
    /// When the link was made.
    made: Instant,
    /// When it was last used, in milliseconds since it was made.
    used: AtomicU64,
    /// Since when requests have been unanswered and nothing at all was heard; `None` once something
    /// is heard.
    unanswered: Mutex<Option<Instant>>,
    /// Why it was closed at this side.
    closed: OnceLock<String>,
    /// The number of the last token that was accepted over this link.
    confirmed_token: AtomicU64,
    /// Held by the request that checks a new token over this link, so that one does.
    token_check: tokio::sync::Mutex<()>,
}

/// How long the answer to a PING may take before the connection counts as dead, where nothing else
/// was heard either.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

impl MemberLink {
    /// A link over a connection of our own. `round_trip` is the first estimate of its latency.
    pub(super) async fn from_connection(
        member: usize,
        name: String,
        service: LinkService,
        round_trip: Duration,
    ) -> Result<Self, etcd_client::Error> {
        let channel = Channel::Custom(BoxCloneSyncService::new(service.clone()));
        // No user is given here: etcd-client would check the password for each connection. The
        // service adds the token.
        let options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(false);
        let client = Client::from_channel(channel, Some(options)).await?;
        Ok(Self::new(member, name, client, Some(service), round_trip))
    }

    /// A link over the user's own client.
    pub(super) fn from_client(client: Client) -> Self {
        Self::new(0, "etcd".into(), client, None, Duration::ZERO)
    }

    /// Puts the parts together.
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

    /// The number of its member.
    pub(super) fn member(&self) -> usize {
        self.0.member
    }

    /// The member's endpoint as the user wrote it.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    /// The client for a request. Marks the link as used.
    pub(super) fn client(&self) -> Client {
        let used = u64::try_from(self.0.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.used.store(used, Ordering::Relaxed);
        self.0.client.clone()
    }

    /// The connection as a service; `None` for a user's own client.
    pub(super) fn service(&self) -> Option<&LinkService> {
        self.0.service.as_ref()
    }

    /// How much longer than nearby an answer may take before it is late: twice the usual latency.
    pub(super) fn grace(&self) -> Duration {
        Duration::from_micros(self.0.latency_us.load(Ordering::Relaxed)) * 2
    }

    /// Records how long an answer took. The estimate follows a slower answer immediately and
    /// forgets an eighth with each faster one.
    pub(super) fn record_latency(&self, after: Duration) {
        let before = self.0.latency_us.load(Ordering::Relaxed);
        self.0.latency_us.store(capped_micros(after).max(before - before / 8), Ordering::Relaxed);
    }

    /// Whether both are the same link.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether a request with this token was answered over this link.
    pub(super) fn has_confirmed(&self, token: u64) -> bool {
        self.0.confirmed_token.load(Ordering::Relaxed) == token
    }

    /// Records that a request with this token was answered.
    pub(super) fn confirm_token(&self, token: u64) {
        self.0.confirmed_token.store(token, Ordering::Relaxed);
    }

    /// The lock of a token check. See [`Core::check_token`](crate::etcd::Core::check_token).
    pub(super) fn token_check(&self) -> &tokio::sync::Mutex<()> {
        &self.0.token_check
    }

    /// Whether the connection has ended. Never true for a user's own client, which reconnects by
    /// itself.
    pub(super) fn has_ended(&self) -> bool {
        self.connection().is_some_and(Connection::is_closing)
    }

    /// The HTTP/2 connection, if it is our own.
    fn connection(&self) -> Option<&Connection> {
        self.service().map(|service| &service.connection)
    }

    /// Whether no request is in flight and none was made for this long.
    pub(super) fn is_idle(&self, long: Duration) -> bool {
        let used = self.0.made + Duration::from_millis(self.0.used.load(Ordering::Relaxed));
        self.connection().is_some_and(|connection| connection.in_flight() == 0) && used.elapsed() > long
    }

    /// When anything was last received over the connection, of any stream; `None` for a user's own
    /// client.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.connection().map(Connection::last_read)
    }

    /// Whether nothing was received since a request was sent at that time.
    pub(super) fn is_silent_since(&self, asked: Instant) -> bool {
        self.heard().is_some_and(|heard| heard < asked)
    }

    /// Whether the connection is dead: nothing was received since a request was sent at that time,
    /// nor within [`PING_TIMEOUT`] after a PING. A PING may be sent only every 5.5 s. Before it was
    /// sent, a silent member counts as slow.
    pub(super) fn is_dead_since(&self, asked: Instant) -> bool {
        let is_unanswered = |connection: &Connection| {
            let heard = connection.last_read();
            connection.last_ping().is_some_and(|pinged| heard < pinged && pinged.elapsed() >= PING_TIMEOUT)
        };
        self.is_silent_since(asked) && self.connection().is_some_and(is_unanswered)
    }

    /// How long requests have been unanswered with nothing received at all, given that the one sent
    /// at `asked` has no answer. Keeps the earliest such time.
    pub(super) fn silent_for(&self, asked: Instant) -> Duration {
        let Some(heard) = self.heard() else { return Duration::ZERO };
        let mut unanswered = self.0.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        *unanswered = unanswered.filter(|since| heard < *since).or((heard < asked).then_some(asked));
        unanswered.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How many concurrent streams the member admits (`SETTINGS_MAX_CONCURRENT_STREAMS`), where that
    /// is known.
    pub(super) fn stream_limit(&self) -> Option<usize> {
        self.connection().map(Connection::stream_limit)
    }

    /// Asks the connection for a PING, whose answer proves that it lives.
    pub(super) fn ping(&self) {
        self.connection().into_iter().for_each(Connection::ping);
    }

    /// Why the connection was closed at this side, if it was: a failed PING, or
    /// [`MemberLink::close`].
    pub(super) fn close_reason(&self) -> Option<String> {
        let closed = self.0.closed.get().cloned();
        closed.or_else(|| match &*self.connection()?.states().borrow() {
            ConnectionState::Closed(reason) if reason.kind == CloseKind::Unresponsive => Some(reason.to_string()),
            _ => None,
        })
    }

    /// Closes the connection and all requests in flight over it.
    pub(super) fn close(&self, why: &str) {
        let _ = self.0.closed.set(why.to_owned());
        self.connection().into_iter().for_each(|connection| connection.close(why));
    }
}

/// A duration in microseconds for the latency estimate, at most one second: a longer answer is not
/// usual.
fn capped_micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(1_000_000)
}

/// A connection as the channel of etcd-client. Adds the token, and waits for capacity where the
/// member admits no further stream.
///
/// It is always ready: waiting happens in the request's future, which has the request's time limit,
/// and not in `poll_ready`, which has none.
#[derive(Clone)]
pub(super) struct LinkService {
    /// The HTTP/2 connection.
    pub(super) connection: Connection,
    /// Notified when the connection admits another stream.
    pub(super) room: Arc<Notify>,
    /// The scheme of the requests' URIs.
    pub(super) scheme: Scheme,
    /// The authority of the requests' URIs.
    pub(super) authority: Authority,
    /// The token in use, which changes while the connection lives.
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
    /// Sends one request and returns the head of the response with its body.
    ///
    /// # Errors
    /// `UNAVAILABLE` where the connection has ended, before or after the request was sent.
    async fn exchange(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (mut parts, body) = request.into_parts();
        let slot = loop {
            // Registered before the check, so that capacity that appears in between is not missed.
            let room = self.room.notified();
            if let Some(slot) = self.connection.reserve() {
                break slot;
            }
            tokio::select! {
                () = room => {}
                reason = self.connection.closing() => return Err(unavailable(reason.to_string())),
            }
        };
        // A notification wakes one waiter only. The one that finds more capacity wakes the next.
        if self.connection.has_capacity() {
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
        let (answer, _) = exchange.into_response_body(stream, |_, _| {});
        Ok(Response::from_parts(head, Body::new(answer)))
    }
}

/// The error that tonic's own channel gives for a lost connection: another connection may succeed.
fn unavailable(why: impl Into<String>) -> BoxError {
    tonic::Status::unavailable(why).into()
}
