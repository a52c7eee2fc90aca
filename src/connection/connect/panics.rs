//! A future that runs the user's code: where it panics, whoever polls it goes on.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future whose panic is its output: with the text of the panic. A panic while it is dropped is lost.
pub(crate) struct Caught<F>(Option<Pin<Box<F>>>);

/// Catches the panics of a future.
pub(crate) fn caught<F: Future>(future: F) -> Caught<F> {
    Caught(Some(Box::pin(future)))
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Ready(Err("polled again after its end".into())) };
        let polled = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(text(panic)),
        };
        self.end();
        Poll::Ready(polled)
    }
}

impl<F> Caught<F> {
    /// What it holds is the user's too.
    fn end(&mut self) {
        let future = self.0.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(future))) {
            drop(text(panic));
        }
    }
}

impl<F> Drop for Caught<F> {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was said with a panic, as `panic!` says it. The payload of any other is leaked: to drop it may panic again.
pub(crate) fn text(panic: Box<dyn Any + Send>) -> String {
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
        assert_eq!(caught(async { 7 }).await, Ok(7));
        assert_eq!(caught(async { panic!("plain") }).await, Err::<(), _>("plain".into()));
        assert_eq!(caught(async { panic!("with {}", 5) }).await, Err::<(), _>("with 5".into()));
        assert_eq!(caught(async { panic_any(Bomb) }).await, Err::<(), _>("no text".into()));
    }

    #[tokio::test]
    async fn panics_of_drops_end_nobody() {
        let bomb = Bomb;
        let pending = async move {
            std::future::pending::<()>().await;
            drop(bomb);
        };
        let mut future = caught(pending);
        assert!(std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await.is_pending());
        drop(future);
    }
}
