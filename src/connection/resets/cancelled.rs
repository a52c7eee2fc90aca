//! Calls that were given up before the server had answered anything: their streams wait for the driver, which resets them no
//! faster than servers bear (see [`crate::connection::resets`]).

use std::future::Future;
use std::pin::Pin;
#[cfg(test)]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;

use crate::connection::StreamPermit;
use crate::connection::exchange::request_sender;
use crate::connection::failure::Failure;

/// A stream without an answer. Dropped by its caller it is reset at the driver's pace, and takes a slot until then.
pub(crate) struct Unanswered(Option<Stream>);

pub(crate) struct Stream {
    pub(crate) response: ResponseFuture,
    slot: StreamPermit,
    /// The head of an answer has come, or will not: h2 must not be asked again.
    over: bool,
    pub(crate) order: Order,
    /// The request's own stream has failed, which its end says with a reset of another code.
    request: Option<SendStream<Bytes>>,
}

impl Stream {
    /// Where the request was whole or given up, being dropped is all.
    pub(crate) fn reset(self) {
        if let Some(mut request) = self.request {
            request_sender::break_off(&mut request);
        }
    }
}

/// When a stream was opened. h2 tells ids only under the connection's lock; this is as exact for what it is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    /// How many streams were opened before this one was begun: each of those has a lower id.
    pub(crate) before: u32,
    /// How many were opened before this one was: a stream that was begun after it has a higher `before`.
    pub(crate) number: u32,
}

/// Where callers leave their streams, and what they know of the server.
pub(crate) struct CancelledStreams {
    /// Streams that were opened or refused by h2, each of which takes an id.
    opened: AtomicU32,
    /// All streams with lower numbers are accepted, for one that was begun after them has an answer.
    answered: AtomicU32,
    /// Something lies in the inbox.
    any: AtomicBool,
    inbox: Mutex<Inbox>,
    /// How many streams the driver has gone through.
    #[cfg(test)]
    pub(crate) looks: AtomicUsize,
}

#[derive(Default)]
struct Inbox {
    streams: Vec<Stream>,
    driver: Option<Waker>,
    /// The driver is gone: nobody takes anything out.
    closed: bool,
}

impl Unanswered {
    #[inline]
    pub(crate) fn new(response: ResponseFuture, slot: StreamPermit, order: Order) -> Self {
        Self(Some(Stream { response, slot, over: false, order, request: None }))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<h2::RecvStream>, h2::Error>> {
        // Nobody asks after the end; nothing ever comes then.
        let Some(stream) = &mut self.0 else { return Poll::Pending };
        let response = std::task::ready!(Pin::new(&mut stream.response).poll(cx));
        stream.over = true;
        if let Ok(head) = &response {
            stream.slot.progress();
            stream.slot.0.cancelled.answered(stream.order, head.status());
        }
        Poll::Ready(response)
    }

    /// The request's own stream has failed.
    pub(crate) fn break_off(&mut self, request: SendStream<Bytes>) {
        if let Some(stream) = &mut self.0 {
            stream.request = Some(request);
        }
    }

    /// Why the stream failed.
    pub(crate) fn failure(&self, error: &h2::Error) -> Failure {
        match &self.0 {
            Some(stream) => stream.slot.failure(stream.response.stream_id(), error),
            None => Failure::of_stream(error, None),
        }
    }

    /// How many bytes of headers the answer may have.
    #[inline]
    pub(crate) fn answer_limit(&self) -> u32 {
        self.0.as_ref().map_or(u32::MAX, |stream| stream.slot.answer_limit())
    }

    /// The stream has an answer, or has ended: nothing of it needs to be paced.
    #[inline]
    pub(crate) fn end(&mut self) -> Option<StreamPermit> {
        self.0.take().map(|stream| stream.slot)
    }
}

impl Drop for Unanswered {
    #[inline]
    fn drop(&mut self) {
        let Some(stream) = self.0.take().filter(|stream| !stream.over) else { return };
        let shared = stream.slot.0.clone();
        shared.cancelled.give_up(stream);
    }
}

impl CancelledStreams {
    pub(crate) fn new() -> Self {
        let inbox = Mutex::new(Inbox::default());
        let (opened, answered) = (AtomicU32::new(0), AtomicU32::new(0));
        let any = AtomicBool::new(false);
        Self {
            opened,
            answered,
            any,
            inbox,
            #[cfg(test)]
            looks: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many streams were opened until now.
    #[inline]
    pub(crate) fn opened(&self) -> u32 {
        self.opened.load(Ordering::Relaxed)
    }

    /// A stream was opened, which was begun when `before` were.
    #[inline]
    pub(crate) fn open(&self, before: u32) -> Order {
        Order { before, number: self.opened.fetch_add(1, Ordering::Relaxed) }
    }

    #[inline]
    pub(crate) fn answered(&self, stream: Order, status: http::StatusCode) {
        // h2's server says 431 by itself, of streams that it never accepts.
        if status != http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
            self.answered.fetch_max(stream.before, Ordering::Relaxed);
        }
    }

    /// Every stream with a lower number is accepted.
    pub(crate) fn accepted(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether streams wait to be taken out.
    pub(crate) fn is_any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn give_up(&self, stream: Stream) {
        if stream.order.number < self.answered.load(Ordering::Relaxed) {
            return stream.reset();
        }
        let mut inbox = self.lock();
        if inbox.closed {
            drop(inbox); // the stream after it, for it may wake somebody
            return;
        }
        inbox.streams.push(stream);
        self.any.store(true, Ordering::Release);
        let driver = inbox.driver.take();
        drop(inbox);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// What lies in the inbox. Whoever puts something in from now on wakes this task.
    pub(crate) fn take(&self, cx: &mut Context<'_>) -> Vec<Stream> {
        let mut inbox = self.lock();
        inbox.driver = Some(cx.waker().clone());
        self.any.store(false, Ordering::Relaxed);
        std::mem::take(&mut inbox.streams)
    }

    /// Nothing is left here from now on.
    pub(crate) fn close(&self) {
        let mut inbox = self.lock();
        inbox.closed = true;
        let streams = std::mem::take(&mut inbox.streams);
        drop(inbox);
        drop(streams);
    }
}
