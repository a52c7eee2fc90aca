//! Streams of calls that were cancelled before a response. They wait here for the driver, which
//! resets them no faster than servers tolerate (see [`crate::connection::resets`]).
//!
//! A caller that drops a stream pushes it into an inbox and wakes the driver, once for all streams
//! that come until the driver takes them. Streams that the server is known to have accepted are
//! reset by the caller itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};

use crate::connection::failure::Failure;
use crate::connection::resets::order::StreamOrder;
use crate::connection::shared::StreamPermit;

/// A stream that waits for the head of its response, held by the caller's exchange. Dropped before
/// the head, the stream goes to the connection's [`CancelledStreams`] and keeps its permit until it
/// is reset.
pub(crate) struct PendingResponse {
    /// `None` once [`PendingResponse::finish`] was called.
    stream: Option<PendingStream>,
    cancelled: Arc<CancelledStreams>,
}

/// An open stream without a response.
pub(crate) struct PendingStream {
    pub(crate) response: ResponseFuture,
    permit: StreamPermit,
    /// `response` was ready. h2 must not be polled again, and nothing is left to reset.
    is_done: bool,
    pub(crate) order: StreamOrder,
    /// The sending half, if the request's body failed: the stream is then reset with
    /// `INTERNAL_ERROR`, see [`break_off`].
    failed_request: Option<SendStream<Bytes>>,
}

impl PendingStream {
    /// Resets the stream. h2 sends `CANCEL` for a stream that is dropped.
    pub(crate) fn reset(self) {
        if let Some(mut request) = self.failed_request {
            break_off(&mut request);
        }
    }
}

/// Resets the stream of a request whose body failed. Not with `CANCEL`: hyper's servers take that
/// for an orderly end of the request, so that half of it would look complete.
pub(crate) fn break_off(stream: &mut SendStream<Bytes>) {
    stream.send_reset(Reason::INTERNAL_ERROR);
}

/// Where callers leave streams that they have cancelled, for the driver to take.
#[derive(Default)]
pub(crate) struct CancelledStreams {
    /// The inbox has streams. Lets the driver skip the lock.
    has_any: AtomicBool,
    inbox: Mutex<Inbox>,
    /// How many streams the driver has checked one by one.
    #[cfg(test)]
    pub(crate) checked: std::sync::atomic::AtomicUsize,
}

#[derive(Default)]
struct Inbox {
    streams: Vec<PendingStream>,
    /// Wakes the driver, until it is used.
    driver: Option<Waker>,
    /// The driver has ended: nothing takes streams out any more.
    is_closed: bool,
}

impl PendingResponse {
    /// From a stream that h2 has opened.
    #[inline]
    pub(crate) fn new(
        response: ResponseFuture,
        permit: StreamPermit,
        order: StreamOrder,
        cancelled: Arc<CancelledStreams>,
    ) -> Self {
        Self {
            stream: Some(PendingStream { response, permit, is_done: false, order, failed_request: None }),
            cancelled,
        }
    }

    /// Waits for the head of the response. Not to be polled again once it was ready.
    ///
    /// # Errors
    /// Why the stream failed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<h2::RecvStream>, Failure>> {
        let Some(stream) = &mut self.stream else { return Poll::Pending }; // finished: nothing ever comes
        let response = std::task::ready!(Pin::new(&mut stream.response).poll(cx));
        stream.is_done = true;
        Poll::Ready(match response {
            Ok(response) => {
                stream.permit.record_progress();
                stream.permit.0.streams.record_response(stream.order, response.status());
                Ok(response)
            }
            Err(error) => Err(stream.permit.failure(stream.response.stream_id(), &error, Failure::before_response)),
        })
    }

    /// The request's body failed: the stream has to be reset with its sending half.
    pub(crate) fn fail_request(&mut self, request: SendStream<Bytes>) {
        if let Some(stream) = &mut self.stream {
            stream.failed_request = Some(request);
        }
    }

    /// The limit for the response's headers, in bytes.
    #[inline]
    pub(crate) fn response_header_limit(&self) -> u32 {
        self.stream.as_ref().map_or(u32::MAX, |stream| stream.permit.headers().response_limit())
    }

    /// The stream has a response or has failed, so that its reset needs no pacing. Returns its
    /// permit.
    #[inline]
    pub(crate) fn finish(&mut self) -> Option<StreamPermit> {
        self.stream.take().map(|stream| stream.permit)
    }
}

impl Drop for PendingResponse {
    #[inline]
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take().filter(|stream| !stream.is_done) {
            self.cancelled.push(stream);
        }
    }
}

impl CancelledStreams {
    /// A poisoned lock is used on: the inbox is consistent after every statement of its holders.
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether [`CancelledStreams::take`] would return any.
    pub(crate) fn is_any(&self) -> bool {
        self.has_any.load(Ordering::Acquire)
    }

    /// Takes a stream that was cancelled; called by its caller's task.
    fn push(&self, stream: PendingStream) {
        if stream.order.number < stream.permit.0.streams.accepted() {
            return stream.reset();
        }
        let mut inbox = self.lock();
        if inbox.is_closed {
            // The lock goes first: the drop of a stream may wake a task.
            drop(inbox);
            return;
        }
        inbox.streams.push(stream);
        self.has_any.store(true, Ordering::Release);
        let driver = inbox.driver.take();
        drop(inbox);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Takes all streams out. The next one that comes wakes the driver's task.
    pub(crate) fn take(&self, cx: &mut Context<'_>) -> Vec<PendingStream> {
        let mut inbox = self.lock();
        inbox.driver = Some(cx.waker().clone());
        self.has_any.store(false, Ordering::Relaxed);
        std::mem::take(&mut inbox.streams)
    }

    /// The driver has ended. Streams that come from now on are dropped at once.
    pub(crate) fn close(&self) {
        let mut inbox = self.lock();
        inbox.is_closed = true;
        let streams = std::mem::take(&mut inbox.streams);
        drop(inbox);
        drop(streams); // after the lock, as in `push`
    }
}
