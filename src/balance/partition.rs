//! One partition of a channel: the servers that calls of one route may go to, and what calls read of them.
//!
//! A channel without route keys has one partition, the default one. A call belongs to one partition, and reads nothing of another.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::connectivity::{ChannelStatus, ConnectivityState, DirectoryStatus, Unserved};
use crate::balance::pool::ready::Published;
use crate::balance::pool::select::RouteValues;
use crate::balance::queue::Queue;
use crate::balance::shared::ChannelShared;
use crate::balance::status;
use crate::balance::status::unavailable::{Details, UnavailableText, UnavailableTexts};
use crate::balance::subchannel::Subchannel;
use crate::balance::subchannel::cost::Fleet;

/// What the calls of a partition share. The pool's task writes the servers and the status; calls read them.
pub(crate) struct Partition {
    /// What all partitions share.
    channel: Arc<ChannelShared>,
    /// The servers that calls are sent to, connected and not ejected, and their picker. Replaced as a whole, so that a pick takes
    /// no lock.
    pub(crate) ready: ArcSwap<Published>,
    /// All servers that are to be connected, in the order of their addresses.
    pub(crate) subchannels: ArcSwap<Vec<Arc<Subchannel>>>,
    /// Published after `ready`: a task that is woken by it finds the servers that it speaks of.
    pub(crate) status: watch::Sender<ChannelStatus>,
    /// Calls that wait for a server. The pool and the connections wake them.
    pub(crate) queue: Arc<Queue>,
    /// What all servers do together, as the measure for each.
    pub(super) fleet: Fleet,
    /// The text of statuses of calls that find no server.
    unavailable_text: UnavailableText,
    /// What its calls are routed by, for texts. `None` in the default partition.
    route: Option<Arc<str>>,
    /// Where calls go that may also go there. `None` in the default partition.
    pub(crate) default: Option<Arc<Partition>>,
    /// Passes on unused turns of the queue.
    turns: Option<Abort>,
}

/// Ends a task with its owner.
struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The partitions of a channel, as calls find theirs.
pub(crate) struct Partitions {
    /// Of calls without a route.
    pub(crate) default: Arc<Partition>,
    runtime: Handle,
    /// Those that have servers.
    routed: ArcSwap<BTreeMap<RouteValues, Arc<Partition>>>,
    /// Those that have had servers too, as long as calls wait in them: when servers come back, it is for these calls.
    made: Mutex<BTreeMap<RouteValues, Weak<Partition>>>,
}

impl Deref for Partition {
    type Target = ChannelShared;

    fn deref(&self) -> &ChannelShared {
        &self.channel
    }
}

impl Partition {
    /// A partition without a server.
    pub(crate) fn new(channel: Arc<ChannelShared>, directory: Arc<DirectoryStatus>) -> Self {
        Self {
            channel,
            ready: ArcSwap::default(),
            subchannels: ArcSwap::default(),
            status: watch::Sender::new(ChannelStatus::new(directory)),
            queue: Arc::default(),
            fleet: Fleet::default(),
            unavailable_text: UnavailableText::default(),
            route: None,
            default: None,
            turns: None,
        }
    }

    /// The partition of calls with this route, without a server. Its task on the channel's runtime passes on unused turns of its
    /// queue: the pool's task does that for the default partition.
    fn routed(default: &Arc<Self>, runtime: &Handle, route: Arc<str>) -> Self {
        let directory = default.channel_status.borrow().directory.clone();
        let mut partition = Self::new(default.channel.clone(), directory);
        let queue = partition.queue.clone();
        partition.turns = Some(Abort(runtime.spawn(async move { queue.pass_on_unused_turns().await }).abort_handle()));
        (partition.route, partition.default) = (Some(route), Some(default.clone()));
        partition
    }

    /// What calls with this route are told while it has no server.
    pub(crate) fn absent(default: &Self, directory: Arc<DirectoryStatus>, route: Arc<str>) -> Self {
        let mut status = ChannelStatus::new(directory);
        (status.state, status.route) = (ConnectivityState::TransientFailure, Some(route));
        let partition = Self::new(default.channel.clone(), status.directory.clone());
        partition.status.send_replace(status);
        partition
    }

    /// What its calls are routed by, for texts. `None` in the default partition.
    pub(crate) fn route(&self) -> Option<&Arc<str>> {
        self.route.as_ref()
    }

