//! The only room that names `etcd_client`: one member at a time, a deadline on every await, failures classed.
//!
//! etcd-client spreads its calls over all endpoints by tonic's balanced channel, where one dead member fails its share
//! of the calls for good. Here a client talks to one member; when that fails, the next call builds one for the next.

mod failure;
mod lease;
mod list;
mod options;
mod watch;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use etcd_client::Client;
use tokio::time::{Instant, timeout};

pub(crate) use failure::{Class, Failure};
pub(crate) use lease::{KeepAlive, Stored};
pub use options::EtcdOptions;
pub(crate) use watch::{Event, Message, Watch};

use crate::address::Authority;
use crate::error::Error;
use crate::target::Target;

/// Messages may be as large as gRPC can say; etcd itself bounds what it stores.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// A refusal of a token younger than this is not the token's fault: a new one is used within moments.
const TOKEN_IS_FRESH: Duration = Duration::from_secs(2);
/// How long after such a refusal none is taken for a token's fault: what a role may not do must not cost etcd a password's check
/// each time.
const DENIED_IN_EARNEST: Duration = Duration::from_secs(60);

/// A call against a client whose members we cannot choose is tried so often: each try picks one of them at random.
const TRIES_UNKNOWN: usize = 5;

/// One etcd cluster, as a resolver or registrar talks to it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Etcd {
    shared: Arc<Shared>,
}

struct Shared {
    source: Source,
    state: Mutex<State>,
}

enum Source {
    Options(Box<EtcdOptions>),
    /// The user's own client: its members and options are the user's.
    Client(Box<Client>),
}

/// The client in use and the member that it talks to.
struct State {
    member: usize,
    /// Counts the members tried, so that a failure of an earlier client does not throw away a later one.
    generation: u64,
    client: Option<Client>,
    /// It has no user, although there is one, because authentication was off when it was made.
    anonymous: bool,
    /// Counts the tokens fetched, so that callers whose token was refused fetch one new one between them.
    tokens: u64,
    /// When the last one was fetched.
    fetched: Instant,
    /// When a fresh one was refused last.
    denied: Option<Instant>,
    /// Held while a client is made or a token fetched, so that a thousand callers do it once. Each generation has its own:
    /// nobody waits for a member that was given up.
    making: Arc<tokio::sync::Mutex<()>>,
}

/// Whose turn it is: what is blamed if a request fails.
struct Turn {
    generation: u64,
    tokens: u64,
    member: String,
}

impl Etcd {
    pub(crate) fn new(options: EtcdOptions) -> Result<Self, Error> {
        options.check()?;
        Ok(Self::with(Source::Options(Box::new(options.shuffled()))))
    }

    pub(crate) fn from_client(client: Client) -> Self {
        Self::with(Source::Client(Box::new(client)))
    }

    fn with(source: Source) -> Self {
        let (fetched, making) = (Instant::now(), Arc::default());
        let state = Mutex::new(State {
            member: 0,
            generation: 0,
            client: None,
            anonymous: false,
            tokens: 0,
            fetched,
            denied: None,
            making,
        });
        Self { shared: Arc::new(Shared { source, state }) }
    }

