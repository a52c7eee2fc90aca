//! The only room that names `etcd_client`: which member is spoken to and when it is left, a deadline on every await,
//! tokens, failures classed.
//!
//! etcd-client spreads its calls over all endpoints by tonic's balanced channel, where one dead member fails its share
//! of the calls for good. Here requests go to one member, over a connection of our own, and late ones to another beside it.

mod authentication;
mod failure;
mod lease;
mod link;
mod links;
mod list;
mod options;
mod token;
mod watch;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use etcd_client::Client;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until, timeout};

pub(crate) use failure::{Class, Failure};
pub(crate) use lease::{KeepAlive, Stored};
pub use options::EtcdOptions;
pub(crate) use watch::{Event, Message, Range, Watch, WatchId, Watcher};

use self::link::Link;
use self::links::{HEDGE, Links};
use self::token::Tokens;
use self::watch::Watches;
use crate::address::Authority;
use crate::error::Error;
use crate::target::Target;

/// Messages may be as large as gRPC can say; etcd itself bounds what it stores.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// Streams of a connection that leave no room for requests, once those are open that stay open.
const FEW: usize = 4;

/// A call against a client whose members we cannot choose is tried so often: each try picks one of them at random.
const TRIES_UNKNOWN: usize = 5;

/// One etcd cluster, as a resolver or registrar talks to it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Etcd {
    core: Arc<Core>,
    watches: Arc<Watches>,
}

/// The connections and tokens of one resolver or registrar.
struct Core {
    links: Links,
    tokens: Tokens,
}

enum Source {
    Options(Arc<EtcdOptions>),
    /// The user's own client: its members and options are the user's.
    Client(Box<Client>),
}

/// How long a request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// When another member is asked beside the first, although the first one's connection is heard.
    pub(crate) late: Duration,
    /// When nobody is asked any more, connecting included.
    pub(crate) total: Duration,
}

impl Patience {
    /// How long after it was made a request over this link is late: always in time to ask another member.
    fn late_by(self, link: &Link) -> Duration {
        self.late.saturating_add(link.grace()).min(self.total / 3 * 2)
    }
}

impl Etcd {
    pub(crate) fn new(options: EtcdOptions) -> Result<Self, Error> {
        options.check()?;
        Ok(Self::with(Source::Options(Arc::new(options.shuffled()))))
    }

    pub(crate) fn from_client(client: Client) -> Self {
        Self::with(Source::Client(Box::new(client)))
    }

    fn with(source: Source) -> Self {
        let tokens = Tokens::new(&source);
        let core = Arc::new(Core { links: Links::new(source), tokens });
        Self { watches: Arc::new(Watches::new(core.clone())), core }
    }

    /// The members' hosts; those of the user's own client are not known.
    pub(crate) fn hosts(&self) -> Option<Vec<Authority>> {
        match &self.core.links.source {
            Source::Options(options) => Some(options.hosts()),
            Source::Client(_) => None,
        }
    }

    /// Refuses a target that names hosts of another etcd.
    pub(crate) fn check_hosts(&self, target: &Target) -> Result<(), Error> {
        if target.hosts().len() == 0 {
            return Ok(());
        }
        let refuse = |reason: String| Err(Error::invalid("target", target.to_string(), reason));
        let Some(hosts) = self.hosts() else {
            return refuse("it names etcd hosts, and those of the client that was given are not known".into());
        };
        match target.hosts().find(|host| !hosts.iter().any(|known| known.as_str() == *host)) {
            None => Ok(()),
            Some(host) => {
                let hosts: Vec<&str> = hosts.iter().map(Authority::as_str).collect();
                refuse(format!(
                    "its host {host} is not one of this etcd's: {}; without hosts a target fits any",
                    hosts.join(", ")
                ))
            }
        }
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

    async fn call<T, F, Fut>(&self, patience: Patience, doing: &str, operation: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        self.core.call_counted(patience, doing, operation).await.map(|(value, _)| value)
    }
}

/// One try of a request, at one member.
struct Attempt<'a, T> {
    link: Link,
    token: u64,
    asked: Instant,
    answer: Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>,
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

    fn tries(&self) -> usize {
        match &self.links.source {
            Source::Options(options) => (2 * options.endpoints().len()).min(TRIES_UNKNOWN),
            Source::Client(_) => TRIES_UNKNOWN,
        }
    }

    /// A refusal of requests without a token is that of the missing token: authentication is on since it was asked for.
    fn of_anonymous(&self, failure: Failure) -> Failure {
        if failure.class == Class::Denied && self.tokens.is_anonymous() {
            failure.for_want_of_a_user()
        } else {
            failure
        }
    }

