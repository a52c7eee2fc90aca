//! The background task of a channel: from changes of instances to the set of ready servers.
//!
//! ```text
//! source.rs ──Update──▶ members.rs ──AddressChange──▶ Pool: one PoolEntry for each address, with a subchannel and its supervisor
//! (or the resolver)      (pure)                         │  ▲ woken by supervisors: connected, lost, begun to fail
//!                                                      │  └ woken by time: outlier detection
//!                                                      ▼
//!                 ready.rs: Published (servers, picker) for calls · ChannelStatus for those who wait · the queue's turns
//! ```
//!
//! The task is the only one that decides who is ready, so nothing here is locked. Everything it publishes is immutable.

mod entry;
mod follow;
#[cfg(test)]
mod hold_tests;
pub(crate) mod members;
mod publish;
pub(super) mod ready;
pub(super) mod room;
pub(crate) mod select;
mod selecting;
mod server;
pub(super) mod source;

use std::collections::BTreeMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;

use crate::address::{Address, Authority};
use crate::address_index::AddressChange;
use crate::balance::config::apply::apply;
use crate::balance::config::source::ConfigTexts;
use crate::balance::connectivity::{ConnectivityState, DirectoryStatus};
use crate::balance::metrics::StateCounts;
use crate::balance::partition::Partitions;
use crate::balance::policy::Policy;
use crate::balance::pool::entry::{Leaving, PoolEntry};
use crate::balance::pool::members::{InstanceChange, Members};
use crate::balance::pool::publish::OwnPartition;
use crate::balance::pool::select::RouteValues;
use crate::balance::pool::selecting::Selector;
use crate::balance::pool::server::PoolServer;
use crate::balance::shared::ChannelShared;
use crate::balance::subchannel::outlier::{CallCounts, OutlierDetector};
use crate::instance::Instance;
use crate::service_config::LoadBalancing;

/// A message from a source of servers to the pool.
pub(crate) struct Update<K> {
    /// Applied in this order. A source that starts anew need not repeat itself: equal instances
    /// change nothing.
    pub(crate) changes: Vec<InstanceChange<K>>,
    /// The state of the source itself, if that has changed.
    pub(crate) directory: Option<DirectoryStatus>,
}

/// The maximum number of updates that are applied before the result is published, so that a large
/// set comes in one step.
const MAX_BATCH: usize = 1024;
/// Servers that begin to fail, or to connect again, within this time are published together: no call can use them,
/// before or after.
const FAILURE_BATCH_TIME: Duration = Duration::from_millis(10);

