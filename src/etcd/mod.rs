//! The only room that names `etcd_client`: which member is spoken to and when it is left, a deadline on every await,
//! tokens, failures classed.
//!
//! etcd-client spreads its calls over all endpoints by tonic's balanced channel, where one dead member fails its share
//! of the calls for good. RuntimeEtcd requests go to one member, over a connection of our own, and late ones to another beside it.

mod failure;
mod lease;
mod link;
mod list;
mod members;
mod options;
mod request;
mod runtimes;
mod token;
mod watch;

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

/// Messages may be as large as gRPC can say; etcd itself bounds what it stores.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// Streams of a connection that leave no room for requests, once those are open that stay open.
const FEW_STREAMS: usize = 8;

/// A call against a client whose members we cannot choose is tried so often: each try picks one of them at random.
const TRIES_UNKNOWN: usize = 5;

/// One etcd cluster, as a resolver or registrar talks to it from one runtime. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Etcd {
    core: Arc<Core>,
    watches: Arc<Watches>,
}

/// The connections and tokens of one resolver or registrar, on one runtime.
struct Core {
    links: MemberLinks,
    tokens: Tokens,
}

#[derive(Clone)]
enum Source {
    Options(Arc<EtcdOptions>),
    /// The user's own client: its members and options are the user's.
    #[cfg_attr(not(feature = "unstable-etcd-client"), expect(dead_code, reason = "with the feature it is made"))]
    Client(Box<Client>),
}

impl Source {
    /// The members' hosts; those of the user's own client are not known.
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

    /// The members' hosts, where SRV records name them once they were read, and empty where that has failed; those of the user's own
    /// client are not known.
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

    /// Waits for the first response of etcd: that to the password of the user, or where there is none, that to a read of one key
    /// that goes through the cluster's leader. A user who may not read the key has a response all the same.
    ///
    /// # Errors
    /// When there was none within the connect timeout and the request timeout together, or when etcd refuses the user.
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

    /// The longest that one request may take before another member is asked.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.core.request_timeout()
    }

    /// Counts the connections made to a member that is then used: whoever waits to try again need not wait any longer.
    pub(crate) fn connected(&self) -> Receiver<u64> {
        self.core.links.connected.subscribe()
    }

    /// Watches of this etcd, which share streams.
    pub(crate) fn watches(&self) -> &Arc<Watches> {
        &self.watches
    }

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
    fn request_timeout(&self) -> Duration {
        match &self.links.source {
            Source::Options(options) => options.request_timeout,
            Source::Client(_) => options::REQUEST_TIMEOUT,
        }
    }

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

    fn tries(&self) -> usize {
        match &self.links.source {
            Source::Options(_) => (2 * self.links.state().count()).clamp(1, TRIES_UNKNOWN),
            Source::Client(_) => TRIES_UNKNOWN,
        }
    }

    /// A refusal of requests without a token is that of the missing token: authentication is on since it was asked for.
    fn reclassify_denied(&self, failure: Failure) -> Failure {
        if failure.class == Class::Denied && self.tokens.is_anonymous() { failure.as_missing_token() } else { failure }
    }

    /// What a request needs: a connection and a token.
    async fn link_and_token(self: &Arc<Self>) -> Result<(MemberLink, u64), Failure> {
        loop {
            let (link, token) = (self.link().await?, self.token().await?);
            if self.check_token(&link, token).await {
                return Ok((link, token));
            }
        }
    }

    /// The token for requests over that connection.
    async fn token_for(self: &Arc<Self>, link: &MemberLink) -> Result<u64, Failure> {
        loop {
            let token = self.token().await?;
            if self.check_token(link, token).await {
                return Ok(token);
            }
        }
    }

    /// What a stream needs that stays open: where a member admits only a few streams, a connection of its own, so that requests
    /// always find room.
    async fn stream_link_and_token(self: &Arc<Self>) -> Result<(MemberLink, u64), Failure> {
        let (link, token) = self.link_and_token().await?;
        Ok((self.stream_link(link).await, token))
    }

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

async fn bounded<T>(deadline: Duration, attempt: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match timeout(deadline, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Failure::timed_out(deadline)),
    }
}
