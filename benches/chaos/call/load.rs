//! The closed loop: each worker makes one call after the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use greeter_proto::HelloRequest;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::channel::{Greet, InFlight};
use super::tally::{Tally, total};
use super::usage;
use crate::outcome::{Outcome, STEP_MS};

/// How long calls may go on after the end before they count as hanging.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks at the calls in flight.
const LOOK: Duration = Duration::from_micros(100);

/// What is to be called, and for how long.
pub(crate) struct Load {
    pub(crate) workers: usize,
    pub(crate) seconds: f64,
    /// Of each worker, between two calls.
    pub(crate) pause: Duration,
    /// Takes samples of what the process holds.
    pub(crate) usage: bool,
}

/// Calls for so long, or until SIGTERM; a call that is still on its way then may end.
pub(crate) async fn run<G: Greet>(greeter: G, load: Load, in_flight: Option<InFlight>) -> Outcome {
    let cpu = usage::cpu_seconds();
    let mut terminate = signal(SignalKind::terminate()).expect("a handler of SIGTERM");
    let began = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let samples = load.usage.then(|| usage::sample(began));
    let most = in_flight.map(|in_flight| watch(began, in_flight));
    println!("began");
    let tallies: Vec<_> = (0..load.workers).map(|_| Arc::new(Mutex::new(Tally::new(began)))).collect();
    let work = |tally: &Arc<Mutex<Tally>>| tokio::spawn(work(greeter.clone(), load.pause, over.clone(), tally.clone()));
    let working: Vec<_> = tallies.iter().map(work).collect();
    tokio::select! {
        () = sleep(Duration::from_secs_f64(load.seconds)) => {}
        _ = terminate.recv() => {}
    }
    over.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let patience = Instant::now() + GRACE;
    let mut hanging = 0;
    for worker in working {
        let left = patience.saturating_duration_since(Instant::now());
        if timeout(left, worker).await.is_err() {
            hanging += 1;
        }
    }
    let cpu_seconds = usage::cpu_seconds() - cpu;
    let tallies: Vec<_> = tallies.iter().map(lock).collect();
    let mut outcome = total(tallies.iter().map(|tally| &**tally), seconds);
    outcome.hanging = hanging;
    outcome.cpu_seconds = cpu_seconds;
    outcome.samples = samples.map(|samples| lock(&samples).clone()).unwrap_or_default();
    outcome.most_in_flight = most.map(|most| lock(&most).clone()).unwrap_or_default();
    outcome
}

async fn work<G: Greet>(mut greeter: G, pause: Duration, over: Arc<AtomicBool>, tally: Arc<Mutex<Tally>>) {
    while !over.load(Ordering::Relaxed) {
        let called = Instant::now();
        let answer = greeter.greet(HelloRequest { name: "world".into() }).await;
        lock(&tally).count(called, &answer);
        if !pause.is_zero() {
            sleep(pause).await;
        } else if answer.is_err() {
            // A channel that fails without waiting would keep the thread for itself.
            tokio::task::yield_now().await;
        }
    }
}

/// Looks as often as it can be afforded, until the process ends; keeps the most of each step.
fn watch(began: Instant, in_flight: InFlight) -> Arc<Mutex<BTreeMap<String, Vec<u64>>>> {
    let most = Arc::new(Mutex::new(BTreeMap::<String, Vec<u64>>::new()));
    let seen = most.clone();
    thread::spawn(move || {
        loop {
            thread::sleep(LOOK);
            let step = (began.elapsed().as_millis() as u64 / STEP_MS) as usize;
            let mut seen = lock(&seen);
            for (server, calls) in in_flight() {
                let steps = seen.entry(server).or_default();
                steps.resize(steps.len().max(step + 1), 0);
                steps[step] = steps[step].max(calls as u64);
            }
        }
    });
    most
}

/// Whole after every step of its holder.
fn lock<T>(mutex: &Arc<Mutex<T>>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
