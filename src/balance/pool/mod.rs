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
#[cfg(test)]
mod hold_tests;
pub(crate) mod members;
pub(super) mod ready;
pub(super) mod room;
pub(super) mod source;

use std::collections::BTreeMap;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;

use crate::address::{Address, Authority};
use crate::address_index::{AddressChange, Doubt};
use crate::balance::config;
use crate::balance::config::apply::apply;
use crate::balance::config::source::ConfigTexts;
use crate::balance::connectivity::{ChannelStatus, ConnectivityState, DirectoryStatus};
use crate::balance::policy::{LeastRequest, Picker, Policy, ReadySet};
use crate::balance::pool::entry::PoolEntry;
use crate::balance::pool::members::{InstanceChange, Members};
use crate::balance::pool::ready::{Published, PublishedServer};
use crate::balance::shared::ChannelShared;
use crate::balance::subchannel::SubchannelState;
use crate::balance::subchannel::health::CheckedHealth;
use crate::balance::subchannel::outlier::{CallCounts, OutlierDetector};
use crate::connection::ServerStreams;
use crate::instance::Instance;
use crate::panics::catch;
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
/// Servers that begin to fail within this time are published together: no call can use them, before
/// or after.
const FAILURE_BATCH_TIME: Duration = Duration::from_millis(10);

/// Runs until it is aborted, which is when the channel's last clone is dropped.
pub(crate) async fn run<K, S>(shared: Arc<ChannelShared>, _guard: ShutdownGuard, source: S, mut config: ConfigTexts)
where
    K: Hash + Eq + Clone,
    S: Stream<Item = Update<K>>,
{
    let mut source = std::pin::pin!(source);
    let queue = shared.queue.clone();
    let mut turns = std::pin::pin!(queue.pass_on_unused_turns());
    let mut pool = Pool::new(shared);
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
        let mut is_full = false;
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
                    pool.draining = members.draining();
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
            () = pool.failures() => {}
            never = turns.as_mut() => match never {},
            () = sleep_until(detection.unwrap_or_else(Instant::now)), if detection.is_some() => {}
        }
        pool.let_go();
        pool.detect_outliers();
        pool.publish();
        if has_word && pool.shared.config.is_awaited() {
            pool.shared.config.go_on();
        }
        pool.leaving.retain(|_, streams| streams.strong_count() > 0);
        // A source that always has more must not keep the other tasks of this thread from running.
        if is_full {
            yield_now().await;
        }
        consume_budget().await;
    }
}

/// Tells all that wait when the task ends, however it ends.
pub(crate) struct ShutdownGuard(pub(crate) Arc<ChannelShared>);

impl Drop for ShutdownGuard {
    fn drop(&mut self) {
        // What calls would pick goes before they are woken. The connections go with it.
        self.0.ready.store(Arc::default());
        self.0.subchannels.store(Arc::default());
        self.0.status.send_modify(|status| {
            status.state = ConnectivityState::Shutdown;
            status.version += 1;
        });
        self.0.queue.wake_to_fail(true);
        self.0.pick_notifier.notify();
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
    /// One for each address of an instance that is not draining, connected or not. In the order in
    /// which calls and statuses list them.
    entries: BTreeMap<Authority, PoolEntry>,
    /// What counts the calls of servers that are gone, while it is in use: one that comes back has to know of its calls.
    leaving: BTreeMap<Authority, Weak<ServerStreams>>,
    /// The last state of the source.
    directory: Arc<DirectoryStatus>,
    /// How many instances are draining; they have no entry.
    draining: usize,
    /// `None` if the user has not turned it on.
    outlier_detector: Option<OutlierDetector<Authority>>,
    /// The policy that builds pickers.
    policy: Arc<dyn Policy>,
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
    /// Entries came or went since the last publication.
    entries_changed: bool,
    /// Of this channel: see [`ReadySet::seed`].
    seed: u64,
}

impl Pool {
    fn new(shared: Arc<ChannelShared>) -> Self {
        let directory = shared.status.borrow().directory.clone();
        let (policy, options) = (shared.settings.policy.clone(), shared.settings.outlier_detection);
        let now = Instant::now();
        Self {
            shared,
            entries: BTreeMap::new(),
            leaving: BTreeMap::new(),
            directory,
            draining: 0,
            outlier_detector: options.map(|options| OutlierDetector::new(options, Duration::ZERO)),
            policy,
            load_balancing: None,
            unchecked_health: None,
            policy_changed: false,
            began: now,
            last_published: now,
            entries_changed: false,
            seed: fastrand::u64(..),
        }
    }

    /// Uses what the service config says of the pool.
    fn follow_service_config(&mut self) {
        self.follow_load_balancing();
        self.follow_health_check();
        self.follow_connection_scaling();
    }

