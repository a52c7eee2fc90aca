//! What holders of a connection ask its task for.
//!
//! A queue of its own, because the task runs several times per call and commands are rare: looking whether there is one costs
//! a load. The waker stays in the queue when it wakes, so that a look which finds nothing need not leave it there again. tokio's
//! queue gives its waker away, perhaps late: after the command that it wakes for was taken out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Send a PING, unless one was sent a moment ago.
    Ping,
    /// Find out whether the connection is alive, which was silent for long.
    Prove,
    /// Close the connection now, with all its exchanges.
    Close(String),
}

/// A new queue: its sender, and its receiver.
pub(crate) fn commands() -> (CommandSender, CommandReceiver) {
    let queue = Arc::new(Queue::default());
    (CommandSender(queue.clone()), CommandReceiver { queue, waker: None })
}

/// Sends commands. Dropping it tells the receiver that none will follow.
pub(crate) struct CommandSender(Arc<Queue>);

/// Receives them, in order.
pub(crate) struct CommandReceiver {
    queue: Arc<Queue>,
    /// The waker that lies in the queue.
    waker: Option<Waker>,
}

#[derive(Default)]
struct Queue {
    /// There is something to receive.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// At most one of each kind: the later says all that the earlier did.
    commands: Vec<Command>,
    /// No command will follow.
    ended: bool,
    waker: Option<Waker>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after every step of its holder.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        self.any.store(true, Ordering::Release);
        let waker = state.waker.clone();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl CommandSender {
    /// Without effect where the receiver is gone.
    pub(crate) fn send(&self, command: Command) {
        self.0.change(|state| {
            if !state.commands.contains(&command) {
                state.commands.push(command);
            }
        });
    }
}

impl Drop for CommandSender {
    fn drop(&mut self) {
        self.0.change(|state| state.ended = true);
    }
}

impl CommandReceiver {
    /// The next command; none once no command will follow.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Command>> {
        let is_kept = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_kept && !self.queue.any.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let mut state = self.queue.state();
        if !is_kept {
            self.waker = Some(cx.waker().clone());
            state.waker.clone_from(&self.waker);
        }
        if !state.commands.is_empty() {
            return Poll::Ready(Some(state.commands.remove(0)));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        self.queue.any.store(false, Ordering::Relaxed);
        Poll::Pending
    }
}

impl Drop for CommandReceiver {
    /// The task holds the queue, and must not be held by it.
    fn drop(&mut self) {
        let waker = self.queue.state().waker.take();
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_command_wakes_also_after_a_look_that_finds_nothing() {
        let counted = Arc::<Wakes>::default();
        let waker = Waker::from(counted.clone());
        let mut cx = Context::from_waker(&waker);
        let (sender, mut receiver) = commands();
        for round in 0..3 {
            assert!(receiver.poll_recv(&mut cx).is_pending());
            sender.send(Command::Ping);
            sender.send(Command::Ping);
            sender.send(Command::Prove);
            assert_eq!(counted.0.load(Ordering::Relaxed), 3 * (round + 1));
            assert_eq!(receiver.poll_recv(&mut cx), Poll::Ready(Some(Command::Ping)));
            assert_eq!(receiver.poll_recv(&mut cx), Poll::Ready(Some(Command::Prove)));
            assert!(receiver.poll_recv(&mut cx).is_pending());
        }
        let other = Arc::<Wakes>::default();
        assert!(receiver.poll_recv(&mut Context::from_waker(&Waker::from(other.clone()))).is_pending());
        drop(sender);
        assert_eq!(
            (counted.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)),
            (9, 1),
            "who looked last is woken"
        );
        assert_eq!(receiver.poll_recv(&mut cx), Poll::Ready(None));
        assert_eq!(receiver.poll_recv(&mut cx), Poll::Ready(None));
    }

    #[test]
    fn a_receiver_that_is_gone_leaves_no_waker_behind() {
        let counted = Arc::<Wakes>::default();
        let waker = Waker::from(counted.clone());
        let (sender, mut receiver) = commands();
        assert!(receiver.poll_recv(&mut Context::from_waker(&waker)).is_pending());
        drop(receiver);
        drop(waker);
        assert_eq!(Arc::strong_count(&counted), 1);
        sender.send(Command::Ping);
    }

    /// Two threads, and other reasons to look: none of many commands is waited for in vain.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_command_is_missed() {
        let (sender, mut receiver) = commands();
        let taken = Arc::<AtomicUsize>::default();
        let count = taken.clone();
        let task = tokio::spawn(async move {
            poll_fn(|cx| {
                for _ in 0..2 {
                    match receiver.poll_recv(cx) {
                        Poll::Ready(Some(_)) => drop(count.fetch_add(1, Ordering::Release)),
                        Poll::Ready(None) => return Poll::Ready(()),
                        Poll::Pending => {}
                    }
                }
                // As a call or a frame would.
                if count.load(Ordering::Relaxed) % 3 == 0 {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            })
            .await;
        });
        for number in 1..=20_000 {
            sender.send(Command::Ping);
            while taken.load(Ordering::Acquire) < number {
                tokio::task::yield_now().await;
            }
        }
        drop(sender);
        task.await.unwrap();
    }
}
