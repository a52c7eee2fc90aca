//! The servers' limits of concurrent streams.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify};

use crate::peer::{Peer, Script};
use crate::support::{builder, greet, greeted_by, over, ready, until};

#[tokio::test]
async fn a_server_at_its_limit_is_passed_over() {
    let told = Arc::new(Notify::new());
    let (small, large) =
        (Peer::limited(Script::GreetLater(told.clone()), Some(1)).await, Peer::start(Script::Greet).await);
    let channel = over(builder(), [&small.address, &large.address]);
    ready(&channel, 2).await;
    let mut held = tokio::spawn({
        let channel = channel.clone();
        async move { greeted_by(&channel).await }
    });
    // Whoever got it: until it was the small one.
    while small.seen.calls() == 0 {
        if held.is_finished() {
            let channel = channel.clone();
            held = tokio::spawn(async move { greeted_by(&channel).await });
        }
        tokio::task::yield_now().await;
    }
    for _ in 0..50 {
        assert_eq!(greeted_by(&channel).await, large.address.to_string());
    }
    assert_eq!(small.seen.calls(), 1);
    told.notify_one();
    held.await.unwrap();
}

#[tokio::test]
async fn calls_wait_in_order_when_all_servers_are_full() {
    let told = Arc::new(Notify::new());
    let peer = Peer::limited(Script::GreetLater(told.clone()), Some(1)).await;
    let channel = over(builder(), [&peer.address]);
    ready(&channel, 1).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut calls = Vec::new();
    for number in 0..5 {
        let (channel, order) = (channel.clone(), order.clone());
        calls.push(tokio::spawn(async move {
            greet(&channel).await.unwrap();
            order.lock().await.push(number);
        }));
        // Each has begun to wait before the next begins: its task has run, and the first is with the server.
        until("the first call to arrive", || peer.seen.calls() == 1).await;
        tokio::task::yield_now().await;
    }
    for done in 1..=5 {
        told.notify_one();
        let order = order.clone();
        until("the next call to end", move || order.try_lock().is_ok_and(|order| order.len() == done)).await;
    }
    assert_eq!(*order.lock().await, [0, 1, 2, 3, 4]);
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_waiting_call_that_is_dropped_holds_up_nobody() {
    let told = Arc::new(Notify::new());
    let peer = Peer::limited(Script::GreetLater(told.clone()), Some(1)).await;
    let channel = over(builder(), [&peer.address]);
    ready(&channel, 1).await;
    let start = |channel: &tonic_etcd::BalancedChannel| {
        let channel = channel.clone();
        tokio::spawn(async move { greeted_by(&channel).await })
    };
    let first = start(&channel);
    until("the first call to arrive", || peer.seen.calls() == 1).await;
    let dropped = start(&channel);
    tokio::task::yield_now().await;
    let last = start(&channel);
    tokio::task::yield_now().await;
    dropped.abort();
    told.notify_one();
    first.await.unwrap();
    until("the last call to arrive", || peer.seen.calls() == 2).await;
    told.notify_one();
    last.await.unwrap();
}
