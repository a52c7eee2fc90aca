//! The task of one service, around the watch machine.
//!
//! Each iteration:
//!
//! 1. Open or close the watch, and start the request, that the machine asks for. One request and
//!    one watch run at a time, independently of each other.
//! 2. Wait for a message of the watch, the answer to the request, a new connection to etcd, the
//!    machine's timer, the cache, or a reader that checks whether the task runs.
//! 3. Give it to the machine.
//! 4. Publish the view if the snapshot, the state or the error has changed, and record its numbers.
//!
//! What is logged: the first failure of each kind at WARN, others at DEBUG (also that the role does not
//! permit to read service configs, see `config/updates.rs`), and that the watch has recovered at INFO. Changes of the members are logged by `report.rs`.
//!
//! The machine knows nothing of the cache: cached instances are published in place of its snapshot
//! until etcd has answered, and what differs then goes out as a change.
//!
//! The task runs until it is dropped with the last user of the service, or until its runtime ends.
//! Then the sender of the views is dropped, and readers see [`ResolutionState::Closed`].

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;
use crate::etcd::{Class, Etcd, Failure, ListedAt, Message, Range, Watch, WatchId, Watcher};
use crate::metrics::Metrics;
use crate::resolver::cache::{Cache, Found, ServiceCache};
use crate::resolver::config;
use crate::resolver::mass_loss::MassLoss;
use crate::resolver::record::RecordReader;
use crate::resolver::report::{self, MembershipLog};
use crate::resolver::snapshot::Snapshot;
use crate::resolver::stats::{Counts, ResolutionStats, ServiceSeries, is_confirmed};
use crate::resolver::watch::{Action, Change, Event, FailureKind, Input, Machine, WatchStatus};
use crate::resolver::{ResolutionState, TaskProbe};
use crate::target::Target;

/// The longest sleep. A machine without anything to do asks for a sleep that no timer can
/// represent.
const MAX_SLEEP: Duration = Duration::from_secs(3_600);
/// How often a recorder is told how stale a snapshot is by now.
const STALENESS_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a service at one moment. Any number of readers see the latest one.
#[derive(Clone)]
pub(super) struct View {
    /// Counts the changes of everything but `for_balancers` and `counts`.
    pub(super) shown: u64,
    /// The instances.
    pub(super) snapshot: Arc<Snapshot>,
    /// What readers are told who cannot see whether a server still answers: the same, or with
    /// instances whose removal is delayed.
    pub(super) for_balancers: Arc<Snapshot>,
    /// Whether they are what etcd holds.
    state: ResolutionState,
    /// How old the snapshot was at this time, while it is stale or cached.
    age_at: Option<(Duration, Instant)>,
    /// The last failure, while something is wrong.
    pub(super) error: Option<Error>,
    /// How often another etcd has taken the place of the known one: it was wiped, or restored.
    pub(super) restores: u64,
    /// When the watch began.
    began: Instant,
    /// What was counted since.
    counts: Counts,
}

impl View {
    /// The state, with the present age of a stale or cached snapshot.
    pub(super) fn state(&self) -> ResolutionState {
        let age = self.age_at.map(|(age, at)| age + at.elapsed()).unwrap_or_default();
        match self.state {
            ResolutionState::Stale { .. } => ResolutionState::Stale { age },
            ResolutionState::Cached { .. } => ResolutionState::Cached { age },
            state => state,
        }
    }

    /// The view before the first response of etcd.
    pub(super) fn unresolved() -> Self {
        let (snapshot, for_balancers) = (Arc::default(), Arc::default());
        let state = ResolutionState::Unresolved;
        let (began, counts) = (Instant::now(), Counts::default());
        Self { shown: 0, snapshot, for_balancers, state, age_at: None, error: None, restores: 0, began, counts }
    }

    /// All numbers of this moment.
    pub(super) fn stats(&self) -> ResolutionStats {
        let staleness = match self.state() {
            ResolutionState::Stale { age } | ResolutionState::Cached { age } => age,
            _ => self.began.elapsed(),
        };
        ResolutionStats::new(self.state, staleness, &self.snapshot, self.counts)
    }