/// Runs until it is aborted, which is when the channel's last clone is dropped.
pub(crate) async fn run<K, S>(partitions: Arc<Partitions>, _guard: ShutdownGuard, source: S, mut config: ConfigTexts)
where
    K: Hash + Eq + Clone,
    S: Stream<Item = Update<K>>,
{
    let mut source = std::pin::pin!(source);
    let queue = partitions.default.queue.clone();
    let mut turns = std::pin::pin!(queue.pass_on_unused_turns());
    let mut pool = Pool::new(partitions);
    pool.follow_policy(None);
    let mut members = Members::new();
    let mut open = true;
    // Before the first word, nobody has followed anything: whose health decides is not known, and no server is ready.
    let mut has_word = !pool.shared.config.is_awaited();
    if has_word {
        pool.follow_service_config();
    }
    let no_word = pool.shared.config.awaited_until();
    loop {
        let detection = pool.outlier_detector.as_ref().map(|detector| pool.began + detector.next());
        let selection = pool.selector.as_ref().and_then(|selector| selector.next);
        let publication = pool.publish_at;
        let (mut is_full, mut is_news) = (false, true);
        tokio::select! {
            update = next(source.as_mut()), if open => match update {
                None => {
                    open = false; // the last set stays
                    pool.remove_held(); // nobody says when the doubt ends
                }
                Some(update) => {
                    pool.apply(update, &mut members);
                    let mut applied = 0;
                    while applied < MAX_BATCH
                        && let Some(more) = next_at_once(source.as_mut()).await
                    {
                        pool.apply(more, &mut members);
                        applied += 1;
                    }
                    is_full = applied == MAX_BATCH;
                    members.take_changes().into_iter().for_each(|change| pool.apply_address(change));
                    pool.count_draining(&members);
                }
            },
            Some(text) = next(config.as_mut()) => {
                apply(&pool.shared, text);
                has_word = true;
                pool.follow_service_config();
            }
            () = sleep_until(no_word), if !has_word => {
                has_word = true;
                pool.follow_service_config();
            }
            () = pool.shared.connect_context.changed.notified() => {}
            () = pool.shared.connect_context.failing.notified(), if publication.is_none() => {
                (pool.publish_at, is_news) = (Some(pool.last_published + FAILURE_BATCH_TIME), false);
            }
            () = sleep_until(publication.unwrap_or_else(Instant::now)), if publication.is_some() => {}
            never = turns.as_mut() => match never {},
            // Nothing is published unless a server is ejected or taken back.
            () = pool.shared.connect_context.suspicious.notified() => {
                pool.look_for_outliers();
                is_news = false;
            }
            () = sleep_until(detection.unwrap_or_else(Instant::now)), if detection.is_some() => is_news = false,
            () = sleep_until(selection.unwrap_or_else(Instant::now)), if selection.is_some() => {}
        }
        if is_news {
            pool.let_go();
        }
        if pool.detect_outliers() || is_news {
            pool.publish();
        }
        if has_word && pool.shared.config.is_awaited() {
            pool.shared.config.go_on();
        }
        if is_news {
            pool.leaving.retain(|_, leaving| leaving.has_calls());
        }
        // A source that always has more must not keep the other tasks of this thread from running.
        if is_full {
            yield_now().await;
        }
        consume_budget().await;
    }
}

/// Tells all that wait when the task ends, however it ends.
pub(crate) struct ShutdownGuard(pub(crate) Arc<Partitions>);

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        let channel = self.0.default.channel();
        channel.servers.store(Arc::default());
        channel.channel_status.send_modify(|status| status.state = ConnectivityState::Shutdown);
        for partition in self.0.all() {
            // What calls would pick goes before they are woken. The connections go with it.
            partition.ready.store(Arc::default());
            partition.subchannels.store(Arc::default());
            partition.status.send_modify(|status| {
                status.state = ConnectivityState::Shutdown;
                status.version += 1;
            });
            partition.queue.wake_to_fail(true);
        }
        channel.pick_notifier.notify();
        channel.metrics.servers.set(&StateCounts::default(), false); // responses may keep the channel's numbers for long
    }
}

/// The next item. Dropping it loses none.
async fn next<S: Stream + ?Sized>(mut source: Pin<&mut S>) -> Option<S::Item> {
    std::future::poll_fn(|cx| source.as_mut().poll_next(cx)).await
}

/// The next item, if it is there already.
async fn next_at_once<S: Stream>(mut source: Pin<&mut S>) -> Option<S::Item> {
    let poll = std::future::poll_fn(|cx| {
        Poll::Ready(match source.as_mut().poll_next(cx) {
            Poll::Ready(item) => item,
            Poll::Pending => None,
        })
    });
    poll.await
}

