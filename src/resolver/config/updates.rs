//! The document of one service, for one of its channels.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;

use crate::balance::{ConfigText, ServiceConfigSource, TextError};
use crate::resolver::cache::ServiceCache;
use crate::resolver::config::reader;
use crate::resolver::config::watches::{Answer, Watches, changed};
use crate::resolver::mass_loss::MassLoss;
use crate::resolver::snapshot::Snapshot;
use crate::resolver::task::View;
use crate::resolver::{ResolutionState, Shared};
use crate::target::Target;

/// While etcd fails, and no cache file has a document, it is said after this time that there is none: as early as a cached one
/// would be used.
const SILENCE: Duration = Duration::from_millis(300);

/// The documents of one service, one after the other. The first comes when etcd has answered, or fails for some time.
pub(in crate::resolver) struct ConfigUpdates {
    next: Pin<Box<dyn Future<Output = (ConfigText, Follower)> + Send>>,
}

/// Follows the document of one service.
///
/// | etcd | what is told |
/// |---|---|
/// | holds one, or none | that |
/// | refuses it | that, beside the last one that etcd has told; a cached one is withdrawn |
/// | does not answer | the last one; at first the cached one, or after some time that there is none |
/// | has lost its data | the last one, while the loss may be an accident |
struct Follower {
    key: Vec<u8>,
    /// The prefix of all documents.
    all_keys: String,
    service: Target,
    watches: Watches,
    /// The instances of the service.
    instances: Receiver<View>,
    mass_loss: MassLoss,
    /// Of this document alone, however it is read.
    cache: Option<ServiceCache>,
    /// Whether etcd has held a document, or none, or has refused it.
    is_answered: bool,
    /// What is in force as far as is known.
    known: Option<Document>,
    told: Option<ConfigText>,
    /// When silence is told; counted from when this first runs, as the runtime may be driven late.
    silent_at: Option<Instant>,
}

/// What is at the key.
struct Document {
    /// `None`: there is none.
    value: Option<Box<[u8]>>,
    text: Result<Option<Arc<str>>, TextError>,
    /// The revision at which it was first seen.
    revision: i64,
    /// Which watch has told it last, and how often that one had seen another etcd by then. `None`: the cache.
    origin: Option<(bool, u64)>,
    /// When another etcd was found not to have it.
    lost_at: Option<Instant>,
}

impl Document {
    fn new(value: Option<&[u8]>, revision: i64, origin: Option<(bool, u64)>) -> Self {
        let invalid = |error| TextError::Invalid(format!("the document is not UTF-8: {error}"));
        let text = value.map(|value| std::str::from_utf8(value).map(Arc::from)).transpose().map_err(invalid);
        Self { value: value.map(Into::into), text, revision, origin, lost_at: None }
    }
}

impl ConfigUpdates {
    /// `instances` are those of the service.
    pub(in crate::resolver) fn new(
        resolver: Arc<Shared>,
        service: Target,
        instances: Receiver<View>,
        runtime: Handle,
    ) -> Self {
        let key = resolver.config_keys.of(&service);
        let all = resolver.config_keys.all();
        let cache = resolver.cache.clone().map(|cache| ServiceCache::new(cache, all, &key, &reader(), false));
        let follower = Follower {
            key,
            all_keys: all.prefix(),
            service: service.clone(),
            instances,
            mass_loss: resolver.mass_loss,
            watches: Watches::new(resolver, service, runtime),
            cache,
            is_answered: false,
            known: None,
            told: None,
            silent_at: None,
        };
        Self { next: Box::pin(follower.next()) }
    }
}

impl Stream for ConfigUpdates {
    type Item = ConfigText;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConfigText>> {
        let (text, follower) = ready!(self.next.as_mut().poll(cx));
        self.next = Box::pin(follower.next());
        Poll::Ready(Some(text))
    }
}

