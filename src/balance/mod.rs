//! The balanced channel: a set of servers as one `tower::Service`. Each call picks its server in the caller's task.
//!
//! This folder knows `connection` and changes of instances, and never etcd: any tower discovery of instances can feed a channel.
//!
//! | where | what |
//! |---|---|
//! | `channel` | [`BalancedChannel`], what generated clients are built on |
//! | `builder` | its settings, their checks, and how a channel is started |
//! | `shared` | the state that clones, calls and background tasks share |
//! | `partition` | the part of it that the calls of one route share |
//! | `connectivity`, `view` | the state of a channel and of its servers, as texts and for users |
//! | `config` | the service config of a channel: its sources, and how it is put into force |
//! | `method_config` | the settings of calls by method |
//! | `metrics` | what a channel counts |
//! | `call` | one call: pick, attempt, response, retry |
//! | `queue` | calls that wait for a server, first in, first out |
//! | `filter` | which servers a channel may call |
//! | `status` | the statuses that callers get, and the search for addresses in their texts |
//! | `runtime` | timers, the absence of a runtime, and runtimes that stood still |
//! | `route` | which part of the servers a call goes to |
//! | `policy` | which ready server a call goes to |
//! | `pool` | the background task: changes of instances → subchannels → the set of ready servers |
//! | `subchannel` | one server: its supervisor, state, counters and cost |
//!
//! ```text
//! changes of instances ─▶ pool ─▶ one supervisor per server ─▶ connections
//!                           │ ArcSwap: the ready servers     │ watch: the channel's status
//!                           ▼                                ▼
//! call ── pick ──▶ attempt ──▶ response          queue: calls that found no server
//!           ▲                     │ not processed, or declared safe to retry
//!           └─────────────────────┘
//! ```

mod builder;
pub(crate) mod call;
mod channel;
mod config;
mod connectivity;
pub(crate) mod filter;
mod method_config;
pub(crate) mod metrics;
mod partition;
pub mod policy;
pub(crate) mod pool;
pub(crate) mod queue;
pub(crate) mod route;
mod runtime;
mod shared;
pub(crate) mod status;
pub(crate) mod subchannel;
mod view;

pub use crate::balance::builder::BalancedChannelBuilder;
pub use crate::balance::builder::call_options::{CallTimeout, ReportServer, WaitForReady};
pub use crate::balance::call::response_body::{ResponseBody, ServedBy};
pub use crate::balance::call::retry::RetryPolicy;
pub use crate::balance::channel::{BalancedChannel, ResponseFuture};
pub(crate) use crate::balance::config::{ConfigText, ConfigTexts, TextError};
pub use crate::balance::config::{ServiceConfigSource, ServiceConfigStatus, check_service_config};
pub use crate::balance::connectivity::ConnectivityState;
pub(crate) use crate::balance::connectivity::DirectoryStatus;
pub use crate::balance::filter::Filter;
pub use crate::balance::method_config::MethodConfig;
pub use crate::balance::metrics::{AttemptStats, ChannelStats, ConnectionStats, MethodStats};
pub(crate) use crate::balance::pool::Update;
pub(crate) use crate::balance::pool::members::InstanceChange;
pub use crate::balance::pool::select::{Reason as SelectionReason, SlowStart};
pub use crate::balance::route::hops::{
    RouteBody, RouteClient, RouteClientLayer, RouteContext, RouteHeaders, RouteServer, RouteServerLayer,
};
pub use crate::balance::route::{Route, Split};
pub use crate::balance::status::call_error::CallError;
pub use crate::balance::subchannel::outlier::OutlierDetection;
pub use crate::balance::subchannel::{ServerState, ServerStatus};
pub use crate::balance::view::ConnectivityStates;
