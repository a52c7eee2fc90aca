//! The document of one service, for its channels.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::balance::{ConfigText, ServiceConfigSource, TextError};
use crate::resolver::task::View;
use crate::resolver::{ResolutionState, Shared, WatchedService};
use crate::target::Target;

/// The documents of one service, one after the other. The first comes when etcd has answered.
pub(in crate::resolver) struct ConfigUpdates {
    resolver: Arc<Shared>,
    runtime: Handle,
    service: Target,
    key: Vec<u8>,
    /// All services' documents.
    all: Followed,
    /// This one's alone, while all of them cannot be read.
    own: Option<Followed>,
    /// What was told last, once something was.
    told: Option<Result<Option<Arc<str>>, TextError>>,
}

/// A watch, and its latest view.
struct Followed {
    views: WatchStream<View>,
    latest: Option<View>,
    /// Keeps the watch alive.
    _watch: Arc<WatchedService>,
}

impl Followed {
    fn new(watch: Arc<WatchedService>) -> Self {
        Self { views: WatchStream::new(watch.view()), latest: None, _watch: watch }
    }

    /// Takes what has come. Returns whether the watch has ended, with its runtime.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match Pin::new(&mut self.views).poll_next(cx) {
                Poll::Ready(Some(view)) => self.latest = Some(view),
                Poll::Ready(None) => return true,
                Poll::Pending => return false,
            }
        }
    }

    /// The view, once etcd has answered.
    fn resolved(&self) -> Option<&View> {
        self.latest.as_ref().filter(|view| view.state() != ResolutionState::Unresolved)
    }

    /// Whether etcd has not answered yet, and something is wrong.
    fn has_failed(&self) -> bool {
        self.resolved().is_none() && self.latest.as_ref().is_some_and(|view| view.error.is_some())
    }

    /// Whether etcd has refused it from the beginning.
    fn is_denied(&self) -> bool {
        let denied = |view: &View| view.error.as_ref().is_some_and(crate::Error::is_permission_denied);
        self.resolved().is_none() && self.latest.as_ref().is_some_and(denied)
    }
}

impl ConfigUpdates {
    pub(in crate::resolver) fn new(resolver: Arc<Shared>, service: Target, runtime: Handle) -> Self {
        let key = resolver.config_keys.of(&service);
        let all = Followed::new(resolver.configs(&runtime));
        Self { resolver, runtime, service, key, all, own: None, told: None }
    }

    /// The document as `view` has it.
    fn text_in(&self, view: &View) -> Result<Option<Arc<str>>, TextError> {
        let Some(value) = view.snapshot.get(&self.key).and_then(|entry| entry.value()) else { return Ok(None) };
        let invalid = |error| TextError::Invalid(format!("the document is not UTF-8: {error}"));
        std::str::from_utf8(value).map(|text| Some(text.into())).map_err(invalid)
    }

    /// Why nothing can be read.
    fn denied(&self) -> TextError {
        let key = String::from_utf8_lossy(&self.key);
        let all = self.resolver.config_keys.all().prefix();
        TextError::Unreadable(format!(
            "etcd does not let {key} be read: grant the role `read` on that key, or on the prefix {all}. Tried again every 30 to 60 s"
        ))
    }
}

impl Stream for ConfigUpdates {
    type Item = ConfigText;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConfigText>> {
        let this = &mut *self;
        if this.all.poll(cx) {
            return Poll::Pending; // nothing follows: the last one stays in force
        }
        if this.all.resolved().is_some() {
            this.own = None;
        } else if this.all.has_failed() && this.own.is_none() {
            // It may be refused, or it is not known yet whether it is: this one's alone may be in a cache file.
            this.own = Some(Followed::new(this.resolver.config_of(&this.service, &this.runtime)));
        }
        if let Some(own) = &mut this.own
            && own.poll(cx)
        {
            return Poll::Pending;
        }
        let followed = this.own.as_ref().unwrap_or(&this.all);
        let (revision, text) = match followed.resolved() {
            Some(view) => (view.snapshot.revision(), this.text_in(view)),
            // Nothing will come before the role is another one.
            None if this.all.is_denied() && followed.is_denied() && this.own.is_some() => (0, Err(this.denied())),
            None => return Poll::Pending,
        };
        if this.told.as_ref() == Some(&text) {
            return Poll::Pending;
        }
        this.told = Some(text.clone());
        let key = String::from_utf8_lossy(&this.key).as_ref().into();
        let has_document = !matches!(text, Ok(None) | Err(TextError::Unreadable(_)));
        let revision = has_document.then_some(revision);
        Poll::Ready(Some(ConfigText { source: ServiceConfigSource::Etcd { key, revision }, text }))
    }
}
