//! The states of a server, as its users see them.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::error::Error;

/// The state of a server. A server goes through these states in this order. It may skip some, and
/// never goes back.
///
/// | state | accepts calls | in the directory |
/// |---|---|---|
/// | `Starting` | yes | no |
/// | `Serving` | yes | yes, with the exceptions at `Serving` |
/// | `Leaving` | yes | until it has left |
/// | `Draining` | no, finishes those in flight | no; if it could not leave, until its lease ends |
/// | `Stopped` | no | no; if it could not leave, until its lease ends |
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ServeState {
    /// Not registered, because a check has not passed or the address is not known. The server
    /// accepts calls all the same, from the first poll of [`Serve::serve`](crate::Serve::serve)'s
    /// future.
    #[non_exhaustive]
    Starting {
        /// What it waits for: a check that failed, or an address that is not known yet.
        why: Option<Error>,
    },
    /// Past its first checks. Registered, unless etcd is unavailable, a check fails, the server is
    /// paused, or another instance holds its key.
    /// [`ServeControl::registrations`](crate::ServeControl::registrations) has the state of each
    /// registration.
    Serving,
    /// Accepts calls, and leaves the directory.
    Leaving,
    /// Accepts no new calls, and finishes those in flight.
    #[non_exhaustive]
    Draining {
        /// `Some` if it could not leave the directory: the reason. Its key then stays until its
        /// lease ends.
        why: Option<Error>,
    },
    /// Has ended. The last state.
    #[non_exhaustive]
    Stopped {
        /// The error that [`Serve::serve`](crate::Serve::serve) returned.
        why: Option<Error>,
    },
}

/// A stream of [`ServeState`]: the present state first, then each step. From
/// [`ServeControl::states`](crate::ServeControl::states).
#[must_use = "a stream does nothing unless it is polled"]
pub struct ServeStates {
    /// All steps so far.
    updates: WatchStream<Vec<ServeState>>,
    /// How many steps were returned or are in `next`.
    seen: usize,
    /// The steps to return next.
    next: VecDeque<ServeState>,
    stopped: bool,
}

impl ServeStates {
    pub(super) fn new(steps: watch::Receiver<Vec<ServeState>>) -> Self {
        let seen = steps.borrow().len().saturating_sub(1);
        Self { updates: WatchStream::new(steps), seen, next: VecDeque::new(), stopped: false }
    }
}

impl Stream for ServeStates {
    type Item = ServeState;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServeState>> {
        loop {
            if let Some(step) = self.next.pop_front() {
                self.stopped = matches!(step, ServeState::Stopped { .. });
                return Poll::Ready(Some(step));
            }
            if self.stopped {
                return Poll::Ready(None);
            }
            let Some(mut steps) = ready!(Pin::new(&mut self.updates).poll_next(cx)) else { return Poll::Ready(None) };
            // If there is no new step, the last one has another reason.
            let from = self.seen.min(steps.len().saturating_sub(1));
            self.seen = steps.len();
            self.next.extend(steps.drain(from..));
        }
    }
}

impl fmt::Debug for ServeStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeStates").finish_non_exhaustive()
    }
}
