//! The timer of a connection: one for keep-alive and for the idle timeout.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::PingPong;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::connection::driver::idle::Idle;
use crate::connection::driver::keepalive::KeepAliveTimer;
use crate::connection::driver::pings::Pings;
use crate::connection::driver::read_tracking::LastRead;
use crate::connection::driver::registered::RegisteredTimer;
use crate::connection::options::Options;
use crate::connection::{CloseReason, Shared};

/// What a timer or a command decides about a connection.
pub(crate) enum Decision {
    /// It is dead: close it.
    Dead(CloseReason),
    /// It takes no further exchange. Those in flight may finish.
    Leave(CloseReason),
}

pub(crate) struct Timers {
    timer: Pin<Box<Sleep>>,
    timer_registered: RegisteredTimer,
    pings: Pings,
    keep_alive: Option<KeepAliveTimer>,
    /// Pings are not limited in number.
    is_free: bool,
    idle: Option<Idle>,
}

impl Timers {
    /// None where neither keep-alive nor the idle timeout is on.
    pub(crate) fn new(options: &Options, h2: PingPong, last_read: Arc<LastRead>) -> Option<Self> {
        let keep_alive =
            options.keep_alive.map(|keep_alive| KeepAliveTimer::new(keep_alive, options.keep_alive_while_idle));
        let idle = options.idle_timeout.map(Idle::new);
        let first = [options.keep_alive.map(|keep_alive| keep_alive.interval), options.idle_timeout];
        let first: Duration = first.into_iter().flatten().min()?;
        Some(Self {
            timer: Box::pin(sleep_until(Instant::now() + first)),
            timer_registered: RegisteredTimer::default(),
            pings: Pings::new(h2, last_read),
            keep_alive,
            is_free: options.keep_alive.is_some_and(|keep_alive| keep_alive.unthrottled),
            idle,
        })
    }

    /// Whether the connection takes no exchange until something is read.
    pub(crate) fn is_unproven(&self) -> bool {
        self.idle.as_ref().is_some_and(Idle::is_unproven)
    }

    /// To be called after each poll of the connection, before anything else.
    pub(crate) fn see(&mut self, shared: &Shared) {
        self.pings.see();
        if let Some(idle) = &mut self.idle
            && idle.see(&self.pings, shared)
        {
            self.look_now();
        }
    }

    /// Sends a PING now, unless one was sent a moment ago; none without keep-alive.
    pub(crate) fn ping(&mut self, cx: &mut Context<'_>) {
        if self.keep_alive.is_some() {
            KeepAliveTimer::ping(Instant::now(), &mut self.pings, cx);
            self.look_now();
        }
    }

    /// A call asks for a connection that is unproven.
    pub(crate) fn prove(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Option<Decision> {
        let idle = self.idle.as_mut()?;
        let proven = idle.prove(Instant::now(), &mut self.pings, shared, self.is_free, cx);
        self.look_now();
        proven.err().map(|why| Decision::Leave(CloseReason::because(why)))
    }

    fn look_now(&mut self) {
        self.reset(Instant::now());
    }

    fn reset(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
        self.timer_registered.clear();
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_quiet = !self.timer.is_elapsed();
        self.timer_registered.poll(cx, is_quiet, |cx| self.timer.as_mut().poll(cx))
    }

    /// Ready when something is decided. After [`Decision::Leave`] it must be polled again.
    pub(crate) fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Decision> {
        while self.poll_timer(cx).is_ready() {
            let now = Instant::now();
            let keep_alive = self.keep_alive.as_mut().map(|silence| silence.look(now, &mut self.pings, shared, cx));
            let idle = self.idle.as_mut().map(|idle| idle.look(now, &mut self.pings, shared));
            if let Some(Err(why)) = keep_alive {
                return Poll::Ready(Decision::Dead(CloseReason { silent: true, ..CloseReason::because(why) }));
            }
            let next = [&keep_alive, &idle].into_iter().flatten().flatten().min();
            // Where there is nothing to look at, idleness was all that was watched, and is over.
            self.reset(next.copied().unwrap_or(now + Duration::from_secs(24 * 60 * 60)));
            if let Some(Err(why)) = idle {
                return Poll::Ready(Decision::Leave(CloseReason::because(why)));
            }
        }
        Poll::Pending
    }
}
