//! The servers' limits of concurrent streams.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify};

use crate::peer::{Peer, Script};
use crate::support::{builder, greet, greeted_by, over, ready, repeating, until};

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

#[tokio::test]
async fn a_waiting_call_that_nobody_polls_holds_up_nobody() {
    let told = Arc::new(Notify::new());
    let peer = Peer::limited(Script::GreetLater(told.clone()), Some(1)).await;
    let channel = over(builder().wait_for_ready(true), [&peer.address]);
    ready(&channel, 1).await;
    let start = || {
        let channel = channel.clone();
        tokio::spawn(async move { greeted_by(&channel).await })
    };
    let first = start();
    until("the first call to arrive", || peer.seen.calls() == 1).await;
    let mut asleep = Box::pin(greet(&channel));
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(asleep.as_mut().poll(cx).is_pending())).await);
    let last = start();
    told.notify_one();
    first.await.unwrap();
    until("the last call to arrive", || peer.seen.calls() == 2).await;
    told.notify_one();
    last.await.unwrap();
    told.notify_one();
    asleep.await.unwrap();
}

#[tokio::test]
async fn a_call_that_one_server_failed_holds_up_nobody_while_the_other_is_full() {
    let told = Arc::new(Notify::new());
    let full = Peer::limited(Script::GreetLater(told.clone()), Some(1)).await;
    let failing = Peer::start(Script::Status(14, vec![])).await;
    let channel = over(repeating(), [&full.address, &failing.address]);
    ready(&channel, 2).await;
    let greeting = || {
        let channel = channel.clone();
        tokio::spawn(async move { greet(&channel).await })
    };
    let held = greeting();
    until("the first call to arrive", || full.seen.calls() == 1).await;
    // Each is repeated, finds the other server full, and ends with what the one says: none waits for the rest of its time.
    let calls: Vec<_> = (0..5).map(|_| greeting()).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().message(), "as told");
    }
    told.notify_one();
    held.await.unwrap().unwrap();
}
