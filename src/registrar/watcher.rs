//! The watch of a registrar's own keys: a task beside the registrar's, which tells it what becomes of them.
//!
//! Each key is watched from now on and read afterwards, so that nothing is missed and no revision of the past is needed. A
//! key that is no longer wanted stays watched for a while: a put that was given up may still arrive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::answers::TRY;
use super::lease::Id;
use crate::backoff::Backoff;
use crate::etcd::{Class, Etcd, Event, Failure, Message, Stored, Watch};

/// Silence after which etcd is asked for a sign of life, which it gives within milliseconds.
const SILENCE: Duration = Duration::from_secs(5);
/// How long that sign may take; then the stream is taken for dead.
const ANSWER: Duration = Duration::from_secs(3);
/// Watches that are asked for at a time: answers that nobody reads yet must fit into the stream's window.
const AT_ONCE: usize = 64;
/// Keys that are no longer wanted, beyond as many as are: then the stream is opened anew.
const FORMER: usize = 64;
/// A new token is not fetched again for so long: what it did not mend waits as other failures do.
const TOKEN: Duration = Duration::from_secs(2);

/// The keys that are to be watched, and for which registration each.
pub(super) type Keys = Arc<BTreeMap<Vec<u8>, Id>>;

/// What the watch has to tell.
pub(super) enum Said {
    Watched { key: Vec<u8>, anew: bool },
    Unwatchable { key: Vec<u8> },
    Unwatched,
    Seen { key: Vec<u8>, revision: i64, stored: Option<Stored> },
}

pub(super) struct Watcher {
    etcd: Etcd,
    keys: watch::Receiver<Keys>,
    to: mpsc::Sender<Said>,
    /// etcd answers others again: not a moment to wait.
    answers: Arc<Notify>,
    backoff: Backoff,
    epoch: Instant,
    /// Streams that failed in a row.
    failures: u32,
    refreshed: Option<Instant>,
    /// That a key may not be watched was said.
    denied: bool,
}

/// What one stream was asked to watch.
struct Asked {
    all: BTreeSet<Vec<u8>>,
    /// Not answered yet. etcd answers requests in their order.
    pending: VecDeque<Vec<u8>>,
}

impl Asked {
    fn is_answered(&self, key: &[u8]) -> bool {
        self.all.contains(key) && !self.pending.iter().any(|pending| pending == key)
    }
}

/// Nobody listens any more.
struct Gone;

