//! Permits for attempts to connect, given in the order of [`ConnectOrder`].
//!
//! Each supervisor asks for a permit, connects while it holds one, and gives up the attempt when it
//! is revoked. There is no task of its own: each change of the order wakes the attempts that it
//! concerns, and the first that waits also wakes itself when the order says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::balance::subchannel::connect_order::{AttemptId, ConnectOrder, Rank, StartResult};

/// The maximum number of attempts that run at once. Each holds a file descriptor, and 1 024 is the
/// usual limit of a process.
const MAX_ATTEMPTS: usize = 1024;

/// How often all other tasks have a turn before an attempt is revoked: one for each step of a
/// connection (TCP, SETTINGS), and one more.
const TURNS_BEFORE_REVOKING: usize = 3;

/// The permits of one channel.
pub(crate) struct ConnectPermits {
    /// Where the times of the order begin.
    epoch: Instant,
    /// Held for a step, never across an await.
    state: Mutex<State>,
}

/// The order, and how to wake those in it.
struct State {
    /// Decides; the rest of this file waits and wakes.
    order: ConnectOrder,
    /// Wakes each attempt when it may start, and when it is revoked.
    notifies: HashMap<AttemptId, Arc<Notify>>,
    /// The attempt that steps for all when the time has come, and that time: the first that waits.
    timer: Option<(AttemptId, Duration)>,
}

/// A permit for one attempt, or a place among those that wait for one. Given back when it is
/// dropped.
pub(crate) struct ConnectPermit<'a> {
    permits: &'a ConnectPermits,
    /// Ends in the order when this is dropped.
    attempt: AttemptId,
    /// Also in [`State::notifies`]. A notice that comes before anybody waits is kept.
    notify: Arc<Notify>,
}

impl ConnectPermits {
    /// Permits for up to [`MAX_ATTEMPTS`] attempts.
    pub(crate) fn new() -> Self {
        let state = State { order: ConnectOrder::new(MAX_ATTEMPTS), notifies: HashMap::new(), timer: None };
        Self { epoch: Instant::now(), state: Mutex::new(state) }
    }

    /// Waits for a permit.
    ///
    /// # Cancel safety
    /// Dropping it gives up waiting.
    pub(crate) async fn acquire(&self, rank: Rank) -> ConnectPermit<'_> {
        let (mut permit, mut again) = self.enqueue(rank);
        loop {
            let timer = async {
                match again {
                    Some(again) => sleep_until(self.epoch + again).await,
                    None => std::future::pending().await,
                }
                // On a busy runtime, attempts whose connections have come on finish first.
                for _ in 0..TURNS_BEFORE_REVOKING {
                    yield_now().await;
                }
            };
            let may_revoke = tokio::select! {
                () = permit.notify.notified() => false,
                () = timer => true,
            };
            let mut state = self.lock();
            match state.order.confirm_start(permit.attempt, self.epoch.elapsed()) {
                StartResult::Started => {
                    drop(state);
                    return permit;
                }
                StartResult::Waiting => again = self.step(state, Some(permit.attempt), may_revoke),
                StartResult::Revoked => {
                    drop(state); // before the old permit, whose drop takes the lock
                    (permit, again) = self.enqueue(rank);
                }
            }
        }
    }

    /// Adds an attempt to the order. Also returns when it has to step, if it is the one to do that.
    fn enqueue(&self, rank: Rank) -> (ConnectPermit<'_>, Option<Duration>) {
        let notify = Arc::<Notify>::default();
        let mut state = self.lock();
        let attempt = state.order.enqueue(rank);
        state.notifies.insert(attempt, notify.clone());
        (ConnectPermit { permits: self, attempt, notify }, self.step(state, Some(attempt), false))
    }

    /// Wakes the attempts that may start and those that have to end. Returns when `own` has to step
    /// again, if it is the one to do that.
    fn step(&self, mut state: MutexGuard<'_, State>, own: Option<AttemptId>, may_revoke: bool) -> Option<Duration> {
        let step = state.order.step(self.epoch.elapsed(), may_revoke);
        let first = state.order.first_waiting();
        let timer = first.zip(step.again);
        // The first need not be woken if its timer is set to that time or an earlier one.
        let is_set = state.timer.filter(|(of, _)| Some(*of) == first).is_some_and(|(_, at)| step.again >= Some(at));
        let to_set = first.filter(|_| timer.is_some() && !is_set && first != own);
        for attempt in step.start.iter().chain(&step.revoke).chain(&to_set) {
            state.notifies.get(attempt).into_iter().for_each(|notify| notify.notify_one());
        }
        if first == own || timer.is_none() {
            state.timer = timer;
        }
        timer.filter(|(first, _)| Some(*first) == own).map(|(_, again)| again)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectPermit<'_> {
    /// Waits until the permit is revoked: the attempt has to end.
    pub(crate) async fn revoked(&self) {
        while !self.permits.lock().order.is_revoked(self.attempt) {
            self.notify.notified().await;
        }
    }
}

impl Drop for ConnectPermit<'_> {
    fn drop(&mut self) {
        let mut state = self.permits.lock();
        state.order.end(self.attempt);
        state.notifies.remove(&self.attempt);
        self.permits.step(state, None, false);
    }
}
