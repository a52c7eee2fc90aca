//! Access to etcd. Only this folder names `etcd_client`.
//!
//! The resolver and the registrar each hold one [`EtcdPerRuntime`], which gives an [`Etcd`] for
//! every tokio runtime that uses it. An `Etcd` offers lists, single reads, leases, puts and
//! watches. It hides members, connections, tokens and retries.
//!
//! - `options/`: [`EtcdOptions`], what users set, and its validation.
//! - `members/`: which members are known (given, found by SRV records, learned from etcd) and the
//!   order in which they are tried.
//! - `link/`: the connection to each member, and the search for a member that answers.
//! - `token/`: authentication. One token is shared by all connections.
//! - `request.rs`: one unary request, with its time limits, its retries and its hedge at a second
//!   member.
//! - `list.rs`, `lease.rs`: the unary requests themselves.
//! - `watch/`: watches, many of which share one stream.
//! - `failure.rs`: what an error of etcd means and what it asks for.
//! - `runtimes.rs`: one `Etcd` for each tokio runtime.
//!
//! A request takes this way: `Etcd` → `request.rs` gets a link and a token → `link/` sends it → the
//! answer, or a [`Failure`] with its class. A failure that blames a member or a connection changes
//! which member is used next.
//!
//! etcd-client spreads its calls over all endpoints with tonic's balanced channel, where one dead
//! member fails its share of the calls for good. So requests go to one member here, over a
//! connection of our own, and late ones also go to a second member.

mod failure;
mod lease;
mod link;
mod list;
pub(crate) mod members;
mod options;
mod prost_codec;
mod request;
mod runtimes;
pub(crate) mod token;
pub(crate) mod watch;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::Client;
#[cfg(feature = "unstable-etcd-client")]
pub use etcd_client::Client as EtcdClient;
use tokio::sync::watch::Receiver;
use tokio::time::timeout;

pub(crate) use crate::etcd::failure::{Class, Failure};
pub(crate) use crate::etcd::lease::{KeepAlive, Put, Stored};
pub(crate) use crate::etcd::list::ListedAt;
pub use crate::etcd::options::EtcdOptions;
pub(crate) use crate::etcd::request::RequestLimits;
pub(crate) use crate::etcd::runtimes::EtcdPerRuntime;
pub(crate) use crate::etcd::watch::{Event, Message, Range, Watch, WatchId, Watcher};

use self::link::MemberLink;
use self::link::links::MemberLinks;
use self::token::Tokens;
use self::watch::Watches;
use crate::address::Authority;
use crate::error::Error;

/// The largest message that is accepted, in bytes: the most that gRPC can express. etcd itself
/// bounds what it stores, and pages bound what is asked for.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// A member that admits fewer streams than this has no room for requests once long-lived streams
/// are open. Such a stream then gets a connection of its own.
const FEW_STREAMS: usize = 8;

/// The most tries of one request. A user's own client has unknown members and picks one of them at
/// random for each try.
const TRIES_UNKNOWN: usize = 5;

/// One etcd cluster, as a resolver or a registrar uses it from one tokio runtime. Cheap to clone.
///
/// Dropping the last clone ends the background tasks and closes the connections: `Watches` is
/// dropped first, ends the hub and shuts the links down.
#[derive(Clone)]
pub(crate) struct Etcd {
    core: Arc<Core>,
    watches: Arc<Watches>,
}

/// The connections and the tokens behind an [`Etcd`]. Background tasks hold it weakly or for one
/// step, so that it ends with its users.
struct Core {
    links: MemberLinks,
    tokens: Tokens,
}

/// Where the members come from.
#[derive(Clone)]
enum Source {
    Options(Arc<EtcdOptions>),
    /// The user's own client. Its members and its options are the user's and are not known here.
    #[cfg_attr(not(feature = "unstable-etcd-client"), expect(dead_code, reason = "with the feature it is made"))]
    Client(Box<Client>),
}

impl Source {
    /// The hosts of the members; `None` for a user's own client, whose members are not known.
    fn hosts(&self) -> Option<Vec<Authority>> {
        match self {
            Self::Options(options) => Some(options.hosts()),
            Self::Client(_) => None,
        }
    }
}

impl Etcd {
    fn with(source: Source) -> Self {
        let tokens = Tokens::new(&source);
        let core = Arc::new(Core { links: MemberLinks::new(source), tokens });
        Self { watches: Arc::new(Watches::new(core.clone())), core }
    }

    /// The hosts of the members. With SRV records these are the hosts that were found, after a
    /// lookup where none is known yet; the list is empty where that lookup failed. `None` for a
    /// user's own client.
    #[cfg_attr(not(feature = "srv"), expect(clippy::unused_async, reason = "with the feature DNS is asked"))]
    pub(crate) async fn known_hosts(&self) -> Option<Vec<Authority>> {
        #[cfg(feature = "srv")]
        if matches!(&self.core.links.source, Source::Options(options) if options.is_srv()) {
            if self.core.links.state().count() == 0 {
                self.core.find_members().await;
            }
            return Some(
                self.core.links.state().configured_and_found().into_iter().map(|endpoint| endpoint.authority).collect(),
            );
        }
        self.core.links.source.hosts()
    }

