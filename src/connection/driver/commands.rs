//! The commands that handles of a connection send to its driver.
//!
//! This is a queue of its own because the driver is polled several times for each call, and
//! commands are rare. A poll that finds none costs one load, and the waker stays in the queue when
//! it wakes, so that the next poll need not register it again. tokio's channels give their waker
//! away, possibly late: after the command for which it wakes was received.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What a handle asks the driver for. Commands are requests: the driver may have ended, or decide
/// that there is nothing to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Send a PING, unless one was sent a moment ago.
    Ping,
    /// Probe a connection that was idle. Sent once for each time that it becomes idle.
    Probe,
    /// The server has to prove within a second that it lives, or the connection drains.
    Prove,
    /// Somebody waits for something on a connection that may be idle: look at the timers now.
    Watch,
    /// Close the connection now, with all its exchanges, for this reason.
    Close(String),
}

/// Creates an empty queue.
pub(crate) fn commands() -> (CommandSender, CommandReceiver) {
    let queue = Arc::new(Queue::default());
    (CommandSender(queue.clone()), CommandReceiver { queue, waker: None })
}

/// The sending half, in the connection's handle. Its drop tells the receiver that no handle is
/// left.
pub(crate) struct CommandSender(Arc<Queue>);

/// The receiving half, in the driver.
pub(crate) struct CommandReceiver {
    queue: Arc<Queue>,
    /// A copy of the waker in the queue, to compare with the task's without the lock.
    waker: Option<Waker>,
}

#[derive(Default)]
struct Queue {
    /// Set with each change, so that the receiver locks only then.
    is_changed: AtomicBool,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    /// At most one of each kind: two equal commands ask for one thing.
    commands: Vec<Command>,
    /// The sender was dropped.
    is_ended: bool,
    waker: Option<Waker>,
}

impl Queue {
    /// A poisoned lock is used on: the state is consistent after every statement of its holders.
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the receiver.
    fn change(&self, change: impl FnOnce(&mut QueueState)) {
        let mut state = self.lock();
        change(&mut state);
        self.is_changed.store(true, Ordering::Release);
        let waker = state.waker.clone();
        drop(state); // before the wake, which may poll the driver on this thread
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl CommandSender {
    /// Sends a command. Has no effect when the driver has ended.
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
        self.0.change(|state| state.is_ended = true);
    }
}

impl CommandReceiver {
    /// The next command, in order; `None` once the sender was dropped.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Command>> {
        let is_registered = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_registered && !self.queue.is_changed.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let mut state = self.queue.lock();
        if !is_registered {
            self.waker = Some(cx.waker().clone());
            state.waker.clone_from(&self.waker);
        }
        if !state.commands.is_empty() {
            return Poll::Ready(Some(state.commands.remove(0)));
        }
        if state.is_ended {
            return Poll::Ready(None);
        }
        self.queue.is_changed.store(false, Ordering::Relaxed);
        Poll::Pending
    }
}

impl Drop for CommandReceiver {
    /// Breaks the circle of task, receiver, queue and waker: the waker holds the task.
    fn drop(&mut self) {
        let waker = self.queue.lock().waker.take();
        drop(waker); // after the lock: it may drop the task
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
            sender.send(Command::Probe);
            assert_eq!(counted.0.load(Ordering::Relaxed), 3 * (round + 1));
            assert_eq!(receiver.poll_recv(&mut cx), Poll::Ready(Some(Command::Ping)));
            assert_eq!(receiver.poll_recv(&mut cx), Poll::Ready(Some(Command::Probe)));
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
