//! The task around the lease machine: it sends what the machine asks for and tells it what came of
//! it, for as long as anything is registered.
//!
//! - `health`: timeouts, last errors, and the log of failures.
//! - `request`: one request to etcd.
//! - `watcher`: the watches of the registrar's own keys.
//! - `publisher`: publishes and logs the states of registrations.
//!
//! # The loop
//!
//! ```text
//!   send what handles desire ─▶ drop irrelevant requests ─▶ publish states ─▶ update the watched keys
//!        ▲                                                                          │
//!        │                                                             nothing left │──▶ end
//!        └── wait for: a handle, a time, a watch, a connection, an answer ◀── start renewals, requests
//! ```
//!
//! States are published before requests are started: a handle sees `Updating` before etcd can have
//! the update. The machine is told everything before it is asked, so one round starts all requests
//! that are possible.
//!
//! # Renewals
//!
//! Renewals are apart from all other requests, so that a slow request never delays one. Several
//! requests are in flight at a time; the machine decides how many.

mod health;
mod publisher;
mod request;
mod watcher;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::health::{RequestHealth, RequestKind, registration_of};
use self::publisher::{StateChange, StatePublisher};
use self::watcher::{KeyWatcher, sleep_until_some};
use crate::error::Error;
use crate::etcd::{Class, Etcd, Failure, KeepAlive};
use crate::registrar::entry::Entry;
use crate::registrar::handle::state::RegistrationState;
use crate::registrar::lease::{Action, FailureKind, Id, Input, Machine, RegistrationStatus, Relevance, Renewal};
use crate::registrar::shared::{AbandonedKey, Shared};

/// How long a delete or a revocation may take before another member is asked: somebody waits for
/// it, and deregistering has 5 s by default, so two members are tried within them.
const REMOVAL: Duration = Duration::from_secs(2);

/// How many inputs the watcher may be ahead of the task.
const MAX_WATCH_INPUTS: usize = 64;

/// How long a put of a registration that leaves is still waited for. A put that is dropped may
/// still arrive, which costs a change of lease; most answers come sooner than this.
const GRACE: Duration = Duration::from_millis(250);

/// An action that answers nothing: the action of inputs that no request has caused.
const NO_ACTION: Action = Action::Wait { until: None };

/// The task of one registrar. It starts with the first registration, and ends once all have left
/// and the lease is revoked.
pub(super) struct Task {
    shared: Arc<Shared>,
    etcd: Etcd,
    /// Decides everything; the task only carries it out.
    machine: Machine,
    /// The keep-alive stream of each lease, between two renewals.
    streams: BTreeMap<i64, KeepAlive>,
    /// The zero of the machine's clock.
    epoch: Instant,
    /// Timeouts and last errors.
    health: RequestHealth,
    /// When the last outage was counted. Failures of requests that began earlier belong to the same
    /// outage.
    failed_at: Duration,
    /// What the machine was last sent of each registration.
    sent: BTreeMap<Id, LastSent>,
    publisher: StatePublisher,
    /// Aborts the watcher's task when this one is dropped.
    _watcher: JoinSet<()>,
    /// The keys to watch. The watcher reads the latest.
    keys: watch::Sender<Arc<BTreeMap<Vec<u8>, Id>>>,
    /// Leases that were lost since states were last published.
    leases_lost: u64,
    /// The version of the machine's keys that the watcher was sent.
    keys_version: u64,
    /// What the watcher has seen.
    watch_inputs: mpsc::Receiver<Input>,
    /// It ended because nothing is registered. Entries that come later belong to the next task.
    finished: bool,
}

/// What the machine was last sent of a registration.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LastSent {
    leaving: bool,
    version: u64,
}

impl LastSent {
    /// What the machine knows after it was sent this entry.
    fn of(entry: &Entry) -> Self {
        Self { leaving: entry.leaving, version: entry.version }
    }
}

