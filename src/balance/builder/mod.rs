//! The settings of a channel, their checks, and the start of a channel.
//!
//! - `mod.rs`: settings of calls; [`BalancedChannelBuilder::build_with_discovery`] and `start`, which check all settings.
//! - `connections.rs`: settings of connections.
//! - `health.rs`: whether servers are asked for their health.
//! - `service_config.rs`: where the service config comes from.
//! - `selection.rs`: which servers are connected, and which are preferred; `routes.rs`: what calls are routed by.
//! - `call_options.rs`: settings of single calls, and time limits by method.

pub(super) mod call_options;
mod connections;
mod health;
mod routes;
pub(crate) mod selection;
mod service_config;

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use http::uri::Authority;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tower::discover::Discover;

use crate::balance::call::retry::{self, RetryPolicy};
use crate::balance::channel::BalancedChannel;
use crate::balance::config::apply::apply;
use crate::balance::config::{self, AppliedConfig, ConfigSource, ConfigTexts};
use crate::balance::connectivity::{ChannelStatus, DirectoryStatus};
use crate::balance::method_config::{CallSettings, MethodConfig};
use crate::balance::metrics::ChannelMetrics;
use crate::balance::partition::{Partition, Partitions};
use crate::balance::policy::{PickNotifier, Policy};
use crate::balance::pool::source::DiscoverySource;
use crate::balance::pool::{self, ShutdownGuard, Update};
use crate::balance::runtime::pause::PauseDetector;
use crate::balance::shared::{ChannelHandle, ChannelShared, Settings};
use crate::balance::subchannel::connect_permits::ConnectPermits;
use crate::balance::subchannel::further::UNUSED_AFTER;
use crate::balance::subchannel::health::HealthChecks;
use crate::balance::subchannel::outlier::OutlierDetection;
use crate::balance::subchannel::supervisor::ConnectContext;
#[cfg(feature = "_tls")]
use crate::connection::ClientTls;
use crate::connection::{Connector, Options, Transport};
use crate::error::Error;
use crate::instance::Instance;
use crate::metrics::Metrics;
use crate::secret;

/// The default of `idle_timeout`. Cloud load balancers forget idle connections after four to six minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The settings of a [`BalancedChannel`], with its defaults. [`BalancedChannel::builder`] makes one.
///
/// Settings are checked when the channel is built. If a value is outside of its range, that fails with an error that names the
/// setting, the value and the range.
///
/// | question | setting | default |
/// |---|---|---|
/// | Which server gets a call? | [`policy`](Self::policy) | least request |
/// | Which servers may get calls at all? | [`filter`](Self::filter) | all |
/// | Do calls stay in a zone? | [`zone`](Self::zone), [`further_zones`](Self::further_zones), [`zone_busy`](Self::zone_busy) | no |
/// | How many servers are connected? | [`subset`](Self::subset), [`client_id`](Self::client_id) | all |
/// | Does a new server get fewer calls at first? | [`slow_start`](Self::slow_start) | no |
/// | Which part of the servers (a canary, a lane, a tenant) does a call go to? | [`route_key`](Self::route_key), [`route_header`](Self::route_header), [`strict_route_header`](Self::strict_route_header), [`split`](Self::split), [`Route`](crate::Route), [`RouteHeaders`](crate::RouteHeaders) | any server |
/// | What do operators set, in gRPC's service config? | [`service_config`](Self::service_config), [`service_config_file`](Self::service_config_file), [`service_config_updates`](Self::service_config_updates), [`service_config_from_etcd`](Self::service_config_from_etcd) | nothing |
/// | How long may a call take? | [`timeout`](Self::timeout), [`method_config`](Self::method_config), [`CallTimeout`](crate::CallTimeout) | no limit |
/// | How long does it wait for a server? | [`wait_limit`](Self::wait_limit) | 10 s |
/// | Does it wait while no server can be connected? | [`wait_for_ready`](Self::wait_for_ready), [`WaitForReady`](crate::WaitForReady) | no |
/// | Which failed calls are retried? | [`retry`](Self::retry) | those that no server has processed |
/// | How much of a request is kept for a retry? | [`replay_limit`](Self::replay_limit) | 256 KiB |
/// | Is a server whose calls fail left out? | [`outlier_detection`](Self::outlier_detection) | no |
/// | Is a server asked whether it serves? | [`health_check`](Self::health_check) | no |
/// | When does a silent server count as dead? | [`keep_alive`](Self::keep_alive) | after 20 s of silence and 10 s without an answer to a PING |
/// | After what silence is a connection checked before its next call? | [`idle_timeout`](Self::idle_timeout) | 5 min |
/// | How many connections may a server have? | [`connections_per_server`](Self::connections_per_server) | 1 |
/// | How many calls may a server have at once? | [`max_in_flight_per_server`](Self::max_in_flight_per_server) | as many as it accepts |
/// | How long may connecting take? | [`connect_timeout`](Self::connect_timeout) | 5 s |
/// | How many bytes may a server send before the caller reads them? | [`stream_window`](Self::stream_window), [`connection_window`](Self::connection_window) | 2 MiB for each response, 2³¹ − 1 for each connection |
/// | How large may headers be? | [`max_header_list_size`](Self::max_header_list_size), [`max_request_header_list_size`](Self::max_request_header_list_size) | 1 MiB |
/// | Do responses name their servers? | [`served_by`](Self::served_by), [`ReportServer`](crate::ReportServer) | no |
/// | Where do metrics go? | [`metrics`](Self::metrics), [`BalancedChannel::stats`] | [`stats`](BalancedChannel::stats) alone |
/// | Do statuses have addresses? | [`addresses_in_statuses`](Self::addresses_in_statuses) | no |
#[derive(Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct BalancedChannelBuilder {
    settings: Settings,
    /// Parsed into `settings` when the channel is built.
    authority: Option<String>,
    user_agent: Option<String>,
    options: Options,
    connector: Option<Connector>,
    config: ConfigSource,
    metrics: Option<Metrics>,
    /// Of further connections. Tests alone set it.
    unused_after: Duration,
    #[cfg(feature = "_tls")]
    tls: Option<ClientTls>,
}

