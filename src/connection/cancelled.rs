//! Calls that were given up before the server had answered anything: their streams wait for the driver, which resets them no
//! faster than servers bear (see [`super::pace`]).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use tokio::time::{Sleep, sleep};

use super::Slot;
use super::failure::Failure;
use super::pace::Pace;
use super::pump;

/// A stream without an answer. Dropped by its caller it is reset at the driver's pace, and takes a slot until then.
pub(super) struct Unanswered(Option<Stream>);

struct Stream {
    response: ResponseFuture,
    slot: Slot,
    /// The head of an answer has come, or will not: h2 must not be asked again.
    over: bool,
    order: Order,
    /// The request's own stream has failed, which its end says with a reset of another code.
    request: Option<SendStream<Bytes>>,
}

impl Stream {
    /// Where the request was whole or given up, being dropped is all.
    fn reset(self) {
        if let Some(mut request) = self.request {
            pump::break_off(&mut request);
        }
    }
}

/// When a stream was opened. h2 tells ids only under the connection's lock; this is as exact for what it is asked for.
#[derive(Clone, Copy)]
pub(super) struct Order {
    /// How many streams were opened before this one was begun: each of those has a lower id.
    pub(super) before: u32,
    /// How many were opened before this one was: a stream that was begun after it has a higher `before`.
    pub(super) number: u32,
}