    /// The numbers that stay when the watch has ended.
    pub(super) fn last_stats(&self) -> ResolutionStats {
        ResolutionStats::ended(self.counts)
    }

    /// Whether the snapshot is what etcd holds, as far as can be known.
    pub(super) fn is_current(&self) -> bool {
        is_confirmed(self.state)
    }
}

/// What a task watches and how it reads that.
pub(super) struct Subject {
    /// The only key, instead of the target's range.
    key: Option<Vec<u8>>,
    reader: RecordReader,
    cache: Option<Arc<Cache>>,
    mass_loss: MassLoss,
    /// Changes are those of a service's members, and logged and counted.
    has_members: bool,
    /// Where the numbers of a service go.
    metrics: Option<Metrics>,
}

impl Subject {
    /// The instances of a service.
    pub(super) fn instances(
        reader: RecordReader,
        cache: Option<Arc<Cache>>,
        mass_loss: MassLoss,
        metrics: Option<Metrics>,
    ) -> Self {
        Self { key: None, reader, cache, mass_loss, has_members: true, metrics }
    }

    /// Service configs: all of the target's range, or that of one key. Each channel keeps the one that it uses in a cache file.
    pub(super) fn configs(key: Option<Vec<u8>>) -> Self {
        let (reader, mass_loss) = (config::reader(), MassLoss::never_doubtful());
        Self { key, reader, cache: None, mass_loss, has_members: false, metrics: None }
    }

    fn range(&self, target: &Target) -> Range {
        let (start, end) = match &self.key {
            Some(key) => (key.clone(), [key.as_slice(), &[0]].concat()),
            None => target.range(),
        };
        Range { start, end }
    }
}

/// The task of one service.
pub(super) struct Task {
    /// The etcd of the task's runtime.
    etcd: Etcd,
    /// How records are read.
    reader: RecordReader,
    /// The cache file, if there is a cache.
    cache: Option<ServiceCache>,
    /// Whether the published instances are those of the cache.
    shows_cached: bool,
    /// Counts the views that a resolution shows.
    shown: u64,
    /// What was logged of the service; `None` if it has no members.
    report: Option<MembershipLog>,
    /// What was counted of the service.
    counts: Counts,
    /// Where its numbers go; `None` if it has no members.
    series: Option<ServiceSeries>,
    /// The service.
    target: Target,
    /// Its keys.
    range: Range,
    /// What to do, and the snapshot.
    machine: Machine,
    /// Opens the watch and receives its messages.
    watcher: Watcher,
    /// The open watch. Messages of others are ignored.
    watch: Option<Watch>,
    /// The start of the time that the machine is given.
    epoch: Instant,
    /// The last failure, while something is wrong.
    error: Option<Error>,
    /// The kind of the failure that was logged since all was well.
    logged_failure: Option<Class>,
    /// Whether a watch was open when the view was last published.
    was_watching: bool,
    /// Whether a list was answered since then.
    list_answered: bool,
    /// Counts the connections that came into use.
    connected: watch::Receiver<u64>,
    /// That count when a list was last answered.
    listed_on: u64,
    /// Where views are published.
    views: watch::Sender<View>,
    /// Tells others that the task runs.
    probe: Arc<TaskProbe>,
}

/// A request that was sent, and the action that asked for it.
type Request = Pin<Box<dyn Future<Output = (Action, Result<Input, Failure>)> + Send>>;

/// Messages of the watch that are taken before a view is published, so that a flood of events costs
/// few snapshots.
const MESSAGE_BATCH: usize = 256;

