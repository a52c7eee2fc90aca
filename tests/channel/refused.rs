//! Calls that servers refuse: how often one is sent again at once, what that takes from the budget, and that it still
//! finds a server that takes it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;
use tonic_etcd::policy::{LeastRequest, RoundRobin};
use tonic_etcd::{BalancedChannel, RetryPolicy, ServerStatus};

use crate::peer::{Peer, Script};
use crate::raw::goaway_once_told;
use crate::support::{Lowest, SAY_HELLO, builder, changing, greet, greeted_by, over, ready, shared, until};

/// The first attempt, and those that follow it at once.
const AT_ONCE: usize = 1 + 4;

const REFUSE: Script = Script::Reset(h2::Reason::REFUSED_STREAM);

async fn refusing(count: usize) -> Vec<Peer> {
    let mut peers = Vec::new();
    for _ in 0..count {
        peers.push(Peer::start(REFUSE).await);
    }
    peers
}

fn calls(peers: &[Peer]) -> usize {
    peers.iter().map(|peer| peer.seen.calls()).sum()
}

/// A call that waits for nothing ends where it would pause.
#[tokio::test]
async fn a_call_that_all_refuse_moves_on_at_once_a_few_times() {
    let peers = refusing(20).await;
    for policy in [shared(LeastRequest::new()), shared(RoundRobin::new()), shared(Lowest)] {
        let builder = builder().policy(policy).wait_limit(Duration::ZERO);
        let channel = over(builder, peers.iter().map(|peer| &peer.address));
        ready(&channel, peers.len()).await;
        let before: Vec<_> = peers.iter().map(|peer| peer.seen.calls()).collect();
        let status = greet(&channel).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().starts_with("not processed: "), "{status}");
        let more: Vec<_> = peers.iter().zip(before).map(|(peer, before)| peer.seen.calls() - before).collect();
        assert_eq!(more.iter().sum::<usize>(), AT_ONCE, "{more:?}");
        assert!(more.iter().all(|calls| *calls <= 1), "each was another one: {more:?}");
    }
}

#[tokio::test]
async fn without_a_budget_one_follows_at_once_and_the_others_pause() {
    let peers = refusing(20).await;
    let addresses = || peers.iter().map(|peer| &peer.address);
    let channel = over(builder().retry(RetryPolicy::new().budget(0, 0.0)).wait_limit(Duration::ZERO), addresses());
    ready(&channel, peers.len()).await;
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(calls(&peers), 2, "gRFC A6 allows one");
    let channel = over(builder().retry(RetryPolicy::new().budget(0, 0.0)), addresses());
    ready(&channel, peers.len()).await;
    let call = {
        let channel = channel.clone();
        tokio::spawn(async move { greet(&channel).await })
    };
    until("more attempts than two", || calls(&peers) > 2 + 2).await;
    assert!(!call.is_finished(), "an empty budget ends no call");
    call.abort();
}

#[tokio::test]
async fn one_server_that_always_refuses_takes_nothing_from_retries() {
    let (first, second) = (Arc::new(Mutex::new(REFUSE)), Arc::new(Mutex::new(Script::Greet)));
    let refusing = Peer::start(Script::Now(first.clone())).await;
    let good = Peer::start(Script::Now(second.clone())).await;
    let retry = RetryPolicy::new().repeatable(SAY_HELLO).budget(10, 0.0).backoff(Duration::ZERO, Duration::ZERO);
    let builder = builder().policy(RoundRobin::new()).retry(retry).wait_limit(Duration::ZERO);
    let channel = over(builder, [&refusing.address, &good.address]);
    ready(&channel, 2).await;
    for _ in 0..40 {
        assert_eq!(greeted_by(&channel).await, good.address.to_string());
    }
    let refused = refusing.seen.calls();
    assert!(refused >= 10, "more than the budget has tokens for: {refused}");
    for script in [first, second] {
        *script.lock().unwrap() = Script::Status(14, vec![]);
    }
    greet(&channel).await.unwrap_err();
    assert_eq!(refusing.seen.calls() + good.seen.calls(), refused + 40 + 5, "all attempts of the policy");
}

#[tokio::test]
async fn each_further_refusal_of_a_call_takes_a_token() {
    let script = Arc::new(Mutex::new(REFUSE));
    let mut peers = Vec::new();
    for _ in 0..AT_ONCE {
        peers.push(Peer::start(Script::Now(script.clone())).await);
    }
    let retry = RetryPolicy::new().repeatable(SAY_HELLO).budget(8, 0.0).backoff(Duration::ZERO, Duration::ZERO);
    let channel = over(builder().retry(retry).wait_limit(Duration::ZERO), peers.iter().map(|peer| &peer.address));
    ready(&channel, peers.len()).await;
    greet(&channel).await.unwrap_err();
    assert_eq!(calls(&peers), AT_ONCE);
    *script.lock().unwrap() = Script::Status(14, vec![]);
    greet(&channel).await.unwrap_err();
    assert_eq!(calls(&peers), AT_ONCE + 1, "four refusals have taken what a retry would need");
}

