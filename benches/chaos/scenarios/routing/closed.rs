//! The closed loop: each caller makes one call after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;
use tonic::Request;
use tonic_etcd::BalancedChannel;

/// How many failures are told of.
const TOLD: u64 = 5;

/// Dropped, their calls are dropped.
pub(super) struct Callers {
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// What became of the calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) answered: u64,
    pub(super) failed: u64,
}

impl Callers {
    /// Each of them makes these requests, and waits for so long between two.
    pub(super) fn start<F>(channel: &BalancedChannel, callers: usize, pause: Duration, request: F) -> Self
    where
        F: Fn() -> Request<HelloRequest> + Clone + Send + 'static,
    {
        let (mut tasks, shared) = (JoinSet::new(), Arc::<Shared>::default());
        for _ in 0..callers {
            tasks.spawn(work(channel.clone(), pause, request.clone(), shared.clone()));
        }
        Self { tasks, shared }
    }

    pub(super) fn ended(&self) -> Ended {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Ended { answered: count(&self.shared.answered), failed: count(&self.shared.failed) }
    }

    /// Lets each of them end its call.
    pub(super) async fn stop(mut self) -> Ended {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.ended()
    }
}

async fn work<F>(channel: BalancedChannel, pause: Duration, request: F, shared: Arc<Shared>)
where
    F: Fn() -> Request<HelloRequest>,
{
    let mut client = GreeterClient::new(channel);
    while !shared.is_over.load(Ordering::Relaxed) {
        match client.say_hello(request()).await {
            Ok(_) => drop(shared.answered.fetch_add(1, Ordering::Relaxed)),
            Err(status) => {
                if shared.failed.fetch_add(1, Ordering::Relaxed) < TOLD {
                    eprintln!("  {:?}: {:.300}", status.code(), status.message());
                }
            }
        }
        if pause.is_zero() {
            // Calls that end without waiting would keep the thread for themselves.
            yield_now().await;
        } else {
            sleep(pause).await;
        }
    }
}

/// So many calls, one after the other. Returns how many failed.
pub(super) async fn some(channel: &BalancedChannel, calls: usize, request: impl Fn() -> Request<HelloRequest>) -> u64 {
    let mut client = GreeterClient::new(channel.clone());
    let mut failed = 0;
    for _ in 0..calls {
        failed += u64::from(client.say_hello(request()).await.is_err());
    }
    failed
}
