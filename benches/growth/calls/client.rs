//! Calls of a channel.

use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::task::JoinSet;
use tokio::time::advance;
use tonic::{Request, Status};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, MethodStats, ServerState};

use crate::channels::{channel, connected};
use crate::lapse::wait;

const METHOD: &str = "helloworld.Greeter/SayHello";
/// How far a clock goes at a time that stands still.
const STEP: Duration = Duration::from_millis(10);

/// One call, with this deadline if there is one.
pub(super) async fn greet(channel: &BalancedChannel, deadline: Option<Duration>) -> Result<(), Status> {
    let mut request = Request::new(HelloRequest { name: "world".to_owned() });
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    GreeterClient::new(channel.clone()).say_hello(request).await.map(drop)
}

/// So many workers make so many calls each, one after the other. Returns how many calls failed.
pub(super) async fn work(channel: &BalancedChannel, workers: usize, calls: usize) -> usize {
    let mut working = JoinSet::new();
    for _ in 0..workers {
        let channel = channel.clone();
        working.spawn(async move {
            let mut failed = 0;
            for _ in 0..calls {
                failed += usize::from(greet(&channel, None).await.is_err());
            }
            failed
        });
    }
    working.join_all().await.into_iter().sum()
}

/// A channel over these servers, once all of them are ready.
pub(super) async fn ready(builder: BalancedChannelBuilder, addresses: &[String]) -> BalancedChannel {
    let channel = channel(builder, addresses);
    connected(&channel, addresses.len()).await;
    channel
}

/// The same on a runtime whose clock stands still. It does so from then on: what is done at times, and what makes up
/// for a process that stood still, is no part of a count.
pub(super) async fn ready_and_still(builder: BalancedChannelBuilder, addresses: &[String]) -> BalancedChannel {
    let channel = channel(builder, addresses);
    while channel.stats().servers(ServerState::Ready) < addresses.len() {
        advance(STEP).await;
        wait(STEP).await;
    }
    channel
}

/// How many attempts its calls have made so far.
pub(super) fn attempts(channel: &BalancedChannel) -> u64 {
    channel.stats().method(METHOD).map_or(0, MethodStats::attempts_started)
}
