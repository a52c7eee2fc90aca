//! Watches the registrar's own keys: a task beside the registrar's, which tells it what becomes of
//! them.
//!
//! Each key has a watch of its own, from the present revision on, and the machine reads the key
//! afterwards: nothing is missed, and no past revision (which may be compacted) is needed. The
//! watches share streams. A key that is no longer desired stays watched for a while, because a late
//! put of it may still arrive.
//!
//! ```text
//!   desired ──▶ opening ──▶ created ──▶ ended ──▶ opening, after a backoff or with the next connection
//!                  │                      ▲
//!                  ├── not in time: Input::WatchDelayed (the stream keeps trying)
//!                  └── denied: Input::WatchDenied; opened again when the machine names the key again
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::codec::Codec;
use crate::etcd::{Class, Etcd, Event, Failure, Message, Range, Stored, Watch, WatchId, Watcher};
use crate::registrar::lease::{Id, Input};
use crate::registrar::task::former_keys::FormerKeys;
use crate::registrar::task::request::observed;
use crate::registrar::task::watched_keys::WatchedKeys;
use crate::secret::shown_key;

/// A watch that lasted so long was a good one: the next one is opened without a backoff.
const GOOD: Duration = Duration::from_secs(5);
/// How many keys that are no longer desired stay watched, beyond the number of desired keys.
const FORMER: usize = 64;

/// Watches the keys that the machine names, and sends what happens as inputs of the machine.
pub(super) struct KeyWatcher {
    codec: Arc<dyn Codec>,
    /// What has changed of `desired`.
    changes: WatchedKeys,
    /// The keys to watch, each with its registration.
    desired: BTreeMap<Vec<u8>, Id>,
    inputs: mpsc::Sender<Input>,
    watcher: Watcher,
    watched: BTreeMap<Vec<u8>, WatchedKey>,
    ids: HashMap<WatchId, Vec<u8>>,
    /// Keys that are no longer desired, the oldest first.
    former: FormerKeys,
    backoff: Backoff,
    epoch: Instant,
    /// Changes with each new connection to etcd.
    connected: watch::Receiver<u64>,
    /// When the watches that have ended are opened again.
    reopen_at: Option<Instant>,
    /// An operator must act first, so a new connection does not shorten the wait.
    refused: bool,
    /// A denied watch was logged as a warning.
    warned: bool,
}

/// The watch of a key. It has none after one has ended, until the next is opened.
#[derive(Default)]
struct WatchedKey {
    /// Dropping it ends the watch at etcd.
    watch: Option<Watch>,
    /// When etcd confirmed it.
    created: Option<Instant>,
}

/// The registrar's task has ended.
struct ReceiverGone;

impl KeyWatcher {
    pub(super) fn new(etcd: &Etcd, codec: Arc<dyn Codec>, changes: WatchedKeys, inputs: mpsc::Sender<Input>) -> Self {
        Self {
            codec,
            changes,
            desired: BTreeMap::new(),
            inputs,
            watcher: Watcher::new(etcd),
            watched: BTreeMap::new(),
            ids: HashMap::new(),
            former: FormerKeys::default(),
            backoff: Backoff::new(fastrand::u64(..)),
            epoch: Instant::now(),
            connected: etcd.connected(),
            reopen_at: None,
            refused: false,
            warned: false,
        }
    }

