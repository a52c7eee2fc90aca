//! One call that waits for its answer for long.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic_etcd::BalancedChannel;
use tonic_etcd::policy::PeakEwma;

use crate::peer::{Peer, Script};
use crate::support::{builder, greet, over, ready, until};

async fn work(channel: &BalancedChannel, workers: usize, time: Duration) {
    let end = Instant::now() + time;
    let mut all = JoinSet::new();
    for _ in 0..workers {
        let channel = channel.clone();
        all.spawn(async move {
            while Instant::now() < end {
                greet(&channel).await.unwrap();
            }
        });
    }
    all.join_all().await;
}

fn quick() -> Script {
    Script::After(Duration::from_millis(5), Box::new(Script::Greet))
}

/// F35: a channel's first call is a long poll; the server that has it is as good as the other one.
#[tokio::test]
async fn one_long_poll_does_not_cost_its_server_all_other_calls() {
    let later = || Arc::new(Mutex::new(Script::GreetLater(Arc::new(Notify::new()))));
    let scripts = [later(), later()];
    let peers =
        [Peer::start(Script::Now(scripts[0].clone())).await, Peer::start(Script::Now(scripts[1].clone())).await];
    let channel = over(builder().policy(PeakEwma::new()), [&peers[0].address, &peers[1].address]);
    ready(&channel, 2).await;
    let polls = channel.clone();
    let poll = tokio::spawn(async move { greet(&polls).await });
    until("the long poll", || peers.iter().any(|peer| peer.seen.calls() == 1)).await;
    let polled = usize::from(peers[1].seen.calls() == 1);
    scripts.iter().for_each(|script| *script.lock().unwrap() = quick());
    work(&channel, 1, Duration::from_millis(100)).await;
    work(&channel, 8, Duration::from_secs(4)).await;
    let (own, other) = (peers[polled].seen.calls() - 1, peers[1 - polled].seen.calls());
    assert!(!poll.is_finished());
    assert!(own * 5 >= other, "the server of the long poll got {own} calls, the other one {other}");
}

/// F35: a server was slow for a second while a long poll waits there; it is well again.
#[tokio::test]
async fn a_server_that_was_slow_comes_back_while_a_long_poll_waits() {
    let scripts = [Arc::new(Mutex::new(quick())), Arc::new(Mutex::new(quick()))];
    let peers =
        [Peer::start(Script::Now(scripts[0].clone())).await, Peer::start(Script::Now(scripts[1].clone())).await];
    let channel = over(builder().policy(PeakEwma::new()), [&peers[0].address, &peers[1].address]);
    ready(&channel, 2).await;
    work(&channel, 4, Duration::from_millis(300)).await;
    let set = |script: &Script| scripts.iter().for_each(|each| *each.lock().unwrap() = script.clone());
    set(&Script::GreetLater(Arc::new(Notify::new())));
    let before = peers[0].seen.calls();
    let polls = channel.clone();
    let poll = tokio::spawn(async move { greet(&polls).await });
    sleep(Duration::from_millis(100)).await;
    let slow = usize::from(peers[0].seen.calls() == before);
    set(&quick());
    *scripts[slow].lock().unwrap() = Script::After(Duration::from_millis(500), Box::new(Script::Greet));
    work(&channel, 4, Duration::from_millis(1500)).await;
    *scripts[slow].lock().unwrap() = quick();
    work(&channel, 4, Duration::from_secs(8)).await;
    let before = [0, 1].map(|peer: usize| peers[peer].seen.calls());
    work(&channel, 4, Duration::from_secs(3)).await;
    let [own, other] = [slow, 1 - slow].map(|peer| peers[peer].seen.calls() - before[peer]);
    assert!(!poll.is_finished());
    assert!(own * 5 >= other, "ten seconds after it was slow it gets {own} calls, the other one {other}");
}
