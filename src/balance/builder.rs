//! What can be set of a channel, and how one comes to be.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::uri::Authority;
use http::{HeaderValue, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio_stream::Stream;
use tower::Service;
use tower::discover::Discover;

use super::channel::{Inner, Settings};
use super::feed::Feed;
use super::outlier::Ejection;
use super::outlook::{Directory, Outlook};
use super::places::Places;
use super::policy::Policy;
use super::pool::{self, End, Update};
use super::reason::Reason;
use super::retry::{self, RetryPolicy};
use super::supervisor::Ground;
use super::timeouts::Timeouts;
use super::{BalancedChannel, Shared};
#[cfg(feature = "_tls")]
use crate::connection::ClientTls;
use crate::connection::{Connector, Io, KeepAlive, Options, TcpKeepalive, Transport};
use crate::error::{BoxError, Error};
use crate::instance::Instance;

/// Cloud load balancers forget idle connections after four to six minutes.
const IDLE: Duration = Duration::from_secs(5 * 60);
/// The longest time that can be set; a longer one would be for ever.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
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
    /// as its caller likes. A method's own entry outweighs its service's; [`CallTimeout`](super::CallTimeout) outweighs both for one
    /// call. What is no path of a method or a service is an error of `build` and `discover`.
    pub fn method_timeout(mut self, method: impl Into<String>, timeout: Option<Duration>) -> Self {
        self.timeouts.methods.insert(retry::with_slash(method.into()), timeout);
        self
    }

    /// Whether calls wait for a server also when none is registered or none can be connected, until their deadline. Off by
    /// default: such calls fail at once. [`WaitForReady`](super::WaitForReady) says it for one call.
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
    /// handler that passes a status on to its own caller would tell where inner servers are. [`CallError`](super::CallError)
    /// has them in any case.
    pub fn addresses_in_statuses(mut self, hold: bool) -> Self {
        self.addresses_in_statuses = hold;
        self
    }

    /// How long a connection may take, from the name's resolution to the server's HTTP/2 SETTINGS. 5 s by default: a frozen process
    /// still accepts connections. Values below 1 ms count as 1 ms, those above a day as a day.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout.clamp(Duration::from_millis(1), A_DAY);
        self
    }

    /// HTTP/2 keep-alive; on by default, as [`KeepAlive::default`] says.
    pub fn keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.options.keep_alive = Some(keep_alive);
        self
    }

    /// No keep-alive: a server that freezes is then found out by nothing but the calls' deadlines.
    pub fn without_keep_alive(mut self) -> Self {
        self.options.keep_alive = None;
        self
    }

    /// How many bytes of one answer may be on their way, from 1 to 2³¹ − 1. 2 MiB by default, as with tonic's channel.
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.options.stream_window = bytes;
        self
    }

    /// The maximum number of bytes of all answers over one connection that were received and not read, from 65 535 to 2³¹ − 1.
    /// 2³¹ − 1 by default, all that HTTP/2 allows.
    ///
    /// A byte counts until its caller reads it, in this window and in its stream's: h2 couples the two. With a smaller window
    /// answers that nobody reads stop every other call over the connection once they fill it, three of them with tonic's 5 MiB
    /// and 2 MiB. A connection therefore buffers up to min(this window, concurrent streams ×
    /// [`stream_window`](Self::stream_window)) bytes, and about 250 bytes more for each DATA frame. Set a cap where memory
    /// matters more than that; concurrent streams × `stream_window` is one that stops nobody.
    pub fn connection_window(mut self, bytes: u32) -> Self {
        self.options.connection_window = bytes;
        self
    }

    /// The largest frame that servers may send, from 16 KiB to 16 MiB − 1. 16 KiB by default, as with tonic's channel.
    pub fn max_frame_size(mut self, bytes: u32) -> Self {
        self.options.max_frame_size = bytes;
        self
    }

    /// The maximum size of an answer's headers, and of its trailers, in bytes from 1 KiB to 256 MiB: names, values and 32 bytes
    /// for each, as HTTP/2 counts them (RFC 9113, 6.5.2). 1 MiB by default: error texts and details come whole, and no answer
    /// takes much memory. tonic's channel takes 16 KiB.
    ///
    /// Larger headers or trailers fail their own call with `RESOURCE_EXHAUSTED`. The text has the server's code, the size, and this
    /// limit. The call is not repeated.
    ///
    /// HTTP/2 itself takes 16 MiB, or 16 times this limit if that is more. (More again where
    /// [`max_frame_size`](Self::max_frame_size) is above 64 KiB, because servers may keep to small frames.) Beyond that the
    /// status is the same without the size. It lacks the server's code too, unless `grpc-status` comes first in trailers. An answer
    /// with more than 1.25 times HTTP/2's limit on the wire ends the connection. Its own call ends in the same way; the others
    /// over the connection end with `UNAVAILABLE`, and are repeated once at most, where [`RetryPolicy`] lets them be.
    pub fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.options.max_header_list_size = bytes;
        self
    }

    /// The maximum size of a request's headers, in bytes from 1 KiB to 256 MiB and counted as in
    /// [`max_header_list_size`](Self::max_header_list_size), towards a server whose SETTINGS do not say what it takes. 1 MiB by
    /// default. For others what they say holds in its place (`SETTINGS_MAX_HEADER_LIST_SIZE`, also when it changes): tonic's
    /// take 16 KiB by default, Java's 8 KiB. Go's take 16 MiB, and do not say so unless it is set.
    ///
    /// A request whose headers are as large as that or larger is not sent (h2's servers refuse exactly their limit too). It fails
    /// with `INTERNAL`, as in Go's gRPC; the text has the size, the limit, and the name of the largest header, and never its value.
    /// It is not repeated elsewhere.
    pub fn max_request_header_list_size(mut self, bytes: u32) -> Self {
        self.options.max_request_header_list_size = bytes;
        self
    }

    /// `TCP_NODELAY`; on by default, as with tonic's channel. It does nothing with a [`connector`](Self::connector).
    pub fn tcp_nodelay(mut self, on: bool) -> Self {
        self.options.tcp_nodelay = on;
        self
    }

    /// Sends HTTP/2 keep-alive pings also on connections without calls, as gRPC's `GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS`. Off by
    /// default, because servers end connections over that unless they are told to permit it (in Go, `keepalive.EnforcementPolicy`
    /// with `PermitWithoutStream`; tonic's always do). Two such pings come at the interval of [`KeepAlive`], then one in five
    /// minutes until an answer makes progress; all of them at its interval with [`KeepAlive::unthrottled`]. It does nothing
    /// without keep-alive.
    pub fn keep_alive_while_idle(mut self, on: bool) -> Self {
        self.options.keep_alive_while_idle = on;
        self
    }

    /// How long nothing may come over a connection before it must prove that it is alive. A call that finds it so sends it a PING,
    /// and goes to another server that is ready. The only server gets the call when it answers the PING, or anything else comes
    /// from it; where nothing does within 1 s, the call goes over a new connection. 5 min by default: NATs and cloud load balancers
    /// forget idle connections after four to six minutes, and tell nobody. Values below 10 ms count as 10 ms, those above a day
    /// as a day.
    ///
    /// At most two such pings are sent before a call is answered, because servers count pings (see [`KeepAlive`]); after that a new
    /// connection takes the place of the silent one. [`KeepAlive::unthrottled`] lifts that limit. This does not depend on
    /// keep-alive: it works without it too.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = Some(timeout.clamp(Duration::from_millis(10), A_DAY));
        self
    }

    /// Takes connections for alive however long they were silent: calls go over them without a PING before.
    pub fn without_idle_timeout(mut self) -> Self {
        self.options.idle_timeout = None;
        self
    }

    /// TCP's own keep-alive (`SO_KEEPALIVE`): probes after `time` without traffic, every `interval`; the connection is lost after
    /// `retries` probes without an answer. Off by default, because HTTP/2's keep-alive sees more: a frozen process still answers
    /// TCP's probes. They keep NATs from forgetting idle connections, and no server counts them.
    ///
    /// Times are whole seconds from 1 to 32 767, and retries from 1 to 127, as on Linux; what is outside counts as the nearest of
    /// them. `interval` and `retries` are set on Linux and Android alone; elsewhere they are the system's. It does nothing with
    /// Unix sockets and with a [`connector`](Self::connector).
    pub fn tcp_keepalive(mut self, time: Duration, interval: Duration, retries: u32) -> Self {
        self.options.tcp_keepalive = Some(TcpKeepalive::new(time, interval, retries));
        self
    }

    /// `TCP_USER_TIMEOUT` (gRFC A18): how long what was sent may stay unacknowledged before the connection is lost. Where
    /// [`tcp_keepalive`](Self::tcp_keepalive) is on, it overrides its `retries`. By default the system's own limit holds, which is
    /// many minutes: HTTP/2 keep-alive sees more. It counts whole milliseconds, from 1 ms to a day. On Linux and Android alone;
    /// elsewhere it does nothing, nor with Unix sockets or a [`connector`](Self::connector).
    pub fn tcp_user_timeout(mut self, timeout: Duration) -> Self {
        self.options.tcp_user_timeout = Some(timeout.clamp(Duration::from_millis(1), A_DAY));
        self
    }

    /// TLS for servers that are written as `https`. Without it they are refused, and never called in plain text.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// A way of one's own to a server, in place of TCP and Unix sockets: it is given `http://host:port/`,
    /// `https://host:port/` or `unix://localhost/path` (percent-encoded). TLS is laid over it where the server is written as `https`.
    pub fn connector<C>(mut self, connector: C) -> Self
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send,
    {
        self.connector = Some(Arc::new(move |uri| {
            let mut connector = connector.clone();
            Box::pin(async move {
                let said = |error: C::Error| error.into().to_string();
                std::future::poll_fn(|cx| connector.poll_ready(cx)).await.map_err(said)?;
                let io = connector.call(uri).await.map_err(said)?;
                Ok(Box::new(io) as Box<dyn Io>)
            })
        }));
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
        let feed = Feed::new(discover, directory.clone());
        self.start(directory, feed)
    }

    /// Starts a channel that is told of its servers by `source`.
    pub(crate) fn start<K, S>(self, directory: Directory, source: S) -> Result<BalancedChannel, Error>
    where
        K: Hash + Eq + Clone + Send + 'static,
        S: Stream<Item = Update<K>> + Send + 'static,
    {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::no_runtime("a balanced channel"))?;
        if super::runtime::timer(tokio::time::Instant::now()).is_err() {
            return Err(Error::no_runtime("a balanced channel, which needs timers too (enable_time, or enable_all),"));
        }
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
        let ground = Ground {
            transport,
            options: self.options,
            places: Places::new(),
            changed: Notify::new(),
            failing: Notify::new(),
            failures: AtomicU64::new(0),
            queue: Arc::default(),
        };
        let span = tracing::info_span!("channel", service = &*directory.service);
        let inner = Arc::new(Inner {
            ready: ArcSwap::default(),
            lanes: ArcSwap::default(),
            outlook: watch::Sender::new(Outlook::new(Arc::new(directory))),
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
            memory: super::policy::Memory::new(),
            epoch: tokio::time::Instant::now(),
            fleet: super::cost::Fleet::default(),
            pauses: super::pause::PauseDetector::new(),
            reason: Reason::default(),
        });
        let task = spawn(&runtime, pool::run(inner.clone(), End(inner.clone()), source), span);
        Ok(BalancedChannel(Arc::new(Shared { inner, task })))
    }
}

#[cfg(feature = "_tls")]
fn invalid_tls((what, reason): (String, String)) -> Error {
    Error::invalid("TLS setting", what, reason)
}

fn spawn(
    runtime: &tokio::runtime::Handle,
    task: impl Future<Output = ()> + Send + 'static,
    span: tracing::Span,
) -> tokio::task::AbortHandle {
    use tracing::Instrument;
    runtime.spawn(task.instrument(span)).abort_handle()
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