    /// One unary call: tried again, elsewhere if need be, while another try may fare better, and once more with a new token
    /// where that may help. One that is late is made at one other member beside it. Every operation given here may be
    /// repeated. Gives how many tries were made, too.
    async fn call_counted<T, F, Fut>(
        self: &Arc<Self>,
        patience: Patience,
        doing: &str,
        operation: F,
    ) -> Result<(T, usize), Failure>
    where
        F: Fn(Client) -> Fut + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let end = Instant::now() + patience.total;
        let (mut tries, mut renewed) = (0, 0);
        loop {
            tries += 1;
            // A search for a connection, or a check of the password, has tried what there is.
            let begun = timeout(end - Instant::now(), self.begin());
            let failure = match begun.await {
                Ok(Ok((link, token))) => match self.attempt(link, token, end, patience, &operation).await {
                    Ok((value, count)) => return Ok((value, tries - 1 + count)),
                    Err((failure, token)) => {
                        let failure = failure.while_doing(doing);
                        if renewed == 0 && self.tokens.refused(token, &failure) {
                            renewed = 1;
                            continue;
                        }
                        failure
                    }
                },
                Ok(Err(failure)) => return Err(failure.while_doing(doing)),
                Err(_) => {
                    let failure = Failure::new(Class::TimedOut, format!("no connection within {:?}", patience.total));
                    return Err(failure.at(&self.member_in_use()).while_doing(doing));
                }
            };
            if !failure.is_worth_a_retry() || tries >= self.tries() + renewed || Instant::now() >= end {
                return Err(failure);
            }
        }
    }

    /// What a request needs: a connection and a token.
    async fn begin(self: &Arc<Self>) -> Result<(Link, u64), Failure> {
        Ok((self.link().await?, self.token().await?))
    }

    /// What a stream needs that stays open: where a member admits only a few streams, a connection of its own, so that requests
    /// always find room.
    async fn begin_stream(self: &Arc<Self>) -> Result<(Link, u64), Failure> {
        let (link, token) = self.begin().await?;
        Ok((self.for_stream(link).await?, token))
    }

    async fn for_stream(&self, link: Link) -> Result<Link, Failure> {
        match &self.links.source {
            Source::Options(options) if link.stream_limit().is_some_and(|limit| limit < FEW) => {
                options.connect(link.member(), self.tokens.token.clone()).await
            }
            _ => Ok(link),
        }
    }

    /// One try, and another beside it where it is late. A failure comes with the token that was used.
    async fn attempt<T, F, Fut>(
        self: &Arc<Self>,
        link: Link,
        token: u64,
        end: Instant,
        patience: Patience,
        operation: &F,
    ) -> Result<(T, usize), (Failure, u64)>
    where
        F: Fn(Client) -> Fut + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let ask = |link: Link, token: u64| {
            let operation = operation(link.client());
            let answer = Box::pin(async move { operation.await.map_err(Failure::from) });
            Attempt { link, token, asked: Instant::now(), answer }
        };
        let mut first = ask(link, token);
        let late = patience.late_by(&first.link);
        let (unheard, late) = (first.asked + (HEDGE + first.link.grace()).min(late), first.asked + late);
        let answered = tokio::select! {
            biased;
            answer = &mut first.answer => Some(answer),
            () = late_at(&first.link, first.asked, unheard, late) => None,
            () = sleep_until(end) => None,
        };
        if let Some(answer) = answered {
            first.link.answered(first.asked.elapsed());
            return answer.map(|value| (value, 1)).map_err(|failure| self.failed(&first, failure));
        }
        // Its answer tells a connection that is dead from a member that is slow.
        first.link.ping();
        // Beside the first, which goes on: at another member, or where there is none once more at this one, because what is
        // asked of etcd around an election may be lost.
        let beside = async {
            if let Some(link) = self.elsewhere(&first.link).await {
                return Some((link, self.token().await.ok()?));
            }
            sleep_until(late).await;
            Some((first.link.clone(), first.token))
        };
        let second = tokio::select! {
            biased;
            answer = &mut first.answer => {
                first.link.answered(first.asked.elapsed());
                return answer.map(|value| (value, 1)).map_err(|failure| self.failed(&first, failure));
            }
            second = beside => second,
            () = sleep_until(end) => None,
        };
        let mut second = second.map(|(link, token)| ask(link, token));
        let (mut first_failed, mut second_failed) = (None, None);
        loop {
            tokio::select! {
                biased;
                answer = &mut first.answer, if first_failed.is_none() => match answer {
                    Ok(value) => {
                        first.link.answered(first.asked.elapsed());
                        return Ok((value, 1 + usize::from(second.is_some())));
                    }
                    Err(failure) => first_failed = Some(self.failed(&first, failure)),
                },
                answer = answer_of(second.as_mut()), if second_failed.is_none() => match (answer, &second) {
                    (Ok(value), Some(second)) => {
                        if first.link.is_silent_since(first.asked) {
                            self.links.prefer(&second.link);
                        }
                        return Ok((value, 2));
                    }
                    (Ok(value), None) => return Ok((value, 1)),
                    (Err(failure), Some(second)) => second_failed = Some(self.failed(second, failure)),
                    (Err(_), None) => {}
                },
                () = sleep_until(end) => {
                    let late = |attempt: &Attempt<'_, T>| self.failed(attempt, Failure::timed_out(patience.total));
                    if second_failed.is_none() {
                        second.as_ref().map(late);
                    }
                    return Err(first_failed.unwrap_or_else(|| late(&first)));
                }
            }
            match (&first_failed, &second_failed) {
                // What is no member's fault is the same everywhere.
                (Some((failure, token)), _) | (_, Some((failure, token))) if !failure.is_worth_a_retry() => {
                    return Err((failure.clone(), *token));
                }
                (Some((failure, token)), other) if other.is_some() || second.is_none() => {
                    return Err((failure.clone(), *token));
                }
                _ => {}
            }
        }
    }

    fn failed<T>(&self, attempt: &Attempt<'_, T>, failure: Failure) -> (Failure, u64) {
        let failure = self.blame(&attempt.link, attempt.asked, failure);
        (failure.at(attempt.link.name()), attempt.token)
    }
}

/// The answer to a try; never, where there is none.
async fn answer_of<T>(attempt: Option<&mut Attempt<'_, T>>) -> Result<T, Failure> {
    match attempt {
        Some(attempt) => (&mut attempt.answer).await,
        None => std::future::pending().await,
    }
}

/// When a try is late: soon where nothing was heard over its connection since it was made, else later.
async fn late_at(link: &Link, asked: Instant, unheard: Instant, late: Instant) {
    sleep_until(unheard.min(late)).await;
    if !link.is_silent_since(asked) {
        sleep_until(late).await;
    }
}

async fn bounded<T>(deadline: Duration, attempt: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match timeout(deadline, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Failure::timed_out(deadline)),
    }
}
