//! The watch of a registrar's own keys: a task beside the registrar's, which tells it what becomes of them.
//!
//! Each key has a watch of its own, from now on, and is read afterwards, so that nothing is missed and no revision of the past
//! is needed; the watches share streams. A key that is no longer wanted stays watched for a while: a put that was given up may
//! still arrive.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::etcd::{Class, Etcd, Event, Failure, Message, Range, Stored, Watch, WatchId, Watcher as Mailbox};
use crate::registrar::lease::Id;
use crate::secret::shown_key;

/// A watch that stood for so long was a good one: the next is opened at once.
const GOOD: Duration = Duration::from_secs(5);
/// Keys that are no longer wanted and stay watched.
const FORMER: usize = 64;

/// The keys that are to be watched, and for which registration each.
pub(crate) type Keys = Arc<BTreeMap<Vec<u8>, Id>>;

/// What the watch has to tell.
pub(crate) enum Said {
    Watched {
        key: Vec<u8>,
        anew: bool,
    },
    Unwatchable {
        key: Vec<u8>,
    },
    /// Its watch was not created in time; it is tried again in the background.
    Late {
        key: Vec<u8>,
    },
    Unwatched {
        key: Vec<u8>,
    },
    Seen {
        key: Vec<u8>,
        revision: i64,
        stored: Option<Stored>,
    },
}

pub(crate) struct Watcher {
    keys: watch::Receiver<Keys>,
    to: mpsc::Sender<Said>,
    mailbox: Mailbox,
    watched: BTreeMap<Vec<u8>, Watched>,
    ids: HashMap<WatchId, Vec<u8>>,
    /// Keys that are no longer wanted, the oldest first.
    former: VecDeque<Vec<u8>>,
    backoff: Backoff,
    epoch: Instant,
    /// There is a new connection to etcd.
    connected: watch::Receiver<u64>,
    /// When watches that have ended are opened again.
    again: Option<Instant>,
    /// That time is for people to mend something.
    refused: bool,
    /// That a key may not be watched was said.
    denied: bool,
}

/// The watch of a key; none between the end of one and the next.
#[derive(Default)]
struct Watched {
    watch: Option<Watch>,
    created: Option<Instant>,
}

/// Nobody listens any more.
struct Gone;

impl Watcher {
    pub(crate) fn new(etcd: &Etcd, keys: watch::Receiver<Keys>, to: mpsc::Sender<Said>) -> Self {
        let (mailbox, connected) = (Mailbox::new(etcd), etcd.connected());
        Self {
            keys,
            to,
            mailbox,
            watched: BTreeMap::new(),
            ids: HashMap::new(),
            former: VecDeque::new(),
            backoff: Backoff::new(fastrand::u64(..)),
            epoch: Instant::now(),
            connected,
            again: None,
            refused: false,
            denied: false,
        }
    }

    /// Goes on until nobody listens.
    pub(crate) async fn run(mut self) {
        self.keys.mark_changed();
        let mut before = Keys::default();
        loop {
            let told = tokio::select! {
                changed = self.keys.changed() => match changed {
                    Ok(()) => self.follow(&mut before).await,
                    Err(_) => Err(Gone),
                },
                (id, message) = self.mailbox.next() => self.hear(id, message).await,
                _ = self.connected.changed(), if self.again.is_some() && !self.refused => {
                    self.open_again();
                    Ok(())
                }
                () = alarm(self.again) => {
                    self.open_again();
                    Ok(())
                }
            };
            if told.is_err() {
                return;
            }
        }
    }

