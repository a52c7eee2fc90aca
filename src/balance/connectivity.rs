//! The state of a channel as a whole, and the text that explains it.

use std::fmt::{self, Write};
use std::sync::Arc;

use crate::balance::pool::select::MAX_PARTITIONS;
use crate::balance::status;
use crate::balance::status::unavailable::Details;

/// The state of a channel as a whole, in the words of gRPC's connectivity semantics.
///
/// Unlike gRPC's there is no `IDLE`: a channel connects to all of its servers (that its selection chooses)
/// in the background and keeps them connected. With [routes](crate::BalancedChannelBuilder::route_key) it is the best state of all
/// partitions: calls of another one may fail while this is `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectivityState {
    /// The servers are not resolved yet, or none can be used and at least one is
    /// [`ServerState::Connecting`](crate::ServerState::Connecting). Calls wait.
    Connecting,
    /// At least one server is connected and not unhealthy, ejected and [held](crate::ServerState::Held) ones included. Calls are sent.
    Ready,
    /// No server is registered or held, all servers drain, none matches the filter, or none can be connected or is healthy. Calls fail at once unless they wait for ready. The
    /// channel goes on trying.
    TransientFailure,
    /// The last clone was dropped, or the runtime on which the channel was built has ended. This state is final.
    Shutdown,
}

/// The state of the source of the servers (a resolution in etcd, or a discovery), for texts and for the channel's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DirectoryStatus {
    /// The name of the service.
    pub(crate) service: Arc<str>,
    /// The prefix of its keys; `None` if the source is not etcd.
    pub(crate) prefix: Option<Arc<str>>,
    /// The revision of the snapshot that the servers come from.
    pub(crate) revision: Option<i64>,
    /// Whether the source has given a first answer. Until then calls wait.
    pub(crate) resolved: bool,
    /// The number of records that cannot be read.
    pub(crate) unreadable: usize,
    /// The key of the first of them, and what is wrong with it.
    pub(crate) first_unreadable: Option<Arc<str>>,
    /// The present error of the source. The servers that it gave before stay.
    pub(crate) error: Option<Arc<str>>,
}

impl DirectoryStatus {
    /// Makes the status of a source that has not answered yet.
    pub(crate) fn new(service: &str, prefix: Option<String>) -> Self {
        Self { service: service.into(), prefix: prefix.map(Into::into), ..Self::default() }
    }
}

/// The instances of one route that are registered and take no calls, whatever their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unserved {
    pub(crate) draining: usize,
    /// Their values are not among those that are connected.
    pub(crate) beyond: usize,
}

/// One published state of a channel. The pool makes a new one whenever a server or the directory has changed.
#[derive(Clone, Debug)]
pub(crate) struct ChannelStatus {
    pub(crate) directory: Arc<DirectoryStatus>,
    pub(crate) state: ConnectivityState,
    pub(crate) ready: usize,
    pub(crate) ejected: usize,
    pub(crate) connecting: usize,
    pub(crate) failing: usize,
    pub(crate) unhealthy: usize,
    /// The number of instances that take no new calls. They are not connected and not in the other counts.
    pub(crate) draining: usize,
    /// Servers that the filter leaves out.
    pub(crate) filtered: usize,
    /// Servers that match and are not connected, because enough others are.
    pub(crate) idle: usize,
    /// Servers whose values are not among those that are connected, because there are too many.
    pub(crate) beyond: usize,
    /// What calls are routed by, if the servers are for such ones alone.
    pub(crate) route: Option<Arc<str>>,
    /// Grows by one with each status that is published.
    pub(crate) version: u64,
}

impl ChannelStatus {
    pub(crate) fn new(directory: Arc<DirectoryStatus>) -> Self {
        let state = ConnectivityState::Connecting;
        let (ready, ejected, connecting, failing, unhealthy) = (0, 0, 0, 0, 0);
        let (draining, filtered, idle, beyond, route, version) = (0, 0, 0, 0, None, 0);
        Self {
            directory,
            state,
            ready,
            ejected,
            connecting,
            failing,
            unhealthy,
            draining,
            filtered,
            idle,
            beyond,
            route,
            version,
        }
    }

