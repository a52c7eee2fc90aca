//! The queue in which calls wait for room.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::sync::{Mutex, Notify};
use tokio::time::sleep;
use tonic::{Code, Request};
use tonic_etcd::BalancedChannel;
use tonic_etcd::policy::{LeastRequest, PeakEwma, PickFirst, RoundRobin};

use super::watched::{Watched, finished, polls, waiting};
use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, over, ready, shared, until};

struct Full {
    peer: Peer,
    told: Arc<Notify>,
    channel: BalancedChannel,
    held: Watched,
}

/// One server that takes one call, and has it.
async fn full() -> Full {
    let told = Arc::new(Notify::new());
    let peer = Peer::limited(Script::GreetLater(told.clone()), Some(1)).await;
    let channel = over(builder(), [&peer.address]);
    ready(&channel, 1).await;
    let held = Watched::greet(&channel, false);
    until("the first call to arrive", || peer.seen.calls() == 1).await;
    Full { peer, told, channel, held }
}

/// F34: while nothing happens, nobody is polled, however many wait.
#[tokio::test]
async fn nobody_who_waits_is_polled_while_nothing_happens() {
    let full = full().await;
    let calls = waiting(&full.channel, 2_000, false).await;
    sleep(Duration::from_millis(50)).await;
    let before = polls(&calls);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(polls(&calls), before, "of {} calls", calls.len());
    full.told.notify_one();
    full.held.task.await.unwrap().unwrap();
}

/// F34: one place that becomes free wakes one call: the one that has waited longest.
#[tokio::test]
async fn room_for_one_wakes_one_and_the_others_sleep_on() {
    let full = full().await;
    let calls = waiting(&full.channel, 100, false).await;
    sleep(Duration::from_millis(50)).await;
    let before: Vec<_> = calls.iter().map(Watched::polls).collect();
    for done in 0..20 {
        full.told.notify_one();
        until("the next call to arrive", || full.peer.seen.calls() == done + 2).await;
    }
    until("the first to end", || finished(&calls) == 19).await;
    assert!(calls[..19].iter().all(|call| call.task.is_finished()), "in order");
    let after: Vec<_> = calls.iter().map(Watched::polls).collect();
    assert_eq!(after[20..], before[20..], "who has no turn is not woken");
}

/// F34: as many calls wake as a server that is added has room for.
#[tokio::test]
async fn a_further_server_takes_as_many_as_it_has_room_for() {
    let told = Arc::new(Notify::new());
    let first = Peer::limited(Script::GreetLater(told.clone()), Some(1)).await;
    let second = Peer::limited(Script::GreetLater(told.clone()), Some(7)).await;
    let (channel, set) = changing(builder());
    set.add(first.address);
    ready(&channel, 1).await;
    let _held = Watched::greet(&channel, false);
    until("the first call to arrive", || first.seen.calls() == 1).await;
    let calls = waiting(&channel, 50, false).await;
    sleep(Duration::from_millis(50)).await;
    let before: Vec<_> = calls.iter().map(Watched::polls).collect();
    set.add(second.address);
    until("its room to be taken", || second.seen.calls() == 7).await;
    sleep(Duration::from_millis(200)).await;
    let after: Vec<_> = calls.iter().map(Watched::polls).collect();
    assert_eq!(after[7..], before[7..], "the others sleep on");
    assert_eq!((first.seen.calls(), second.seen.calls()), (1, 7));
}

fn polled_once(call: &mut Pin<Box<impl Future>>) {
    let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
}