impl Task {
    /// A task that has asked for nothing yet.
    pub(super) fn new(
        etcd: Etcd,
        subject: Subject,
        target: Target,
        views: watch::Sender<View>,
        probe: Arc<TaskProbe>,
    ) -> Self {
        let range = subject.range(&target);
        let Subject { reader, cache, mass_loss, has_members, metrics, .. } = subject;
        let machine = Machine::new(fastrand::u64(..), mass_loss);
        let (watcher, connected) = (Watcher::new(&etcd), etcd.connected());
        Self {
            etcd,
            cache: cache.map(|cache| ServiceCache::new(cache, &target, &range.start, &reader, true)),
            shows_cached: false,
            shown: 0,
            reader,
            report: has_members.then(MembershipLog::default),
            counts: Counts::default(),
            series: has_members.then(|| ServiceSeries::new(metrics.as_ref(), target.name())),
            target,
            range,
            machine,
            watcher,
            watch: None,
            epoch: Instant::now(),
            error: None,
            logged_failure: None,
            was_watching: false,
            list_answered: false,
            connected,
            listed_on: 0,
            views,
            probe,
        }
    }

    /// Runs until it is dropped or its runtime ends.
    pub(super) async fn run(mut self) {
        let mut request: Option<Request> = None;
        let alarm = sleep_until(self.epoch);
        tokio::pin!(alarm);
        loop {
            self.probe.turns.count();
            let now = self.epoch.elapsed();
            if let Some(from) = self.machine.watch(now) {
                self.watch = Some(self.watcher.open(self.range.clone(), from));
            } else if !self.machine.wants_watch() {
                self.watch = None;
            }
            let mut wake = self.machine.wake(now);
            if request.is_none() {
                match self.machine.action(now) {
                    Action::Wait { until } => wake = Some(wake.map_or(until, |wake| wake.min(until))),
                    action => request = Some(self.request(action)),
                }
            }
            let takes_staleness = self.series.as_ref().is_some_and(ServiceSeries::takes_staleness);
            if takes_staleness && !self.views.borrow().is_current() {
                let renewal = now + STALENESS_INTERVAL;
                wake = Some(wake.map_or(renewal, |wake| wake.min(renewal)));
            }
            // Most messages only move the wake-up on. The timer is not set again before it fires.
            let wake = self.epoch + wake.unwrap_or(Duration::MAX).min(now + MAX_SLEEP);
            if alarm.deadline() > wake || alarm.is_elapsed() {
                alarm.as_mut().reset(wake);
            }
            let mut changed = false;
            tokio::select! {
                message = self.watcher.next() => {
                    changed |= self.on_message(message);
                    for _ in 1..MESSAGE_BATCH {
                        let Some(message) = self.watcher.try_next() else { break };
                        changed |= self.on_message(message);
                    }
                }
                (action, result) = response_of(request.as_mut()) => {
                    request = None;
                    changed |= self.on_response(action, result);
                }
                _ = self.connected.changed() => {
                    let is_new = *self.connected.borrow_and_update() > self.listed_on;
                    changed |= self.on(Input::Connected { is_new });
                }
                () = next_of(self.cache.as_mut()) => {}
                () = &mut alarm => {}
                () = self.probe.wake.notified() => {}
            }
            self.publish(changed);
        }
    }

    /// Gives an input to the machine. Whether the snapshot has changed.
    fn on(&mut self, input: Input) -> bool {
        self.machine.on(self.epoch.elapsed(), input)
    }

    /// Starts a request: a list, or a read of the cluster's revision. Records are read by the codec
    /// while pages arrive, within the request's future.
    fn request(&self, action: Action) -> Request {
        let (etcd, reader) = (self.etcd.clone(), self.reader.clone());
        let (target, range) = (self.target.clone(), self.range.clone());
        Box::pin(async move {
            let result = match action {
                Action::List => {
                    let mut entries = Vec::new();
                    let listed = etcd.list(&range.start, &range.end, |key, value, lease| {
                        entries.extend(reader.read(&target, key, value).map(|entry| entry.with_lease(lease)));
                    });
                    let listed = listed.await;
                    listed.map(|ListedAt { revision, cluster }| Input::Listed { revision, cluster, entries })
                }
                Action::Verify | Action::Wait { .. } => {
                    let revision = etcd.revision(&range.start, &range.end).await;
                    revision.map(|revision| Input::Verified { revision })
                }
            };
            (action, result)
        })
    }