/// A request in flight, with what the task needs when it ends.
struct InFlight<C, T> {
    /// Given back with the result.
    context: C,
    /// The request itself. Dropping it abandons the request; etcd may have received it.
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

/// A request that the machine asked for.
struct SentAction {
    /// Passed to [`Machine::on`] with the result.
    action: Action,
    /// When it was sent, on the machine's clock.
    began: Duration,
    /// When it is dropped, if its answer is worth only a short wait.
    drop_at: Option<Duration>,
}

/// The end of a renewal.
struct Renewed {
    /// When the renewal was sent. The time to live counts from here.
    asked: Duration,
    /// The time to live in seconds, if the response has it.
    result: Result<Option<i64>, Failure>,
    /// The stream for the next renewal.
    stream: Option<KeepAlive>,
}

impl Task {
    pub(super) fn new(shared: Arc<Shared>, etcd: Etcd) -> Self {
        let machine = Machine::new(shared.ttl_seconds, fastrand::u64(..));
        let (keys, watched_keys) = watch::channel(Arc::default());
        let (inputs, watch_inputs) = mpsc::channel(MAX_WATCH_INPUTS);
        let mut watcher = JoinSet::new();
        let health = RequestHealth::new(etcd.request_timeout());
        watcher.spawn(KeyWatcher::new(&etcd, shared.codec.clone(), watched_keys, inputs).run());
        Self {
            shared,
            etcd,
            machine,
            streams: BTreeMap::new(),
            epoch: Instant::now(),
            health,
            failed_at: Duration::ZERO,
            sent: BTreeMap::new(),
            publisher: StatePublisher::default(),
            _watcher: watcher,
            keys,
            leases_lost: 0,
            keys_version: 0,
            watch_inputs,
            finished: false,
        }
    }

    /// Runs until nothing is registered and the lease is revoked.
    pub(super) async fn run(mut self) {
        let mut renewals: Vec<InFlight<i64, Renewed>> = Vec::new();
        let mut requests: Vec<InFlight<SentAction, Result<Input, Failure>>> = Vec::new();
        let mut connected = self.etcd.connected();
        loop {
            self.shared.progress.count();
            self.send_desired();
            let next_drop = self.drop_irrelevant(&mut requests);
            self.publish_states();
            self.streams.retain(|id, _| self.machine.renews(*id));
            if self.machine.keys_version() != self.keys_version {
                self.keys_version = self.machine.keys_version();
                self.keys.send_replace(Arc::new(self.machine.keys()));
            }
            if requests.is_empty() && self.machine.is_idle() && self.shared.end_task_if_empty() {
                self.finished = true;
                return;
            }
            let mut wake = self.machine.overdue_expiry(self.now()).into_iter().chain(next_drop).min();
            loop {
                let in_flight: Vec<i64> = renewals.iter().map(|renewal| renewal.context).collect();
                match self.machine.renewal(self.now(), &in_flight) {
                    Renewal::Now { lease } => renewals.push(self.renew(lease)),
                    Renewal::At(at) => break wake = Some(earlier(wake, at)),
                    Renewal::None => break,
                }
            }
            loop {
                match self.machine.action(self.now()) {
                    Action::Wait { until } => break wake = until.map(|until| earlier(wake, until)).or(wake),
                    action => requests.push(self.request(action)),
                }
            }
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = sleep_until_some(wake.map(|wake| self.epoch + wake)) => {}
                Some(input) = self.watch_inputs.recv() => {
                    self.input(input);
                    // All that have come, before the loop goes over all registrations again.
                    while let Ok(input) = self.watch_inputs.try_recv() {
                        self.input(input);
                    }
                }
                _ = connected.changed() => self.input(Input::Connected),
                done = ended(&mut renewals) => {
                    done.into_iter().for_each(|(lease, renewed)| self.on_renewed(lease, renewed));
                }
                done = ended(&mut requests) => {
                    done.into_iter().for_each(|(sent, result)| self.on_response(&sent, result));
                }
            }
        }
    }

    /// The time on the machine's clock.
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Tells the machine something that no request has caused.
    fn input(&mut self, input: Input) {
        self.machine.on(self.now(), &NO_ACTION, input);
    }

    /// Drops the requests whose answers no longer matter. Returns when the next one is to be
    /// dropped.
    fn drop_irrelevant(
        &mut self,
        requests: &mut Vec<InFlight<SentAction, Result<Input, Failure>>>,
    ) -> Option<Duration> {
        let now = self.now();
        let mut next = None;
        requests.retain_mut(|InFlight { context, .. }| {
            context.drop_at = match self.machine.relevance(&context.action) {
                Relevance::Full => None,
                Relevance::Brief => Some(context.drop_at.unwrap_or(now + GRACE)),
                Relevance::None => Some(now),
            };
            let Some(at) = context.drop_at else { return true };
            if now < at {
                next = Some(earlier(next, at));
                return true;
            }
            self.machine.on(now, &context.action, Input::Abandoned);
            false
        });
        next
    }

