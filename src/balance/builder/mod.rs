//! What can be set of a channel, and how one comes to be.

mod connections;
pub(super) mod timeouts;

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use http::uri::Authority;
use tokio::sync::{Notify, watch};
use tokio_stream::Stream;
use tower::discover::Discover;

use crate::balance::builder::timeouts::Timeouts;
use crate::balance::call::retry::{self, RetryPolicy};
use crate::balance::channel::{Inner, Settings};
use crate::balance::connectivity::{ChannelStatus, Directory};
use crate::balance::policy::Policy;
use crate::balance::pool::connect_permits::Permits;
use crate::balance::pool::source::DiscoverySource;
use crate::balance::pool::{self, End, Update};
use crate::balance::status::unavailable::Reason;
use crate::balance::subchannel::outlier::Ejection;
use crate::balance::subchannel::supervisor::ConnectContext;
use crate::balance::{BalancedChannel, Shared};
#[cfg(feature = "_tls")]
use crate::connection::ClientTls;
use crate::connection::{Connector, Options, Transport};
use crate::error::Error;
use crate::instance::Instance;
use crate::secret;

/// Cloud load balancers forget idle connections after four to six minutes.
const IDLE: Duration = Duration::from_secs(5 * 60);
/// What HTTP/2 allows (RFC 9113, 6.5.2 and 6.9.1).
const WINDOWS: std::ops::RangeInclusive<u32> = 1..=(1 << 31) - 1;
const CONNECTION_WINDOWS: std::ops::RangeInclusive<u32> = 65_535..=(1 << 31) - 1;
/// 16 times the most is what HTTP/2's settings can say.
const HEADERS: std::ops::RangeInclusive<u32> = 1024..=1 << 28;
const FRAMES: std::ops::RangeInclusive<u32> = (1 << 14)..=(1 << 24) - 1;

/// What can be set of a [`BalancedChannel`].
#[derive(Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct BalancedChannelBuilder {
    policy: Policy,
    retry: RetryPolicy,
    ejection: Option<Ejection>,
    timeouts: Timeouts,
    wait_for_ready: bool,
    wait_limit: Duration,
    replay_limit: usize,
    authority: Option<String>,
    user_agent: Option<String>,
    addresses_in_statuses: bool,
    options: Options,
    connector: Option<Connector>,
    #[cfg(feature = "_tls")]
    tls: Option<ClientTls>,
}

impl Default for BalancedChannelBuilder {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            retry: RetryPolicy::default(),
            ejection: None,
            timeouts: Timeouts::default(),
            wait_for_ready: false,
            wait_limit: Duration::from_secs(10),
            replay_limit: 256 << 10,
            authority: None,
            user_agent: None,
            addresses_in_statuses: false,
            options: Options { idle_timeout: Some(IDLE), ..Options::default() },
            connector: None,
            #[cfg(feature = "_tls")]
            tls: None,
        }
    }
}

impl BalancedChannelBuilder {
    /// How a server is picked; [`Policy::LeastRequest`] by default.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Connections have ids for fewer calls.
    #[cfg(test)]
    pub(crate) fn most_exchanges(mut self, most: u32) -> Self {
        self.options.most_exchanges = most;
        self
    }

