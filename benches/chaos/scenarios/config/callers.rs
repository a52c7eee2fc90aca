//! Callers that never rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic_etcd::BalancedChannel;

const CALLERS: usize = 64;

/// Calls one after the other, from each of 64.
pub(super) struct Callers {
    tasks: JoinSet<()>,
    is_over: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Callers {
    pub(super) fn start(channel: &BalancedChannel) -> Self {
        let (mut tasks, is_over) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let (made, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        for _ in 0..CALLERS {
            let (mut client, is_over) = (GreeterClient::new(channel.clone()), is_over.clone());
            let (made, failed) = (made.clone(), failed.clone());
            tasks.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    made.fetch_add(1, Ordering::Relaxed);
                    if let Err(status) = client.say_hello(HelloRequest::default()).await {
                        failed.fetch_add(1, Ordering::Relaxed);
                        eprintln!("  {status}");
                    }
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
        Self { tasks, is_over, made, failed }
    }

    /// How many were made, and how many of them failed.
    pub(super) async fn stop(self) -> (u64, u64) {
        self.is_over.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        (self.made.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}