    /// Takes the answer to a request.
    fn on_response(&mut self, action: Action, result: Result<Input, Failure>) -> bool {
        match result {
            Ok(input) => {
                self.listed_on = *self.connected.borrow();
                self.list_answered = true;
                let (must_relist, restores) = (self.machine.must_relist(), self.machine.restores());
                let changed = self.on(input);
                let is_relist = action == Action::List && must_relist && !self.machine.must_relist();
                self.counts.relists += u64::from(is_relist || self.machine.restores() > restores);
                changed
            }
            Err(failure) => {
                let kind = self.on_failure(failure);
                self.on(match action {
                    Action::List => Input::ListFailed(kind),
                    Action::Verify | Action::Wait { .. } => Input::VerifyFailed(kind),
                })
            }
        }
    }

    /// Takes a message of the watch. Those of an earlier watch, which may still be in the mailbox,
    /// are ignored.
    fn on_message(&mut self, (of, message): (WatchId, Message)) -> bool {
        if self.watch.as_ref().is_none_or(|watch| watch.id() != of) {
            return false;
        }
        match message {
            Message::Created { revision } => self.on(Input::Created { revision }),
            Message::Progress { revision } => self.on(Input::Progress { revision }),
            Message::Events(events) => {
                let event = |event: crate::etcd::Event| {
                    let change = match event.value {
                        Some(value) => {
                            let entry = self.reader.read(&self.target, &event.key, &value)?;
                            Change::Put(entry.with_lease(event.lease))
                        }
                        None => Change::Delete((*event.key).into()),
                    };
                    Some(Event { revision: event.revision, change })
                };
                let events = events.into_iter().filter_map(event).collect();
                self.on(Input::Events(events))
            }
            Message::Late(failure) => {
                self.on_failure(failure);
                self.on(Input::Late)
            }
            Message::Canceled(failure) => {
                self.watch = None;
                let kind = self.on_failure(failure);
                self.on(Input::Canceled(kind))
            }
            Message::Lost { failure, heard } => {
                self.watch = None;
                let kind = self.on_failure(failure);
                self.on(Input::Lost { kind, last_heard: heard.saturating_duration_since(self.epoch) })
            }
        }
    }

    /// Stores and logs a failure. Gives its meaning for the machine.
    ///
    /// Failures that ask for another way ([`Class::Revision`], [`Class::Changed`]) are not stored
    /// and are logged at DEBUG only: nothing is wrong.
    fn on_failure(&mut self, failure: Failure) -> FailureKind {
        let class = failure.class;
        let error = failure.into_error();
        // A role need not permit to read all service configs, nor one of them. Who follows them says so if it permits neither.
        let may_be_denied = class == Class::Denied && self.report.is_none();
        if may_be_denied
            || self.logged_failure.is_some_and(|logged_failure| logged_failure.is_same_kind(class))
            || matches!(class, Class::Revision | Class::Changed)
        {
            tracing::debug!(parent: None, service = self.target.name(), %error, "etcd failed, retrying");
        } else {
            let service = self.target.name();
            tracing::warn!(parent: None, service, %error, "etcd failed, retrying; keeping the last snapshot");
            self.logged_failure = Some(class);
        }
        // A failure that repeats is published once.
        let is_same = |known: &Error| known.to_string() == error.to_string();
        if !matches!(class, Class::Revision | Class::Changed) && !self.error.as_ref().is_some_and(is_same) {
            self.error = Some(error);
        }
        match class {
            Class::Revision => FailureKind::Revision,
            Class::Denied if may_be_denied => FailureKind::Denied,
            Class::Permanent
            | Class::TooLarge
            | Class::NoSpace
            | Class::AuthenticationIsOff
            | Class::Token
            | Class::Denied => FailureKind::Permanent,
            Class::Transient
            | Class::Changed
            | Class::TimedOut
            | Class::TooSlow
            | Class::LeaseNotFound
            | Class::LeaseExists => FailureKind::Transient,
        }
    }

