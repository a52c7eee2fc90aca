//! The task around the lease machine: what it says → await → what came of it, for as long as anything is wanted.
//!
//! It has two hands: the renewal of the lease in one, everything else in the other, so that a slow request never makes the
//! renewal late.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::RegistrationState;
use super::lease::{Action, Id, Input, Machine, Renewal, Standing, Trouble};
use super::request::{carry_out, seen};
use super::shown::Shown;
use super::watcher::{Keys, Said, Watcher};
use super::{Shared, Wanted};
use crate::error::Error;
use crate::etcd::{Class, Failure, KeepAlive};

/// What leaves is waited for: it is tried at a second member within the time that deregistering has.
const LEAVING: Duration = Duration::from_secs(2);

pub(super) struct Task {
    shared: Arc<Shared>,
    machine: Machine,
    stream: Option<KeepAlive>,
    epoch: Instant,
    /// What went wrong with the work, and with the renewals, since either last went well, and how often either had
    /// no answer since it had one.
    errors: [Option<(Class, Error)>; 2],
    failures: [u32; 2],
    /// It has not answered since something failed on the way to it.
    is_away: bool,
    /// What the machine was told of each registration.
    told: BTreeMap<Id, Told>,
    shown: Shown,
    /// The watch of the own keys, and what it has to tell.
    _watcher: JoinSet<()>,
    keys: watch::Sender<Keys>,
    said: mpsc::Receiver<Said>,
    /// Tells that watch that etcd answers again.
    answers: Arc<Notify>,
    keys_version: u64,
    /// It ended because nothing is wanted: what is wanted since is another's.
    rested: bool,
}

/// What the machine was told of a registration.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    leaving: bool,
    version: u64,
}

impl Told {
    fn of(wanted: &Wanted) -> Self {
        Self { leaving: wanted.leaving, version: wanted.version }
    }
}

/// What the watch may be ahead by.
const SAID: usize = 64;

/// How long the first try of a request may take before another member is asked: etcd loses what is asked of it around an
/// election, and says so only after seconds. Every request may be repeated.
pub(super) const TRY: Duration = Duration::from_millis(500);

/// How long the answer to a put is waited for when its registration leaves: a put that is broken off may still arrive, and
/// then has to be looked for.
const GRACE: Duration = Duration::from_millis(250);

/// The hands, as places of their errors: the work's tells more.
const WORK: usize = 0;
const RENEWAL: usize = 1;

/// A request on its way.
type Hand<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a renewal gives: the seconds until the lease ends, if they were told, and the stream to renew it over the next time.
type Renewed = (i64, Duration, Result<Option<i64>, Failure>, Option<KeepAlive>);