    /// Takes the place of the status before. Returns whether the state is another one.
    pub(crate) fn replace(mut self, known: &mut Self) -> bool {
        let is_news = known.state != self.state;
        self.version = known.version + 1;
        *known = self;
        is_news
    }

    /// Adds a partition to the status of the channel as a whole, which has the best state of all.
    pub(crate) fn add(&mut self, partition: &Self) {
        let rank = |state| match state {
            ConnectivityState::Shutdown => 0,
            ConnectivityState::TransientFailure => 1,
            ConnectivityState::Connecting => 2,
            ConnectivityState::Ready => 3,
        };
        if rank(partition.state) > rank(self.state) {
            self.state = partition.state;
        }
        self.ready += partition.ready;
        self.ejected += partition.ejected;
        self.connecting += partition.connecting;
        self.failing += partition.failing;
        self.unhealthy += partition.unhealthy;
        self.draining += partition.draining;
        self.filtered += partition.filtered;
        self.idle += partition.idle;
    }

    /// Whether a call that finds no server fails now instead of waiting.
    pub(crate) fn fails_calls(&self, wait_for_ready: bool) -> bool {
        match self.state {
            ConnectivityState::TransientFailure => !wait_for_ready,
            ConnectivityState::Shutdown => true,
            ConnectivityState::Connecting | ConnectivityState::Ready => false,
        }
    }

    /// Explains in one sentence why no server takes a call: the directory's state, the servers' states and limits, and the last
    /// error.
    pub(crate) fn explain(&self, details: &Details, addresses: bool) -> String {
        let directory = &*self.directory;
        if self.state == ConnectivityState::Shutdown {
            return format!("the runtime of the channel to {:?} has ended", &*directory.service);
        }
        let mut text = format!("no server of {:?}", &*directory.service);
        if let Some(route) = &self.route {
            text = format!("{text} with {route}");
        }
        let mut push = |part: fmt::Arguments<'_>| {
            let _ = text.write_fmt(part); // writing to a String does not fail
        };
        let known = self.ready + self.ejected + self.connecting + self.failing + self.unhealthy;
        match (directory.resolved, known) {
            (false, _) => push(format_args!(": not resolved yet")),
            (true, 0) if self.draining > 0 => push(format_args!(": {} registered, all draining", self.draining)),
            (true, 0) if self.beyond > 0 => push(format_args!(
                ": {} registered, but beyond the {MAX_PARTITIONS} values that are connected",
                self.beyond
            )),
            (true, 0) if self.filtered > 0 => push(format_args!(": {} registered, 0 match the filter", self.filtered)),
            (true, 0) if self.idle > 0 => push(format_args!(": {} registered, none is selected", self.idle)),
            (true, 0) if directory.unreadable > 0 => push(format_args!(": none of its records can be read")),
            (true, 0) => push(format_args!(": none is registered")),
            (true, _) => push(format_args!(" takes calls")),
        }
        match (&directory.prefix, directory.revision) {
            (Some(prefix), Some(revision)) => push(format_args!(" (prefix {prefix:?}, revision {revision})")),
            (Some(prefix), None) => push(format_args!(" (prefix {prefix:?})")),
            (None, _) => {}
        }
        if known > 0 {
            push(format_args!(
                ": {known} known, {} ready, {} ejected, {} connecting, {} failing",
                self.ready, self.ejected, self.connecting, self.failing
            ));
        }
        if self.unhealthy > 0 {
            push(format_args!(", {} unhealthy", self.unhealthy)); // nobody checks health unless told to
        }
        for (count, what) in [(self.filtered, "do not match the filter"), (self.idle, "not selected")] {
            if known > 0 && count > 0 {
                push(format_args!(", {count} {what}"));
            }
        }
        if let Some(limits) = &details.limits {
            push(format_args!("; {limits}"));
        }
        if let Some(first) = &directory.first_unreadable {
            push(format_args!("; {} unreadable", directory.unreadable));
            if addresses {
                push(format_args!(", {first}")); // its key is mostly an address
            }
        }
        match &details.last_error {
            Some((address, error)) if addresses => push(format_args!("; last error: {address}: {error}")),
            Some((address, error)) => {
                push(format_args!("; last error: {}", status::without_address(error, address)));
            }
            None => {}
        }
        if let Some(error) = &directory.error {
            push(format_args!("; the directory: {error}"));
        }
        text
    }
}
