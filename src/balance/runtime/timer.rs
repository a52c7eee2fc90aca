//! A timer that is polled on whichever runtime its owner is polled on.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::balance::runtime;

/// Made with its first poll. An answer may be read on another runtime than its call began on: the timers of a runtime that is
/// not driven never fire, and those of one that has ended panic, so that a new one is made where the runtime is another.
#[derive(Default)]
pub(crate) struct Timer(Option<(Id, Pin<Box<Sleep>>)>);

impl Timer {
    /// Ready at this time.
    ///
    /// # Errors
    /// `INTERNAL` where there is no runtime, or one whose timers are off.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Ok(here) = Handle::try_current().map(|runtime| runtime.id()) else { return self.poll_outside(cx) };
        let timer = match &mut self.0 {
            Some((id, timer)) if *id == here => timer,
            other => match runtime::timer(at) {
                Ok(timer) => &mut other.insert((here, timer)).1,
                Err(status) => return Poll::Ready(Err(status)),
            },
        };
        timer.as_mut().poll(cx).map(Ok)
    }

    /// Outside of all runtimes, the one that the timer was made on may still drive it.
    fn poll_outside(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some((_, timer)) = &mut self.0 else { return Poll::Ready(runtime::here()) };
        match catch_unwind(AssertUnwindSafe(|| timer.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(runtime::here()),
        }
    }
}
