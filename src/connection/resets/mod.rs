//! The driver's part of calls that were given up: streams that wait to be reset.

pub(super) mod cancelled;
pub(super) mod pace;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::connection::resets::cancelled::{CancelledStreams, Stream};
use crate::connection::resets::pace::Pace;

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
    pub(super) fn are_idle(&self, cancelled: &CancelledStreams) -> bool {
        self.begun && self.waiting.is_empty() && self.pace.is_idle() && !cancelled.is_any()
    }

    /// Resets what may be reset; to be asked before the connection is driven.
    pub(super) fn release(&mut self, cancelled: &CancelledStreams, cx: &mut Context<'_>) {
        let (before, mut fresh) = (self.waiting.len(), 0);
        if !self.begun || cancelled.is_any() {
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
        let accepted = cancelled.accepted().max(read).max(self.accepted);
        self.pace.answered(accepted);
        // Many may wait, and for long: all of them are gone through only where something is new.
        let known = if accepted == self.accepted { self.waiting.len().saturating_sub(fresh) } else { 0 };
        self.accepted = accepted;
        let new = self.waiting.split_off(known);
        #[cfg(test)]
        cancelled.looks.fetch_add(new.len(), std::sync::atomic::Ordering::Relaxed);
        for stream in new {
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
    fn look(&mut self, cancelled: &CancelledStreams, cx: &mut Context<'_>) {
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
