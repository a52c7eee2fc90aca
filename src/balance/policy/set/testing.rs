//! Tests of [policies](crate::policy) without servers: builds sets and calls with the numbers that a
//! test needs.
//!
//! See [`policy`](crate::policy) for an example.

use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};

use crate::address::Address;
use crate::balance::policy::attempt_end::{AttemptEnd, AttemptResult};
use crate::balance::policy::call::{Call, IsAvailable};
use crate::balance::policy::set::selected::SelectedServers;
use crate::balance::policy::set::server::{ReadyServer, ServerMetrics};
use crate::balance::policy::set::{PickNotifier, ReadySet, ReadySetParts};
use crate::balance::subchannel::cost::LatencyEstimate;
use crate::instance::Instance;

/// Builds a set. Effective weights follow from the instances, as in a channel. The order is the one
/// given; a channel orders servers by address. [`ReadySet::seed`] is 0, and all servers are ready:
/// [`ReadySet::selected`] has the same.
///
/// # Panics
/// If there are no servers: a channel gives no policy an empty set.
pub fn ready_set(servers: impl IntoIterator<Item = TestServer>) -> ReadySet {
    ready_set_of(servers.into_iter().map(|server| (server, true)))
}

/// Builds a set in which not all selected servers are ready: those with `false` are in
/// [`ReadySet::selected`] alone.
///
/// # Panics
/// If no server is ready: a channel gives no policy an empty set.
pub fn ready_set_of(selected: impl IntoIterator<Item = (TestServer, bool)>) -> ReadySet {
    let (servers, are_ready): (Vec<_>, Vec<_>) = selected.into_iter().unzip();
    let selected = servers.iter().map(|server| (server.address().clone(), Arc::new(server.instance.clone())));
    let selected = SelectedServers::new(selected);
    let ready = servers.into_iter().zip(are_ready).filter(|(_, is_ready)| *is_ready);
    ready_set_within(&selected, ready.map(|(server, _)| server))
}

/// Builds a set with these servers ready, and with the selected servers of another set. A channel
/// does so when connections are lost and made. [`ReadySet::ready_index`] finds servers by their
/// addresses.
///
/// # Panics
/// If no server is ready: a channel gives no policy an empty set.
pub fn ready_set_within(selected: &SelectedServers, ready: impl IntoIterator<Item = TestServer>) -> ReadySet {
    let (factors, servers): (Vec<_>, Vec<_>) =
        ready.into_iter().map(|server| (server.slow_start_factor, ReadyServer::new(Arc::new(server)))).unzip();
    assert!(!servers.is_empty(), "a set has at least one server");
    ReadySet::new(ReadySetParts {
        servers: servers.into(),
        factors: Some(factors.into()),
        selected: selected.clone(),
        seed: 0,
        notifier: PickNotifier::default(),
    })
}

/// The end of an attempt, for [`Picker::ended`](crate::policy::Picker::ended).
pub fn attempt_end(
    server: &ReadyServer,
    result: AttemptResult,
    time_to_head: Option<Duration>,
    time_to_end: Duration,
) -> AttemptEnd<'_> {
    AttemptEnd { server, result, time_to_head, time_to_end }
}

/// A server of a test's set: idle, warm and of unknown latency, unless the test sets other numbers.
#[derive(Clone, Debug)]
#[must_use = "a server does nothing unless a set is built with it"]
pub struct TestServer {
    /// It has one address at least.
    instance: Instance,
    /// Also the number of calls in flight.
    load: u64,
    /// Does not fade, unlike a channel's.
    latency: Option<Duration>,
    /// 1 if it is warm.
    slow_start_factor: f64,
}

impl TestServer {
    /// A server at the first address of this instance.
    pub fn new(instance: Instance) -> Self {
        Self { instance, load: 0, latency: None, slow_start_factor: 1.0 }
    }

    /// A server at this address. Its instance has nothing else set.
    ///
    /// # Panics
    /// If the address cannot be read.
    pub fn at(address: &str) -> Self {
        match Instance::new(address) {
            Ok(instance) => Self::new(instance),
            Err(error) => panic!("{error}"),
        }
    }

    /// Sets the weight of the server's instance; 0 means that it has none, the default of
    /// [`TestServer::at`].
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.instance = self.instance.with_stored_weight(weight);
        self
    }

    /// Sets [`ReadyServer::load`] and [`ReadyServer::in_flight`].
    pub fn with_load(mut self, load: u64) -> Self {
        self.load = load;
        self
    }

    /// Sets [`ReadyServer::latency`], and [`ReadyServer::latency_estimate`] to the same time.
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    /// Sets [`ReadySet::slow_start_factor`], as if the server were warming up. The factor counts as at
    /// least 0.001 and at most 1, which is that of a warm server.
    pub fn with_slow_start_factor(mut self, factor: f64) -> Self {
        self.slow_start_factor = factor;
        self
    }
}

impl ServerMetrics for TestServer {
    fn address(&self) -> &Address {
        &self.instance.addresses()[0] // an instance has at least one
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn in_flight(&self) -> usize {
        usize::try_from(self.load).unwrap_or(usize::MAX)
    }

    fn load(&self) -> u64 {
        self.load
    }

    fn latency(&self) -> Option<Duration> {
        self.latency
    }

    fn latency_estimate(&self) -> LatencyEstimate {
        self.latency.map_or(LatencyEstimate::Unknown, LatencyEstimate::Known)
    }
}

/// The first attempt of a call without metadata, at which every server is available, unless the
/// test sets it otherwise.
#[derive(Clone, Debug)]
#[must_use = "a call does nothing unless a picker is asked with it"]
pub struct TestCall {
    path: String,
    headers: HeaderMap,
    extensions: Extensions,
    attempt: u32,
    /// Indexes of servers. An index beyond the last does no harm.
    unavailable: Vec<usize>,
}

impl TestCall {
    /// A call of this method: `/package.Service/Method`.
    pub fn new(path: impl Into<String>) -> Self {
        let (headers, extensions) = (HeaderMap::new(), Extensions::new());
        Self { path: path.into(), headers, extensions, attempt: 1, unavailable: Vec::new() }
    }

    /// Adds a header.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Adds an extension.
    pub fn with_extension<T: Clone + Send + Sync + 'static>(mut self, extension: T) -> Self {
        self.extensions.insert(extension);
        self
    }

    /// Sets [`Call::attempt`].
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Makes a server unavailable, by its index, as if it were full or had failed this call.
    pub fn without_server(mut self, server: usize) -> Self {
        self.unavailable.push(server);
        self
    }

    /// The attempt to pass to [`Picker::pick`](crate::policy::Picker::pick).
    pub fn call(&self) -> Call<'_> {
        Call {
            path: &self.path,
            headers: &self.headers,
            extensions: &self.extensions,
            attempt: self.attempt,
            servers: self,
        }
    }
}

impl IsAvailable for TestCall {
    fn is_available(&self, server: usize) -> bool {
        !self.unavailable.contains(&server)
    }
}
