//! Permits for attempts to connect, given in the order that [`Connecting`] says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::balance::subchannel::connect_order::{Attempt, Begins, Connecting, Rank};

/// How many attempts are under way at once: each holds a file descriptor, of which a process has often no more.
const AT_ONCE: usize = 1024;

/// How often all other tasks have a turn before an attempt is cut short: one for each step of a connection (TCP, SETTINGS).
const GO_FIRST: usize = 3;

pub(crate) struct Permits {
    epoch: Instant,
    state: Mutex<State>,
}

struct State {
    order: Connecting,
    /// How each is told of its beginning, and then of its end.
    told: HashMap<Attempt, Arc<Notify>>,
    /// Who looks again, and when: the first in order does that for all.
    looks: Option<(Attempt, Duration)>,
}

/// A permit for one attempt. Given back when it is dropped.
pub(crate) struct Permit<'a> {
    permits: &'a Permits,
    attempt: Attempt,
    told: Arc<Notify>,
}

impl Permits {
    pub(crate) fn new() -> Self {
        let state = State { order: Connecting::new(AT_ONCE), told: HashMap::new(), looks: None };
        Self { epoch: Instant::now(), state: Mutex::new(state) }
    }

    /// Waits for a permit.
    ///
    /// # Cancel safety
    /// Dropping it gives up waiting.
    pub(crate) async fn acquire(&self, rank: Rank) -> Permit<'_> {
        let (mut permit, mut again) = self.ask(rank);
        loop {
            let look = async {
                match again {
                    Some(again) => sleep_until(self.epoch + again).await,
                    None => std::future::pending().await,
                }
                // On a busy runtime: those first whose connections have come on.
                for _ in 0..GO_FIRST {
                    yield_now().await;
                }
            };
            let may_cut = tokio::select! {
                () = permit.told.notified() => false,
                () = look => true,
            };
            let mut state = self.lock();
            match state.order.begins(permit.attempt, self.epoch.elapsed()) {
                Begins::Now => {
                    drop(state);
                    return permit;
                }
                Begins::NotYet => again = self.step(state, Some(permit.attempt), may_cut),
                Begins::Never => {
                    drop(state);
                    (permit, again) = self.ask(rank);
                }
            }
        }
    }

    fn ask(&self, rank: Rank) -> (Permit<'_>, Option<Duration>) {
        let told = Arc::<Notify>::default();
        let mut state = self.lock();
        let attempt = state.order.ask(rank);
        state.told.insert(attempt, told.clone());
        (Permit { permits: self, attempt, told }, self.step(state, Some(attempt), false))
    }

    /// Tells those who may begin and those who have to end; gives when to look again, if that is for this one to do.
    fn step(&self, mut state: MutexGuard<'_, State>, who: Option<Attempt>, may_cut: bool) -> Option<Duration> {
        let step = state.order.step(self.epoch.elapsed(), may_cut);
        let first = state.order.first();
        let looks = first.zip(step.again);
        // Whoever looks already at that time or before need not be told.
        let known = state.looks.filter(|(of, _)| Some(*of) == first).is_some_and(|(_, at)| step.again >= Some(at));
        let to_look = first.filter(|_| looks.is_some() && !known && first != who);
        for attempt in step.begin.iter().chain(&step.cut).chain(&to_look) {
            state.told.get(attempt).into_iter().for_each(|told| told.notify_one());
        }
        if first == who || looks.is_none() {
            state.looks = looks;
        }
        looks.filter(|(first, _)| Some(*first) == who).map(|(_, again)| again)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// Waits until the permit is another's: the attempt has to end.
    pub(crate) async fn revoked(&self) {
        while !self.permits.lock().order.is_cut(self.attempt) {
            self.told.notified().await;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.permits.lock();
        state.order.end(self.attempt);
        state.told.remove(&self.attempt);
        self.permits.step(state, None, false);
    }
}