    /// Uses the policy and the outlier detection that the service config asks for, if the code lets it.
    fn follow_load_balancing(&mut self) {
        let settings = &self.shared.settings;
        let document = self.shared.config.document().filter(|_| settings.policy_from_service_config);
        let wanted = document.and_then(|document| document.load_balancing.clone());
        if wanted == self.load_balancing {
            return;
        }
        let code = || (settings.policy.clone(), settings.outlier_detection);
        let (policy, options) = wanted.as_ref().map_or_else(code, config::policy::of);
        match (&mut self.outlier_detector, options) {
            (Some(detector), Some(options)) => detector.set_options(options),
            (detector, options) => {
                *detector = options.map(|options| OutlierDetector::new(options, self.began.elapsed()));
                for entry in self.entries.values() {
                    entry.subchannel.set_ejected(false);
                    entry.subchannel.set_on_probation(false);
                }
            }
        }
        self.shared.outlier_detection.store(options.map(Arc::new));
        (self.policy, self.load_balancing, self.policy_changed) = (policy, wanted, true);
    }

    /// Checks the health that the code asks for, else the service config; none, if the policy does without.
    fn follow_health_check(&mut self) {
        let document = self.shared.config.document();
        let of_document = || document.as_ref()?.health_check_service.as_deref().map(Arc::from);
        let wanted: Option<Arc<str>> = self.shared.settings.health_check.clone().or_else(of_document);
        let (checked, unchecked) = if self.policy.checks_health() { (wanted, None) } else { (None, wanted) };
        if unchecked.is_some() && unchecked != self.unchecked_health {
            let service = &*self.shared.connect_context.service;
            tracing::info!(parent: None, service, policy = ?self.policy, "health not checked, the policy does without");
        }
        self.unchecked_health = unchecked;
        self.shared.connect_context.health.follow(checked.map_or(CheckedHealth::None, CheckedHealth::Of));
    }

    /// Permits as many connections to a server as the code says, else the service config.
    fn follow_connection_scaling(&self) {
        let document = self.shared.config.document();
        let of_document = || document.as_ref()?.max_connections_per_subchannel.map(|most| most as usize);
        let wanted = self.shared.settings.connections_per_server.or_else(of_document).unwrap_or(1);
        let connections = &self.shared.connect_context.connections_per_server;
        connections.send_if_modified(|known| std::mem::replace(known, wanted) != wanted);
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

    /// Waits until servers have begun to fail, and gathers others that do so at the same time.
    /// Dropping it loses nothing, because every way out of the task's `select!` publishes.
    async fn failures(&self) {
        self.shared.connect_context.failing.notified().await;
        sleep_until(self.last_published + FAILURE_BATCH_TIME).await;
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
                let is_held = self.entries.get_mut(&authority).is_some_and(|entry| entry.hold(doubt));
                tracing::debug!(parent: None, service, server = authority.as_str(), is_held, "server in doubt");
                if !is_held {
                    self.remove(&authority);
                }
            }
            AddressChange::Present { address, value: instance, .. } => {
                let authority = address.parsed_authority().clone();
                let is_secure = address.is_secure() || self.shared.settings.tls_only && address.unix_path().is_none();
                let address = Address::from_parts(authority.clone(), is_secure);
                if let Some(entry) = self.entries.get_mut(&authority)
                    && *entry.subchannel.address() == address
                    && entry.release()
                {
                    entry.instance = instance;
                    return;
                }
                tracing::debug!(parent: None, service, server = %address, "server added");
                self.remove(&authority);
                let streams = self.streams_of(&authority);
                self.entries.insert(authority, PoolEntry::start(&self.shared, address, instance, streams));
            }
        }
    }

    /// Removes the entry of an address, if it has one. Its calls go on.
    fn remove(&mut self, authority: &Authority) {
        self.entries_changed = true;
        let Some(entry) = self.entries.remove(authority) else { return };
        if let Some(streams) = entry.subchannel.streams() {
            self.leaving.insert(authority.clone(), Arc::downgrade(streams));
        }
    }

    /// What counts the calls of a server that comes, if anything does. It counts those that it had before it went, too.
    fn streams_of(&mut self, authority: &Authority) -> Option<Arc<ServerStreams>> {
        let settings = &self.shared.settings;
        let known = self.leaving.remove(authority).and_then(|streams| streams.upgrade());
        let new = || Arc::new(ServerStreams::new(settings.max_in_flight_per_server));
        settings.counts_by_server().then(|| known.unwrap_or_else(new))
    }

    /// Removes the servers that are not held any longer, because their connections have ended.
    fn let_go(&mut self) {
        let is_over = |(authority, entry): (&Authority, &PoolEntry)| entry.is_over().then(|| authority.clone());
        let over: Vec<Authority> = self.entries.iter().filter_map(is_over).collect();
        self.remove_in_doubt(&over);
    }

