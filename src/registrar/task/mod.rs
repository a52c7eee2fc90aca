//! The task around the lease machine: what it says → await → what came of it, for as long as anything is wanted.
//!
//! Renewals of leases are apart from everything else, so that a slow request never makes one late. Several requests are on
//! their way at a time: how many is the machine's to say.

pub(super) mod answers;
pub(super) mod neighbours;
pub(super) mod request;
pub(super) mod shown;
pub(super) mod watcher;

use std::collections::BTreeMap;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;
use crate::etcd::{Class, Etcd, Failure, KeepAlive};
use crate::registrar::RegistrationState;
use crate::registrar::lease::{Action, Id, Input, Machine, RegistrationStatus, Renewal, Worth};
use crate::registrar::shared::{LeftBehind, Shared};
use crate::registrar::task::answers::{RequestHealth, RequestKind, whose};
use crate::registrar::task::request::{carry_out, seen};
use crate::registrar::task::shown::{News, StatePublisher};
use crate::registrar::task::watcher::{Keys, Said, Watcher};
use crate::registrar::wanted::Wanted;

/// What leaves is waited for: it is tried at a second member within the time that deregistering has.
const LEAVING: Duration = Duration::from_secs(2);

pub(super) struct Task {
    shared: Arc<Shared>,
    etcd: Etcd,
    machine: Machine,
    /// The stream that each lease is renewed over, between two renewals.
    streams: BTreeMap<i64, KeepAlive>,
    epoch: Instant,
    answers: RequestHealth,
    /// When a request last failed that had begun since the one before did.
    failed_at: Duration,
    /// What the machine was told of each registration.
    told: BTreeMap<Id, LastSent>,
    shown: StatePublisher,
    /// The watch of the own keys, and what it has to tell.
    _watcher: JoinSet<()>,
    keys: watch::Sender<Keys>,
    said: mpsc::Receiver<Said>,
    keys_version: u64,
    /// It ended because nothing is wanted: what is wanted since is another's.
    rested: bool,
}

/// What the machine was told of a registration.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LastSent {
    leaving: bool,
    version: u64,
}

impl LastSent {
    fn of(wanted: &Wanted) -> Self {
        Self { leaving: wanted.leaving, version: wanted.version }
    }
}

/// What the watch may be ahead by.
const SAID: usize = 64;

/// How long the answer to a put is waited for when its registration leaves: a put that is broken off may still arrive, and
/// then has to be looked for.
const GRACE: Duration = Duration::from_millis(250);

/// A request on its way.
type Request<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One that the machine asked for.
struct Flight {
    action: Action,
    began: Duration,
    request: Request<Result<Input, Failure>>,
    /// When it is given up, where its answer is worth a short wait alone.
    grace: Option<Duration>,
}

/// What a renewal gives: the seconds until the lease ends, if they were told, and the stream to renew it over the next time.
type Renewed = (i64, Duration, Result<Option<i64>, Failure>, Option<KeepAlive>);

impl Task {
    pub(super) fn new(shared: Arc<Shared>, etcd: Etcd) -> Self {
        let machine = Machine::new(shared.seconds, fastrand::u64(..));
        let (keys, of_keys) = watch::channel(Keys::default());
        let (say, said) = mpsc::channel(SAID);
        let mut watcher = JoinSet::new();
        let answers = RequestHealth::new(etcd.request_timeout());
        watcher.spawn(Watcher::new(&etcd, of_keys, say).run());
        Self {
            shared,
            etcd,
            machine,
            streams: BTreeMap::new(),
            epoch: Instant::now(),
            answers,
            failed_at: Duration::ZERO,
            told: BTreeMap::new(),
            shown: StatePublisher::default(),
            _watcher: watcher,
            keys,
            said,
            keys_version: 0,
            rested: false,
        }
    }

