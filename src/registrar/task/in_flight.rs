//! Requests in flight, of which only those are polled that have been woken.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// The requests of one kind that are in flight. With each comes what the task needs when it ends.
pub(super) struct InFlight<C, T> {
    requests: BTreeMap<u64, Request<C, T>>,
    /// The number of the next request.
    next: u64,
    woken: Arc<Woken>,
}

/// One request.
struct Request<C, T> {
    /// Given back with the result.
    context: C,
    /// The request itself. Dropping it abandons the request; etcd may have received it.
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    /// Wakes this request alone.
    waker: Waker,
}

/// Which requests have been woken since they were polled.
#[derive(Default)]
struct Woken(Mutex<WokenState>);

#[derive(Default)]
struct WokenState {
    /// Their numbers. One may be here twice, or have ended.
    numbers: Vec<u64>,
    /// The task that waits for them.
    task: Option<Waker>,
}

/// The waker of one request.
struct RequestWaker {
    number: u64,
    woken: Arc<Woken>,
}

impl Woken {
    fn locked(&self) -> MutexGuard<'_, WokenState> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for RequestWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.woken.locked();
        state.numbers.push(self.number);
        let task = state.task.take();
        drop(state);
        task.into_iter().for_each(Waker::wake);
    }
}

impl<C, T> InFlight<C, T> {
    pub(super) fn new() -> Self {
        Self { requests: BTreeMap::new(), next: 0, woken: Arc::default() }
    }

    /// Adds a request, which is polled first by [`InFlight::ended`].
    pub(super) fn push(&mut self, context: C, future: Pin<Box<dyn Future<Output = T> + Send>>) {
        let (number, woken) = (self.next, self.woken.clone());
        self.next += 1;
        self.woken.locked().numbers.push(number);
        let waker = Waker::from(Arc::new(RequestWaker { number, woken }));
        self.requests.insert(number, Request { context, future, waker });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// What came with each request, in the order in which they were added.
    pub(super) fn contexts(&self) -> impl Iterator<Item = &C> {
        self.requests.values().map(|request| &request.context)
    }

    /// Drops the requests for which `keeps` is false.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&mut C) -> bool) {
        self.requests.retain(|_, request| keeps(&mut request.context));
    }

    /// Waits until at least one request has ended, and takes all that have. Never ends if there is none.
    ///
    /// # Cancel safety
    /// Dropping it loses no result.
    pub(super) async fn ended(&mut self) -> Vec<(C, T)> {
        poll_fn(|cx| self.poll_ended(cx)).await
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Vec<(C, T)>> {
        let mut state = self.woken.locked();
        match &mut state.task {
            Some(task) => task.clone_from(cx.waker()),
            None => state.task = Some(cx.waker().clone()),
        }
        let numbers = std::mem::take(&mut state.numbers);
        drop(state);
        let mut done = Vec::new();
        for number in numbers {
            let Some(Request { future, waker, .. }) = self.requests.get_mut(&number) else { continue };
            let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(waker)) else { continue };
            done.extend(self.requests.remove(&number).map(|request| (request.context, result)));
        }
        if done.is_empty() { Poll::Pending } else { Poll::Ready(done) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    /// A request that counts how often it is polled.
    fn counted(
        polls: &Arc<AtomicUsize>,
        mut answer: oneshot::Receiver<u32>,
    ) -> Pin<Box<dyn Future<Output = u32> + Send>> {
        let polls = polls.clone();
        Box::pin(poll_fn(move |cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut answer).poll(cx).map(Result::unwrap_or_default)
        }))
    }

    #[tokio::test]
    async fn only_those_that_are_woken_are_polled() {
        let (mut in_flight, polls) = (InFlight::new(), Arc::<AtomicUsize>::default());
        let mut answers = Vec::new();
        for number in 0..100 {
            let (answer, answered) = oneshot::channel();
            in_flight.push(number, counted(&polls, answered));
            answers.push(answer);
        }
        for (number, answer) in (0..100).zip(answers) {
            assert!(poll_once(&mut in_flight).is_pending(), "it is not answered");
            answer.send(2 * number).unwrap();
            assert_eq!(in_flight.ended().await, [(number, 2 * number)]);
        }
        assert_eq!(polls.load(Ordering::Relaxed), 200, "once each when it begins, and once when it ends");
        assert!(in_flight.is_empty() && poll_once(&mut in_flight).is_pending());
    }

    #[tokio::test]
    async fn a_request_that_was_dropped_gives_nothing_when_it_is_woken() {
        let (mut in_flight, polls) = (InFlight::new(), Arc::<AtomicUsize>::default());
        let (first, second) = (oneshot::channel(), oneshot::channel());
        in_flight.push(1, counted(&polls, first.1));
        in_flight.push(2, counted(&polls, second.1));
        assert!(poll_once(&mut in_flight).is_pending());
        first.0.send(10).unwrap();
        in_flight.retain(|context| *context != 1);
        assert!(poll_once(&mut in_flight).is_pending());
        second.0.send(20).unwrap();
        assert_eq!(in_flight.ended().await, [(2, 20)]);
    }

    fn poll_once(in_flight: &mut InFlight<u32, u32>) -> Poll<Vec<(u32, u32)>> {
        in_flight.poll_ended(&mut Context::from_waker(Waker::noop()))
    }
}
