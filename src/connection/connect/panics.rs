//! Catches panics of the user's code in a future, so that the task which polls it goes on. With
//! `panic = "abort"` the process ends instead.
//!
//! A panic in a task of ours would end what the task stands for: a server's supervisor, a
//! registration. So every call into the user's code, and every drop of the user's values, goes
//! through here.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future whose panic is an error with the panic's message. See [`catch_panic`].
pub(crate) struct CatchPanic<F>(Option<Pin<Box<F>>>);

/// Runs a future and catches its panics, also those of its drop. The message of a panic during the
/// drop is lost.
pub(crate) fn catch_panic<F: Future>(future: F) -> CatchPanic<F> {
    CatchPanic(Some(Box::pin(future)))
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Ready(Err("polled again after its end".into())) };
        let polled = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(panic_message(panic)),
        };
        self.drop_future();
        Poll::Ready(polled)
    }
}

impl<F> CatchPanic<F> {
    /// Drops the future, which holds values of the user's.
    fn drop_future(&mut self) {
        let future = self.0.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(future))) {
            drop(panic_message(panic));
        }
    }
}

impl<F> Drop for CatchPanic<F> {
    fn drop(&mut self) {
        self.drop_future();
    }
}

/// The message of a panic that `panic!` made. Leaks the payload of any other: its drop may panic
/// again.
pub(crate) fn panic_message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<&'static str>() {
        Ok(text) => (*text).to_owned(),
        Err(panic) => match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(other) => {
                std::mem::forget(other);
                "no text".to_owned()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    /// Panics when it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "the bomb");
        }
    }

    #[tokio::test]
    async fn panics_are_told() {
        assert_eq!(catch_panic(async { 7 }).await, Ok(7));
        assert_eq!(catch_panic(async { panic!("plain") }).await, Err::<(), _>("plain".into()));
        assert_eq!(catch_panic(async { panic!("with {}", 5) }).await, Err::<(), _>("with 5".into()));
        assert_eq!(catch_panic(async { panic_any(Bomb) }).await, Err::<(), _>("no text".into()));
    }

    #[tokio::test]
    async fn panics_of_drops_end_nobody() {
        let bomb = Bomb;
        let pending = async move {
            std::future::pending::<()>().await;
            drop(bomb);
        };
        let mut future = catch_panic(pending);
        assert!(std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await.is_pending());
        drop(future);
    }
}