impl Follower {
    /// Waits for what is to be told next.
    async fn next(mut self) -> (ConfigText, Self) {
        loop {
            let now = Instant::now();
            self.silent_at.get_or_insert(now + SILENCE);
            if let Some(text) = self.text(now)
                && self.told.as_ref() != Some(&text)
            {
                self.told = Some(text.clone());
                return (text, self);
            }
            let wake = self.wake(now);
            let is_lost = self.known.as_ref().is_some_and(|known| known.lost_at.is_some());
            tokio::select! {
                () = self.watches.changed() => {}
                () = changed(&mut self.instances), if is_lost => {}
                () = next_of(self.cache.as_mut()) => {}
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
    }

    /// When time alone changes something.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let lost_at = self.known.as_ref().and_then(|known| known.lost_at);
        let believed_at = lost_at.map(|at| at + self.mass_loss.doubtful_for);
        let confirm_at = self.cache.as_ref().and_then(ServiceCache::confirm_at);
        [self.silent_at, believed_at, confirm_at].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// What holds now. `None`: nothing new.
    fn text(&mut self, now: Instant) -> Option<ConfigText> {
        match self.watches.answer() {
            Answer::Current { view, is_own } => {
                self.on_current(&view, is_own, now);
                self.known.as_ref().map(|known| self.text_of(known))
            }
            Answer::Denied => {
                self.is_answered = true;
                if let Some(cache) = &mut self.cache {
                    cache.on_answer();
                }
                // An answer: what was cached does not hold.
                if let Some(cached) = self.known.take_if(|known| known.origin.is_none()) {
                    return Some(self.text_of(&Document::new(None, cached.revision, None)));
                }
                Some(ConfigText { source: self.source(None), text: Err(self.denied()) })
            }
            Answer::Silent(_) if self.is_answered || self.known.is_some() => None,
            Answer::Silent(error) => {
                if let Some(found) = self.cache.as_ref().and_then(ServiceCache::used) {
                    let value = found.snapshot.get(&self.key).and_then(|entry| entry.value());
                    let cached = Document::new(value, found.snapshot.revision(), None);
                    let text = self.text_of(&cached);
                    self.known = Some(cached);
                    return Some(text);
                }
                let nothing_comes = self.cache.as_ref().is_none_or(ServiceCache::has_none);
                let is_late = self.silent_at.is_some_and(|at| at <= now);
                // Once: another failure is no other word.
                let error = error.filter(|_| nothing_comes && is_late && self.told.is_none())?;
                let silent = TextError::Unreadable(format!("etcd has not answered: {error:?}"));
                Some(ConfigText { source: self.source(None), text: Err(silent) })
            }
        }
    }

    /// Takes what etcd holds.
    fn on_current(&mut self, view: &View, is_own: bool, now: Instant) {
        self.is_answered = true;
        let origin = Some((is_own, view.restores));
        let entry = view.snapshot.get(&self.key);
        let value = entry.and_then(|entry| entry.value());
        let is_same = self.known.as_ref().is_some_and(|known| known.value.as_deref() == value);
        if !is_same && value.is_none() && self.keeps_lost(origin, now) {
            return;
        }
        match &mut self.known {
            Some(known) if is_same => (known.origin, known.lost_at) = (origin, None),
            known => *known = Some(Document::new(value, view.snapshot.revision(), origin)),
        }
        let Some(cache) = &mut self.cache else { return };
        if !is_same || cache.confirm_at().is_none_or(|at| at <= now) {
            let mut snapshot = Snapshot::default();
            if let Some(entry) = entry {
                snapshot.put(entry.clone());
            }
            snapshot.set_revision(view.snapshot.revision());
            cache.confirm(&snapshot, !is_same);
        }
    }

    /// Whether the document stays for now, although etcd does not have it: another etcd has taken the place of the one that had it,
    /// or the loss of the service's instances is doubtful.
    fn keeps_lost(&mut self, origin: Option<(bool, u64)>, now: Instant) -> bool {
        let is_lost = matches!(self.instances.borrow_and_update().state(), ResolutionState::Doubtful { .. });
        let Some(known) = self.known.as_mut().filter(|known| known.origin.is_some()) else { return false };
        let is_other =
            known.origin.zip(origin).is_some_and(|(before, after)| before.0 == after.0 && before.1 != after.1);
        let may_be_doubtful = self.mass_loss.min_instances > 0 && !self.mass_loss.doubtful_for.is_zero();
        if !(is_lost || is_other && may_be_doubtful) {
            return false;
        }
        if known.lost_at.is_none() {
            tracing::warn!(parent: None, service = self.service.name(), "etcd has lost the service config, keeping it for now");
        }
        let lost_at = *known.lost_at.get_or_insert(now);
        is_lost || now < lost_at + self.mass_loss.doubtful_for
    }

    fn text_of(&self, document: &Document) -> ConfigText {
        let revision = document.value.is_some().then_some(document.revision);
        ConfigText { source: self.source(revision), text: document.text.clone() }
    }

    /// Why nothing can be read.
    fn denied(&self) -> TextError {
        let key = String::from_utf8_lossy(&self.key);
        TextError::Unreadable(format!(
            "etcd does not let {key} be read: grant the role `read` on that key, or on the prefix {}. Tried again every 30 to 60 s",
            self.all_keys
        ))
    }

    fn source(&self, revision: Option<i64>) -> ServiceConfigSource {
        ServiceConfigSource::Etcd { key: String::from_utf8_lossy(&self.key).as_ref().into(), revision }
    }
}

/// Waits for the cache; never completes if there is none.
async fn next_of(cache: Option<&mut ServiceCache>) {
    match cache {
        Some(cache) => cache.next().await,
        None => pending().await,
    }
}