    /// Other keys are wanted.
    async fn follow(&mut self, before: &mut Keys) -> Result<(), Gone> {
        let keys = self.keys.borrow_and_update().clone();
        for (key, of) in keys.iter() {
            match self.watched.get(key) {
                None => self.open(key),
                // What another registration wants now is watched already.
                Some(watched) if watched.created.is_some() && before.get(key) != Some(of) => {
                    self.say(Said::Watched { key: key.clone(), anew: false }).await?;
                }
                Some(_) => {}
            }
        }
        self.former.retain(|key| !keys.contains_key(key));
        self.former.extend(before.keys().filter(|key| !keys.contains_key(*key)).cloned());
        while self.former.len() > FORMER + keys.len() {
            if let Some(watched) = self.former.pop_front().and_then(|key| self.watched.remove(&key))
                && let Some(watch) = watched.watch
            {
                self.ids.remove(&watch.id());
            }
        }
        *before = keys;
        Ok(())
    }

    fn open(&mut self, key: &[u8]) {
        let watch = self.mailbox.open(Range { start: key.to_vec(), end: Vec::new() }, 0);
        self.ids.insert(watch.id(), key.to_vec());
        self.watched.insert(key.to_vec(), Watched { watch: Some(watch), created: None });
    }

    fn open_again(&mut self) {
        self.again = None;
        let ended = self.watched.iter().filter(|(_, watched)| watched.watch.is_none());
        let ended: Vec<_> = ended.map(|(key, _)| key.clone()).collect();
        ended.iter().for_each(|key| self.open(key));
    }

    async fn hear(&mut self, id: WatchId, message: Message) -> Result<(), Gone> {
        let Some(key) = self.ids.get(&id).cloned() else { return Ok(()) };
        match message {
            Message::Created { .. } => {
                self.watched.entry(key.clone()).or_default().created = Some(Instant::now());
                self.say(Said::Watched { key, anew: true }).await
            }
            Message::Events(events) => {
                for Event { revision, key, lease, value } in events {
                    let stored = value.map(|value| Stored { lease, revision, value: value.into() });
                    self.say(Said::Seen { key: key.into(), revision, stored }).await?;
                }
                Ok(())
            }
            Message::Progress { .. } => Ok(()),
            Message::Late(failure) => {
                let shown = shown_key(&key);
                tracing::debug!(parent: None, key = %shown, error = %failure.into_error(), "the watch of an own key is late");
                self.say(Said::Late { key }).await
            }
            Message::Canceled(failure) if failure.class == Class::Denied => self.forbidden(id, key, failure).await,
            Message::Canceled(failure) | Message::Lost { failure, .. } => self.ended(id, key, failure).await,
        }
    }

    /// A key may not be watched: when that is tried again is the registrar's to say.
    async fn forbidden(&mut self, id: WatchId, key: Vec<u8>, failure: Failure) -> Result<(), Gone> {
        self.ids.remove(&id);
        self.watched.remove(&key);
        let (shown, error) = (shown_key(&key), failure.into_error());
        if std::mem::replace(&mut self.denied, true) {
            tracing::debug!(parent: None, key = %shown, %error, "this key may not be watched either");
        } else {
            let instead = "a key may not be watched: it is put again about once in a minute instead";
            tracing::warn!(parent: None, key = %shown, %error, "{instead}");
        }
        self.say(Said::Unwatchable { key }).await
    }

    /// A watch has ended: all that have are opened again together.
    async fn ended(&mut self, id: WatchId, key: Vec<u8>, failure: Failure) -> Result<(), Gone> {
        self.ids.remove(&id);
        let ended = self.watched.insert(key.clone(), Watched::default());
        if self.again.is_none() {
            self.connected.mark_unchanged();
            if ended.and_then(|ended| ended.created).is_some_and(|created| created.elapsed() >= GOOD) {
                self.backoff.reset();
            }
            self.refused =
                !matches!(failure.class, Class::Transient | Class::Changed | Class::TimedOut | Class::Revision);
            let wait = self.backoff.fail(self.epoch.elapsed(), self.refused);
            self.again = Some(Instant::now() + wait);
        }
        tracing::debug!(parent: None, error = %failure.into_error(), "the watch of an own key has ended");
        self.say(Said::Unwatched { key }).await
    }

    async fn say(&self, said: Said) -> Result<(), Gone> {
        self.to.send(said).await.map_err(|_| Gone)
    }
}

async fn alarm(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