/// F34: order holds behind calls that nobody polls, wherever they stand, and they are served once they are polled.
#[tokio::test]
async fn order_holds_behind_calls_that_nobody_polls() {
    let full = full().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let (mut asleep, mut calls) = (Vec::new(), Vec::new());
    for number in 0..12 {
        let channel = full.channel.clone();
        if number % 3 == 0 {
            let mut call = Box::pin(async move { greet(&channel).await });
            polled_once(&mut call);
            asleep.push(call);
            continue;
        }
        let order = order.clone();
        let polls = Arc::<AtomicUsize>::default();
        let counted = polls.clone();
        calls.push(tokio::spawn(async move {
            let mut call = pin!(greet(&channel));
            let poll = std::future::poll_fn(|cx| {
                counted.fetch_add(1, Ordering::SeqCst);
                call.as_mut().poll(cx)
            });
            poll.await.unwrap();
            order.lock().await.push(number);
        }));
        until("the call to begin", || polls.load(Ordering::SeqCst) > 0).await;
    }
    for done in 0..=8 {
        let order = order.clone();
        until("the call before to end", move || order.try_lock().is_ok_and(|order| order.len() + 1 >= done)).await;
        until("the next call to arrive", || full.peer.seen.calls() == done.min(8) + 1).await;
        full.told.notify_one();
    }
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(*order.lock().await, [1, 2, 4, 5, 7, 8, 10, 11]);
    // Those who sleep hold up nobody who comes later either.
    full.told.notify_one();
    greet(&full.channel).await.unwrap();
    for call in asleep {
        full.told.notify_one();
        call.await.unwrap();
    }
    full.held.task.await.unwrap().unwrap();
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// F34: whoever was woken and is dropped before it looks passes its turn on.
#[tokio::test]
async fn a_call_that_is_dropped_in_its_turn_passes_it_on() {
    let full = full().await;
    let woken = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let channel = full.channel.clone();
    let mut dropped = Box::pin(async move { greet(&channel).await });
    assert!(dropped.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let last = waiting(&full.channel, 1, false).await;
    full.told.notify_one();
    full.held.task.await.unwrap().unwrap();
    until("the first to be woken", || woken.0.load(Ordering::SeqCst) > 0).await;
    drop(dropped);
    until("the last call to arrive", || full.peer.seen.calls() == 2).await;
    full.told.notify_one();
    for call in last {
        call.task.await.unwrap().unwrap();
    }
}

/// F34: dropped from the head, the middle and the end, also while places become free, in many threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_are_dropped_at_any_time_lose_no_room() {
    for policy in
        [shared(LeastRequest::new()), shared(PeakEwma::new()), shared(RoundRobin::new()), shared(PickFirst::new())]
    {
        let peers = [Peer::limited(Script::Greet, Some(2)).await, Peer::limited(Script::Greet, Some(1)).await];
        let channel = over(builder().policy(policy), peers.iter().map(|peer| &peer.address));
        ready(&channel, 2).await;
        let calls: Vec<_> = (0..2_000).map(|_| Watched::greet(&channel, false)).collect();
        let mut kept = Vec::new();
        for (number, call) in calls.into_iter().enumerate() {
            if number % 3 == 0 {
                call.task.abort();
                tokio::task::yield_now().await;
            } else {
                kept.push(call);
            }
        }
        for call in kept {
            call.task.await.unwrap().unwrap();
        }
    }
}

/// F34: waiting for room ends with the limit of waiting, and with the call's deadline.
#[tokio::test]
async fn waiting_for_room_has_a_limit_and_a_deadline() {
    let told = Arc::new(Notify::new());
    let peer = Peer::limited(Script::GreetLater(told.clone()), Some(1)).await;
    let channel = over(builder().wait_limit(Duration::from_millis(300)), [&peer.address]);
    ready(&channel, 1).await;
    let held = Watched::greet(&channel, false);
    until("the first call to arrive", || peer.seen.calls() == 1).await;
    let mut request = Request::new(HelloRequest { name: "world".into() });
    request.set_timeout(Duration::from_millis(50));
    let status = GreeterClient::new(channel.clone()).say_hello(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    told.notify_one();
    held.task.await.unwrap().unwrap();
    told.notify_one();
    greet(&channel).await.unwrap();
    assert_eq!(peer.seen.calls(), 2, "who gave up waiting was never sent");
}

/// F34: calls that wait for room learn that their server is gone, and go to the next.
#[tokio::test]
async fn calls_that_wait_for_room_follow_the_set() {
    let told = Arc::new(Notify::new());
    let first = Peer::limited(Script::GreetLater(told.clone()), Some(1)).await;
    let second = Peer::limited(Script::Greet, Some(3)).await;
    let (channel, set) = changing(builder());
    set.add(first.address);
    ready(&channel, 1).await;
    let held = Watched::greet(&channel, false);
    until("the first call to arrive", || first.seen.calls() == 1).await;
    let mut calls = waiting(&channel, 20, true).await;
    let vain = waiting(&channel, 5, false).await;
    set.remove(&first.address);
    for call in vain {
        let status = call.task.await.unwrap().unwrap_err();
        assert!(status.message().contains("none is registered"), "{status}");
    }
    assert_eq!(finished(&calls), 0, "these wait for ready");
    set.add(second.address);
    for call in calls.drain(..) {
        call.task.await.unwrap().unwrap();
    }
    told.notify_one();
    held.task.await.unwrap().unwrap();
}

/// F34: in a runtime whose channel is gone with its own nobody waits for ever.
#[test]
fn calls_that_wait_for_room_end_with_the_channel() {
    let make = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first, second) = (make(), make());
    let told = Arc::new(Notify::new());
    let peer = second.block_on(Peer::limited(Script::GreetLater(told), Some(1)));
    let channel = first.block_on(async { over(builder(), [&peer.address]) });
    second.block_on(async {
        ready(&channel, 1).await;
        let _held = Watched::greet(&channel, true);
        until("the first call to arrive", || peer.seen.calls() == 1).await;
        let calls = waiting(&channel, 10, true).await;
        first.shutdown_background();
        for call in calls {
            let status = call.task.await.unwrap().unwrap_err();
            assert!(status.message().contains("runtime"), "{status}");
        }
    });
}
