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

use etcd_client::Client;
use tokio::time::timeout;

pub(crate) use failure::{Class, Failure};
pub(crate) use lease::KeepAlive;
pub use options::EtcdOptions;
pub(crate) use watch::{Message, Watch};

use crate::error::Error;
use crate::instance::Authority;
use crate::target::Target;

/// Messages may be as large as gRPC can say; etcd itself bounds what it stores.
const MAX_MESSAGE: usize = i32::MAX as usize;

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
}

impl Etcd {
    pub(crate) fn new(options: EtcdOptions) -> Result<Self, Error> {
        options.check()?;
        // A fleet spreads over the members.
        let member = fastrand::usize(..options.endpoints().len());
        Ok(Self::with(Source::Options(Box::new(options)), member))
    }

    pub(crate) fn from_client(client: Client) -> Self {
        Self::with(Source::Client(Box::new(client)), 0)
    }

    fn with(source: Source, member: usize) -> Self {
        let state = Mutex::new(State { member, generation: 0, client: None });
        Self { shared: Arc::new(Shared { source, state }) }
    }

    /// Refuses a target that names hosts of another etcd.
    pub(crate) fn check_hosts(&self, target: &Target) -> Result<(), Error> {
        if target.hosts().len() == 0 {
            return Ok(());
        }
        let refuse = |reason: String| Err(Error::invalid("target", target.to_string(), reason));
        let Source::Options(options) = &self.shared.source else {
            return refuse("it names etcd hosts, and those of the client that was given are not known".into());
        };
        let hosts = options.hosts();
        match target.hosts().find(|host| !hosts.iter().any(|known| known.as_str() == *host)) {
            None => Ok(()),
            Some(host) => {
                let hosts: Vec<&str> = hosts.iter().map(Authority::as_str).collect();
                refuse(format!("its host {host} is not one of this etcd's: {}", hosts.join(", ")))
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

    /// Which member is asked now, for messages.
    fn member(&self) -> &str {
        match &self.shared.source {
            Source::Options(options) => &options.endpoints()[self.state().member],
            Source::Client(_) => "etcd",
        }
    }

    fn tries(&self) -> usize {
        match &self.shared.source {
            Source::Options(options) => (2 * options.endpoints().len()).min(TRIES_UNKNOWN),
            Source::Client(_) => TRIES_UNKNOWN,
        }
    }

    /// One unary call: tried on other members while failures are transient, once more with a new token where that may
    /// help, each try within `deadline`. Every operation given here may be repeated.
    async fn call<T, F, Fut>(&self, deadline: Duration, doing: &str, operation: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut refreshed = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let (generation, result) = match self.client().await {
                Ok((generation, client)) => {
                    let result = match timeout(deadline, operation(client.clone())).await {
                        Ok(result) => result.map_err(Failure::from),
                        Err(_) => Err(Failure::timed_out(deadline)),
                    };
                    if let Err(failure) = &result
                        && failure.may_be_the_token()
                        && !refreshed
                    {
                        refreshed = true;
                        if bounded_refresh(&client, self.request_timeout()).await.is_ok() {
                            continue;
                        }
                    }
                    (generation, result)
                }
                Err((generation, failure)) => (generation, Err(failure)),
            };
            let failure = match result {
                Ok(value) => return Ok(value),
                Err(failure) => failure.while_doing(doing, self.member()),
            };
            if !failure.blames_the_client() {
                return Err(failure);
            }
            self.give_up(generation);
            if failure.class != Class::Transient || tries >= self.tries() {
                return Err(failure);
            }
        }
    }

    /// The client in use, or a new one for the member whose turn it is.
    async fn client(&self) -> Result<(u64, Client), (u64, Failure)> {
        let options = match &self.shared.source {
            Source::Client(client) => return Ok((0, Client::clone(client))),
            Source::Options(options) => options,
        };
        let (generation, member) = {
            let state = self.state();
            match &state.client {
                Some(client) => return Ok((state.generation, client.clone())),
                None => (state.generation, state.member),
            }
        };
        // Boxed: connecting is rare and its future large, and every call holds the place for it.
        let client = Box::pin(options.connect(member)).await.map_err(|failure| (generation, failure))?;
        let mut state = self.state();
        if state.generation == generation {
            state.client = Some(client.clone());
        }
        Ok((generation, client))
    }

    /// The client of that generation failed: the next call goes to the next member.
    fn give_up(&self, generation: u64) {
        if let Source::Options(options) = &self.shared.source {
            let mut state = self.state();
            if state.generation == generation {
                state.generation += 1;
                state.member = (state.member + 1) % options.endpoints().len();
                state.client = None;
            }
        }
    }

    /// Fetches a new token for the client in use.
    pub(crate) async fn refresh_token(&self) -> Result<(), Failure> {
        let doing = "refreshing the token";
        let (generation, client) =
            self.client().await.map_err(|(_, failure)| failure.while_doing(doing, self.member()))?;
        bounded_refresh(&client, self.request_timeout()).await.map_err(|failure| {
            self.give_up(generation);
            failure.while_doing(doing, self.member())
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state of it is whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bounded_refresh(client: &Client, deadline: Duration) -> Result<(), Failure> {
    match timeout(deadline, client.refresh_token()).await {
        Ok(result) => result.map_err(Failure::from),
        Err(_) => Err(Failure::timed_out(deadline)),
    }
}