    /// Tells the machine what the handles desire.
    fn send_desired(&mut self) {
        let now = self.now();
        for (&id, entry) in &self.shared.state().entries {
            let sent = LastSent::of(entry);
            let before = self.sent.insert(id, sent);
            match before {
                None => self.machine.on(now, &NO_ACTION, Input::Added { id, desired: entry.desired() }),
                Some(before) if before.version != sent.version => {
                    self.health.forget(id);
                    self.machine.on(now, &NO_ACTION, Input::Updated { id, desired: entry.desired() });
                }
                Some(_) => {}
            }
            if sent.leaving && before.is_none_or(|before| !before.leaving) {
                self.machine.on(now, &NO_ACTION, Input::Leaving { id });
            }
        }
    }

    /// Publishes the states that have changed, and removes the entries of closed registrations.
    fn publish_states(&mut self) {
        let now = self.now();
        let mut state = self.shared.state();
        state.lease = self.machine.lease();
        state.lease_expires_at = self.machine.lease_expiry().and_then(|at| self.epoch.checked_add(at));
        state.last_error = self.health.last_error();
        let leases_lost = std::mem::take(&mut self.leases_lost);
        let repaired = self.machine.take_repaired();
        let series_of = |id| Some(state.entries.get(id)?.series()?.clone());
        let repaired: Vec<_> = repaired.iter().filter_map(series_of).collect();
        state.counts.leases_lost += leases_lost;
        state.counts.keys_repaired += repaired.len() as u64;
        let mut changes = Vec::new();
        for (id, entry) in &mut state.entries {
            // An entry that has changed since `send_desired` is unknown to the machine: its state comes with the next round.
            if self.sent.get(id) == Some(&LastSent::of(entry)) {
                let error = self.health.last_error_of(*id);
                changes.extend(self.publisher.update(*id, entry, &self.machine, now, error.as_ref()));
            }
        }
        let ids: Vec<Id> = state.entries.keys().copied().filter(|id| self.publisher.forget_closed(*id)).collect();
        let closed: Vec<Entry> = ids.iter().filter_map(|id| state.entries.remove(id)).collect();
        drop(state);
        if leases_lost > 0 {
            self.shared.series.leases_lost.add(leases_lost);
        }
        repaired.iter().for_each(|series| series.keys_repaired.add(1));
        for id in &ids {
            self.sent.remove(id);
            self.health.forget(*id);
        }
        changes.into_iter().for_each(StateChange::publish);
        if !closed.is_empty() {
            self.shared.left.notify_waiters();
        }
        // `closed` is dropped here, after its last state was sent: its senders end the handles' streams.
    }

    /// Sends a renewal. It takes the lease's stream with it and gives it back at its end: a stream
    /// with a renewal in flight cannot be used by another one.
    fn renew(&mut self, lease: i64) -> InFlight<i64, Renewed> {
        let etcd = self.etcd.clone();
        let timeouts = self.health.timeouts(RequestKind::Renewal, self.machine.request_timeout());
        let asked = self.now();
        let mut stream = self.streams.remove(&lease);
        let future = async move {
            let result = etcd.renew(lease, &mut stream, timeouts).await;
            Renewed { asked, result, stream }
        };
        InFlight { context: lease, future: Box::pin(future) }
    }

    /// Tells the machine the end of a renewal, and keeps the stream if the lease is still renewed.
    fn on_renewed(&mut self, lease: i64, Renewed { asked, result, stream }: Renewed) {
        if let Some(stream) = stream.filter(|_| self.machine.renews(lease)) {
            self.streams.insert(lease, stream);
        }
        match result {
            Ok(seconds) => {
                self.shared.series.renewal_duration.record_time(self.now().saturating_sub(asked));
                self.input(Input::Renewed { lease, asked, seconds });
                // While another lease is overdue, its error stays.
                if self.machine.overdue_expiry(self.now()).is_none() {
                    self.health.succeeded(RequestKind::Renewal, None, false);
                }
            }
            Err(failure) => {
                let is_refused = failure.class == Class::Denied;
                let failure = self.health.failed(RequestKind::Renewal, None, failure, true);
                let was_needed = self.machine.renews(lease);
                self.input(Input::RenewalFailed { lease, failure });
                self.count_loss(lease, was_needed, failure);
                if is_refused {
                    self.input(Input::LeaseRefused { lease });
                }
            }
        }
    }

    /// Counts a lease that was to be renewed, if this failure has shown that it has ended.
    fn count_loss(&mut self, lease: i64, was_needed: bool, failure: FailureKind) {
        let has_ended = was_needed && failure == FailureKind::LeaseGone && !self.machine.renews(lease);
        self.leases_lost += u64::from(has_ended);
    }