/// Where callers leave their streams, and what they know of the server.
pub(super) struct Cancelled {
    /// Streams that were opened or refused by h2, each of which takes an id.
    opened: AtomicU32,
    /// All streams with lower numbers are accepted, for one that was begun after them has an answer.
    answered: AtomicU32,
    /// Something lies in the inbox.
    any: AtomicBool,
    inbox: Mutex<Inbox>,
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
    pub(super) fn new(response: ResponseFuture, slot: Slot, order: Order) -> Self {
        Self(Some(Stream { response, slot, over: false, order, request: None }))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<h2::RecvStream>, h2::Error>> {
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
    pub(super) fn break_off(&mut self, request: SendStream<Bytes>) {
        if let Some(stream) = &mut self.0 {
            stream.request = Some(request);
        }
    }

    /// Why the stream failed.
    pub(super) fn failure(&self, error: &h2::Error) -> Failure {
        match &self.0 {
            Some(stream) => stream.slot.failure(stream.response.stream_id(), error),
            None => Failure::of_stream(error, None),
        }
    }

    /// How many bytes of headers the answer may have.
    #[inline]
    pub(super) fn answer_limit(&self) -> u32 {
        self.0.as_ref().map_or(u32::MAX, |stream| stream.slot.answer_limit())
    }

    /// The stream has an answer, or has ended: nothing of it needs to be paced.
    #[inline]
    pub(super) fn end(&mut self) -> Option<Slot> {
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

impl Cancelled {
    pub(super) fn new() -> Self {
        let inbox = Mutex::new(Inbox::default());
        let (opened, answered) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { opened, answered, any: AtomicBool::new(false), inbox }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many streams were opened until now.
    #[inline]
    pub(super) fn opened(&self) -> u32 {
        self.opened.load(Ordering::Relaxed)
    }

    /// A stream was opened, which was begun when `before` were.
    #[inline]
    pub(super) fn open(&self, before: u32) -> Order {
        Order { before, number: self.opened.fetch_add(1, Ordering::Relaxed) }
    }

    #[inline]
    fn answered(&self, stream: Order, status: http::StatusCode) {
        // h2's server says 431 by itself, of streams that it never accepts.
        if status != http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
            self.answered.fetch_max(stream.before, Ordering::Relaxed);
        }
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
    fn take(&self, cx: &mut Context<'_>) -> Vec<Stream> {
        let mut inbox = self.lock();
        inbox.driver = Some(cx.waker().clone());
        self.any.store(false, Ordering::Relaxed);
        std::mem::take(&mut inbox.streams)
    }

    /// Nothing is left here from now on.
    pub(super) fn close(&self) {
        let mut inbox = self.lock();
        inbox.closed = true;
        let streams = std::mem::take(&mut inbox.streams);
        drop(inbox);
        drop(streams);
    }
}

/// The driver's part: streams that wait to be reset.
pub(super) struct Resets {
    waiting: VecDeque<Stream>,
    pace: Pace,
    /// The server reads again; it may still be about to accept what it has read.
    rest: Option<Pin<Box<Sleep>>>,
    /// Which of those that wait is looked at next.
    next: usize,
    begun: bool,
    /// Streams with a lower number are accepted, and were taken out of those that wait.
    accepted: u32,
    /// How many were opened when the connection was last driven.
    opened: u32,
}

/// From the moment when a server is seen to read to the next resets: time to accept what it has read, also for one that is
/// busy; so much, and a little for each stream that waits.
const REST: Duration = Duration::from_millis(5);
const REST_FOR_EACH: Duration = Duration::from_micros(50);
const LONGEST_REST: Duration = Duration::from_secs(1);
/// How many of those that wait are looked at in one turn.
const LOOKS: usize = 32;

impl Resets {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            pace: Pace::default(),
            rest: None,
            next: 0,
            begun: false,
            accepted: 0,
            opened: 0,
        }
    }

    /// How many streams wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether [`Resets::release`] and [`Resets::ask`] have nothing to do, which is the rule.
    #[inline]
    pub(super) fn are_idle(&self, cancelled: &Cancelled) -> bool {
        self.begun && self.waiting.is_empty() && self.pace.is_idle() && !cancelled.any.load(Ordering::Acquire)
    }

    /// Resets what may be reset; to be asked before the connection is driven.
    pub(super) fn release(&mut self, cancelled: &Cancelled, cx: &mut Context<'_>) {
        let (before, mut fresh) = (self.waiting.len(), 0);
        if !self.begun || cancelled.any.load(Ordering::Acquire) {
            self.begun = true;
            self.waiting.extend(cancelled.take(cx));
            fresh = self.waiting.len() - before;
        }
        if self.waiting.is_empty() {
            return;
        }
        self.opened = cancelled.opened();
        self.look(cancelled, cx);
        let rests = self.rest.as_mut().is_some_and(|rest| rest.as_mut().poll(cx).is_pending());
        if !rests {
            self.rest = None;
        }
        let read = if rests { 0 } else { self.pace.accepted() };
        let accepted = cancelled.answered.load(Ordering::Relaxed).max(read).max(self.accepted);
        self.pace.answered(accepted);
        // Many may wait, and for long: all of them are gone through only where something is new.
        let known = if accepted == self.accepted { self.waiting.len().saturating_sub(fresh) } else { 0 };
        self.accepted = accepted;
        for stream in self.waiting.split_off(known) {
            if stream.order.number >= accepted {
                self.waiting.push_back(stream);
            } else {
                stream.reset();
            }
        }
        while !rests
            && self.pace.has_room()
            && let Some(stream) = self.waiting.pop_front()
        {
            self.pace.reset(stream.order.number);
            stream.reset();
        }
    }

    /// Whether any of those that wait has an answer by now, or has ended. Each look asks to be woken.
    fn look(&mut self, cancelled: &Cancelled, cx: &mut Context<'_>) {
        for _ in 0..LOOKS.min(self.waiting.len()) {
            self.next = if self.next < self.waiting.len() { self.next } else { 0 };
            let Some(stream) = self.waiting.get_mut(self.next) else { return };
            match Pin::new(&mut stream.response).poll(cx) {
                Poll::Pending => self.next += 1,
                Poll::Ready(response) => {
                    if let Ok(head) = response {
                        cancelled.answered(stream.order, head.status());
                    }
                    self.waiting.remove(self.next).into_iter().for_each(Stream::reset);
                }
            }
        }
    }

    /// Asks the server whether it reads, where streams wait for that; to be asked after the connection was driven. `written`
    /// says that all which was queued has left, and `ask` sends SETTINGS if those before are acknowledged.
    pub(super) fn ask(&mut self, written: bool, ask: impl FnOnce() -> bool, cx: &mut Context<'_>) {
        if self.waiting.is_empty() || !written {
            return;
        }
        self.pace.written();
        if self.rest.is_some() || !ask() {
            return;
        }
        if self.pace.asked(self.opened) {
            let for_all = REST_FOR_EACH.saturating_mul(u32::try_from(self.waiting.len()).unwrap_or(u32::MAX));
            self.rest = Some(Box::pin(sleep((REST + for_all).min(LONGEST_REST))));
        }
        // The connection writes it at its next poll, and the rest is to be waited for.
        cx.waker().wake_by_ref();
    }
}