/// As all calls that are lost with one connection.
#[tokio::test]
async fn all_calls_that_one_goaway_leaves_out_take_one_token() {
    const CALLS: usize = 5;
    let told = Arc::new(Notify::new());
    let (refusing, leaving) = loop {
        let (one, (other, _)) = (Peer::start(REFUSE).await, goaway_once_told(told.clone(), 0).await);
        if one.address < other {
            break (one, other);
        }
    };
    let retry = RetryPolicy::new().repeatable(SAY_HELLO).budget(6, 0.0).backoff(Duration::ZERO, Duration::ZERO);
    let (channel, set) = changing(builder().policy(Lowest).retry(retry).wait_for_ready(true));
    set.add(refusing.address);
    set.add(leaving);
    ready(&channel, 2).await;
    let mut calls_made = JoinSet::new();
    for _ in 0..CALLS {
        let channel = channel.clone();
        calls_made.spawn(async move { greeted_by(&channel).await });
    }
    // For each of them this is the second refusal, and would take a token.
    until("all calls to be sent", || {
        let in_flight =
            |server: &ServerStatus| server.address().to_string() == leaving.to_string() && server.in_flight() == CALLS;
        channel.servers().iter().any(in_flight)
    })
    .await;
    assert_eq!(refusing.seen.calls(), CALLS);
    let script = Arc::new(Mutex::new(Script::Greet));
    let staying = Peer::start(Script::Now(script.clone())).await;
    set.remove(&refusing.address);
    set.remove(&leaving);
    set.add(staying.address);
    until("the change", || {
        channel.servers().iter().any(|server| server.address().to_string() == staying.address.to_string())
    })
    .await;
    ready(&channel, 1).await;
    told.notify_one();
    while let Some(by) = calls_made.join_next().await {
        assert_eq!(by.unwrap(), staying.address.to_string());
    }
    assert_eq!(staying.seen.calls(), CALLS);
    *script.lock().unwrap() = Script::Status(14, vec![]);
    greet(&channel).await.unwrap_err();
    assert_eq!(
        staying.seen.calls(),
        CALLS + 2,
        "five tokens were left: four after a failure, and three after the next"
    );
}

/// Far more refusals than the budget has tokens for. The channel knows who refuses, so that calls find the one that
/// does not.
#[tokio::test]
async fn the_one_server_that_takes_calls_gets_them_all() {
    const CALLS: usize = 64;
    let (others, good) = (refusing(29).await, Peer::start(Script::Greet).await);
    for policy in [shared(LeastRequest::new()), shared(RoundRobin::new())] {
        let (before, served) = (calls(&others), good.seen.calls());
        let addresses = others.iter().chain([&good]).map(|peer| &peer.address);
        let channel = over(builder().policy(policy).wait_for_ready(true), addresses);
        ready(&channel, 30).await;
        let mut sent = JoinSet::new();
        for _ in 0..CALLS {
            let channel = channel.clone();
            sent.spawn(async move { greeted_by(&channel).await });
        }
        while let Some(by) = sent.join_next().await {
            assert_eq!(by.unwrap(), good.address.to_string());
        }
        assert_eq!(good.seen.calls() - served, CALLS);
        // Now it is known who refuses: the policy sends one attempt anywhere, and the next finds it.
        let known = calls(&others);
        for _ in 0..10 {
            greet(&channel).await.unwrap();
        }
        assert!(calls(&others) - known <= 10, "{}", calls(&others) - known);
        assert!(known - before < 10 * CALLS, "{}", known - before);
    }
}

/// What a server refuses says nothing any more once it takes a call.
#[tokio::test]
async fn a_server_that_takes_calls_again_gets_them() {
    let script = Arc::new(Mutex::new(REFUSE));
    let (others, back) = (refusing(2).await, Peer::start(Script::Now(script.clone())).await);
    let addresses = others.iter().chain([&back]).map(|peer| &peer.address);
    let channel = over(builder().policy(RoundRobin::new()).wait_for_ready(true), addresses);
    ready(&channel, 3).await;
    let waiting = {
        let channel = channel.clone();
        tokio::spawn(async move { greeted_by(&channel).await })
    };
    until("it to refuse a call", || back.seen.calls() > 0).await;
    *script.lock().unwrap() = Script::Greet;
    assert_eq!(waiting.await.unwrap(), back.address.to_string());
    assert_eq!(greeted_by(&channel).await, back.address.to_string());
}

/// A server that refuses is no reason to pause while another one is about to have room: it would stand idle meanwhile.
/// The first pause is 50 ms at least, so that one of many tries is faster on any machine.
#[tokio::test]
async fn a_call_that_is_refused_waits_for_the_room_that_others_will_have() {
    const TRIES: usize = 20;
    let told = Arc::new(Notify::new());
    let (refusing, good) = (Peer::start(REFUSE).await, Peer::start(Script::GreetLater(told.clone())).await);
    let mut refusals = Vec::new();
    for policy in [shared(LeastRequest::new()), shared(RoundRobin::new())] {
        refusals.clear();
        let builder = builder().policy(policy).max_in_flight_per_server(1).wait_for_ready(true);
        let channel = over(builder, [&refusing.address, &good.address]);
        ready(&channel, 2).await;
        for _ in 0..TRIES {
            let (sent, mut both) = (good.seen.calls(), JoinSet::new());
            let call = |channel: BalancedChannel| async move { greeted_by(&channel).await };
            both.spawn(call(channel.clone()));
            until("a call to be sent", || good.seen.calls() == sent + 1).await;
            let before = refusing.seen.calls();
            both.spawn(call(channel.clone()));
            until("the next one to be refused", || refusing.seen.calls() > before).await;
            sleep(Duration::from_millis(10)).await; // a second refusal would follow at once
            told.notify_one();
            until("it to be sent", || good.seen.calls() == sent + 2).await;
            refusals.push(refusing.seen.calls() - before);
            told.notify_one();
            while let Some(by) = both.join_next().await {
                assert_eq!(by.unwrap(), good.address.to_string());
            }
        }
        assert!(refusals.contains(&1), "{refusals:?}");
    }
}