impl Default for BalancedChannelBuilder {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            authority: None,
            user_agent: None,
            options: Options { idle_timeout: Some(IDLE_TIMEOUT), ..Options::default() },
            connector: None,
            config: ConfigSource::None,
            metrics: None,
            unused_after: UNUSED_AFTER,
            #[cfg(feature = "_tls")]
            tls: None,
        }
    }
}

impl BalancedChannelBuilder {
    /// Sets how a server is picked for each call: a built-in [policy](crate::policy), or your own.
    /// [`LeastRequest`](crate::policy::LeastRequest) by default, because slow servers get fewer calls under it.
    pub fn policy(mut self, policy: impl Policy) -> Self {
        self.settings.policy = Arc::new(policy);
        self
    }

    #[cfg(test)]
    pub(crate) fn settings_for_test(&self) -> &Settings {
        &self.settings
    }

    /// Gives connections ids for fewer calls.
    #[cfg(test)]
    pub(crate) fn max_exchanges(mut self, most: u32) -> Self {
        self.options.max_exchanges = most;
        self
    }

    /// Closes further connections that are unused for so long.
    #[cfg(test)]
    pub(crate) fn unused_after(mut self, time: Duration) -> Self {
        self.unused_after = time;
        self
    }

    /// Sets which calls are retried although a server may have processed them. None by default: only the author of a method
    /// knows whether that is safe.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.settings.calls.retry = retry;
        self
    }

    /// Leaves out servers whose calls fail (gRFC A50's outlier detection). Off by default, as in gRPC. Even without it,
    /// [`LeastRequest`](crate::policy::LeastRequest) and [`PeakEwma`](crate::policy::PeakEwma) give a failing server few calls.
    pub fn outlier_detection(mut self, detection: OutlierDetection) -> Self {
        self.settings.outlier_detection = Some(detection);
        self
    }

    /// Sets the maximum time of each call, also of a call that asks for more itself. A call that takes longer ends with
    /// `DEADLINE_EXCEEDED`.
    ///
    /// None by default, as in gRPC: then a call to a server that is alive but never responds lasts for ever. The time covers
    /// waiting, retries and a streamed response to its last message. [`MethodConfig::no_timeout`] exempts a method,
    /// [`CallTimeout`](crate::CallTimeout) exempts a call. A `timeout` of the [service config](Self::service_config) holds beside it.
    /// With `Duration::ZERO` every call fails, as in gRPC.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.calls.timeout = Some(timeout);
        self
    }

    /// Sets what differs for the calls of one method (`/package.Service/Method`, with or without the first slash), or of all
    /// methods of a service (`/package.Service/`): timeout, wait for ready, retries, sizes of messages.
    ///
    /// What a method's own entry does not set is taken from its service's, and then from the channel's settings. A second entry of
    /// the same name replaces the first. Any other text is an error when the channel is built, also `/`: what holds for all methods
    /// is set by the builder itself (a service config has the name `{}` for them). Whether servers have such a method is not checked.
    pub fn method_config(mut self, method: impl Into<String>, config: MethodConfig) -> Self {
        self.settings.calls.methods.insert(retry::with_leading_slash(method.into()), config);
        self
    }

    /// Whether the service config comes from where the servers come from.
    pub(crate) fn takes_config_from_directory(&self) -> bool {
        matches!(self.config, ConfigSource::Directory)
    }

    /// Sets whether calls wait for ready: until their deadline, also while no server is registered, or none can be connected or is
    /// healthy. A call without a deadline may then wait for ever.
    ///
    /// Off by default, as in gRPC: then calls fail at once in those cases. While the servers
    /// are not resolved yet, or are connecting, calls wait with either setting. [`WaitForReady`](crate::WaitForReady) sets it for one
    /// call.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.settings.calls.wait_for_ready = Some(wait);
        self
    }

    /// Sets the maximum time that a call waits for a server before it ends with `UNAVAILABLE`. Its deadline may be sooner. If a
    /// server that may have processed the call has failed it before, the call ends with that failure instead.
    ///
    /// 10 s by default: twice the time that a connection may take. It bounds all waits of a call together. The backoff
    /// between [transparent retries](crate::BalancedChannel#transparent-retries) counts as a wait. Attempts do not
    /// count, and neither do the pauses of [`RetryPolicy`](crate::RetryPolicy). Calls that wait for ready ignore this
    /// limit.
    pub fn wait_limit(mut self, limit: Duration) -> Self {
        self.settings.wait_limit = limit;
        self
    }

    /// Sets how many bytes of a request are kept for a retry.
    ///
    /// 256 KiB by default, as in Go's gRPC. A larger request is still sent as a whole. Once a call has sent more than this, it is
    /// not retried. There is one exception: the first message is kept whatever its size until the response begins, so a call that
    /// has sent nothing else is retried if no server has processed it.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.settings.replay_limit = bytes;
        self
    }

    /// Sets the `:authority` of requests. The server's `host:port` by default.
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// Sets the `user-agent` of requests. If a request has one already, this is appended to it. `tonic-etcd/VERSION` by default.
    pub fn user_agent(mut self, agent: impl Into<String>) -> Self {
        self.user_agent = Some(agent.into());
        self
    }

    /// Sets whether statuses have addresses: in the texts that the channel makes, and the server's address as metadata
    /// `x-served-by-address`, also of statuses that servers send.
    ///
    /// Off by default: a handler that passes a status on to its own caller would reveal where inner servers are.
    /// [`CallError`](crate::CallError), the status's source, has the addresses in any case.
    pub fn addresses_in_statuses(mut self, hold: bool) -> Self {
        self.settings.addresses_in_statuses = hold;
        self
    }

    /// Sets whether each response has [`ServedBy`](crate::ServedBy) in its extensions: the server that sent it.
    ///
    /// Off by default: it takes allocations for each call. [`ReportServer`](crate::ReportServer) sets it for one call.
    pub fn served_by(mut self, report: bool) -> Self {
        self.settings.served_by = report;
        self
    }

    /// Records the [metrics](crate::metrics) of the channel: a [`Recorder`](crate::metrics::Recorder), or
    /// [`Metrics`], which says which optional ones are recorded too.
    ///
    /// None by default: the same numbers are counted and can be pulled with [`BalancedChannel::stats`]. A channel over a resolution
    /// takes the metrics of its resolver, if that has some and the builder names none.
    pub fn metrics(mut self, metrics: impl Into<Metrics>) -> Self {
        self.metrics = Some(metrics.into());
        self
    }

    /// Takes these metrics, if the user has set none.
    pub(crate) fn default_metrics(mut self, metrics: Option<Metrics>) -> Self {
        self.metrics = self.metrics.or(metrics);
        self
    }

    /// Builds a channel over the instances of any tower discovery, without etcd. `name` stands for the service in texts and logs.
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
    /// let channel = BalancedChannel::builder().build_with_discovery("greeter", fixed)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// When the stream ends, the last set stays. After an error the stream is polled again in 100 ms; the first of several errors
    /// in a row is logged at WARN. After a panic the stream is not polled again: the known servers stay, and the panic is logged
    /// at ERROR. [Draining](Instance::with_draining) instances get no new calls, as with etcd.
    ///
    /// The stream yields instances. [`Resolution::discover`](crate::Resolution::discover) yields tonic's endpoints instead: it is
    /// for tower's balancers.
    ///
    /// # Errors
    /// [`Error::is_invalid_argument`] if a setting is outside of its range, if a method of the retry policy or of a method config has
    /// neither the form `/package.Service/Method` nor `/package.Service/`, if the authority, the user agent or a TLS setting cannot be
    /// used, if the document of [`service_config`](Self::service_config) is invalid, or with
    /// [`service_config_from_etcd`](Self::service_config_from_etcd), because no etcd is known here. Outside of a tokio runtime, and on a runtime without timers, it fails with an error that is none of these.
    pub fn build_with_discovery<D>(self, name: impl Into<String>, discover: D) -> Result<BalancedChannel, Error>
    where
        D: Discover<Service = Instance> + Send + 'static,
        D::Key: Hash + Clone + Send,
        D::Error: fmt::Display,
    {
        let name = name.into();
        if self.takes_config_from_directory() {
            let reason = "its servers do not come from a `Resolution`, which knows the etcd";
            return Err(Error::invalid("service_config_from_etcd of the channel", name, reason));
        }
        let directory = DirectoryStatus::new(&name, None);
        let source = DiscoverySource::new(discover, directory.clone());
        self.start(format!("discover:///{name}"), directory, source, None)
    }

    /// Checks all settings and starts the background task of a channel, which reads its servers from `source`, and its service
    /// configs from `config` if the builder names no other place. `target` is its name in metrics.
    ///
    /// # Errors
    /// As those of [`BalancedChannelBuilder::build_with_discovery`].
    pub(crate) fn start<K, S>(
        self,
        target: String,
        directory: DirectoryStatus,
        source: S,
        config: Option<ConfigTexts>,
    ) -> Result<BalancedChannel, Error>
    where
        K: Hash + Eq + Clone + Send + 'static,
        S: Stream<Item = Update<K>> + Send + 'static,
    {
        let runtime = crate::timers::runtime("a balanced channel")?;
        connections::check(&self.options)?;
        let mut settings = self.settings;
        connections::check_per_server(&settings)?;
        settings.has_service_config = config.is_some() || self.config.is_some();
        settings.calls.check()?;
        settings.routes.check()?;
        settings.selection.check()?;
        if let ConfigSource::Code(text) = &self.config {
            config::check(text, settings.calls.most_attempts())?;
        }
        if let Some((setting, value, bound)) = settings.outlier_detection.and_then(|detection| detection.invalid()) {
            return Err(Error::invalid("outlier detection", value, format!("the {setting} must be {bound}")));
        }
        settings.authority = self.authority.map(parse_authority).transpose()?;
        if let Some(agent) = self.user_agent {
            settings.user_agent = HeaderValue::try_from(&agent)
                .map_err(|error| Error::invalid("user agent", agent, error.to_string()))?;
        }
        let transport = Transport {
            connector: self.connector,
            #[cfg(feature = "_tls")]
            tls: self
                .tls
                .map(ClientTls::build)
                .transpose()
                .map_err(|invalid| Error::invalid("TLS setting", invalid.setting, invalid.reason))?,
        };
        let connect_context = ConnectContext {
            service: directory.service.clone(),
            transport,
            options: self.options,
            permits: ConnectPermits::new(),
            changed: Notify::new(),
            failing: Notify::new(),
            suspicious: Notify::new(),
            failures: AtomicU64::new(0),
            connections_per_server: watch::Sender::new(settings.connections_per_server.unwrap_or(1)),
            may_have_several: settings.may_have_several(),
            unused_after: self.unused_after,
            health: HealthChecks::new(&settings),
        };
        let directory = Arc::new(directory);
        let epoch = Instant::now();
        let shared = Arc::new(ChannelShared {
            channel_status: watch::Sender::new(ChannelStatus::new(directory.clone())),
            servers: ArcSwap::default(),
            unserved: ArcSwap::default(),
            connect_context: Arc::new(connect_context),
            retry_budget: settings.calls.retry.budget_of_tokens(),
            methods: ArcSwap::from_pointee(settings.calls.compile(None, &CallSettings::default())),
            config: AppliedConfig::default(),
            outlier_detection: ArcSwapOption::from_pointee(settings.outlier_detection),
            settings,
            pick_notifier: PickNotifier::default(),
            metrics: ChannelMetrics::new(self.metrics, target.into(), epoch),
            epoch,
            pause_detector: PauseDetector::new(),
            out_of_range_logged: AtomicBool::new(false),
        });
        self.config.first().into_iter().for_each(|text| apply(&shared, text));
        if config.is_some() {
            shared.config.expect();
        }
        let config = config.unwrap_or_else(|| self.config.following());
        let default = Arc::new(Partition::new(shared, directory));
        let partitions = Arc::new(Partitions::new(default.clone(), runtime.clone()));
        // No span: it would live as long as the process, and keep the span open in which the channel was built.
        let pool = pool::run(partitions.clone(), ShutdownGuard(partitions.clone()), source, config);
        let pool_task = runtime.spawn(pool).abort_handle();
        Ok(BalancedChannel(Arc::new(ChannelHandle { shared: default, partitions, pool_task })))
    }
}

fn parse_authority(text: String) -> Result<Authority, Error> {
    if secret::may_have_user(&text) {
        return Err(Error::invalid("authority", secret::without_user(&text), secret::REASON));
    }
    text.parse::<Authority>().map_err(|error| Error::invalid("authority", text, error.to_string()))
}

impl fmt::Debug for BalancedChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalancedChannelBuilder")
            .field("policy", &self.settings.policy)
            .field("retry", &self.settings.calls.retry)
            .field("outlier_detection", &self.settings.outlier_detection)
            .finish_non_exhaustive()
    }
}
