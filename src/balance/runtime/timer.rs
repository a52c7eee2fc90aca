//! A timer that works on whichever runtime its owner is polled on.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::balance::runtime;

/// A timer that is made with its first poll, with the runtime that it was made on.
///
/// A response may be read on another runtime than its call began on. Timers of a runtime that is not driven never fire, and those of
/// one that has ended panic. Therefore a new timer is made when the runtime is another one.
#[derive(Default)]
pub(crate) struct Timer(Option<(Id, Pin<Box<Sleep>>)>);

impl Timer {
    /// Is ready at this time.
    ///
    /// # Errors
    /// `INTERNAL` if there is no runtime, or one whose timers are off.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Ok(current) = Handle::try_current() else { return self.poll_outside(cx) };
        let timer = match &mut self.0 {
            Some((id, timer)) if *id == current.id() => timer,
            other => match runtime::new_timer(at) {
                Ok(timer) => &mut other.insert((current.id(), timer)).1,
                Err(status) => return Poll::Ready(Err(status)),
            },
        };
        timer.as_mut().poll(cx).map(Ok)
    }

    /// Polls outside of all runtimes. The one that the timer was made on may still drive it; if that has ended, the poll panics.
    fn poll_outside(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some((_, timer)) = &mut self.0 else { return Poll::Ready(runtime::require_runtime()) };
        catch_unwind(AssertUnwindSafe(|| timer.as_mut().poll(cx)))
            .map_or_else(|_| Poll::Ready(runtime::require_runtime()), |polled| polled.map(Ok))
    }
}
