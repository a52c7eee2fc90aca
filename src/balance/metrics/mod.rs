//! What a channel counts: always for [`BalancedChannel::stats`](crate::BalancedChannel::stats), and for a recorder where there is one.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the metrics of one channel: a table of its methods |
//! | `method.rs` | the numbers of one method: attempts, calls, retries, by status |
//! | `call.rs` | what one call, and one attempt, counts from its beginning to its end |
//! | `connections.rs` | connections to servers: made, open, ended |
//! | `servers.rs` | the states of servers, their ejections, calls that wait |
//! | `by_server.rs` | series with the labels of a server, where they are asked for |
//! | `message_sizes.rs` | the sizes of messages, found in the bytes of a body; pure |
//! | `stats.rs` | the numbers as users read them |
//!
//! ```text
//! call ─begins─▶ CallRecord ──sent──▶ AttemptRecord ──its end──▶ MethodMetrics ─▶ series of the recorder
//!                   └──────────────── its end ───────────────────────▲
//! ```
//!
//! A call finds its method once and keeps it. Nothing of it locks or allocates, but for the first call of a method, and the first
//! end with a status: those bind series, which runs the recorder's code.

mod by_server;
mod call;
mod connections;
mod message_sizes;
mod method;
mod servers;
mod stats;

use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tonic::GrpcMethod;

pub(crate) use crate::balance::metrics::by_server::SeriesByServer;
pub(crate) use crate::balance::metrics::call::{Another, AttemptRecord, CallRecord};
pub(crate) use crate::balance::metrics::connections::{Connections, OpenConnection, ServerConnections};
pub(crate) use crate::balance::metrics::message_sizes::MessageSizes;
use crate::balance::metrics::method::MethodMetrics;
use crate::balance::metrics::servers::ServerMetrics;
pub(crate) use crate::balance::metrics::servers::{StateCounts, WaitingCall};
pub use crate::balance::metrics::stats::{AttemptStats, ChannelStats, ConnectionStats, MethodStats};
use crate::metrics::grpc::OTHER_METHOD;
use crate::metrics::{Bound, Instrument, Metrics, grpc};

/// How many methods a channel tells apart. A program may make the names of generated clients up too; what is beyond counts as
/// `other`.
const MAX_METHODS: usize = 1_000;

/// Most clients of a channel call no more methods than these.
const FIRST: usize = 8;

/// Where the numbers of a channel go.
pub(crate) struct MetricsContext {
    metrics: Option<Metrics>,
    /// The value of the label `grpc.target`.
    target: Arc<str>,
    /// Zero of the times at which calls and attempts begin.
    epoch: Instant,
}

impl MetricsContext {
    /// Binds an instrument with the channel's target and these labels.
    pub(super) fn bind(&self, instrument: &'static Instrument, labels: &[(&'static str, &str)]) -> Bound {
        if self.metrics.is_none() {
            return Bound::none();
        }
        // In the order in which the instrument lists its labels, whatever the order here.
        let value_of = |name: &str| {
            let given = labels.iter().find(|(label, _)| *label == name).map(|(_, value)| *value);
            given.or_else(|| (name == grpc::TARGET).then_some(&*self.target))
        };
        let names = instrument.labels.iter().chain(instrument.optional_labels);
        let labels: Vec<_> =
            names.filter(|name| self.has_label(name)).filter_map(|name| Some((*name, value_of(name)?))).collect();
        Bound::new(self.metrics.as_ref(), instrument, &labels)
    }

    /// The same for all servers together: no series, where the user asks for one of each server.
    fn bind_without_server(&self, instrument: &'static Instrument, labels: &[(&'static str, &str)]) -> Bound {
        if self.is_by_server() { Bound::none() } else { self.bind(instrument, labels) }
    }

    /// Whether series have this label, if it is an optional one.
    fn has_label(&self, name: &str) -> bool {
        let Some(metrics) = &self.metrics else { return false };
        match name {
            grpc::LOCALITY => metrics.locality,
            grpc::SERVER => metrics.server,
            _ => true,
        }
    }

    /// Whether series have labels of a server.
    fn is_by_server(&self) -> bool {
        self.metrics.as_ref().is_some_and(|metrics| metrics.locality || metrics.server)
    }
}