    /// Waits for the first response of etcd: the one to the user's password where a user was given,
    /// otherwise the one to a linearizable read of one key.
    ///
    /// "Permission denied" for that key is a response too: a role may read nothing but its prefix.
    /// The read is linearizable, so that a member without a leader does not count.
    ///
    /// # Errors
    /// When there was no response within the connect timeout and the request timeout together, or
    /// when etcd refuses the user.
    pub(crate) async fn first_response(&self) -> Result<(), Error> {
        let limit = self.core.longest();
        let response = async {
            if self.core.tokens.has_user() {
                return self.core.link_and_token().await.map(drop);
            }
            match self.revision(&[0], &[]).await {
                Err(failure) if failure.class == Class::Denied => Ok(()),
                response => response.map(drop),
            }
        };
        let failure = match timeout(limit, response).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::timed_out(limit).at(&self.core.member_in_use()).while_doing("connecting to etcd"),
        };
        let is_late = failure.class == Class::TimedOut;
        let error = failure.into_error();
        let what = "waiting for the first response of etcd";
        Err(if is_late { Error::timeout(what, limit, Some(error)) } else { error })
    }

    /// The longest that one try may take, connecting excluded.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.core.request_timeout()
    }

    /// Counts the connections that came into use. A change tells those who wait before a retry to
    /// retry now.
    pub(crate) fn connected(&self) -> Receiver<u64> {
        self.core.links.connected.subscribe()
    }

    /// One unary request: [`Core::call_counted`] without the count. `doing` is the start of an
    /// error's text, such as `listing greeter/`.
    async fn call<T, F, Fut>(&self, limits: RequestLimits, doing: &str, operation: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        self.core.call_counted(limits, doing, operation).await.map(|(value, _)| value)
    }
}

impl Core {
    /// See [`Etcd::request_timeout`]. A user's own client gets the default.
    fn request_timeout(&self) -> Duration {
        match &self.links.source {
            Source::Options(options) => options.request_timeout,
            Source::Client(_) => options::REQUEST_TIMEOUT,
        }
    }

    /// How long connecting may take. Zero for a user's own client, which connects by itself: what
    /// it waits for is then part of the request.
    fn connect_timeout(&self) -> Duration {
        match &self.links.source {
            Source::Options(options) => options.connect_timeout,
            Source::Client(_) => Duration::ZERO,
        }
    }

    /// The longest that a request may take, connecting included.
    fn longest(&self) -> Duration {
        self.connect_timeout() + self.request_timeout()
    }

    /// How many tries a request gets: two for each member, because the first search may find a
    /// member that fails at once, and no more than [`TRIES_UNKNOWN`].
    fn tries(&self) -> usize {
        match &self.links.source {
            Source::Options(_) => (2 * self.links.state().count()).clamp(1, TRIES_UNKNOWN),
            Source::Client(_) => TRIES_UNKNOWN,
        }
    }

    /// Turns "denied" into "a token is missing" for requests that were sent without a token
    /// although a user was given: authentication was off when the token was asked for and is on
    /// now.
    fn reclassify_denied(&self, failure: Failure) -> Failure {
        if failure.class == Class::Denied && self.tokens.is_anonymous() {
            failure.into_missing_token()
        } else {
            failure
        }
    }

    /// What a request needs: a link, and the number of a token that this link may carry. Called for
    /// each request.
    ///
    /// # Errors
    /// How the search for a member, or the password check, failed.
    async fn link_and_token(self: &Arc<Self>) -> Result<(MemberLink, u64), Failure> {
        loop {
            let (link, token) = (self.link().await?, self.token().await?);
            if self.check_token(&link, token).await {
                return Ok((link, token));
            }
        }
    }

    /// The number of a token that this link may carry.
    async fn token_for(self: &Arc<Self>, link: &MemberLink) -> Result<u64, Failure> {
        loop {
            let token = self.token().await?;
            if self.check_token(link, token).await {
                return Ok(token);
            }
        }
    }

    /// What a long-lived stream needs. See [`Core::stream_link`].
    async fn stream_link_and_token(self: &Arc<Self>) -> Result<(MemberLink, u64), Failure> {
        let (link, token) = self.link_and_token().await?;
        Ok((self.stream_link(link).await, token))
    }

    /// The link for a long-lived stream: a connection of its own where the member admits fewer than
    /// [`FEW_STREAMS`] streams, so that requests keep their room. Falls back to the given link
    /// where that connection cannot be made.
    async fn stream_link(&self, link: MemberLink) -> MemberLink {
        let Source::Options(options) = &self.links.source else { return link };
        if link.stream_limit().is_none_or(|limit| limit >= FEW_STREAMS) {
            return link;
        }
        let Some(endpoint) = self.links.state().members[link.member()].endpoint.clone() else { return link };
        let dialing = options.connect(link.member(), &endpoint, self.tokens.token.clone());
        let dialed = timeout(options.connect_timeout, dialing).await;
        dialed.ok().and_then(Result::ok).unwrap_or(link)
    }
}

/// Runs an attempt with a time limit, after which it is a failure of the class [`Class::TimedOut`].
async fn bounded<T>(deadline: Duration, attempt: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match timeout(deadline, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Failure::timed_out(deadline)),
    }
}