    /// The members' hosts; those of the user's own client are not known.
    pub(crate) fn hosts(&self) -> Option<Vec<Authority>> {
        match &self.shared.source {
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
        match &self.shared.source {
            Source::Options(options) => options.request_timeout,
            Source::Client(_) => options::REQUEST_TIMEOUT,
        }
    }

    fn turn(&self) -> Turn {
        self.turn_of(&self.state())
    }

    fn turn_of(&self, state: &State) -> Turn {
        let member = match &self.shared.source {
            Source::Options(options) => options.endpoints()[state.member].clone(),
            Source::Client(_) => "etcd".into(),
        };
        Turn { generation: state.generation, tokens: state.tokens, member }
    }

    fn tries(&self) -> usize {
        match &self.shared.source {
            Source::Options(options) => (2 * options.endpoints().len()).min(TRIES_UNKNOWN),
            Source::Client(_) => TRIES_UNKNOWN,
        }
    }

    /// One unary call: tried on other members while another may fare better, once more with a new token where that may
    /// help, each try within `deadline`, connecting included. Every operation given here may be repeated.
    async fn call<T, F, Fut>(&self, deadline: Duration, doing: &str, operation: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let (mut tries, mut refreshed) = (0, 0);
        loop {
            tries += 1;
            let mut turn = self.turn();
            let attempt = async {
                let client = self.client(&mut turn).await?;
                operation(client).await.map_err(Failure::from)
            };
            let failure = match bounded(deadline, attempt).await {
                Ok(value) => return Ok(value),
                Err(failure) => self.of_client(failure, turn.generation).while_doing(doing, &turn.member),
            };
            if refreshed == 0 && self.is_worth_a_token(&failure) {
                refreshed = 1;
                if self.refresh_within(deadline, turn.tokens).await.is_ok() {
                    continue;
                }
            }
            self.blame(&turn, &failure);
            let again = failure.elsewhere || failure.class == Class::Token;
            if !again || tries >= self.tries() + refreshed {
                return Err(failure);
            }
        }
    }

    /// A refusal of a client without a user is that of its missing token: authentication is on since it was made.
    fn of_client(&self, failure: Failure, generation: u64) -> Failure {
        let state = self.state();
        if failure.class == Class::Denied && state.anonymous && state.generation == generation {
            return failure.for_want_of_a_user();
        }
        failure
    }

    /// Gives a member up where another might fare better.
    fn blame(&self, turn: &Turn, failure: &Failure) {
        // A client that was made before authentication was turned on has nobody to fetch a token for.
        if failure.elsewhere || failure.class == Class::Token {
            self.give_up(turn.generation);
        }
    }

    /// Whether a new token may mend it. etcd 3.5 says of an expired one that permission is denied, and a role that is
    /// denied in earnest must not cost etcd a password's check with each try.
    pub(crate) fn is_worth_a_token(&self, failure: &Failure) -> bool {
        match failure.class {
            Class::Token => true,
            Class::Denied => {
                let mut state = self.state();
                let is_fresh = state.fetched.elapsed() < TOKEN_IS_FRESH;
                if is_fresh {
                    state.denied = Some(Instant::now());
                }
                !is_fresh && state.denied.is_none_or(|denied| denied.elapsed() >= DENIED_IN_EARNEST)
            }
            _ => false,
        }
    }

    /// The client in use, or a new one for the member whose turn it is; `turn` is then the client's.
    async fn client(&self, turn: &mut Turn) -> Result<Client, Failure> {
        let options = match &self.shared.source {
            Source::Client(client) => return Ok(Client::clone(client)),
            Source::Options(options) => options,
        };
        let making = {
            let state = self.state();
            *turn = self.turn_of(&state);
            if let Some(client) = &state.client {
                return Ok(client.clone());
            }
            state.making.clone()
        };
        let _making = making.lock().await;
        let member = {
            let state = self.state();
            *turn = self.turn_of(&state);
            match &state.client {
                Some(client) => return Ok(client.clone()),
                None => state.member,
            }
        };
        // Boxed: connecting is rare and its future large, and every call holds the place for it.
        let (client, anonymous) = Box::pin(options.connect(member)).await.map_err(Failure::of_the_connection)?;
        let mut state = self.state();
        if state.generation == turn.generation {
            (state.client, state.anonymous) = (Some(client.clone()), anonymous);
            state.fetched = Instant::now();
        }
        Ok(client)
    }

    /// The client of that generation failed: the next call goes to the next member.
    fn give_up(&self, generation: u64) {
        if let Source::Options(options) = &self.shared.source {
            let mut state = self.state();
            if state.generation == generation {
                state.generation += 1;
                state.member = (state.member + 1) % options.endpoints().len();
                state.client = None;
                state.making = Arc::default();
            }
        }
    }

    /// Fetches a new token for the client in use.
    pub(crate) async fn refresh_token(&self) -> Result<(), Failure> {
        let tokens = self.state().tokens;
        self.refresh_within(self.request_timeout(), tokens).await
    }

    async fn refresh_within(&self, deadline: Duration, tokens: u64) -> Result<(), Failure> {
        let mut turn = self.turn();
        bounded(deadline, self.refresh(tokens, &mut turn)).await.map_err(|failure| {
            self.blame(&turn, &failure);
            failure.while_doing("refreshing the token", &turn.member)
        })
    }

    /// Fetches a new token, unless someone has since the caller counted `tokens`.
    async fn refresh(&self, tokens: u64, turn: &mut Turn) -> Result<(), Failure> {
        let client = self.client(turn).await?;
        let making = self.state().making.clone();
        let _making = making.lock().await;
        if self.state().tokens != tokens {
            return Ok(());
        }
        client.refresh_token().await.map_err(|error| Failure::of_the_connection(error.into()))?;
        let mut state = self.state();
        (state.tokens, state.fetched) = (state.tokens + 1, Instant::now());
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state of it is whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bounded<T>(deadline: Duration, attempt: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match timeout(deadline, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Failure::timed_out(deadline)),
    }
}