    /// Goes on until nothing is wanted any more.
    pub(super) async fn run(mut self) {
        let mut renewals: Vec<(i64, Request<Renewed>)> = Vec::new();
        let mut work: Vec<Flight> = Vec::new();
        let mut connected = self.etcd.connected();
        loop {
            self.shared.turns.count();
            self.hear();
            let grace = self.give_up(&mut work);
            self.show();
            self.streams.retain(|id, _| self.machine.renews(*id));
            if self.machine.keys_version() != self.keys_version {
                self.keys_version = self.machine.keys_version();
                self.keys.send_replace(Arc::new(self.machine.keys()));
            }
            if work.is_empty() && self.machine.is_idle() && self.shared.rest() {
                self.rested = true;
                return;
            }
            let mut wake = self.machine.ends(self.now()).into_iter().chain(grace).min();
            loop {
                let under_way: Vec<i64> = renewals.iter().map(|(id, _)| *id).collect();
                match self.machine.renewal(self.now(), &under_way) {
                    Renewal::Now { id } => renewals.push((id, self.renew(id))),
                    Renewal::At(at) => break wake = Some(earlier(wake, at)),
                    Renewal::None => break,
                }
            }
            loop {
                let now = self.now();
                match self.machine.action(now) {
                    Action::Wait { until } => break wake = until.map(|until| earlier(wake, until)).or(wake),
                    action => {
                        let request = self.request(&action);
                        work.push(Flight { action, began: now, request, grace: None });
                    }
                }
            }
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = alarm(wake.map(|wake| self.epoch + wake)) => {}
                Some(said) = self.said.recv() => {
                    self.heard(said);
                    // What else has been said, at once: a look at all registrations follows.
                    while let Ok(said) = self.said.try_recv() {
                        self.heard(said);
                    }
                }
                _ = connected.changed() => {
                    let now = self.now();
                    self.machine.on(now, &Action::Wait { until: None }, Input::Reachable);
                }
                done = ended(&mut renewals, |(_, request)| request) => {
                    done.into_iter().for_each(|(_, renewed)| self.renewed(renewed));
                }
                done = ended(&mut work, |flight| &mut flight.request) => {
                    done.into_iter().for_each(|(flight, done)| self.done(&flight.action, flight.began, done));
                }
            }
        }
    }

    /// Gives up the requests that are worth nothing any more. When the next one will be.
    fn give_up(&mut self, work: &mut Vec<Flight>) -> Option<Duration> {
        let now = self.now();
        let mut next = None;
        work.retain_mut(|flight| {
            flight.grace = match self.machine.worth(&flight.action) {
                Worth::All => None,
                Worth::Little => Some(flight.grace.unwrap_or(now + GRACE)),
                Worth::Nothing => Some(now),
            };
            let Some(grace) = flight.grace else { return true };
            if now < grace {
                next = Some(earlier(next, grace));
                return true;
            }
            self.machine.on(now, &flight.action, Input::BrokenOff);
            false
        });
        next
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Tells the machine what the handles want.
    fn hear(&mut self) {
        let now = self.now();
        let idle = Action::Wait { until: None };
        for (&id, wanted) in &self.shared.state().wanted {
            let told = LastSent::of(wanted);
            let before = self.told.insert(id, told);
            match before {
                None => self.machine.on(now, &idle, Input::Wanted { id, wanted: wanted.for_machine() }),
                Some(before) if before.version != told.version => {
                    self.answers.forget(id);
                    self.machine.on(now, &idle, Input::Updated { id, wanted: wanted.for_machine() });
                }
                Some(_) => {}
            }
            if told.leaving && before.is_none_or(|before| !before.leaving) {
                self.machine.on(now, &idle, Input::Leaving { id });
            }
        }
    }

    /// Tells the machine what the watch of the own keys has said.
    fn heard(&mut self, said: Said) {
        let input = match said {
            Said::Watched { key, anew } => Input::Watched { key, anew },
            Said::Unwatchable { key } => Input::Unwatchable { key },
            Said::Late { key } => Input::WatchIsLate { key },
            Said::Unwatched { key } => Input::Unwatched { key },
            Said::Seen { key, revision, stored } => seen(&*self.shared.codec, key, revision, stored),
        };
        self.machine.on(self.now(), &Action::Wait { until: None }, input);
    }

    /// Shows every handle how its registration stands, and forgets those that are closed. What is told is told after the lock:
    /// whoever hears it may use any handle.
    fn show(&mut self) {
        let now = self.now();
        let mut state = self.shared.state();
        state.lease = self.machine.lease();
        state.lease_ends = self.machine.lease_ends().and_then(|ends| self.epoch.checked_add(ends));
        state.error = self.answers.why();
        let mut news = Vec::new();
        for (id, wanted) in &mut state.wanted {
            // What is wanted since the machine was told is not known to it: it comes with the next round.
            if self.told.get(id) == Some(&LastSent::of(wanted)) {
                let why = self.answers.why_of(*id);
                news.extend(self.shown.show(*id, wanted, &self.machine, now, why.as_ref()));
            }
        }
        let ids: Vec<Id> = state.wanted.keys().copied().filter(|id| self.shown.forget_closed(*id)).collect();
        let closed: Vec<Wanted> = ids.iter().filter_map(|id| state.wanted.remove(id)).collect();
        drop(state);
        for id in &ids {
            self.told.remove(id);
            self.answers.forget(*id);
        }
        news.into_iter().for_each(News::tell);
        if !closed.is_empty() {
            self.shared.left.notify_waiters();
        }
    }

    fn renew(&mut self, id: i64) -> Request<Renewed> {
        let etcd = self.etcd.clone();
        let patience = self.answers.patience(RequestKind::Renewal, self.machine.patience());
        let asked = self.now();
        let mut stream = self.streams.remove(&id);
        Box::pin(async move {
            let renewed = etcd.renew(id, &mut stream, patience).await;
            (id, asked, renewed, stream)
        })
    }

    fn renewed(&mut self, (id, asked, result, stream): Renewed) {
        if let Some(stream) = stream.filter(|_| self.machine.renews(id)) {
            self.streams.insert(id, stream);
        }
        let idle = Action::Wait { until: None };
        match result {
            Ok(seconds) => {
                let now = self.now();
                self.machine.on(now, &idle, Input::Renewed { id, asked, seconds });
                // While another lease is late, what is wrong with it is still to be said.
                if self.machine.ends(now).is_none() {
                    self.answers.went_well(RequestKind::Renewal, None, false);
                }
            }
            Err(failure) => {
                let is_refused = failure.class == Class::Denied;
                let trouble = self.answers.failed(RequestKind::Renewal, None, failure, true);
                self.machine.on(self.now(), &idle, Input::RenewalFailed { id, trouble });
                if is_refused {
                    self.machine.on(self.now(), &idle, Input::LeaseRefused { id });
                }
            }
        }
    }

    fn request(&self, action: &Action) -> Request<Result<Input, Failure>> {
        if let Action::Put { of, .. } = action {
            self.shared.state().wanted.get(of).into_iter().for_each(|wanted| wanted.known.begin());
        }
        let etcd = self.etcd.clone();
        let mut patience = self.answers.patience(RequestKind::Work, self.machine.patience());
        if let Action::Delete { .. } | Action::Revoke { .. } = action {
            patience.total = patience.total.min(LEAVING);
        }
        let asked = self.now();
        let (action, codec) = (action.clone(), self.shared.codec.clone());
        Box::pin(async move { carry_out(&etcd, &*codec, &action, asked, patience).await })
    }

    fn done(&mut self, action: &Action, began: Duration, result: Result<Input, Failure>) {
        let input = match result {
            Ok(input) => {
                if matches!(input, Input::Granted { .. }) {
                    self.answers.granted();
                } else {
                    self.answers.went_well(RequestKind::Work, whose(action), matches!(action, Action::Put { .. }));
                }
                input
            }
            Err(failure) => {
                // Those that were on their way beside one that failed count once.
                let counts = began >= self.failed_at;
                if counts {
                    self.failed_at = self.now();
                }
                Input::Failed(self.answers.failed(RequestKind::Work, whose(action), failure, counts))
            }
        };
        self.machine.on(self.now(), action, input);
    }
}

