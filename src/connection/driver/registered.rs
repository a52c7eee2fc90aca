//! Skips polls of a timer that cannot be ready: a connection's driver is polled several times for
//! each call, and its timer fires seldom.

use std::task::{Context, Poll, Waker};

use tokio::task::coop::has_budget_remaining;

/// Remembers the waker that a timer holds since its last poll. Only for sources that keep their
/// waker until they are ready, as tokio's timers do.
#[derive(Default)]
pub(crate) struct RegisteredTimer(Option<Waker>);

impl RegisteredTimer {
    /// Polls the timer. Skips that if the timer `is_quiet` (it has not elapsed) and already holds
    /// this task's waker.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        is_quiet: bool,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if is_quiet && self.0.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        // Without a budget tokio's timers return `Pending` and do not register the waker.
        let registers = has_budget_remaining();
        let polled = poll(cx);
        self.0 = (registers && polled.is_pending()).then(|| cx.waker().clone());
        polled
    }

    /// The timer was reset: the next poll must not be skipped.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Wake;
    use std::time::Duration;

    use tokio::task::coop::{self, consume_budget};
    use tokio::task::yield_now;
    use tokio::time::sleep;

    use super::*;

    struct Nobody;

    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn only_a_quiet_timer_that_keeps_this_waker_is_left_out() {
        let (first, second) = (Waker::from(Arc::new(Nobody)), Waker::from(Arc::new(Nobody)));
        let mut registered = RegisteredTimer::default();
        let mut polls = 0;
        let mut poll = |registered: &mut RegisteredTimer, waker: &Waker, is_quiet, result: Poll<()>| {
            let before = polls;
            let _ = registered.poll(&mut Context::from_waker(waker), is_quiet, |_| {
                polls += 1;
                result
            });
            polls > before
        };
        assert!(poll(&mut registered, &first, true, Poll::Pending), "nothing is known of the timer");
        assert!(!poll(&mut registered, &first, true, Poll::Pending));
        assert!(poll(&mut registered, &first, false, Poll::Pending), "it is not quiet");
        assert!(poll(&mut registered, &second, true, Poll::Pending), "it keeps another task's waker");
        assert!(!poll(&mut registered, &second, true, Poll::Pending));
        registered.clear();
        assert!(poll(&mut registered, &second, true, Poll::Ready(())), "it was changed");
        assert!(poll(&mut registered, &second, true, Poll::Pending), "it has given its waker away");
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_without_budget_keeps_nothing() {
        let mut timer = pin!(sleep(Duration::from_millis(5)));
        let mut registered = RegisteredTimer::default();
        poll_fn(|cx| {
            // In one poll with the first look: the next one has a new budget.
            while coop::has_budget_remaining() {
                let _ = pin!(consume_budget()).poll(cx);
            }
            assert!(registered.poll(cx, !timer.is_elapsed(), |cx| timer.as_mut().poll(cx)).is_pending());
            Poll::Ready(())
        })
        .await;
        yield_now().await;
        poll_fn(|cx| registered.poll(cx, !timer.is_elapsed(), |cx| timer.as_mut().poll(cx))).await;
    }
}