impl Task {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let machine = Machine::new(shared.seconds, fastrand::u64(..));
        let (keys, of_keys) = watch::channel(Keys::default());
        let (say, said) = mpsc::channel(SAID);
        let mut watcher = JoinSet::new();
        let answers = Arc::new(Notify::new());
        watcher.spawn(Watcher::new(shared.etcd.clone(), of_keys, say, answers.clone()).run().in_current_span());
        Self {
            shared,
            machine,
            stream: None,
            epoch: Instant::now(),
            errors: [None, None],
            failures: [0, 0],
            is_away: false,
            told: BTreeMap::new(),
            shown: Shown::default(),
            _watcher: watcher,
            keys,
            said,
            answers,
            keys_version: 0,
            rested: false,
        }
    }

    /// Goes on until nothing is wanted any more.
    pub(super) async fn run(mut self) {
        let mut renewal: Option<Hand<Renewed>> = None;
        let mut work: Option<(Action, Hand<Result<Input, Failure>>)> = None;
        let mut grace: Option<Duration> = None;
        loop {
            self.hear();
            let now = self.now();
            match &work {
                Some((action, _)) if self.machine.outweighs(now, action) => {
                    if self.machine.puts_what_leaves(action) && grace.is_none_or(|grace| now < grace) {
                        grace.get_or_insert(now + GRACE);
                    } else {
                        self.machine.on(now, action, Input::BrokenOff);
                        (work, grace) = (None, None);
                    }
                }
                // Nothing is waited for: a time that has passed would wake this loop without end.
                _ => grace = None,
            }
            self.show();
            if self.machine.keys_version() != self.keys_version {
                self.keys_version = self.machine.keys_version();
                self.keys.send_replace(Arc::new(self.machine.keys()));
            }
            if work.is_none() && self.machine.is_idle() && self.shared.rest() {
                self.rested = true;
                return;
            }
            let mut wake = self.machine.ends(self.now()).into_iter().chain(grace).min();
            if renewal.is_none() {
                match self.machine.renewal(self.now()) {
                    Renewal::Now { id } => renewal = Some(self.renew(id)),
                    Renewal::At(at) => wake = Some(earlier(wake, at)),
                    Renewal::None => {}
                }
            }
            if work.is_none() {
                match self.machine.action(self.now()) {
                    Action::Wait { until: Some(until) } => wake = Some(earlier(wake, until)),
                    Action::Wait { until: None } => {}
                    action => {
                        let request = self.request(&action);
                        work = Some((action, request));
                    }
                }
            }
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = alarm(wake.map(|wake| self.epoch + wake)) => {}
                Some(said) = self.said.recv() => self.heard(said),
                renewed = hand(renewal.as_mut()) => {
                    renewal = None;
                    self.renewed(renewed);
                }
                done = hand(work.as_mut().map(|(_, request)| request)) => {
                    if let Some((action, _)) = work.take() {
                        self.done(&action, done);
                    }
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Tells the machine what the handles want.
    fn hear(&mut self) {
        let now = self.now();
        let idle = Action::Wait { until: None };
        for (&id, wanted) in &self.shared.state().wanted {
            let told = Told::of(wanted);
            let before = self.told.insert(id, told);
            match before {
                None => self.machine.on(now, &idle, Input::Wanted { id, wanted: wanted.for_machine() }),
                Some(before) if before.version != told.version => {
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
            Said::Unwatched => Input::Unwatched,
            Said::Seen { key, revision, stored } => seen(&*self.shared.codec, key, revision, stored),
        };
        self.machine.on(self.now(), &Action::Wait { until: None }, input);
    }

    /// Shows every handle how its registration stands, and forgets those that are closed.
    fn show(&mut self) {
        let now = self.now();
        let why = self.errors.iter().flatten().next().map(|(_, error)| error.clone());
        let mut state = self.shared.state();
        state.lease = self.machine.lease();
        state.lease_ends = self.machine.lease_ends().and_then(|ends| self.epoch.checked_add(ends));
        state.error.clone_from(&why);
        for (id, wanted) in &state.wanted {
            // What is wanted since the machine was told is not known to it: it comes with the next round.
            if self.told.get(id) == Some(&Told::of(wanted)) {
                self.shown.show(*id, wanted, &self.machine, now, why.as_ref());
            }
        }
        let (told, shown) = (&mut self.told, &mut self.shown);
        state.wanted.retain(|id, _| {
            let closed = shown.forget_closed(*id);
            if closed {
                told.remove(id);
            }
            !closed
        });
    }

    fn renew(&mut self, id: i64) -> Hand<Renewed> {
        let etcd = self.shared.etcd.clone();
        let deadline = self.deadline(RENEWAL);
        let asked = self.now();
        let mut stream = self.stream.take();
        Box::pin(async move {
            let renewed = etcd.renew(id, &mut stream, deadline).await;
            (id, asked, renewed, stream)
        })
    }

    fn renewed(&mut self, (id, asked, result, stream): Renewed) {
        self.stream = stream;
        let input = match result {
            Ok(seconds) => {
                self.went_well(RENEWAL);
                Input::Renewed { id, asked, seconds }
            }
            Err(failure) => Input::RenewalFailed { id, trouble: self.failed(RENEWAL, failure) },
        };
        self.machine.on(self.now(), &Action::Wait { until: None }, input);
    }

    fn request(&self, action: &Action) -> Hand<Result<Input, Failure>> {
        if let Action::Put { of, .. } = action {
            self.shared.state().wanted.get(of).into_iter().for_each(|wanted| wanted.tried.set());
        }
        let etcd = self.shared.etcd.clone();
        let deadline = match action {
            Action::Delete { .. } | Action::Revoke { .. } => self.deadline(WORK).min(LEAVING),
            _ => self.deadline(WORK),
        };
        let asked = self.now();
        let (action, codec) = (action.clone(), self.shared.codec.clone());
        Box::pin(async move { carry_out(&etcd, &*codec, &action, asked, deadline).await })
    }

    fn done(&mut self, action: &Action, result: Result<Input, Failure>) {
        let input = match result {
            Ok(input) => {
                if matches!(input, Input::Granted { .. }) {
                    // It says nothing of what is to stand under it, and is renewed from now on.
                    self.answered(WORK);
                    self.errors[RENEWAL] = None;
                } else {
                    self.went_well(WORK);
                }
                input
            }
            Err(failure) => Input::Failed(self.failed(WORK, failure)),
        };
        self.machine.on(self.now(), action, input);
    }

    fn went_well(&mut self, hand: usize) {
        self.errors[hand] = None;
        self.answered(hand);
    }

    /// etcd has said something, be it well or ill.
    fn answered(&mut self, hand: usize) {
        self.failures[hand] = 0;
        if std::mem::take(&mut self.is_away) {
            self.answers.notify_one();
        }
    }

    /// How long one try of a request may take: longer with each one that failed, up to what it may take at all.
    fn deadline(&self, hand: usize) -> Duration {
        let most = self.shared.etcd.request_timeout();
        let most = self.machine.patience().map_or(most, |patience| patience.min(most));
        most.min(TRY.saturating_mul(1 << self.failures[hand].min(8)))
    }

    fn failed(&mut self, hand: usize, failure: Failure) -> Trouble {
        let class = failure.class;
        if matches!(class, Class::Transient | Class::TimedOut) {
            (self.failures[hand], self.is_away) = (self.failures[hand].saturating_add(1), true);
        } else {
            self.answered(hand);
        }
        let error = failure.into_error();
        if self.errors[hand].as_ref().is_some_and(|(known, _)| known.is_like(class)) {
            tracing::debug!(%error, "etcd failed again");
        } else {
            tracing::warn!(%error, "etcd failed; it goes on trying");
            self.errors[hand] = Some((class, error));
        }
        match class {
            Class::LeaseNotFound => Trouble::LeaseGone,
            // A token was fetched in vain.
            Class::Permanent | Class::Denied | Class::Token | Class::TooLarge | Class::AuthenticationIsOff => {
                Trouble::Permanent
            }
            Class::Transient | Class::TimedOut | Class::Revision | Class::LeaseExists => Trouble::Transient,
        }
    }
}

impl Drop for Task {
    /// Where the runtime ends first, nobody keeps the lease any more.
    fn drop(&mut self) {
        if self.rested {
            return;
        }
        let mut state = self.shared.state();
        (state.lease, state.lease_ends) = (None, None);
        (state.has_task, state.ended) = (false, true);
        for wanted in std::mem::take(&mut state.wanted).into_values() {
            let why = Some(Error::closed("the registrar's runtime"));
            wanted.show.send_replace(RegistrationState::new(Standing::Lost, why));
        }
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

/// What the hand has done; never, while it holds nothing.
async fn hand<T>(hand: Option<&mut Hand<T>>) -> T {
    match hand {
        Some(hand) => hand.await,
        None => pending().await,
    }
}
