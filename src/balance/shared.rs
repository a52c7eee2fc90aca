//! The state that all clones, calls and background tasks of a channel share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use http::uri::Authority;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;

use crate::address::Address;
use crate::balance::builder::selection::SelectionSettings;
use crate::balance::call::retry::RetryBudget;
use crate::balance::config::AppliedConfig;
use crate::balance::connectivity::{ChannelStatus, Unserved};
use crate::balance::method_config::{CallSettings, CodeConfig};
use crate::balance::metrics::ChannelMetrics;
use crate::balance::partition::{Partition, Partitions};
use crate::balance::policy::{LeastRequest, PickNotifier, Policy};
use crate::balance::pool::room::Limits;
use crate::balance::route::RouteConfig;
use crate::balance::runtime::pause::PauseDetector;
use crate::balance::status::call_error::CallError;
use crate::balance::status::unavailable::Details;
use crate::balance::subchannel::outlier::OutlierDetection;
use crate::balance::subchannel::supervisor::ConnectContext;
use crate::balance::view::Listed;

/// One reference for all clones of a channel and for its calls until their responses begin. The pool's task ends with the last
/// of them.
///
/// The task itself holds partitions and not this: otherwise no channel would ever end.
pub(crate) struct ChannelHandle {
    /// The default partition: of calls without a route.
    pub(crate) shared: Arc<Partition>,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) pool_task: AbortHandle,
}

impl ChannelHandle {
    /// Explains in one sentence why no server of the channel is ready, with addresses.
    pub(crate) fn explain_unavailable(&self) -> String {
        if !self.shared.settings.has_routes() {
            return self.shared.explain_unavailable();
        }
        let last_error = self.partitions.all().iter().find_map(|partition| partition.last_connect_error());
        self.shared.channel_status.borrow().clone().explain(&Details { limits: None, last_error }, true)
    }
}

impl Drop for ChannelHandle {
    fn drop(&mut self) {
        self.pool_task.abort();
    }
}

/// What all partitions of a channel share, and so all of its calls.
pub(crate) struct ChannelShared {
    /// The channel as a whole. Published after the partitions'.
    pub(crate) channel_status: watch::Sender<ChannelStatus>,
    /// All servers of the channel, in the order of their addresses.
    pub(crate) servers: ArcSwap<Vec<Arc<Listed>>>,
    /// What is registered and takes no calls, by the text of the route. For the texts of statuses.
    pub(crate) unserved: ArcSwap<BTreeMap<Arc<str>, Unserved>>,
    /// What the supervisors of the servers share: transport, options, permits to connect.
    pub(crate) connect_context: Arc<ConnectContext>,
    pub(crate) settings: Settings,
    /// Wakes calls that wait because the picker said so.
    pub(crate) pick_notifier: PickNotifier,
    pub(crate) pause_detector: PauseDetector,
    /// Tokens of all calls of the channel together.
    pub(crate) retry_budget: RetryBudget,
    /// The settings of calls by method. Replaced as a whole: a change holds for calls that begin after it.
    pub(crate) methods: ArcSwap<CallSettings>,
    /// The service config in force.
    pub(crate) config: AppliedConfig,
    /// Of the code, or of the service config.
    pub(crate) outlier_detection: ArcSwapOption<OutlierDetection>,
    /// What its calls count.
    pub(crate) metrics: ChannelMetrics,
    /// Zero of the times that costs and pauses are stored as, so that they fit into atomics.
    pub(crate) epoch: Instant,
    /// The policy has picked an index out of range, and that is logged.
    pub(crate) out_of_range_logged: AtomicBool,
}

impl ChannelShared {
    /// Converts a time into the time since the channel's epoch.
    pub(crate) fn since_epoch(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }
}

