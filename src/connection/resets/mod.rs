//! Resets of streams whose calls were cancelled before a response.
//!
//! A caller that drops its call leaves the stream in [`cancelled`]; the driver takes it from there
//! into [`PacedResets`]. That resets it when the server has accepted the stream ([`order`]), or
//! when [`pacer`] has room for one more reset that the server may read before it accepts the
//! stream. The reason for the pace, and the proof that the server reads, are in [`pacer`].
//!
//! While a stream waits here, it counts as in flight: it holds its permit, and the server may still
//! work on it. A response that comes meanwhile is dropped unread. Streams that have a response are
//! reset at once and never come here.
//!
//! If the server never shows that it reads, the streams wait until the connection ends: by
//! keep-alive, or [`CLOSE_TIMEOUT`](crate::connection::driver) after the last handle was dropped.

pub(super) mod cancelled;
pub(super) mod order;
pub(crate) mod pacer;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::connection::resets::cancelled::{CancelledStreams, PendingStream};
use crate::connection::resets::order::StreamCounter;
use crate::connection::resets::pacer::ResetPacer;

/// The streams that wait to be reset. Part of the driver, which calls [`PacedResets::release`]
/// before and [`PacedResets::probe_server`] after each poll of h2, unless [`PacedResets::is_idle`].
#[derive(Default)]
pub(super) struct PacedResets {
    /// In the order in which they were cancelled. Each keeps its stream and its permit.
    waiting: VecDeque<PendingStream>,
    pacer: ResetPacer,
    /// Runs after the server was seen to read: it may still be about to accept what it has read.
    pause: Option<Pin<Box<Sleep>>>,
    /// The index of the waiting stream that is polled next.
    next_poll: usize,
    /// Whether the inbox has this task's waker.
    is_registered: bool,
    /// Streams with a lower number are accepted, and none of them is in `waiting`.
    accepted: u32,
    /// The number of streams that were opened when [`PacedResets::release`] last ran.
    opened: u32,
}

/// The pause between the sign that a server reads and the next resets: time for a busy server to
/// accept what it has read. A base, and a share for each waiting stream, because accepting them
/// takes the server longer.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_FOR_EACH: Duration = Duration::from_micros(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How many waiting streams are polled in one turn of the driver. More would let thousands of them
/// slow down every other call.
const MAX_POLLS: usize = 32;

impl PacedResets {
    /// The number of streams that wait to be reset.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether [`PacedResets::release`] and [`PacedResets::probe_server`] have nothing to do.
    /// Mostly so.
    #[inline]
    pub(super) fn is_idle(&self, cancelled: &CancelledStreams) -> bool {
        self.is_registered && self.waiting.is_empty() && self.pacer.is_idle() && !cancelled.is_any()
    }

    /// Takes in what was cancelled, and resets what may be reset. Called before h2 is polled, which
    /// writes the resets.
    pub(super) fn release(&mut self, cancelled: &CancelledStreams, streams: &StreamCounter, cx: &mut Context<'_>) {
        let (before, mut added) = (self.waiting.len(), 0);
        if !self.is_registered || cancelled.is_any() {
            self.is_registered = true;
            self.waiting.extend(cancelled.take(cx));
            added = self.waiting.len() - before;
        }
        if self.waiting.is_empty() {
            return;
        }
        self.opened = streams.opened();
        self.poll_waiting(streams, cx);
        let pauses = self.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_pending());
        if !pauses {
            self.pause = None;
        }
        let read = if pauses { 0 } else { self.pacer.accepted() };
        let accepted = streams.accepted().max(read).max(self.accepted);
        self.pacer.record_accepted(accepted);
        // Thousands of streams may wait for long. All of them are checked only when the server has
        // accepted more; else only those that were added.
        let checked = if accepted == self.accepted { self.waiting.len().saturating_sub(added) } else { 0 };
        self.accepted = accepted;
        let unchecked = self.waiting.split_off(checked);
        #[cfg(test)]
        cancelled.checked.fetch_add(unchecked.len(), std::sync::atomic::Ordering::Relaxed);
        for stream in unchecked {
            if stream.order.number >= accepted {
                self.waiting.push_back(stream);
            } else {
                stream.reset();
            }
        }
        while !pauses
            && self.pacer.has_room()
            && let Some(stream) = self.waiting.pop_front()
        {
            self.pacer.record_reset(stream.order.number);
            stream.reset();
        }
    }

    /// Polls some of the waiting streams: a response shows which streams are accepted. Each poll
    /// registers this task's waker.
    fn poll_waiting(&mut self, streams: &StreamCounter, cx: &mut Context<'_>) {
        for _ in 0..MAX_POLLS.min(self.waiting.len()) {
            self.next_poll = if self.next_poll < self.waiting.len() { self.next_poll } else { 0 };
            let Some(stream) = self.waiting.get_mut(self.next_poll) else { return };
            match Pin::new(&mut stream.response).poll(cx) {
                Poll::Pending => self.next_poll += 1,
                Poll::Ready(response) => {
                    if let Ok(head) = response {
                        streams.record_response(stream.order, head.status());
                    }
                    self.waiting.remove(self.next_poll).into_iter().for_each(PendingStream::reset);
                }
            }
        }
    }

    /// Asks the server for a sign that it reads, if streams wait for one. Called after h2 was
    /// polled.
    ///
    /// `is_flushed` says that all frames which were queued have left. `send_settings` sends
    /// SETTINGS, and returns whether it could: it cannot until the server has acknowledged those
    /// before.
    pub(super) fn probe_server(
        &mut self,
        is_flushed: bool,
        send_settings: impl FnOnce() -> bool,
        cx: &mut Context<'_>,
    ) {
        if self.waiting.is_empty() || !is_flushed {
            return;
        }
        self.pacer.record_flush();
        if self.pause.is_some() || !send_settings() {
            return;
        }
        if self.pacer.record_settings(self.opened) {
            let share = PAUSE_FOR_EACH.saturating_mul(u32::try_from(self.waiting.len()).unwrap_or(u32::MAX));
            self.pause = Some(Box::pin(sleep((PAUSE + share).min(MAX_PAUSE))));
        }
        // One more turn: h2 writes the SETTINGS at its next poll, and the pause has to be polled
        // once.
        cx.waker().wake_by_ref();
    }
}
