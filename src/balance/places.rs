//! Places for attempts to connect, given in the order that [`Connecting`] says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::connecting::{Attempt, Connecting, Rank};

/// How many attempts are under way at once: each holds a file descriptor, of which a process has often no more.
const AT_ONCE: usize = 1024;

pub(crate) struct Places {
    epoch: Instant,
    state: Mutex<State>,
}

struct State {
    order: Connecting,
    /// How each is told of its beginning, and then of its end.
    told: HashMap<Attempt, Arc<Notify>>,
}

/// A place for one attempt. Gives it up when it is dropped.
pub(crate) struct Held<'a> {
    places: &'a Places,
    attempt: Attempt,
    told: Arc<Notify>,
}

impl Places {
    pub(crate) fn new() -> Self {
        let state = State { order: Connecting::new(AT_ONCE), told: HashMap::new() };
        Self { epoch: Instant::now(), state: Mutex::new(state) }
    }

    /// Waits for a place.
    ///
    /// # Cancel safety
    /// Dropping it gives up waiting.
    pub(crate) async fn take(&self, rank: Rank) -> Held<'_> {
        let (held, mut again) = self.ask(rank);
        loop {
            let look = async {
                match again {
                    Some(again) => sleep_until(self.epoch + again).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = held.told.notified() => {}
                () = look => {}
            }
            let state = self.lock();
            if state.order.has_begun(held.attempt) {
                drop(state);
                return held;
            }
            again = self.step(state);
        }
    }

    fn ask(&self, rank: Rank) -> (Held<'_>, Option<Duration>) {
        let told = Arc::<Notify>::default();
        let mut state = self.lock();
        let attempt = state.order.ask(rank);
        state.told.insert(attempt, told.clone());
        (Held { places: self, attempt, told }, self.step(state))
    }

    /// Tells those who may begin and those who have to end; gives when to look again.
    fn step(&self, mut state: MutexGuard<'_, State>) -> Option<Duration> {
        let step = state.order.step(self.epoch.elapsed());
        for attempt in step.begin.iter().chain(&step.cut) {
            state.told.get(attempt).into_iter().for_each(|told| told.notify_one());
        }
        step.again
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held<'_> {
    /// Waits until the place is another's: the attempt has to end.
    pub(crate) async fn cut(&self) {
        loop {
            self.told.notified().await;
            if self.places.lock().order.is_cut(self.attempt) {
                return;
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.order.end(self.attempt);
        state.told.remove(&self.attempt);
        let first = state.order.first().and_then(|first| state.told.get(&first).cloned());
        if self.places.step(state).is_some() {
            // It has to look again at a time that it does not know of.
            first.into_iter().for_each(|first| first.notify_one());
        }
    }
}
