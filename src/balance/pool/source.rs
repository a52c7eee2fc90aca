//! Any tower discovery of instances, as a source of updates.

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

/// Before a discovery that has failed is asked again.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct DiscoverySource<D> {
    discover: Pin<Box<D>>,
    directory: DirectoryStatus,
    pause: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl<D> DiscoverySource<D> {
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
            // What an error says is the user's code, too.
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.to_string()))),
            Poll::Ready(Some(Ok(change))) => Poll::Ready(Some(Ok(change))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        let (changes, trouble) = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Some(Ok(change)))) => (vec![change], None),
            Ok(Poll::Ready(Some(Err(error)))) => {
                let service = &*this.directory.service;
                if this.directory.error.is_some() {
                    tracing::debug!(parent: None, service, %error, "the discovery failed again");
                } else {
                    tracing::warn!(parent: None, service, %error, "the discovery failed; the known servers stay");
                }
                this.pause = Some(Box::pin(sleep(PAUSE)));
                (Vec::new(), Some(error.into()))
            }
            Err(panic) => {
                tracing::error!(parent: None, panic, "the discovery panicked, and is not asked again; the known servers stay");
                this.ended = true;
                (Vec::new(), Some(format!("the discovery panicked: {panic}").into()))
            }
            Ok(Poll::Ready(None)) => {
                this.ended = true;
                (Vec::new(), this.directory.error.clone())
            }
        };
        let known = this.directory.resolved || this.ended || !changes.is_empty();
        let news = known != this.directory.resolved || trouble != this.directory.error;
        this.directory.resolved = known;
        this.directory.error = trouble;
        Poll::Ready(Some(Update { changes, directory: news.then(|| this.directory.clone()) }))
    }
}
