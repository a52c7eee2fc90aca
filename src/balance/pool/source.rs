//! Any tower discovery of instances, as a source of updates for the pool.
//!
//! A discovery is code of the user: its error is logged and it is polled again after a pause, its
//! panic is logged and it is polled no more. Neither takes away a server that is known.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tower::discover::Discover;

use crate::balance::connectivity::DirectoryStatus;
use crate::balance::pool::Update;
use crate::instance::Instance;
use crate::panics::catch;

/// The pause after an error: long enough that a discovery which fails at once costs next to
/// nothing.
const RETRY: Duration = Duration::from_millis(100);

/// Turns a [`Discover`] into a stream of updates, with its errors in the [`DirectoryStatus`] that calls
/// are told of. Ends after the discovery's end or panic, with one last update.
pub(crate) struct DiscoverySource<D> {
    /// Polled until it ends or panics.
    discover: Pin<Box<D>>,
    /// The state that the pool got last.
    directory: DirectoryStatus,
    /// After an error.
    pause: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl<D> DiscoverySource<D> {
    /// `directory` names the service; nothing is known of it yet.
    pub(crate) fn new(discover: D, directory: DirectoryStatus) -> Self {
        Self { discover: Box::pin(discover), directory, pause: None, ended: false }
    }
}

impl<D> Stream for DiscoverySource<D>
where
    D: Discover<Service = Instance>,
    D::Key: Hash + Clone,
    D::Error: fmt::Display,
{
    type Item = Update<D::Key>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let polled = catch(|| match this.discover.as_mut().poll_discover(cx) {
            // The text of an error is code of the user, too.
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.to_string()))),
            Poll::Ready(Some(Ok(change))) => Poll::Ready(Some(Ok(change))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        let (changes, error) = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Some(Ok(change)))) => (vec![change.into()], None),
            Ok(Poll::Ready(Some(Err(error)))) => {
                let service = &*this.directory.service;
                if this.directory.error.is_some() {
                    tracing::debug!(parent: None, service, %error, "discovery failed again");
                } else {
                    let retry_in_ms = RETRY.as_millis() as u64; // some hundred
                    tracing::warn!(parent: None, service, %error, retry_in_ms, "discovery failed, keeping the known servers");
                }
                this.pause = Some(Box::pin(sleep(RETRY)));
                (Vec::new(), Some(error.into()))
            }
            Err(panic) => {
                let service = &*this.directory.service;
                tracing::error!(parent: None, service, panic, "discovery panicked, keeping the known servers for good");
                this.ended = true;
                (Vec::new(), Some(format!("the discovery panicked: {panic}").into()))
            }
            Ok(Poll::Ready(None)) => {
                this.ended = true;
                (Vec::new(), this.directory.error.clone())
            }
        };
        let known = this.directory.resolved || this.ended || !changes.is_empty();
        let is_news = known != this.directory.resolved || error != this.directory.error;
        this.directory.resolved = known;
        this.directory.error = error;
        Poll::Ready(Some(Update { changes, directory: is_news.then(|| this.directory.clone()) }))
    }
}