    /// Runs until the registrar's task ends, which aborts this one.
    pub(super) async fn run(mut self) {
        loop {
            let sent = tokio::select! {
                () = self.changes.changed() => self.follow().await,
                (id, message) = self.watcher.next() => self.on_message(id, message).await,
                _ = self.connected.changed(), if self.reopen_at.is_some() && !self.refused => {
                    self.reopen();
                    Ok(())
                }
                () = sleep_until_some(self.reopen_at) => {
                    self.reopen();
                    Ok(())
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// Opens watches for new keys, and drops those of keys that have not been desired for long.
    async fn follow(&mut self) -> Result<(), ReceiverGone> {
        for (key, id) in self.changes.take() {
            let Some(id) = id else {
                if self.desired.remove(&key).is_some() {
                    self.former.insert(key);
                }
                continue;
            };
            let before = self.desired.insert(key.clone(), id);
            self.former.remove(&key);
            match self.watched.get(&key) {
                None => self.open(&key),
                // Watched already, for another registration.
                Some(watched) if watched.created.is_some() && before != Some(id) => {
                    self.send(Input::Watched { key, new_watch: false }).await?;
                }
                Some(_) => {}
            }
        }
        while self.former.len() > FORMER + self.desired.len() {
            if let Some(watched) = self.former.pop_first().and_then(|key| self.watched.remove(&key))
                && let Some(watch) = watched.watch
            {
                self.ids.remove(&watch.id());
            }
        }
        Ok(())
    }

    /// Opens a watch of one key, from the present revision on (0 in etcd's protocol).
    fn open(&mut self, key: &[u8]) {
        let watch = self.watcher.open(Range { start: key.to_vec(), end: Vec::new() }, 0);
        self.ids.insert(watch.id(), key.to_vec());
        self.watched.insert(key.to_vec(), WatchedKey { watch: Some(watch), created: None });
    }

    /// Opens the watches that have ended.
    fn reopen(&mut self) {
        self.reopen_at = None;
        let ended = self.watched.iter().filter(|(_, watched)| watched.watch.is_none());
        let ended: Vec<_> = ended.map(|(key, _)| key.clone()).collect();
        ended.iter().for_each(|key| self.open(key));
    }

    /// A message of one watch. Messages of watches that were dropped meanwhile are ignored.
    async fn on_message(&mut self, id: WatchId, message: Message) -> Result<(), ReceiverGone> {
        let Some(key) = self.ids.get(&id).cloned() else { return Ok(()) };
        match message {
            Message::Created { .. } => {
                self.watched.entry(key.clone()).or_default().created = Some(Instant::now());
                self.send(Input::Watched { key, new_watch: true }).await
            }
            Message::Events(events) => {
                for Event { revision, key, lease, value } in events {
                    let stored = value.map(|value| Stored { lease, revision, value: value.into() });
                    self.send(observed(&*self.codec, key.into(), revision, stored)).await?;
                }
                Ok(())
            }
            Message::Progress { .. } => Ok(()),
            Message::Late(failure) => {
                let (shown, error) = (shown_key(&key), failure.into_error());
                tracing::debug!(parent: None, key = %shown, %error, "key watch delayed, retrying");
                self.send(Input::WatchDelayed { key }).await
            }
            Message::Canceled(failure) if failure.class == Class::Denied => self.denied(id, key, *failure).await,
            Message::Canceled(failure) | Message::Lost { failure, .. } => self.ended(id, key, *failure).await,
        }
    }

    /// The role may not watch the key. The machine decides when that is tried again.
    async fn denied(&mut self, id: WatchId, key: Vec<u8>, failure: Failure) -> Result<(), ReceiverGone> {
        self.ids.remove(&id);
        self.watched.remove(&key);
        let (shown, error) = (shown_key(&key), failure.into_error());
        if std::mem::replace(&mut self.warned, true) {
            tracing::debug!(parent: None, key = %shown, %error, "key watch denied too");
        } else {
            tracing::warn!(parent: None, key = %shown, %error, "key watch denied, putting the key once a minute instead");
        }
        self.send(Input::WatchDenied { key }).await
    }

    /// A watch has ended. All that have are opened again together.
    async fn ended(&mut self, id: WatchId, key: Vec<u8>, failure: Failure) -> Result<(), ReceiverGone> {
        self.ids.remove(&id);
        let ended = self.watched.insert(key.clone(), WatchedKey::default());
        if self.reopen_at.is_none() {
            self.connected.mark_unchanged();
            if ended.and_then(|ended| ended.created).is_some_and(|created| created.elapsed() >= GOOD) {
                self.backoff.reset();
            }
            self.refused =
                !matches!(failure.class, Class::Transient | Class::Changed | Class::TimedOut | Class::Revision);
            let wait = self.backoff.fail(self.epoch.elapsed(), self.refused);
            self.reopen_at = Some(Instant::now() + wait);
        }
        tracing::debug!(parent: None, key = %shown_key(&key), error = %failure.into_error(), "key watch ended, retrying");
        self.send(Input::WatchLost { key }).await
    }

    /// Waits while the task is [`MAX_WATCH_INPUTS`](super::MAX_WATCH_INPUTS) inputs behind. The
    /// streams buffer meanwhile.
    async fn send(&self, input: Input) -> Result<(), ReceiverGone> {
        self.inputs.send(input).await.map_err(|_| ReceiverGone)
    }
}

/// Sleeps until the time, or forever if there is none.
pub(super) async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
