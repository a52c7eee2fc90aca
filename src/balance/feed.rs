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

use super::outlook::Directory;
use super::pool::Update;
use crate::instance::Instance;

/// Before a discovery that has failed is asked again.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Feed<D> {
    discover: Pin<Box<D>>,
    directory: Directory,
    pause: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl<D> Feed<D> {
    pub(super) fn new(discover: D, directory: Directory) -> Self {
        Self { discover: Box::pin(discover), directory, pause: None, ended: false }
    }
}

impl<D> Stream for Feed<D>
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
        let (changes, trouble) = match ready!(this.discover.as_mut().poll_discover(cx)) {
            Some(Ok(change)) => (vec![change], None),
            Some(Err(error)) => {
                let service = &*this.directory.service;
                tracing::warn!(parent: None, service, %error, "the discovery failed; the known servers stay");
                this.pause = Some(Box::pin(sleep(PAUSE)));
                (Vec::new(), Some(error.to_string().into()))
            }
            None => {
                this.ended = true;
                (Vec::new(), this.directory.trouble.clone())
            }
        };
        let known = this.directory.known || this.ended || !changes.is_empty();
        let news = known != this.directory.known || trouble != this.directory.trouble;
        this.directory.known = known;
        this.directory.trouble = trouble;
        Poll::Ready(Some(Update { changes, directory: news.then(|| this.directory.clone()) }))
    }
}