    /// Publishes the status, and wakes calls.
    pub(crate) fn publish_status(&self, mut status: ChannelStatus) {
        status.route.clone_from(&self.route);
        let in_vain = status.fails_calls(false);
        if !self.ready.load().is_ready() {
            self.queue.wake_to_leave();
        }
        let mut is_news = false;
        self.status.send_if_modified(|known| {
            is_news = status.replace(known);
            is_news
        });
        if is_news && in_vain {
            self.queue.wake_to_fail(false);
        }
        self.look_anew();
    }

    /// What all partitions of the channel share.
    pub(crate) fn channel(&self) -> &Arc<ChannelShared> {
        &self.channel
    }

    /// Explains in one sentence why no server takes a call, with addresses.
    pub(crate) fn explain_unavailable(&self) -> String {
        self.unavailable_texts().with_addresses.clone()
    }

    /// Makes the status of a call that ends because no server takes it. Its text is `prefix` and the explanation.
    pub(crate) fn unavailable_status(&self, code: Code, prefix: &str) -> Status {
        let texts = self.unavailable_texts();
        let text = format!("{prefix}{}", texts.with_addresses);
        status::without_server(code, text, &format!("{prefix}{}", texts.without_addresses))
    }

    fn unavailable_texts(&self) -> Arc<UnavailableTexts> {
        // A copy: the watch's lock must not be held while other locks are taken.
        let mut status = self.status.borrow().clone();
        // Calls wait in partitions that have no server, and that nobody looks after: what is registered counts now.
        if let Some(route) = &status.route {
            let Unserved { draining, beyond } = self.unserved.load().get(route).copied().unwrap_or_default();
            (status.draining, status.beyond) = (draining, beyond);
        }
        let failures = self.connect_context.failures.load(Ordering::Relaxed);
        self.unavailable_text.get(&status, failures, || {
            let most = *self.connect_context.connections_per_server.borrow();
            Details {
                limits: self.ready.load().limits().map(|limits| self.settings.explain(&limits, most)),
                last_error: self.last_connect_error(),
            }
        })
    }

    /// Returns the error of the server whose state changed last, among those that are not connected, or that could have got
    /// no further connection.
    pub(super) fn last_connect_error(&self) -> Option<(Address, Arc<str>)> {
        let subchannels = self.subchannels.load();
        let failing = subchannels.iter().filter_map(|subchannel| Some((subchannel, subchannel.failing_since()?)));
        let (subchannel, _) = failing.max_by_key(|(_, since)| *since)?;
        subchannel.last_error().map(|error| (subchannel.address().clone(), error))
    }
}

impl Partitions {
    /// Of a channel whose tasks run on this runtime.
    pub(crate) fn new(default: Arc<Partition>, runtime: Handle) -> Self {
        Self { default, runtime, routed: ArcSwap::default(), made: Mutex::default() }
    }

    /// The partition of calls with these values. `None` while it has no server.
    pub(crate) fn find(&self, values: &RouteValues) -> Option<Arc<Partition>> {
        self.routed.load().get(values).cloned()
    }

    /// The partition for these values, whether it has servers or not: calls that wait in it get those that come.
    pub(crate) fn get_or_make(&self, values: &RouteValues) -> Arc<Partition> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, partition| partition.strong_count() > 0);
        if let Some(partition) = made.get(values).and_then(Weak::upgrade) {
            return partition;
        }
        let route = values.text(self.default.settings.routes.keys()).into();
        let partition = Arc::new(Partition::routed(&self.default, &self.runtime, route));
        made.insert(values.clone(), Arc::downgrade(&partition));
        drop(made);
        // After it is among those that the pool publishes to, and the pool publishes the channel's status before.
        let state = self.default.channel_status.borrow().state;
        let is_resolved = self.default.channel_status.borrow().directory.resolved;
        partition.status.send_modify(|status| {
            status.route.clone_from(&partition.route);
            if state == ConnectivityState::Shutdown {
                status.state = state;
            } else if is_resolved && status.version == 0 {
                status.state = ConnectivityState::TransientFailure;
            }
        });
        partition
    }

    /// Lets calls find these.
    pub(crate) fn publish(&self, routed: BTreeMap<RouteValues, Arc<Partition>>) {
        self.routed.store(Arc::new(routed));
    }

    /// All that calls may be in.
    pub(crate) fn all(&self) -> Vec<Arc<Partition>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(self.default.clone()).chain(made.values().filter_map(Weak::upgrade)).collect()
    }
}