    /// Which calls may be repeated although a server may have processed them; none by default.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Leaves out servers whose calls fail (gRFC A50's outlier detection); off by default, as in gRPC. Without it
    /// [`Policy::LeastRequest`] and [`Policy::PeakEwma`] still give a failing server few calls.
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.ejection = Some(ejection);
        self
    }

    /// The most time that each call has, also where it asks for more itself; then it ends with `DEADLINE_EXCEEDED`. None by
    /// default, as in gRPC: a server that takes a call and answers nothing then holds it without end. It covers a stream to its
    /// last message: [`BalancedChannelBuilder::method_timeout`] exempts a method from it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeouts.channel = Some(timeout);
        self
    }

    /// The same for one method (`/package.Service/Method`, with or without the first slash), or for all methods of a service
    /// (`/package.Service/`), in place of the channel's. `None` gives them no limit: for a method that watches something for as long
    /// as its caller likes. A method's own entry outweighs its service's; [`CallTimeout`](crate::balance::CallTimeout) outweighs both for one
    /// call. What is no path of a method or a service is an error of `build` and `discover`.
    pub fn method_timeout(mut self, method: impl Into<String>, timeout: Option<Duration>) -> Self {
        self.timeouts.methods.insert(retry::with_slash(method.into()), timeout);
        self
    }

    /// Whether calls wait for a server also when none is registered or none can be connected, until their deadline. Off by
    /// default: such calls fail at once. [`WaitForReady`](crate::balance::WaitForReady) says it for one call.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// How long a call that is not to wait for ready waits at most for a server, before it ends with `UNAVAILABLE`; its
    /// deadline may be sooner. Time that the call spends with a server does not count. 10 s by default: twice the time that a
    /// connection may take.
    pub fn wait_limit(mut self, limit: Duration) -> Self {
        self.wait_limit = limit;
        self
    }

    /// How many bytes of a request's body are kept, so that the call can be made again elsewhere. 256 KiB by default, as in Go's
    /// gRPC. A call that sends more is sent whole all the same, and not made again; but its first message is kept whatever its
    /// size until the answer begins, for the case that provably nobody has processed it.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.replay_limit = bytes;
        self
    }

    /// What `:authority` says in place of the server's `host:port`.
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// What `user-agent` says; after what the call itself says, if it does.
    pub fn user_agent(mut self, agent: impl Into<String>) -> Self {
        self.user_agent = Some(agent.into());
        self
    }

    /// Whether statuses hold addresses: in their text, and the server's as metadata `x-served-by-address`. Off by default: a
    /// handler that passes a status on to its own caller would tell where inner servers are. [`CallError`](crate::balance::CallError)
    /// has them in any case.
    pub fn addresses_in_statuses(mut self, hold: bool) -> Self {
        self.addresses_in_statuses = hold;
        self
    }

    /// A channel over the instances of any tower discovery; `name` stands in errors. Where the stream ends the last set stays, and
    /// its errors are reported and survived. Instances that are [draining](Instance::with_draining) get no new calls, as with etcd.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tonic_etcd::Error> {
    /// use std::convert::Infallible;
    /// use tonic_etcd::{BalancedChannel, Instance};
    /// use tower::discover::Change;
    ///
    /// let instances = [Instance::new("10.0.0.5:50051")?, Instance::new("10.0.0.6:50051")?];
    /// let fixed = tokio_stream::iter(instances.into_iter().enumerate().map(|(key, instance)| {
    ///     Ok::<_, Infallible>(Change::Insert(key, instance))
    /// }));
    /// let channel = BalancedChannel::builder().discover("greeter", fixed)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A discovery that panics is not asked again: the servers that are known stay, and an error is logged.
    ///
    /// It ends the builder, as `build` does. Its stream gives instances; that of [`Resolution::discover`](crate::Resolution::discover)
    /// gives tonic's endpoints, and is for tower's balancers.
    ///
    /// # Errors
    /// When a setting is outside of its range, a method to repeat is none, the authority, the user agent or a TLS setting
    /// cannot be used; and outside a tokio runtime.
    pub fn discover<D>(self, name: impl Into<String>, discover: D) -> Result<BalancedChannel, Error>
    where
        D: Discover<Service = Instance> + Send + 'static,
        D::Key: Hash + Clone + Send,
        D::Error: fmt::Display,
    {
        let directory = Directory::new(&name.into(), None);
        let feed = DiscoverySource::new(discover, directory.clone());
        self.start(directory, feed)
    }

    /// Starts a channel that is told of its servers by `source`.
    pub(crate) fn start<K, S>(self, directory: Directory, source: S) -> Result<BalancedChannel, Error>
    where
        K: Hash + Eq + Clone + Send + 'static,
        S: Stream<Item = Update<K>> + Send + 'static,
    {
        let runtime = crate::timers::runtime("a balanced channel")?;
        let within = |what, value: u32, range: std::ops::RangeInclusive<u32>| {
            let reason = || format!("it must be from {} to {}", range.start(), range.end());
            if range.contains(&value) { Ok(()) } else { Err(Error::invalid(what, value.to_string(), reason())) }
        };
        within("stream window", self.options.stream_window, WINDOWS)?;
        within("connection window", self.options.connection_window, CONNECTION_WINDOWS)?;
        within("frame size", self.options.max_frame_size, FRAMES)?;
        within("header list size", self.options.max_header_list_size, HEADERS)?;
        within("request header list size", self.options.max_request_header_list_size, HEADERS)?;
        if let Some(method) = self.retry.invalid() {
            let reason = "write \"/package.Service/Method\", or \"/package.Service/\" for all of a service";
            return Err(Error::invalid("repeatable method", method, reason));
        }
        if let Some(method) = self.timeouts.methods.keys().find(|method| !retry::is_method(method)) {
            let reason = "write \"/package.Service/Method\", or \"/package.Service/\" for all of a service";
            return Err(Error::invalid("method with a timeout", method, reason));
        }
        let authority = self.authority.map(|text| {
            if secret::may_have_user(&text) {
                return Err(Error::invalid("authority", secret::without_user(&text), secret::REASON));
            }
            text.parse::<Authority>().map_err(|error| Error::invalid("authority", text, error.to_string()))
        });
        let agent = concat!("tonic-etcd/", env!("CARGO_PKG_VERSION")).to_owned();
        let agent = self.user_agent.unwrap_or(agent);
        let user_agent =
            HeaderValue::try_from(&agent).map_err(|error| Error::invalid("user agent", agent, error.to_string()))?;
        let transport = Transport {
            connector: self.connector,
            #[cfg(feature = "_tls")]
            tls: self.tls.map(|tls| tls.build().map_err(invalid_tls)).transpose()?,
        };
        let ground = ConnectContext {
            service: directory.service.clone(),
            transport,
            options: self.options,
            permits: Permits::new(),
            changed: Notify::new(),
            failing: Notify::new(),
            failures: AtomicU64::new(0),
            queue: Arc::default(),
        };
        let inner = Arc::new(Inner {
            ready: ArcSwap::default(),
            lanes: ArcSwap::default(),
            outlook: watch::Sender::new(ChannelStatus::new(Arc::new(directory))),
            queue: ground.queue.clone(),
            ground: Arc::new(ground),
            budget: self.retry.budget_of_tokens(),
            settings: Settings {
                policy: self.policy,
                retry: self.retry,
                ejection: self.ejection,
                timeouts: self.timeouts,
                wait_for_ready: self.wait_for_ready,
                wait_limit: self.wait_limit,
                replay_limit: self.replay_limit,
                authority: authority.transpose()?,
                user_agent,
                addresses_in_statuses: self.addresses_in_statuses,
            },
            memory: crate::balance::policy::Memory::new(),
            epoch: tokio::time::Instant::now(),
            fleet: crate::balance::subchannel::cost::Fleet::default(),
            pauses: crate::balance::runtime::pause::PauseDetector::new(),
            reason: Reason::default(),
        });
        // No span: it would live as long as the process, and keep whatever span it was made in open.
        let task = runtime.spawn(pool::run(inner.clone(), End(inner.clone()), source)).abort_handle();
        Ok(BalancedChannel(Arc::new(Shared { inner, task })))
    }
}

#[cfg(feature = "_tls")]
fn invalid_tls((what, reason): (String, String)) -> Error {
    Error::invalid("TLS setting", what, reason)
}

impl fmt::Debug for BalancedChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalancedChannelBuilder")
            .field("policy", &self.policy)
            .field("retry", &self.retry)
            .field("ejection", &self.ejection)
            .finish_non_exhaustive()
    }
}