    /// Removes all servers that are held.
    fn remove_held(&mut self) {
        let held = self.entries.iter().filter(|(_, entry)| entry.doubt().is_some());
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

    /// Ejects servers and takes them back.
    fn detect_outliers(&mut self) {
        let Some(detector) = &mut self.outlier_detector else { return };
        let now = self.began.elapsed();
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
        let counts = self.entries.iter().map(|(authority, entry)| (authority.clone(), counts(entry))).collect();
        let ejected = detector.detect(&counts, now);
        for (authority, PoolEntry { subchannel, .. }) in &self.entries {
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
            }
        }
    }

    /// Publishes the present state, and wakes the calls that can use what is new.
    fn publish(&mut self) {
        let mut status = ChannelStatus::new(self.directory.clone());
        status.draining = self.draining;
        let (mut ready, mut ejected) = (Vec::new(), Vec::new());
        for entry in self.entries.values_mut() {
            let state = entry.subchannel.state();
            match entry.ready(&self.shared, &state) {
                Some(server) if entry.subchannel.is_ejected() => ejected.push((server, entry.doubt())),
                Some(server) => ready.push((server, entry.doubt())),
                None if matches!(state, SubchannelState::TransientFailure) => status.failing += 1,
                None if matches!(state, SubchannelState::Unhealthy(_)) => status.unhealthy += 1,
                // One whose connection has ended is about to connect again.
                None => status.connecting += 1,
            }
        }
        (status.ready, status.ejected) = (ready.len(), ejected.len());
        // A server that fails some calls is better than none.
        let mut servers = if ready.is_empty() { ejected } else { ready };
        // All servers may have left in order: such a one gets no call that a listed one can take.
        let has_listed = servers.iter().any(|(_, doubt)| doubt.is_none());
        servers.retain(|(_, doubt)| !has_listed || *doubt != Some(Doubt::Gradual));
        let servers: Vec<PublishedServer> = servers.into_iter().map(|(server, _)| server).collect();
        status.state = if !servers.is_empty() {
            ConnectivityState::Ready
        } else if !self.directory.resolved || status.connecting > 0 {
            ConnectivityState::Connecting
        } else {
            ConnectivityState::TransientFailure
        };
        self.last_published = Instant::now();
        // In this order, so that a call that is woken finds the servers that it was woken for.
        self.publish_servers(servers);
        self.publish_status(status);
    }

    /// Publishes the servers for picks, and the subchannels for statuses, if they have changed.
    fn publish_servers(&mut self, servers: Vec<PublishedServer>) {
        let known = self.shared.ready.load();
        let are_pairs = |same: fn(&PublishedServer, &PublishedServer) -> bool| {
            known.servers.len() == servers.len()
                && known.servers.iter().zip(&servers).all(|(known, new)| same(known, new))
        };
        let policy_changed = std::mem::take(&mut self.policy_changed);
        if policy_changed || !are_pairs(PublishedServer::is_same) {
            // Policies look at servers: further connections make no other set.
            let picker = if !policy_changed && are_pairs(PublishedServer::is_same_first) {
                known.picker.clone()
            } else {
                (!servers.is_empty()).then(|| self.build_picker(&servers))
            };
            self.shared.ready.store(Arc::new(Published { servers: servers.into(), picker }));
            self.shared.pick_notifier.notify();
        }
        if std::mem::take(&mut self.entries_changed) {
            let subchannels = self.entries.values().map(|entry| entry.subchannel.clone()).collect();
            self.shared.subchannels.store(Arc::new(subchannels));
        }
    }

    /// Asks the policy for a picker. The policy is the user's code: if it panics, calls are
    /// still picked for.
    fn build_picker(&self, servers: &[PublishedServer]) -> Arc<dyn Picker> {
        let servers = servers.iter().map(|server| server.first.server.clone()).collect();
        let set = ReadySet::new(servers, self.seed, self.shared.pick_notifier.clone());
        catch(|| self.policy.picker(&set)).unwrap_or_else(|panic| {
            let service = &*self.directory.service;
            tracing::error!(parent: None, service, panic, "policy panicked, picking by least request");
            LeastRequest::new().picker(&set)
        })
    }

    /// Publishes the status of the channel, and wakes calls.
    fn publish_status(&self, mut status: ChannelStatus) {
        let in_vain = status.fails_calls(false);
        let mut is_news = false;
        self.shared.status.send_if_modified(|known| {
            is_news = known.state != status.state;
            status.version = known.version + 1;
            std::mem::swap(known, &mut status);
            is_news
        });
        if is_news && in_vain {
            self.shared.queue.wake_to_fail(false);
        }
        self.shared.queue.give_turns(|| self.shared.ready.load().free_slots());
        // The servers that were sent a PING or asked for a connection before may be gone.
        self.shared.ask_for_room();
    }
}