/// The servers of a channel, as its task keeps them.
struct Pool {
    shared: Arc<ChannelShared>,
    /// What calls find their partition in.
    partitions: Arc<Partitions>,
    /// The default partition, and then those of the values that calls are routed by.
    own: Vec<OwnPartition>,
    /// One for each address of an instance that is not draining, connected or not. In the order in
    /// which calls and statuses list them.
    servers: BTreeMap<Authority, PoolServer>,
    /// Chooses among them. `None` if all are connected.
    selector: Option<Selector>,
    /// Servers that have gone and still have calls.
    leaving: BTreeMap<Authority, Leaving>,
    /// The last state of the source.
    directory: Arc<DirectoryStatus>,
    /// How many instances are draining, by the values that they carry; they have no entry.
    draining: BTreeMap<RouteValues, usize>,
    /// `None` if the user has not turned it on.
    outlier_detector: Option<OutlierDetector<Authority>>,
    /// What it looks at, kept so that a look allocates nothing.
    counts: Vec<(Authority, CallCounts)>,
    /// The policy that builds pickers.
    policy: Arc<dyn Policy>,
    /// What the policy says of itself.
    uses_weights: bool,
    /// What the service config asks for, if that holds.
    load_balancing: Option<LoadBalancing>,
    /// The service whose health is not checked because the policy does without.
    unchecked_health: Option<Arc<str>>,
    /// The policy is another one than the published picker's.
    policy_changed: bool,
    /// Where the times of the outlier detector begin.
    began: Instant,
    /// From here [`FAILURE_BATCH_TIME`] counts.
    last_published: Instant,
    /// When to publish what no call can use, if there is any.
    publish_at: Option<Instant>,
    /// Servers came or went since the last publication, or were selected otherwise.
    servers_changed: bool,
    /// Of this channel: see [`ReadySet::seed`].
    seed: u64,
}

impl Pool {
    fn new(partitions: Arc<Partitions>) -> Self {
        let shared = partitions.default.channel().clone();
        let directory = shared.channel_status.borrow().directory.clone();
        let (policy, options) = (shared.settings.policy.clone(), shared.settings.outlier_detection);
        let now = Instant::now();
        Self {
            own: vec![OwnPartition::new(
                RouteValues::none(shared.settings.routes.keys().len()),
                partitions.default.clone(),
            )],
            selector: Selector::of(&shared.settings),
            shared,
            partitions,
            servers: BTreeMap::new(),
            leaving: BTreeMap::new(),
            directory,
            draining: BTreeMap::new(),
            outlier_detector: options.map(|options| OutlierDetector::new(options, Duration::ZERO)),
            counts: Vec::new(),
            policy,
            uses_weights: true,
            load_balancing: None,
            unchecked_health: None,
            policy_changed: false,
            began: now,
            last_published: now,
            publish_at: None,
            servers_changed: false,
            seed: fastrand::u64(..),
        }
    }

    /// Takes in an update. The changes of addresses that follow from it are taken from `members`
    /// once a batch is complete, so that an address which comes and goes within one batch is never
    /// connected to.
    fn apply<K: Hash + Eq + Clone>(&mut self, update: Update<K>, members: &mut Members<K>) {
        update.changes.into_iter().for_each(|change| members.apply(change));
        if let Some(directory) = update.directory {
            self.directory = Arc::new(directory);
        }
    }

    /// Counts the instances that are draining.
    fn count_draining<K: Hash + Eq + Clone>(&mut self, members: &Members<K>) {
        let keys = self.shared.settings.routes.keys();
        let mut draining = BTreeMap::new();
        for instance in members.draining() {
            *draining.entry(RouteValues::of(keys, instance)).or_default() += 1;
        }
        if draining != self.draining {
            (self.draining, self.servers_changed) = (draining, true);
        }
    }

    /// Adds, changes or removes the entry of one address. An address that changes between TLS and
    /// plain text is another server: its entry is replaced. Another instance for the same address
    /// keeps the connection, and is published with the next set.
    fn apply_address(&mut self, change: AddressChange<Arc<Instance>>) {
        let service = &*self.directory.service;
        match change {
            AddressChange::Gone(authority) => {
                tracing::debug!(parent: None, service, server = authority.as_str(), "server removed");
                self.remove(&authority);
            }
            AddressChange::InDoubt(authority, doubt) => {
                let entry = self.servers.get_mut(&authority).and_then(|server| server.entry.as_mut());
                let is_held = entry.is_some_and(|entry| entry.hold(doubt));
                tracing::debug!(parent: None, service, server = authority.as_str(), is_held, "server in doubt");
                if !is_held {
                    self.remove(&authority);
                }
            }
            AddressChange::Present { address, value: instance, .. } => {
                let authority = address.parsed_authority().clone();
                let is_secure = address.is_secure() || self.shared.settings.tls_only && address.unix_path().is_none();
                let address = Address::from_parts(authority.clone(), is_secure);
                let known = self.servers.get(&authority).map(|server| server.traits);
                let traits = Selector::traits_of(self.selector.as_ref(), &authority, &instance, known);
                if let Some(server) = self.servers.get_mut(&authority)
                    && server.address == address
                    && server.entry.as_mut().is_none_or(PoolEntry::release)
                {
                    server.change_to(instance, traits);
                    self.servers_changed = true;
                    return;
                }
                tracing::debug!(parent: None, service, server = %address, "server added");
                self.remove(&authority);
                self.servers.insert(authority.clone(), PoolServer::new(address, instance, traits));
                if self.selector.is_none() {
                    self.connect(&authority);
                }
            }
        }
    }