/// How a stream came to its end.
enum End {
    /// Too many of its keys are no longer wanted.
    Former,
    Failed(Failure),
    Gone,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Watcher {
    pub(super) fn new(etcd: Etcd, keys: watch::Receiver<Keys>, to: mpsc::Sender<Said>, answers: Arc<Notify>) -> Self {
        let (backoff, epoch) = (Backoff::new(fastrand::u64(..)), Instant::now());
        Self { etcd, keys, to, answers, backoff, epoch, failures: 0, refreshed: None, denied: false }
    }

    /// Goes on until nobody listens.
    pub(super) async fn run(mut self) {
        while self.keys.wait_for(|keys| !keys.is_empty()).await.is_ok() {
            let end = self.session().await;
            if self.to.send(Said::Unwatched).await.is_err() {
                return;
            }
            match end {
                End::Former => {}
                End::Failed(failure) => self.recover(failure).await,
                End::Gone => return,
            }
        }
    }

    /// How long an answer to what was asked may take.
    fn patience(&self) -> Duration {
        self.etcd.request_timeout().min(TRY.saturating_mul(1 << self.failures.min(8)))
    }

    async fn recover(&mut self, failure: Failure) {
        self.failures = self.failures.saturating_add(1);
        let permanent = !matches!(failure.class, Class::Transient | Class::TimedOut | Class::Revision);
        let is_due = self.refreshed.is_none_or(|at| at.elapsed() >= TOKEN);
        let token = is_due && self.etcd.is_worth_a_token(&failure);
        tracing::debug!(error = %failure.into_error(), "the watch of the own keys broke");
        if token {
            self.refreshed = Some(Instant::now());
            if self.etcd.refresh_token().await.is_ok() {
                return;
            }
        }
        let wait = self.backoff.fail(self.epoch.elapsed(), permanent);
        tokio::select! {
            () = sleep(wait) => {}
            () = self.answers.notified(), if !permanent => {}
        }
    }

    /// One stream, from its opening to its end.
    async fn session(&mut self) -> End {
        match self.watch().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn watch(&mut self) -> Result<Infallible, End> {
        let mut keys = self.keys.borrow_and_update().clone();
        let mut missing: VecDeque<Vec<u8>> = keys.keys().cloned().collect();
        let Some(first) = missing.pop_front() else { return Err(End::Former) };
        let mut stream = self.etcd.watch_key(&first, self.patience()).await?;
        let mut asked = Asked { all: BTreeSet::from([first.clone()]), pending: VecDeque::from([first]) };
        let (mut heard, mut probed) = (Instant::now(), false);
        loop {
            while asked.pending.len() < AT_ONCE
                && let Some(key) = missing.pop_front()
            {
                stream.also(&key).await?;
                if asked.pending.is_empty() {
                    heard = Instant::now();
                }
                asked.all.insert(key.clone());
                asked.pending.push_back(key);
            }
            let patience = match (asked.pending.is_empty(), probed) {
                (false, _) => self.patience(),
                (true, false) => SILENCE,
                (true, true) => SILENCE + ANSWER,
            };
            tokio::select! {
                message = stream.next() => {
                    (heard, probed) = (Instant::now(), false);
                    self.tell(message?, &mut asked).await?;
                }
                changed = self.keys.changed() => {
                    changed.map_err(|_| Gone)?;
                    let before = std::mem::replace(&mut keys, self.keys.borrow_and_update().clone());
                    missing = keys.keys().filter(|key| !asked.all.contains(*key)).cloned().collect();
                    // What another registration wants now is watched already.
                    let new = keys.iter().filter(|(key, of)| before.get(*key) != Some(of) && asked.is_answered(key));
                    for (key, _) in new {
                        self.say(Said::Watched { key: key.clone(), anew: false }).await?;
                    }
                    if asked.all.len() > 2 * keys.len() + FORMER {
                        return Err(End::Former);
                    }
                }
                () = sleep_until(heard + patience) => {
                    probed = ask(&mut stream, probed || !asked.pending.is_empty()).await?;
                }
            }
        }
    }

    async fn tell(&mut self, message: Message, asked: &mut Asked) -> Result<(), End> {
        match message {
            Message::Created { .. } => {
                self.backoff.reset();
                self.failures = 0;
                if let Some(key) = asked.pending.pop_front() {
                    self.say(Said::Watched { key, anew: true }).await?;
                }
            }
            Message::Canceled(failure) if failure.class == Class::Denied && !self.etcd.is_worth_a_token(&failure) => {
                let Some(key) = asked.pending.pop_front() else { return Err(failure.into()) };
                asked.all.remove(&key);
                let (shown, error) = (String::from_utf8_lossy(&key), failure.into_error());
                if std::mem::replace(&mut self.denied, true) {
                    tracing::debug!(key = %shown, %error, "this key may not be watched either");
                } else {
                    let instead = "a key may not be watched: it is put again about once in a minute instead";
                    tracing::warn!(key = %shown, %error, "{instead}");
                }
                self.say(Said::Unwatchable { key }).await?;
            }
            Message::Canceled(failure) => return Err(failure.into()),
            Message::Events(events) => {
                for Event { revision, key, lease, value } in events.iter() {
                    let stored = value.map(|value| Stored { lease, revision, value: value.to_vec() });
                    self.say(Said::Seen { key: key.to_vec(), revision, stored }).await?;
                }
            }
            Message::Progress { .. } => {}
        }
        Ok(())
    }

    async fn say(&self, said: Said) -> Result<(), Gone> {
        self.to.send(said).await.map_err(|_| Gone)
    }
}

/// Asks a silent stream for a sign of life, once.
async fn ask(stream: &mut Watch, probed: bool) -> Result<bool, Failure> {
    if probed {
        return Err(stream.silent());
    }
    stream.probe().await.map(|()| true)
}
