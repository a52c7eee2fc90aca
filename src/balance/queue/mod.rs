//! The queue in which calls wait for a server, first in, first out. There is one for each channel.
//!
//! `order/` is only the order, without tasks or time. This file adds what wakes tasks: wakers, a lock, and an atomic
//! that calls read which need not wait.
//!
//! A call in the queue is not polled while nothing happens. A slot that becomes free wakes one call. A woken call that does not
//! look loses its turn to the next one after [`ROUND`]. Calls that find a slot and an empty queue read one atomic and take no lock.
//!
//! Who tells of a slot says whose it is, so that the call which gets it need not look at all servers. All are looked at
//! when a call begins to wait behind nobody, when more slots became free than calls waited for, and when servers have
//! come.

pub(crate) mod order;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::balance::queue::order::{Look, Turn, WaitOrder};

/// How long a woken call has to look, before its turn goes to the next one: this time at least, and twice as long at most. It is
/// longer than a woken task waits for a worker of a busy runtime.
const ROUND: Duration = Duration::from_millis(25);

/// Calls that wait for a server, and the turns that were given to them.
///
/// Servers call [`Queue::freed`] when a stream ends, the pool looks at all of them ([`Queue::begin_look`]) when servers
/// come.
#[derive(Default)]
pub(crate) struct Queue {
    /// The number of calls that new calls must not overtake: those that wait, and those that were woken a moment ago. A copy of
    /// `state`, so that a call that need not wait takes no lock.
    queued: AtomicUsize,
    state: Mutex<State>,
    /// Notified when turns were given, so that unused ones are passed on.
    turns_given: Notify,
}

#[derive(Default)]
struct State {
    order: WaitOrder<Waiter>,
    /// [`Queue::pass_on_unused_turns`] is awake.
    is_watched: bool,
}

/// A call in the queue.
struct Waiter {
    /// `None` before its first poll.
    waker: Option<Waker>,
    kind: WaiterKind,
}

/// What ends the wait of a call beside a turn.
#[derive(Clone, Copy, Default)]
pub(crate) struct WaiterKind {
    /// It waits also while no server can be connected.
    pub(crate) wait_for_ready: bool,
    /// It goes elsewhere while no server is ready.
    pub(crate) may_leave: bool,
    /// It has been refused, and waits for servers that do not refuse calls.
    pub(crate) avoids_refusing: bool,
}

impl Waiter {
    fn takes_any(&self) -> bool {
        !self.kind.avoids_refusing
    }
}

impl Queue {
    /// Whether a new call has to wait behind others.
    pub(crate) fn has_waiters(&self) -> bool {
        self.waiters() > 0
    }

    /// The number of calls that wait, with those that were woken a moment ago.
    pub(crate) fn waiters(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Puts a call behind all others.
    pub(crate) fn enter(&self, kind: WaiterKind) -> QueueTicket<'_> {
        let waiter = Waiter { waker: None, kind };
        let position = self.update(|state| (state.order.enter(waiter, !kind.avoids_refusing), Vec::new()));
        QueueTicket { queue: self, position, kind, is_served: false }
    }

    /// So many slots of a server have become free; 0 if it may be asked for some, which one call is woken for. `server`
    /// is its index in the published set.
    pub(crate) fn freed(&self, slots: usize, server: Option<usize>) {
        if self.queued.load(Ordering::SeqCst) == 0 {
            return;
        }
        self.update(|state| {
            if slots == 0 {
                state.order.look_again();
            }
            ((), state.order.give_turns(slots.max(1), Turn { server }))
        });
    }

    /// Begins a look at all servers, if calls wait, and there may be slots that no turn was given for or a look is
    /// wanted `anyway`. Whoever gets it counts the free slots, and calls [`Queue::end_look`].
    ///
    /// A call asks after it has entered the queue, and when its turn is over: a slot that became free just before has
    /// woken no call.
    pub(crate) fn begin_look(&self, anyway: bool) -> Option<Look> {
        // A call enters the queue and then looks for room; who frees a slot, or stores servers, does so and then looks
        // for calls. The fence orders the two, so that at least one of them sees the other.
        fence(Ordering::SeqCst);
        if self.queued.load(Ordering::SeqCst) == 0 {
            return None; // the next call to enter looks
        }
        let look = self.lock().order.begin_look(anyway);
        fence(Ordering::SeqCst); // the slots are counted after that
        look
    }