impl Drop for Task {
    /// Where the runtime ends first, nobody keeps the lease any more.
    fn drop(&mut self) {
        if self.rested {
            return;
        }
        let lease = self.machine.any_lease();
        let mut state = self.shared.state();
        let now = Instant::now();
        let until =
            state.lease_ends.or_else(|| now.checked_add(Duration::from_secs(self.shared.seconds.cast_unsigned())));
        (state.lease, state.lease_ends) = (None, None);
        (state.has_task, state.ended) = (false, true);
        let mut wanted = std::mem::take(&mut state.wanted);
        let is_out = |state: &RegistrationState| {
            matches!(
                state,
                RegistrationState::Closed | RegistrationState::Paused { .. } | RegistrationState::Held { .. }
            )
        };
        let stays = |wanted: &&Wanted| wanted.known.may_be() && !is_out(wanted.state());
        let records = wanted.values().filter(stays).flat_map(|wanted| &wanted.records);
        let left: Vec<LeftBehind> = records.map(|record| LeftBehind { key: record.key.clone(), until }).collect();
        let count = left.len();
        state.left_behind.retain(|left| left.until.is_none_or(|until| now < until));
        if lease.is_some() {
            state.left_behind.extend(left);
        }
        drop(state);
        // One that is being revoked may be gone; where nothing was to stand under it, there is nothing to say.
        if let Some(lease) = lease.filter(|_| count > 0) {
            let (lease, ttl_s) = (format!("{lease:x}"), self.shared.seconds);
            let message = "the runtime ended while a lease was held: its keys stay in etcd until it ends; \
                           wait for `Registrar::close` before";
            tracing::warn!(parent: None, lease, keys = count, ttl_s, "{message}");
        }
        for wanted in wanted.values_mut() {
            let why = Some(Error::closed("the registrar's runtime"));
            wanted.show(RegistrationState::new(RegistrationStatus::Lost, why)).send();
        }
        self.shared.left.notify_waiters();
    }
}

fn earlier(wake: Option<Duration>, other: Duration) -> Duration {
    wake.map_or(other, |wake| wake.min(other))
}

async fn alarm(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Those of the requests that are done, with what came of each: at least one, or never.
async fn ended<F, T>(flights: &mut Vec<F>, request: impl Fn(&mut F) -> &mut Request<T>) -> Vec<(F, T)> {
    poll_fn(|cx| {
        let mut done = Vec::new();
        for place in (0..flights.len()).rev() {
            if let Poll::Ready(result) = request(&mut flights[place]).as_mut().poll(cx) {
                done.push((flights.swap_remove(place), result));
            }
        }
        if done.is_empty() { Poll::Pending } else { Poll::Ready(done) }
    })
    .await
}