    /// Sends a request of the machine.
    fn request(&self, action: Action) -> InFlight<SentAction, Result<Input, Failure>> {
        if let Action::Put { id, .. } = &action {
            self.shared.state().entries.get(id).into_iter().for_each(|entry| entry.visibility.begin());
        }
        let mut timeouts = self.health.timeouts(RequestKind::Work, self.machine.request_timeout());
        if let Action::Delete { .. } | Action::Revoke { .. } = action {
            timeouts.total = timeouts.total.min(REMOVAL);
        }
        let began = self.now();
        let (etcd, codec, sent) = (self.etcd.clone(), self.shared.codec.clone(), action.clone());
        let future = async move { request::send(&etcd, &*codec, &sent, began, timeouts).await };
        InFlight { context: SentAction { action, began, drop_at: None }, future: Box::pin(future) }
    }

    /// Tells the machine the end of a request, after the health: the states that follow show the
    /// last error.
    fn on_response(&mut self, SentAction { action, began, .. }: &SentAction, result: Result<Input, Failure>) {
        let id = registration_of(action);
        let input = match result {
            Ok(input @ Input::Granted { .. }) => {
                self.health.granted();
                input
            }
            Ok(input) => {
                self.health.succeeded(RequestKind::Work, id, matches!(action, Action::Put { .. }));
                input
            }
            Err(failure) => {
                // Requests that were in flight together count as one failure.
                let counts = *began >= self.failed_at;
                if counts {
                    self.failed_at = self.now();
                }
                Input::Failed(self.health.failed(RequestKind::Work, id, failure, counts))
            }
        };
        let used = match (action, &input) {
            (Action::Put { lease, .. } | Action::Delete { lease, .. }, Input::Failed(failure)) => {
                Some((*lease, self.machine.renews(*lease), *failure))
            }
            _ => None,
        };
        self.machine.on(self.now(), action, input);
        if let Some((lease, was_needed, failure)) = used {
            self.count_loss(lease, was_needed, failure);
        }
    }
}

impl Drop for Task {
    /// If the runtime ends first, nobody renews the lease any more: the registrar is abandoned.
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let lease = self.machine.any_lease();
        let mut state = self.shared.state();
        let now = Instant::now();
        let ttl = Duration::from_secs(self.shared.ttl_seconds.cast_unsigned());
        let until = state.lease_expires_at.or_else(|| now.checked_add(ttl));
        (state.lease, state.lease_expires_at) = (None, None);
        (state.has_task, state.abandoned) = (false, true);
        let mut entries = std::mem::take(&mut state.entries);
        let is_out = |state: &RegistrationState| {
            matches!(
                state,
                RegistrationState::Closed | RegistrationState::Paused { .. } | RegistrationState::HeldByOther { .. }
            )
        };
        let stays = |entry: &&Entry| entry.visibility.may_be_visible() && !is_out(entry.state());
        let records = entries.values().filter(stays).flat_map(|entry| &entry.records);
        let keys: Vec<_> = records.map(|record| AbandonedKey { key: record.key.clone(), until }).collect();
        let count = keys.len();
        state.abandoned_keys.retain(|abandoned| abandoned.until.is_none_or(|until| now < until));
        if lease.is_some() {
            state.abandoned_keys.extend(keys);
        }
        drop(state);
        // A lease without keys needs no warning: it may be one that is being revoked.
        if let Some(lease) = lease.filter(|_| count > 0) {
            let (lease, ttl_s) = (format!("{lease:x}"), self.shared.ttl_seconds);
            tracing::warn!(
                parent: None, lease, keys = count, ttl_s,
                "runtime ended while a lease was held, its keys stay until the lease ends"
            );
        }
        for entry in entries.values_mut() {
            let why = Some(Error::closed("the registrar's runtime"));
            entry.set_state(RegistrationState::new(RegistrationStatus::Lost, why)).send();
        }
        self.shared.left.notify_waiters();
    }
}

/// The earlier of two times, of which the first may be absent.
fn earlier(wake: Option<Duration>, other: Duration) -> Duration {
    wake.map_or(other, |wake| wake.min(other))
}

/// Waits until at least one request has ended, and takes all that have. Never ends if there is
/// none.
async fn ended<C, T>(requests: &mut Vec<InFlight<C, T>>) -> Vec<(C, T)> {
    poll_fn(|cx| {
        let mut done = Vec::new();
        // Backwards, because `swap_remove` moves the last one, which was polled already.
        for index in (0..requests.len()).rev() {
            if let Poll::Ready(result) = requests[index].future.as_mut().poll(cx) {
                done.push((requests.swap_remove(index).context, result));
            }
        }
        if done.is_empty() { Poll::Pending } else { Poll::Ready(done) }
    })
    .await
}