    /// The look has counted so many free slots, and so many of servers that refuse calls. Gives turns until there are as
    /// many.
    pub(crate) fn end_look(&self, look: Look, free_slots: usize, refusing: usize) {
        self.update(|state| ((), state.order.end_look(look, free_slots, refusing, Waiter::takes_any)));
    }

    /// A look has not seen everything: the next call that asks makes another one.
    pub(crate) fn look_again(&self) {
        self.update(|state| (state.order.look_again(), Vec::new()));
    }

    /// Wakes calls that are to fail: all of them, or those that do not wait for ready.
    pub(crate) fn wake_to_fail(&self, all: bool) {
        self.update(|state| ((), state.order.wake_matching(|waiter| all || !waiter.kind.wait_for_ready)));
    }

    /// Wakes the calls that go elsewhere while no server is ready.
    pub(crate) fn wake_to_leave(&self) {
        if self.has_waiters() {
            self.update(|state| ((), state.order.wake_matching(|waiter| waiter.kind.may_leave)));
        }
    }

    /// Passes on turns that are not used. Runs in the pool's task, and sleeps while no turn is out.
    pub(crate) async fn pass_on_unused_turns(&self) -> Infallible {
        loop {
            self.turns_given.notified().await;
            while self.next_round() {
                sleep(ROUND).await;
            }
        }
    }

    /// Begins a round. Returns whether turns are out.
    fn next_round(&self) -> bool {
        self.update(|state| {
            let woken = state.order.next_round();
            state.is_watched = state.order.turns() > 0;
            (state.is_watched, woken)
        })
    }

    /// Changes the order. `change` returns its result and the calls to wake. Each change goes through here, so that `queued` is true.
    fn update<R>(&self, change: impl FnOnce(&mut State) -> (R, Vec<Waiter>)) -> R {
        let mut state = self.lock();
        let (result, woken) = change(&mut state);
        let turns = state.order.turns();
        self.queued.store(state.order.waiting() + turns, Ordering::SeqCst);
        if turns > 0 && !state.is_watched {
            state.is_watched = true;
            self.turns_given.notify_one();
        }
        drop(state); // before the wakers, which may run any code
        woken.into_iter().filter_map(|waiter| waiter.waker).for_each(Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The position of one call in the queue. Dropping it gives the position up, and passes its turn on.
pub(crate) struct QueueTicket<'a> {
    queue: &'a Queue,
    position: u64,
    kind: WaiterKind,
    is_served: bool,
}

impl QueueTicket<'_> {
    /// Waits until the call is woken: with a turn, or to look whether it fails. It may look for a server in either
    /// case.
    pub(crate) async fn turn(&self) -> Turn {
        std::future::poll_fn(|cx| {
            let mut waker = Some(cx.waker().clone());
            let mut state = self.queue.lock();
            let Some(waiter) = state.order.waiter_mut(self.position) else {
                return Poll::Ready(state.order.use_turn(self.position).unwrap_or_default());
            };
            std::mem::swap(&mut waiter.waker, &mut waker);
            drop(state); // before the old waker, whose drop may run any code
            drop(waker);
            Poll::Pending
        })
        .await
    }

    /// Waits again at the same position, after a turn that gave no server.
    pub(crate) fn wait_again(&self) {
        let waiter = Waiter { waker: None, kind: self.kind };
        self.queue.update(|state| (state.order.wait_again(self.position, waiter), Vec::new()));
    }

    /// Waits again at the same position, after a turn for a server that it does not take. Another call gets that turn.
    pub(crate) fn decline(&self) {
        let waiter = Waiter { waker: None, kind: self.kind };
        self.queue.update(|state| ((), state.order.decline(self.position, waiter, Waiter::takes_any)));
    }

    /// From now on it takes any server. It is to look for room that others have declined.
    pub(crate) fn take_any(&mut self) {
        self.kind.avoids_refusing = false;
        self.queue.update(|state| {
            if let Some(waiter) = state.order.waiter_mut(self.position) {
                waiter.kind = self.kind;
            }
            state.order.seek_declined();
            ((), Vec::new())
        });
    }

    /// Leaves the queue with a server.
    pub(crate) fn served(mut self) {
        self.is_served = true;
        self.queue.update(|state| (state.order.served(self.position), Vec::new()));
    }
}

impl Drop for QueueTicket<'_> {
    fn drop(&mut self) {
        if self.is_served {
            return;
        }
        // The waker that it leaves is dropped here, after the lock.
        drop(self.queue.update(|state| state.order.leave(self.position)));
    }
}