/// Settings of calls, which do not change while a channel lives. `BalancedChannelBuilder` documents each, and checks them.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent settings of the user's")]
pub(crate) struct Settings {
    pub(crate) policy: Arc<dyn Policy>,
    /// The service config's policy and outlier detection hold, where it has them.
    pub(crate) policy_from_service_config: bool,
    /// What the code says of calls.
    pub(crate) calls: CodeConfig,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    pub(crate) wait_limit: Duration,
    pub(crate) replay_limit: usize,
    pub(crate) authority: Option<Authority>,
    pub(crate) user_agent: HeaderValue,
    pub(crate) addresses_in_statuses: bool,
    /// Responses name their servers.
    pub(crate) served_by: bool,
    /// Every server but those of Unix sockets is called over TLS, whatever its record says.
    pub(crate) tls_only: bool,
    /// What the code says. `None`: what the service config says, or 1.
    pub(crate) connections_per_server: Option<usize>,
    /// The channel has a source of service configs, which may say how many.
    pub(crate) has_service_config: bool,
    pub(crate) max_in_flight_per_server: Option<usize>,
    /// The service whose health each server is asked for, unless the policy does without.
    pub(crate) health_check: Option<Arc<str>>,
    /// What the calls may be routed by.
    pub(crate) routes: RouteConfig,
    /// Which servers are connected and preferred.
    pub(crate) selection: SelectionSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Arc::new(LeastRequest::new()),
            policy_from_service_config: false,
            calls: CodeConfig::default(),
            outlier_detection: None,
            wait_limit: Duration::from_secs(10),
            replay_limit: 256 << 10,
            authority: None,
            user_agent: HeaderValue::from_static(concat!("tonic-etcd/", env!("CARGO_PKG_VERSION"))),
            addresses_in_statuses: false,
            served_by: false,
            tls_only: false,
            connections_per_server: None,
            has_service_config: false,
            max_in_flight_per_server: None,
            health_check: None,
            routes: RouteConfig::default(),
            selection: SelectionSettings::default(),
        }
    }
}

impl Settings {
    /// Puts addresses into a status if the user asked for it. Every status passes through here on its way to the caller.
    pub(crate) fn finish_status(&self, status: &mut Status) {
        if self.addresses_in_statuses {
            *status = CallError::with_addresses(std::mem::replace(status, Status::ok("")));
        }
    }

    /// Explains in a part of a sentence why no ready server has room.
    pub(crate) fn explain(&self, limits: &Limits, most: usize) -> String {
        let Limits { at_stream_limit, connections, streams, at_server_limit, idle } = *limits;
        let mut parts = Vec::new();
        if at_stream_limit > 0 {
            parts.push(format!(
                "{at_stream_limit} at the limit of streams ({streams} streams over {connections} connections; \
                 connections_per_server is {most})"
            ));
        }
        if let Some(most) = self.max_in_flight_per_server.filter(|_| at_server_limit > 0) {
            parts.push(format!("{at_server_limit} at max_in_flight_per_server ({most})"));
        }
        if idle > 0 {
            parts.push(format!("{idle} idle, with no answer to a PING yet"));
        }
        format!("none of the ready has room: {}", parts.join(", "))
    }

    /// Whether calls may be routed.
    pub(crate) fn has_routes(&self) -> bool {
        !self.routes.keys().is_empty()
    }

    /// Whether the calls over all connections of a server are counted together. Otherwise its only connection counts them.
    pub(crate) fn counts_by_server(&self) -> bool {
        self.may_have_several() || self.max_in_flight_per_server.is_some()
    }

    /// Whether a server may have several connections, now or after a change of the service config.
    pub(crate) fn may_have_several(&self) -> bool {
        self.connections_per_server.map_or(self.has_service_config, |connections| connections > 1)
    }

    /// Returns the `:authority` of requests to a server. `None` does not occur: every parsed address has one.
    pub(crate) fn authority_of(&self, address: &Address) -> Option<Authority> {
        self.authority.clone().or_else(|| address.authority().parse().ok())
    }
}