    /// Removes the server at an address, if there is one. Its calls go on.
    fn remove(&mut self, authority: &Authority) {
        self.servers_changed = true;
        let entry = self.servers.remove(authority).and_then(|server| server.entry);
        self.leaving.extend(entry.and_then(|entry| entry.leaving(authority)));
    }

    /// Removes the servers that are not held any longer, because their connections have ended.
    fn let_go(&mut self) {
        let is_over = |entry: &PoolEntry| entry.is_over();
        let over = self.servers.iter().filter(|(_, server)| server.entry.as_ref().is_some_and(is_over));
        let over: Vec<Authority> = over.map(|(authority, _)| authority.clone()).collect();
        self.remove_in_doubt(&over);
    }

    /// Removes all servers that are held.
    fn remove_held(&mut self) {
        let is_held = |entry: &PoolEntry| entry.doubt().is_some();
        let held = self.servers.iter().filter(|(_, server)| server.entry.as_ref().is_some_and(is_held));
        let held: Vec<Authority> = held.map(|(authority, _)| authority.clone()).collect();
        self.remove_in_doubt(&held);
    }

    fn remove_in_doubt(&mut self, servers: &[Authority]) {
        for authority in servers {
            let service = &*self.directory.service;
            tracing::debug!(parent: None, service, server = authority.as_str(), "server in doubt removed");
            self.remove(authority);
        }
    }

    /// Lets the outlier detector look at the next occasion.
    fn look_for_outliers(&mut self) {
        if let Some(detector) = &mut self.outlier_detector {
            detector.look_at_once();
        }
    }

    /// Ejects servers and takes them back, if it is time to look: an interval or an ejection is over, a server has
    /// suspect failures, or servers came or went. Returns whether any is ejected or taken back.
    fn detect_outliers(&mut self) -> bool {
        let Some(detector) = &mut self.outlier_detector else { return false };
        let now = self.began.elapsed();
        if !detector.is_due(now) && !self.servers_changed {
            return false;
        }
        let is_over = detector.interval_is_over(now);
        let counts = |entry: &PoolEntry| {
            let interval = &entry.subchannel.interval;
            let count = |counter: &AtomicU64| {
                if is_over { counter.swap(0, Ordering::Relaxed) } else { counter.load(Ordering::Relaxed) }
            };
            CallCounts {
                successes: count(&interval.successes),
                failures: count(&interval.failures),
                consecutive_failures: interval.consecutive_failures.load(Ordering::Relaxed),
            }
        };
        let connected =
            || self.servers.iter().filter_map(|(authority, server)| Some((authority, server.entry.as_ref()?)));
        self.counts.clear();
        self.counts.extend(connected().map(|(authority, entry)| (authority.clone(), counts(entry))));
        let ejected = detector.detect(&self.counts, now);
        self.shared.metrics.servers.count_ejections(detector.take_due());
        let mut is_news = false;
        for (authority, PoolEntry { subchannel, .. }) in connected() {
            subchannel.set_on_probation(detector.is_on_probation(authority));
            let is_ejected = ejected.binary_search(authority).is_ok();
            if is_ejected != subchannel.is_ejected() {
                let (service, server) = (&*self.directory.service, subchannel.address());
                if is_ejected {
                    tracing::info!(parent: None, service, %server, "server ejected");
                } else {
                    tracing::info!(parent: None, service, %server, "server back from its ejection");
                }
                subchannel.set_ejected(is_ejected);
                is_news = true;
            }
        }
        is_news
    }
}
