//! The task of a connection.
//!
//! [`Driver`] polls h2, which reads and writes frames, and publishes the connection's state. It is
//! woken by the socket, by calls that send, by handles that send a command, by callers that cancel,
//! and by its timers. Each poll goes through these steps:
//! 1. reset cancelled streams, as far as the pace allows;
//! 2. poll h2, and end if the connection has ended;
//! 3. observe what was read and written, and publish the server's stream limit;
//! 4. drain, if h2 sends no more requests;
//! 5. carry out commands and decisions of timers.
//!
//! There are several polls for each call, so each step has a fast path that costs a few loads if
//! nothing has changed.
//!
//! Around h2:
//! - [`read_tracking`] is the IO under h2. It remembers what was read when, as [`IoActivity`].
//! - [`timers`] holds the one timer, for [`keepalive`] and the [`idle`] timeout. Both send PINGs
//!   through [`pings`]. [`registered`] skips polls of that timer.
//! - [`commands`] brings what handles of the connection ask for.

pub(super) mod commands;
mod idle;
#[cfg(test)]
mod idle_tests;
mod keepalive;
#[cfg(test)]
mod keepalive_tests;
mod pings;
pub(super) mod read_tracking;
mod registered;
mod timers;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use crate::connection::driver::commands::{Command, CommandReceiver};
use crate::connection::driver::read_tracking::{IoActivity, ReadTrackingIo};
use crate::connection::driver::timers::{Decision, Timers};
use crate::connection::handle::Handle;
use crate::connection::options::Options;
use crate::connection::resets::PacedResets;
use crate::connection::resets::cancelled::CancelledStreams;
use crate::connection::shared::Shared;
use crate::connection::state::{CloseKind, CloseReason, ConnectionState};

/// Drives one connection, as a spawned task. Ends when the connection has closed, and closes it
/// when it is dropped.
///
/// The connection closes in one of four ways: h2 says that it has ended (the server closed it, or
/// an error); the last handle is dropped and the last stream has ended; a timer or a command
/// decides to close it; or nobody uses it and it has not closed within [`CLOSE_TIMEOUT`].
pub(super) struct Driver<T> {
    connection: Connection<ReadTrackingIo<T>, Bytes>,
    /// Tells whether h2 would still send a request. `None` once it does not, or no handle is left:
    /// h2 closes a connection without `SendRequest`s when its streams have ended.
    send_request: Option<SendRequest<Bytes>>,
    commands: CommandReceiver,
    shared: Arc<Shared>,
    timers: Option<Timers>,
    cancelled: Arc<CancelledStreams>,
    resets: PacedResets,
    activity: Arc<IoActivity>,
    /// Bytes; sent again in SETTINGS whose acknowledgement shows that the server reads.
    stream_window: u32,
    /// Runs from when `send_request` is dropped.
    close_timer: Option<Pin<Box<Sleep>>>,
    /// The poll was put off by one turn, so that more requests are written at once.
    is_deferred: bool,
    /// How many streams had been opened at the last poll, modulo 2^32, and the polls since that changed.
    opened: u32,
    quiet_polls: u32,
}

/// After so many polls without a new request the connection carries long streams, and not short calls: these begin with every
/// other poll.
const QUIET_POLLS: u32 = 16;

