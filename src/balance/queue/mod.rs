//! The one queue in which calls wait for a server, first in, first out.
//!
//! Nobody in it is polled while nothing happens. A slot that becomes free wakes one call; a call that was woken and does not look
//! loses its turn to the next after [`TURN`]. Calls that find a slot and an empty queue read one atomic and take no lock.

pub(super) mod order;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::balance::queue::order::{Place, WaitOrder};
use crate::connection::CapacityListener;

/// How long a call that was woken may take to look before its turn goes to the next; up to twice that. Longer than a task
/// waits for its turn on a busy runtime.
const TURN: Duration = Duration::from_millis(25);

#[derive(Default)]
pub(crate) struct Queue {
    /// Those whom new calls must not overtake: waiting, or woken a moment ago.
    before_others: AtomicUsize,
    state: Mutex<State>,
    /// Told when turns have to be watched over.
    given: Notify,
}

#[derive(Default)]
struct State {
    line: WaitOrder<Waiter>,
    /// Whether somebody watches over the turns.
    watched: bool,
}

struct Waiter {
    /// None before its first poll.
    waker: Option<Waker>,
    /// Waits also where no server can be connected.
    for_ready: bool,
}

impl Queue {
    /// Whether a call that comes now has to wait behind others.
    pub(crate) fn is_waited_in(&self) -> bool {
        self.before_others.load(Ordering::Relaxed) > 0
    }

    /// Takes the last place.
    pub(crate) fn enter(&self, for_ready: bool) -> QueueTicket<'_> {
        let mut place = 0;
        self.change(|state| {
            place = state.line.enter(Waiter { waker: None, for_ready });
            Vec::new()
        });
        QueueTicket { queue: self, place, for_ready, served: false }
    }

    /// Gives turns until there are as many as free slots.
    pub(crate) fn fill(&self, free: impl FnOnce() -> usize) {
        fence(Ordering::SeqCst);
        if self.before_others.load(Ordering::SeqCst) > 0 {
            let free = free();
            self.change(|state| state.line.fill(free));
        }
    }

    /// Gives a turn where there is a free slot, and nobody is on the way to it. To be called after a place was taken or a slot
    /// was found: what became free just before that has called nobody.
    pub(crate) fn settle(&self, has_room: impl FnOnce() -> bool) {
        fence(Ordering::SeqCst);
        if !self.is_waited_in() {
            return;
        }
        let open = {
            let state = self.lock();
            state.line.turns() == 0 && state.line.waiting() > 0
        };
        if open && has_room() {
            self.change(|state| state.line.fill(1));
        }
    }

    /// Wakes calls that waiting is in vain for: all, or those that do not wait for ready.
    pub(crate) fn wake_in_vain(&self, all: bool) {
        self.change(|state| state.line.tell(|waiter| all || !waiter.for_ready));
    }

    /// Passes on turns that nobody takes. Sleeps while none is out.
    pub(crate) async fn watch(&self) -> Infallible {
        loop {
            self.given.notified().await;
            while self.next_round() {
                sleep(TURN).await;
            }
        }
    }

    /// Whether there are turns to watch over.
    fn next_round(&self) -> bool {
        let mut watched = true;
        self.change(|state| {
            let woken = state.line.next_round();
            state.watched = state.line.turns() > 0;
            watched = state.watched;
            woken
        });
        watched
    }

    /// All that changes the line goes through here. Wakes whom the change gives, after the lock.
    fn change(&self, change: impl FnOnce(&mut State) -> Vec<Waiter>) {
        let mut state = self.lock();
        let woken = change(&mut state);
        let turns = state.line.turns();
        self.before_others.store(state.line.waiting() + turns, Ordering::SeqCst);
        if turns > 0 && !state.watched {
            state.watched = true;
            self.given.notify_one();
        }
        drop(state);
        woken.into_iter().filter_map(|waiter| waiter.waker).for_each(Waker::wake);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CapacityListener for Queue {
    fn freed(&self, slots: usize) {
        if self.before_others.load(Ordering::SeqCst) > 0 {
            self.change(|state| state.line.call(slots));
        }
    }
}

/// A place in the queue. Dropped, it gives the place up, and a turn that it has to the next.
pub(crate) struct QueueTicket<'a> {
    queue: &'a Queue,
    place: Place,
    for_ready: bool,
    served: bool,
}

impl QueueTicket<'_> {
    /// Waits for a turn, or for a reason to look.
    pub(crate) async fn called(&self) {
        std::future::poll_fn(|cx| {
            let mut waker = Some(cx.waker().clone());
            let mut state = self.queue.lock();
            let Some(waiter) = state.line.waiter(self.place) else { return Poll::Ready(()) };
            std::mem::swap(&mut waiter.waker, &mut waker);
            drop(state); // before the other waker, which may run anything
            drop(waker);
            Poll::Pending
        })
        .await;
    }

    /// Waits again, at the same place.
    pub(crate) fn back(&self) {
        self.queue.change(|state| {
            state.line.back(self.place, Waiter { waker: None, for_ready: self.for_ready });
            Vec::new()
        });
    }

    /// The call has found a slot.
    pub(crate) fn served(mut self) {
        self.served = true;
        self.queue.change(|state| {
            state.line.served(self.place);
            Vec::new()
        });
    }
}

impl Drop for QueueTicket<'_> {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        let mut who = None; // dropped after the lock
        self.queue.change(|state| {
            let (left, woken) = state.line.leave(self.place);
            who = left;
            woken
        });
    }
}
