//! A delay that is exact to a tenth of a millisecond. tokio's timer has steps of a millisecond, which would cost a
//! server that is to take 10 ms a tenth of its capacity.

use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// A thread that ends with it.
#[derive(Debug)]
pub(super) struct Delay {
    lasts: Duration,
    waiting: Sender<(Instant, oneshot::Sender<()>)>,
}

impl Delay {
    pub(super) fn of(lasts: Duration) -> Self {
        let (waiting, woken) = channel::<(Instant, oneshot::Sender<()>)>();
        // All wait for the same time, so their order is that of their ends.
        thread::spawn(move || {
            for (end, waiter) in woken {
                thread::sleep(end.saturating_duration_since(Instant::now()));
                let _ = waiter.send(()); // its call may have been given up
            }
        });
        Self { lasts, waiting }
    }

    pub(super) async fn pass(&self) {
        let (waiter, over) = oneshot::channel();
        let _ = self.waiting.send((Instant::now() + self.lasts, waiter)); // the thread lives as long as the sender
        let _ = over.await;
    }
}