    /// Publishes the view if the snapshot, the state or the error has changed.
    ///
    /// If only the revision has changed, that is published with the next change: readers would wake
    /// for nothing.
    fn publish(&mut self, changed: bool) {
        let now = self.epoch.elapsed();
        let doubt_changed = self.machine.doubt_changed(now);
        let mut age_at = None;
        let mut cached: Option<Found> = None;
        let doubtful = self.machine.snapshot().doubtful_instances();
        let state = match self.machine.status(now) {
            WatchStatus::Unresolved => {
                cached = self.cache.as_ref().and_then(ServiceCache::used).cloned();
                age_at = cached.as_ref().map(|found| (found.age, found.read_at));
                match cached {
                    Some(_) => ResolutionState::Cached { age: Duration::ZERO }, // the present one is computed when it is read
                    None => ResolutionState::Unresolved,
                }
            }
            WatchStatus::Current if doubtful > 0 => ResolutionState::Doubtful { instances: doubtful },
            WatchStatus::Current if self.machine.snapshot().is_empty() => ResolutionState::ConfirmedEmpty,
            WatchStatus::Current => ResolutionState::Current,
            WatchStatus::Stale { since } => {
                age_at = Some((Duration::ZERO, self.epoch + since));
                ResolutionState::Stale { age: Duration::ZERO } // as above
            }
        };
        let is_confirmed = is_confirmed(state);
        // From none to cached instances, or from them to those of etcd.
        let changed = std::mem::replace(&mut self.shows_cached, cached.is_some()) != cached.is_some() || changed;
        let watching = self.machine.is_watching();
        if watching && self.logged_failure.take().is_some() {
            tracing::info!(parent: None, service = self.target.name(), "watch recovered");
        }
        // All is well again when a watch has just been opened, or is open and a list was answered.
        if watching && (!std::mem::replace(&mut self.was_watching, watching) || self.list_answered) {
            self.error = None;
        }
        (self.was_watching, self.list_answered) = (watching, false);
        let told = {
            let before = self.views.borrow();
            let told = match (&before.error, &self.error) {
                (Some(before), Some(now)) => before.is_same(now),
                (before, now) => before.is_none() == now.is_none(),
            };
            told && (state, age_at) == (before.state, before.age_at)
        };
        let delay_changed = self.machine.delay_changed();
        let is_shown = changed || doubt_changed || !told;
        let is_published = is_shown || delay_changed || self.views.borrow().counts != self.counts;
        if is_published {
            let before = self.views.borrow().snapshot.clone();
            let latest = cached.as_ref().map_or(self.machine.snapshot(), |found| &found.snapshot);
            if let Some(report) = self.report.as_mut().filter(|_| changed) {
                self.counts.changes += report.step(&self.target, &before, latest) as u64;
            }
            if doubt_changed {
                report::log_doubt(&self.target, &before, latest);
            }
            let revision_alone = !changed && !doubt_changed && before.revision() == latest.revision();
            let snapshot = if revision_alone { before } else { Arc::new(latest.clone()) };
            let for_balancers = self.machine.delayed_snapshot().map_or_else(|| snapshot.clone(), Arc::new);
            self.shown += u64::from(is_shown);
            let (shown, error) = (self.shown, self.error.clone());
            let (restores, began, counts) = (self.machine.restores(), self.views.borrow().began, self.counts);
            let view = View { shown, snapshot, for_balancers, state, age_at, error, restores, began, counts };
            self.views.send_replace(view);
        }
        if is_published || !is_confirmed {
            let numbers = self.views.borrow().stats();
            self.series.iter().for_each(|series| series.record(&numbers));
        }
        // A change was told by etcd, also if the watch was lost in the same moment and the set is stale by now.
        let is_told = is_confirmed || (changed && matches!(state, ResolutionState::Stale { .. }));
        if is_told && let Some(cache) = &mut self.cache {
            cache.confirm(self.machine.snapshot(), changed);
        }
    }
}

/// Waits for the cache; never completes if there is none.
async fn next_of(cache: Option<&mut ServiceCache>) {
    match cache {
        Some(cache) => cache.next().await,
        None => pending().await,
    }
}

/// The response to the request; never completes if there is no request.
async fn response_of(request: Option<&mut Request>) -> (Action, Result<Input, Failure>) {
    match request {
        Some(request) => request.await,
        None => pending().await,
    }
}