/// How long an unused connection may take to close. A server that does not read would hold it open
/// otherwise.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Shares what `handle` has. Timers start now.
    pub(super) fn new(
        mut connection: Connection<ReadTrackingIo<T>, Bytes>,
        handle: &Handle,
        commands: CommandReceiver,
        options: &Options,
    ) -> Self {
        let pings = connection.ping_pong();
        Self {
            timers: pings.map(|pings| Timers::new(options, pings, handle.activity.clone())),
            connection,
            send_request: Some(handle.send_request.clone()),
            commands,
            shared: handle.shared.clone(),
            cancelled: handle.cancelled.clone(),
            resets: PacedResets::default(),
            activity: handle.activity.clone(),
            stream_window: options.stream_window,
            close_timer: None,
            is_deferred: false,
            opened: 0,
            quiet_polls: 0,
        }
    }

    /// Copies the server's stream limit to where calls read it, so that they take no lock of h2's.
    fn publish_stream_limit(&self) {
        let is_idle = self.timers.as_ref().is_some_and(Timers::is_idle);
        self.shared.set_stream_limit(if is_idle { 0 } else { self.connection.max_concurrent_send_streams() });
    }

    /// Drains when h2 sends no more requests: after a GOAWAY, or an error of the connection.
    #[inline]
    fn poll_send_request(&mut self, cx: &mut Context<'_>) {
        let Some(send_request) = &mut self.send_request else { return };
        if let Poll::Ready(Err(error)) = send_request.poll_ready(cx) {
            self.end_requests(&error);
        }
    }

    #[cold]
    fn end_requests(&mut self, error: &h2::Error) {
        self.send_request = None;
        self.shared.drain(CloseReason::of(error));
    }

    /// The next decision of a command or a timer, if there is one now.
    fn poll_decision(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
        while let Poll::Ready(command) = self.commands.poll_recv(cx) {
            match command {
                Some(Command::Ping) => self.timers.iter_mut().for_each(|timers| timers.ping(cx)),
                Some(Command::Prove) => {
                    if let Some(decision) = self.timers.as_mut().and_then(|timers| timers.prove(&self.shared, cx)) {
                        return Poll::Ready(decision);
                    }
                }
                Some(Command::Probe) => {
                    if let Some(decision) = self.timers.as_mut().and_then(|timers| timers.probe(&self.shared, cx)) {
                        return Poll::Ready(decision);
                    }
                }
                Some(Command::Watch) => self.timers.iter_mut().for_each(Timers::check_now),
                Some(Command::Close(why)) => {
                    return Poll::Ready(Decision::Close(CloseReason::new(CloseKind::Unresponsive, why)));
                }
                None => {
                    self.send_request = None; // if it was the last one, h2 wakes this task
                    break;
                }
            }
        }
        self.timers.as_mut().map_or(Poll::Pending, |timers| timers.poll(&self.shared, cx))
    }

    /// Ready when a connection without `SendRequest`s has had its time to close.
    fn poll_close_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.send_request.is_some() {
            return Poll::Pending;
        }
        let timer = self.close_timer.get_or_insert_with(|| Box::pin(sleep(CLOSE_TIMEOUT)));
        while timer.as_mut().poll(cx).is_ready() {
            // Streams that only wait for their reset hold nothing open; those of callers do.
            if self.shared.capacity.in_flight() <= self.resets.waiting() {
                return Poll::Ready(());
            }
            timer.set(sleep(CLOSE_TIMEOUT));
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // The first of several callers wakes this task, which would run at once and write that one
        // request alone. One turn later the others have sent too, and everything leaves in one
        // write.
        //
        // Streams without an end gain nothing by that: there are many polls, and no new request.
        let opened = this.shared.streams.opened();
        let has_requests = std::mem::replace(&mut this.opened, opened) != opened;
        this.quiet_polls = if has_requests { 0 } else { this.quiet_polls.saturating_add(1) };
        if !this.is_deferred && this.quiet_polls < QUIET_POLLS && this.shared.capacity.in_flight() > 1 {
            this.is_deferred = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.is_deferred = false;
        let resets = !this.resets.is_idle(&this.cancelled);
        if resets {
            this.resets.release(&this.cancelled, &this.shared.streams, cx);
        }
        if let Poll::Ready(result) = Pin::new(&mut this.connection).poll(cx) {
            let end = match result {
                Ok(()) => {
                    this.poll_send_request(cx); // a GOAWAY may have come together with the end
                    CloseReason::new(CloseKind::Other, "the server closed the connection")
                }
                Err(error) => CloseReason::of(&error),
            };
            // A GOAWAY that came before says more than the end that follows it.
            this.shared.close(this.shared.close_reason().unwrap_or(end));
            return Poll::Ready(());
        }
        if resets {
            let Self { connection, resets, activity, stream_window, .. } = this;
            // These SETTINGS change nothing. h2 refuses them until the server has acknowledged
            // those before.
            let settings = || connection.set_initial_window_size(*stream_window).is_ok();
            resets.probe_server(activity.is_flushed(), settings, cx);
        }
        if let Some(timers) = &mut this.timers {
            timers.observe();
        }
        // In this order: reads are observed before the limit that depends on them, and a GOAWAY is
        // published before timers and commands decide anything.
        this.publish_stream_limit();
        this.poll_send_request(cx);
        while let Poll::Ready(decision) = this.poll_decision(cx) {
            match decision {
                Decision::Close(reason) => {
                    this.shared.close(reason);
                    return Poll::Ready(()); // h2's streams fail when the connection is dropped
                }
                Decision::Drain(reason) => this.shared.drain(reason),
            }
        }
        this.poll_close_timer(cx)
    }
}

impl<T> Drop for Driver<T> {
    /// Publishes the end however it comes: also by a panic in h2, or by a runtime that shuts down.
    fn drop(&mut self) {
        self.cancelled.close();
        if !matches!(&*self.shared.state.borrow(), ConnectionState::Closed(_)) {
            self.shared.close(CloseReason::new(CloseKind::Other, "the connection's task has ended"));
        }
    }
}
