//! The health check is no call: what connections do, and when they end, is as without it.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic_etcd::{BalancedChannelBuilder, KeepAlive, ServerState};

use super::peer::{Answer, NOT_SERVING, Peer, SERVING};
use super::tap::Tap;
use super::{checking, is, only};
use crate::support::{builder, changing, greet, over, ready, until};

/// Well below the 10 s after which a connection that nobody uses is closed in any case.
const SOON: Duration = Duration::from_secs(3);

/// How many PINGs a connection sends within some seconds in which nobody calls.
async fn pings(builder: BalancedChannelBuilder) -> usize {
    let peer = Peer::start(Answer::Says(SERVING)).await;
    let tap = Tap::to(peer.address).await;
    let channel = over(builder, [&tap.address]);
    ready(&channel, 1).await;
    greet(&channel).await.unwrap();
    sleep(Duration::from_secs(1)).await; // the interval in which the call was begun is over
    let before = tap.pings();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(peer.seen.connections(), 1);
    tap.pings() - before
}

#[tokio::test]
async fn a_connection_that_is_idle_but_for_the_check_sends_no_more_pings_than_without_it() {
    let often = KeepAlive::new(Duration::from_millis(100), Duration::from_millis(500));
    let with_and_without = async |set: fn(BalancedChannelBuilder) -> BalancedChannelBuilder, keep_alive| {
        let [with, without] = [checking(), builder()].map(|builder| pings(set(builder.keep_alive(keep_alive))));
        tokio::join!(with, without)
    };
    let while_idle = |builder: BalancedChannelBuilder| builder.keep_alive_while_idle(true);
    let (unused, few, many) = tokio::join!(
        with_and_without(|builder| builder, often),
        with_and_without(while_idle, often),
        with_and_without(while_idle, often.unthrottled())
    );
    assert_eq!((unused, few.0), ((0, 0), few.1), "none where no call waits; else two, and then one in 5 min");
    assert!(many.0.abs_diff(many.1) <= 2 && many.0 >= 3, "{many:?}");
}

#[tokio::test]
async fn a_silent_connection_is_idle_although_its_health_is_watched() {
    let peer = Peer::start(Answer::Says(SERVING)).await;
    let tap = Tap::to(peer.address).await;
    let idle = Duration::from_millis(200);
    let channel = over(checking().idle_timeout(idle).without_keep_alive(), [&tap.address]);
    for round in 1..=2 {
        ready(&channel, 1).await;
        greet(&channel).await.unwrap();
        sleep(idle * 2).await;
        greet(&channel).await.unwrap();
        assert_eq!((tap.pings(), peer.seen.connections()), (round, 1), "the call waits for a PING's answer");
    }
    assert_eq!((peer.seen.watches(), peer.seen.open_watches()), (1, 1));
}

#[tokio::test]
async fn a_server_that_drains_ends_its_connection_at_once() {
    for connections in [1, 2] {
        for answer in [Answer::Says(SERVING), Answer::Says(NOT_SERVING), Answer::Silence] {
            let peer = Peer::start(answer).await;
            let channel = over(checking().connections_per_server(connections), [&peer.address]);
            until("it to be asked", || peer.seen.open_watches() == 1).await;
            let began = Instant::now();
            peer.say_goaway();
            until("the next connection", || peer.seen.connections() == 2).await;
            until("the first one to end", || peer.seen.open() == 1 && peer.seen.open_watches() == 1).await;
            assert!(began.elapsed() < SOON, "{answer:?}: {:?}", began.elapsed());
            assert_eq!(channel.servers().len(), 1);
        }
    }
}

#[tokio::test]
async fn a_server_that_is_removed_loses_its_connection_at_once_and_no_call() {
    for connections in [1, 2] {
        let peer = Peer::start(Answer::Says(SERVING)).await;
        let (channel, set) = changing(checking().connections_per_server(connections));
        set.add(peer.address);
        ready(&channel, 1).await;
        peer.hold_calls(true);
        let call = tokio::spawn({
            let channel = channel.clone();
            async move { greet(&channel).await }
        });
        until("the call", || peer.seen.calls() == 1).await;
        set.remove(&peer.address);
        until("the check to end", || peer.seen.open_watches() == 0).await;
        assert_eq!(peer.seen.open(), 1, "the call goes on");
        peer.hold_calls(false);
        call.await.unwrap().unwrap();
        let began = Instant::now();
        until("the connection to end", || peer.seen.open() == 0).await;
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());

        set.add(peer.address);
        ready(&channel, 1).await;
        let began = Instant::now();
        set.remove(&peer.address);
        until("the connection to end", || peer.seen.open() == 0).await;
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn the_end_of_the_channel_ends_the_connections() {
    let peer = Peer::start(Answer::Says(SERVING)).await;
    let channel = over(checking(), [&peer.address]);
    ready(&channel, 1).await;
    let began = Instant::now();
    drop(channel);
    until("the connection to end", || peer.seen.open() == 0 && peer.seen.open_watches() == 0).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_lost_connection_is_replaced_and_asked_anew() {
    let peer = Peer::start(Answer::Says(NOT_SERVING)).await;
    let proxy = test_support::Proxy::to(peer.address);
    let channel = over(checking(), [&proxy.address()]);
    is(&channel, ServerState::Unhealthy).await;
    peer.says(SERVING);
    is(&channel, ServerState::Ready).await;
    proxy.cut();
    until("it to be asked anew", || peer.seen.watches() == 2).await;
    ready(&channel, 1).await;
    greet(&channel).await.unwrap();
    assert!(only(&channel).last_error().is_some_and(|error| !error.contains("health")), "{:?}", channel.servers());
}
