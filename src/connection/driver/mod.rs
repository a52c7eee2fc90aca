//! The task that drives a connection: reads and writes frames, and tells how far it has come.

pub(super) mod commands;
pub(super) mod idle;
#[cfg(test)]
mod idle_tests;
pub(super) mod keepalive;
#[cfg(test)]
mod keepalive_tests;
pub(super) mod pings;
pub(super) mod read_tracking;
pub(super) mod registered;
pub(super) mod timers;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use crate::connection::driver::commands::{Command, CommandReceiver};
use crate::connection::driver::read_tracking::{LastRead, ReadTrackingIo};
use crate::connection::driver::timers::{Decision, Timers};
use crate::connection::failure::is_of_pings;
use crate::connection::options::Options;
use crate::connection::resets::Resets;
use crate::connection::{CloseReason, ConnectionState, Shared};

/// Ends with the connection.
pub(super) struct Driver<T> {
    connection: Connection<ReadTrackingIo<T>, Bytes>,
    /// Asks h2 whether it would still send. Dropped with the connection's last handle, which lets h2 close it.
    probe: Option<SendRequest<Bytes>>,
    /// Ends when nobody holds the connection any more.
    commands: CommandReceiver,
    shared: Arc<Shared>,
    ready: bool,
    timers: Option<Timers>,
    resets: Resets,
    last_read: Arc<LastRead>,
    stream_window: u32,
    /// Runs while nobody wants the connection any more, and it has yet to close.
    linger: Option<Pin<Box<Sleep>>>,
    /// Whoever was about to send has had a turn.
    gathered: bool,
}

/// How long a connection that nobody wants may take to say so to a server that does not listen.
const LINGER: Duration = Duration::from_secs(10);

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    pub(super) fn new(
        mut connection: Connection<ReadTrackingIo<T>, Bytes>,
        probe: SendRequest<Bytes>,
        shared: Arc<Shared>,
        last_read: Arc<LastRead>,
        commands: CommandReceiver,
        options: &Options,
    ) -> Self {
        let timers = connection.ping_pong().and_then(|pings| Timers::new(options, pings, last_read.clone()));
        Self {
            timers,
            connection,
            probe: Some(probe),
            commands,
            shared,
            ready: false,
            resets: Resets::new(),
            last_read,
            stream_window: options.stream_window,
            linger: None,
            gathered: false,
        }
    }

    fn tell(&mut self, stage: ConnectionState) {
        self.shared.over.store(!matches!(stage, ConnectionState::Ready), Ordering::Release);
        self.shared.stage.send_replace(stage);
    }

    /// Copies the server's limit to where picks read it; 0 while the connection is unproven.
    fn copy_limit(&mut self) {
        let unproven = self.timers.as_ref().is_some_and(Timers::is_unproven);
        let limit = if unproven { 0 } else { self.connection.max_concurrent_send_streams() };
        if limit != self.shared.limit.load(Ordering::Relaxed) {
            let before = self.shared.limit.swap(limit, Ordering::SeqCst);
            let taken = before.max(self.shared.in_flight.load(Ordering::Relaxed));
            if limit > taken {
                self.shared.room.freed(limit - taken);
            }
        }
        if limit > 0 && !self.ready {
            self.ready = true;
            self.tell(ConnectionState::Ready);
        }
    }

    /// Ready when a connection that nobody wants has had its time.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.probe.is_some() {
            return Poll::Pending;
        }
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        while linger.as_mut().poll(cx).is_ready() {
            // Streams that only wait to be reset hold nothing open.
            if self.shared.in_flight.load(Ordering::Relaxed) <= self.resets.waiting() {
                return Poll::Ready(());
            }
            linger.set(sleep(LINGER));
        }
        Poll::Pending
    }

    /// Whether the server still takes exchanges, as long as anyone could want one.
    fn ask(&mut self, cx: &mut Context<'_>) {
        let Some(probe) = &mut self.probe else { return };
        if let Poll::Ready(Err(error)) = probe.poll_ready(cx) {
            self.probe = None;
            self.tell(ConnectionState::Draining(CloseReason::of(&error)));
        }
    }

    /// Does what holders of the connection ask for; what that has decided, if anything.
    fn obey(&mut self, cx: &mut Context<'_>) -> Option<Decision> {
        while let Poll::Ready(command) = self.commands.poll_recv(cx) {
            match command {
                Some(Command::Ping) => self.timers.iter_mut().for_each(|timers| timers.ping(cx)),
                Some(Command::Prove) => {
                    let decision = self.timers.as_mut().and_then(|timers| timers.prove(&self.shared, cx));
                    if decision.is_some() {
                        return decision;
                    }
                }
                Some(Command::Close(why)) => {
                    return Some(Decision::Dead(CloseReason { silent: true, ..CloseReason::because(why) }));
                }
                None => {
                    self.probe = None; // h2 wakes this task when that was the last
                    break;
                }
            }
        }
        None
    }
}

