//! Servers that have all been idle, and calls that wait for them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic_etcd::Policy;
use tonic_etcd::policy::{Call, LeastRequest, PeakEwma, Pick, PickFirst, Picker, ReadySet, RoundRobin};

use crate::peer::{Peer, Script};
use crate::support::{builder, greet, over, ready, shared};

const SERVERS: usize = 10;
const IDLE: Duration = Duration::from_millis(300);

/// Ten servers that take one call each, all idle for longer than the idle timeout; ten calls that last. Gives how many of them
/// have a server after 3 s.
async fn placed(policy: Arc<dyn Policy>) -> usize {
    let told = Arc::new(Notify::new());
    let mut peers = Vec::new();
    for _ in 0..SERVERS {
        peers.push(Peer::limited(Script::GreetLater(told.clone()), Some(1)).await);
    }
    let builder = builder().idle_timeout(IDLE).without_keep_alive().policy(policy);
    let channel = over(builder, peers.iter().map(|peer| &peer.address));
    ready(&channel, SERVERS).await;
    sleep(IDLE + Duration::from_millis(100)).await;
    let mut calls = JoinSet::new();
    for _ in 0..SERVERS {
        let channel = channel.clone();
        calls.spawn(async move { greet(&channel).await });
    }
    let count = || peers.iter().map(|peer| peer.seen.calls()).sum::<usize>();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end && count() < SERVERS {
        sleep(Duration::from_millis(5)).await;
    }
    count()
}

/// Always the same server, by its index.
#[derive(Debug)]
struct Last(usize);

impl Policy for Last {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(Self(set.len() - 1))
    }
}

impl Picker for Last {
    fn pick(&self, _: &Call<'_>) -> Pick {
        Pick::Server(self.0)
    }
}

/// F47: each idle server gets one of the calls, whatever the policy; none of them waits beside a server that was not asked.
#[tokio::test]
async fn each_idle_server_gets_one_of_the_calls_that_wait() {
    for policy in [
        shared(PickFirst::new()),
        shared(Last(0)),
        shared(LeastRequest::new()),
        shared(RoundRobin::new()),
        shared(PeakEwma::new()),
    ] {
        assert_eq!(placed(policy.clone()).await, SERVERS, "{policy:?}: the others wait beside idle servers");
    }
}