/// The metrics of one channel.
pub(crate) struct ChannelMetrics {
    context: Arc<MetricsContext>,
    /// The first that were called, where a call finds its method soonest.
    first: [OnceLock<Arc<MethodMetrics>>; FIRST],
    /// All. In the order of [`order`]. Replaced as a whole, so that a call looks its method up without a lock.
    methods: ArcSwap<Vec<Arc<MethodMetrics>>>,
    /// Of calls that no generated client makes, and of methods beyond [`MAX_METHODS`].
    other: OnceLock<Arc<MethodMetrics>>,
    /// Of all servers.
    pub(crate) connections: Arc<Connections>,
    pub(crate) servers: ServerMetrics,
}

/// Where the texts of a method lie, and how long they are: those of a generated client are constants.
#[inline]
fn texts_of(service: &str, method: &str) -> [usize; 4] {
    [service.as_ptr().addr(), service.len(), method.as_ptr().addr(), method.len()]
}

/// Lengths first: they tell most methods apart without a look at their texts.
#[inline]
fn order(known: &MethodMetrics, service: &str, method: &str) -> Ordering {
    let lengths = |service: &str, method: &str| (method.len(), service.len());
    let by_length = lengths(&known.service, &known.method).cmp(&lengths(service, method));
    by_length.then_with(|| (*known.method).cmp(method)).then_with(|| (*known.service).cmp(service))
}

impl ChannelMetrics {
    pub(crate) fn new(metrics: Option<Metrics>, target: Arc<str>, epoch: Instant) -> Self {
        let context = Arc::new(MetricsContext { metrics, target, epoch });
        Self {
            first: [const { OnceLock::new() }; FIRST],
            methods: ArcSwap::default(),
            other: OnceLock::new(),
            connections: Arc::new(Connections::of_channel(context.clone())),
            servers: ServerMetrics::new(context.clone()),
            context,
        }
    }

    /// Begins the record of a call of this method.
    #[inline]
    pub(crate) fn record(&self, method: Option<&GrpcMethod<'static>>) -> CallRecord {
        CallRecord::new(match method {
            Some(method) => self.method(method),
            None => self.other(),
        })
    }

    #[inline]
    fn method(&self, method: &GrpcMethod<'static>) -> Arc<MethodMetrics> {
        let (service, method) = (method.service(), method.method());
        let texts = texts_of(service, method);
        for first in &self.first {
            match first.get() {
                Some(known) if known.texts == texts => return known.clone(),
                Some(_) => {}
                None => break,
            }
        }
        let methods = self.methods.load();
        match methods.binary_search_by(|known| order(known, service, method)) {
            Ok(index) => methods[index].clone(), // found there
            Err(_) => self.add(service, method),
        }
    }

    /// The first call of a method. Series are bound before the table is changed: that runs the recorder's code, and may be in vain if
    /// another call is as early.
    #[cold]
    fn add(&self, service: &str, method: &str) -> Arc<MethodMetrics> {
        if self.methods.load().len() >= MAX_METHODS {
            return self.other();
        }
        let new = Arc::new(MethodMetrics::new(self.context.clone(), service, method));
        self.methods.rcu(|methods| {
            let mut methods = Vec::clone(methods);
            if let Err(index) = methods.binary_search_by(|known| order(known, service, method))
                && methods.len() < MAX_METHODS
            {
                methods.insert(index, new.clone());
            }
            methods
        });
        let methods = self.methods.load();
        let known = methods.binary_search_by(|known| order(known, service, method));
        let Ok(index) = known else { return self.other() };
        let known = methods[index].clone(); // found there
        if Arc::ptr_eq(&known, &new) {
            let _ = self.first.iter().find(|first| first.set(new.clone()).is_ok()); // none is free, if there are many methods
        }
        known
    }

    #[inline]
    fn other(&self) -> Arc<MethodMetrics> {
        match self.other.get() {
            Some(other) => other.clone(),
            None => self.add_other(),
        }
    }

    #[cold]
    fn add_other(&self) -> Arc<MethodMetrics> {
        let new = Arc::new(MethodMetrics::new(self.context.clone(), "", OTHER_METHOD));
        let _ = self.other.set(new.clone()); // another call may have been as early
        self.other.get().cloned().unwrap_or(new)
    }
}