impl<T> Driver<T> {
    fn watch(&mut self, cx: &mut Context<'_>) -> Option<Decision> {
        match self.timers.as_mut()?.poll(&self.shared, cx) {
            Poll::Ready(decision) => Some(decision),
            Poll::Pending => None,
        }
    }

    /// Lets nobody begin an exchange any more. What is in flight may finish.
    fn leave(&mut self, end: CloseReason) {
        if !self.shared.over.swap(true, Ordering::AcqRel) {
            self.shared.stage.send_replace(ConnectionState::Draining(end));
        }
    }
}

impl CloseReason {
    fn of(error: &h2::Error) -> Self {
        // What else is told to calm down has nothing to do with pings.
        let goaway = error.is_go_away() && error.is_remote();
        Self { goaway, too_many_pings: goaway && is_of_pings(error), ..Self::because(error.to_string()) }
    }

    pub(super) fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), too_many_pings: false, silent: false, goaway: false }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // Where several send, the first of them wakes this task, which would run at once and write what that one has sent:
        // one turn later the others have sent too, and all of it leaves in one write.
        if !this.gathered && this.shared.in_flight.load(Ordering::Relaxed) > 1 {
            this.gathered = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.gathered = false;
        // Whoever gives a call up from now on wakes this task.
        let resets = !this.resets.are_idle(&this.shared.cancelled);
        if resets {
            this.resets.release(&this.shared.cancelled, cx);
        }
        if let Poll::Ready(result) = Pin::new(&mut this.connection).poll(cx) {
            let end = result.map_or_else(
                |error| CloseReason::of(&error),
                |()| CloseReason::because("the server closed the connection"),
            );
            // A GOAWAY that was seen before says more than the end that follows it.
            let known = match &*this.shared.stage.borrow() {
                ConnectionState::Draining(end) => Some(end.clone()),
                _ => None,
            };
            this.tell(ConnectionState::Closed(known.unwrap_or(end)));
            return Poll::Ready(());
        }
        if resets {
            let Self { connection, resets, last_read, stream_window, .. } = this;
            // h2 refuses SETTINGS while those before are not acknowledged. These change nothing.
            resets.ask(last_read.is_flushed(), || connection.set_initial_window_size(*stream_window).is_ok(), cx);
        }
        if let Some(timers) = &mut this.timers {
            timers.see(&this.shared);
        }
        this.copy_limit();
        this.ask(cx);
        while let Some(decision) = this.obey(cx).or_else(|| this.watch(cx)) {
            match decision {
                Decision::Dead(end) => {
                    this.tell(ConnectionState::Closed(end));
                    return Poll::Ready(()); // the streams end as the connection is dropped
                }
                Decision::Leave(end) => this.leave(end),
            }
        }
        this.linger(cx)
    }
}

/// However it ends, also by a panic of h2's: whoever holds the connection must know.
impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.shared.cancelled.close();
        if !matches!(&*self.shared.stage.borrow(), ConnectionState::Closed(_)) {
            self.shared.over.store(true, Ordering::Release);
            self.shared
                .stage
                .send_replace(ConnectionState::Closed(CloseReason::because("the connection's task has ended")));
        }
    }
}
