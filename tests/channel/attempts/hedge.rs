//! Hedges: which answer wins, what ends the others, and what bounds them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tonic::Code;
use tonic_etcd::RetryPolicy;

use super::{NEVER, SOON, Servers, costs, repeating, unavailable};
use crate::peer::{Part, Script};
use crate::support::{SAY_HELLO, builder, greet, greeted_by, server_of, until};

fn hedging() -> RetryPolicy {
    repeating().hedge_after(SOON)
}

#[tokio::test]
async fn the_first_whole_answer_wins_and_the_others_are_cancelled() {
    let servers = Servers::start([Script::Silence, Script::HeadOnly, Script::Greet]).await;
    let channel = servers.channel(hedging()).await;
    assert_eq!(greeted_by(&channel).await, servers.name(2));
    assert_eq!(servers.calls(), [1, 1, 1]);
    let previous: Vec<_> = (0..3).map(|server| servers.previous_attempts(server)).collect();
    assert_eq!(previous, [None, Some("1".into()), Some("2".into())]);
    let same = ["content-type", "te", "user-agent"].map(|name| {
        servers.peers.iter().all(|peer| {
            peer.seen.header(0, name).is_some() && peer.seen.header(0, name) == servers.peers[0].seen.header(0, name)
        })
    });
    assert_eq!(same, [true; 3], "each attempt has the headers of the call");
    assert_eq!(costs(&channel), (vec![0, 1, 1], vec![0, 0, 0]));
    until("the first to be cancelled", || servers.peers[0].seen.cancelled() == 1).await;
    let counts: Vec<_> = channel.servers().iter().map(|server| (server.attempts(), server.failures())).collect();
    assert_eq!(counts, [(0, 0), (0, 0), (1, 0)], "no verdict on the losers");
}

#[tokio::test]
async fn the_first_attempt_may_win_as_well() {
    let told = Arc::new(Notify::new());
    let servers = Servers::start([Script::GreetLater(told.clone()), Script::Silence]).await;
    let channel = servers.channel(hedging()).await;
    let call = tokio::spawn(async move { (greeted_by(&channel).await, channel) });
    until("the hedge", || servers.calls() == [1, 1]).await;
    told.notify_one();
    let (by, channel) = call.await.unwrap();
    assert_eq!((by, costs(&channel).0), (servers.name(0), vec![0, 1]));
    until("the hedge to be cancelled", || servers.peers[1].seen.cancelled() == 1).await;
}

#[tokio::test]
async fn of_a_streaming_method_the_first_head_wins() {
    let servers = Servers::start([Script::Silence, Script::BreakAfter(Part::Head)]).await;
    let policy = RetryPolicy::new().repeatable_streaming(SAY_HELLO).hedge_after(SOON);
    let channel = servers.channel(policy).await;
    let status = greet(&channel).await.unwrap_err();
    assert_eq!((status.code(), server_of(&status)), (Code::Unavailable, servers.name(1)));
    until("the first to be cancelled", || servers.peers[0].seen.cancelled() == 1).await;
}

#[tokio::test]
async fn a_code_to_repeat_does_not_end_the_others() {
    for failing in [unavailable(), Script::Break, Script::BreakAfter(Part::Message), Script::Http(503)] {
        let told = Arc::new(Notify::new());
        let servers = Servers::start([Script::GreetLater(told.clone()), failing]).await;
        let channel = servers.channel(hedging()).await;
        let call = {
            let channel = channel.clone();
            tokio::spawn(async move { greeted_by(&channel).await })
        };
        until("the hedge to fail", || channel.servers()[1].failures() == 1).await;
        told.notify_one();
        assert_eq!(call.await.unwrap(), servers.name(0));
        assert_eq!(servers.calls(), [1, 1]);
    }
}

#[tokio::test]
async fn the_last_in_flight_is_retried_as_ever() {
    let servers = Servers::start([Script::Greet, Script::Greet, Script::Greet]).await;
    servers.set(0, Script::After(SOON * 4, Box::new(unavailable())));
    // The third gets no hedge.
    servers.set(1, Script::Status(14, vec![("grpc-retry-pushback-ms", "600000")]));
    let channel = servers.channel_of(builder().retry(hedging()).timeout(NEVER * 10)).await;
    assert_eq!(greeted_by(&channel).await, servers.name(2));
    assert_eq!(servers.calls(), [1, 1, 1]);
    assert_eq!(servers.previous_attempts(2).unwrap(), "2");
}

#[tokio::test]
async fn a_code_not_to_repeat_ends_the_call() {
    let servers = Servers::start([Script::Silence, Script::Status(Code::NotFound as i32, vec![])]).await;
    let channel = servers.channel(hedging()).await;
    let status = greet(&channel).await.unwrap_err();
    assert_eq!((status.code(), server_of(&status)), (Code::NotFound, servers.name(1)));
    until("the first to be cancelled", || servers.peers[0].seen.cancelled() == 1).await;
}

#[tokio::test]
async fn pushback_forbids_further_hedges_or_delays_them() {
    for (pushback, third) in [("-1", 0), ("600000", 0), ("1", 1)] {
        let servers = Servers::start([Script::Silence, Script::Greet, Script::Greet]).await;
        servers.set(1, Script::Status(14, vec![("grpc-retry-pushback-ms", pushback)]));
        let channel = servers.channel_of(builder().retry(hedging()).timeout(NEVER * 10)).await;
        let call = {
            let channel = channel.clone();
            tokio::spawn(async move { greeted_by(&channel).await })
        };
        until("the hedge to fail", || channel.servers()[1].failures() == 1).await;
        if third == 1 {
            assert_eq!(call.await.unwrap(), servers.name(2), "{pushback}");
        } else {
            tokio::time::sleep(SOON * 5).await;
            assert!(!call.is_finished());
            call.abort();
        }
        assert_eq!(servers.calls(), [1, 1, third], "{pushback}");
    }
}

#[tokio::test]
async fn a_hedge_that_was_never_processed_is_no_failure() {
    let told = Arc::new(Notify::new());
    let servers = Servers::start([Script::GreetLater(told.clone()), Script::Reset(h2::Reason::REFUSED_STREAM)]).await;
    let channel = servers.channel(hedging()).await;
    let call = {
        let channel = channel.clone();
        tokio::spawn(async move { greeted_by(&channel).await })
    };
    until("the hedge to be refused", || servers.calls()[1] > 0).await;
    tokio::time::sleep(SOON).await;
    told.notify_one();
    assert_eq!(call.await.unwrap(), servers.name(0));
    assert_eq!(channel.servers()[1].failures(), 0);
}

#[tokio::test]
async fn attempts_bound_hedges_and_the_deadline_blames_the_oldest() {
    let servers = Servers::start([Script::Silence, Script::Silence, Script::Silence, Script::Silence]).await;
    let channel = servers.channel_of(builder().retry(hedging().max_attempts(3)).timeout(SOON * 50)).await;
    let status = greet(&channel).await.unwrap_err();
    assert_eq!((status.code(), server_of(&status)), (Code::DeadlineExceeded, servers.name(0)));
    until("the hedges to arrive", || servers.calls() == [1, 1, 1, 0]).await;
    let failures: Vec<_> = channel.servers().iter().map(tonic_etcd::ServerStatus::failures).collect();
    assert_eq!(failures, [1, 0, 0, 0]);
    until("all to be cancelled", || servers.peers.iter().map(|peer| peer.seen.cancelled()).sum::<usize>() == 3).await;
}

#[tokio::test]
async fn each_hedge_takes_a_token_when_it_is_sent_and_ok_puts_the_ratio_back() {
    let servers = Servers::start([Script::Greet, Script::Silence]).await;
    let channel = servers.channel(hedging().budget(4, 0.5)).await;
    // More than 2 tokens must be left: 4, 3.5, 3, 2.5, 2 (none), 2.5, 2 (none), 2.5.
    for hedges in [1, 2, 3, 4, 4, 5, 5, 6] {
        let told = Arc::new(Notify::new());
        servers.set(0, Script::GreetLater(told.clone()));
        let (before, calls) = (costs(&channel).0[1], servers.calls()[0]);
        let call = {
            let channel = channel.clone();
            tokio::spawn(async move { greeted_by(&channel).await })
        };
        until("the call to arrive", || servers.calls()[0] > calls).await;
        if hedges == before {
            tokio::time::sleep(SOON * 3).await;
        } else {
            until("the hedge", || costs(&channel).0[1] > before).await;
        }
        told.notify_one();
        assert_eq!(call.await.unwrap(), servers.name(0));
        assert_eq!(costs(&channel).0, [0, hedges]);
    }
}

#[tokio::test]
async fn no_hedge_without_another_server_that_has_room() {
    let told = Arc::new(Notify::new());
    let servers = Servers::limited([Script::GreetLater(told.clone()), Script::Silence], Some(1)).await;
    // The one that fills the second server is not hedged.
    let channel = servers.channel_of(builder().retry(hedging().repeatable("/a.B/")).timeout(NEVER)).await;
    let first = {
        let channel = channel.clone();
        tokio::spawn(async move { greeted_by(&channel).await })
    };
    let second = {
        let channel = channel.clone();
        tokio::spawn(async move { greet(&channel).await.is_ok() })
    };
    until("both to be full", || servers.calls() == [1, 1]).await;
    tokio::time::sleep(SOON * 4).await;
    assert_eq!((servers.calls(), costs(&channel).0), (vec![1, 1], vec![0, 0]));
    told.notify_one();
    assert_eq!(first.await.unwrap(), servers.name(0));
    second.abort();
}

#[tokio::test]
async fn with_a_timeout_too_the_hedge_comes_first() {
    let servers = Servers::start([Script::Silence, Script::Silence, Script::Silence, Script::Greet]).await;
    let policy = repeating().hedge_after(SOON * 2).attempt_timeout(SOON * 3);
    let channel = servers.channel(policy).await;
    assert_eq!(greeted_by(&channel).await, servers.name(3));
    let (hedges, timeouts) = costs(&channel);
    assert_eq!((hedges[1], timeouts[0]), (1, 1), "{hedges:?} {timeouts:?}");
    assert_eq!(servers.calls(), [1, 1, 1, 1]);
}

#[tokio::test]
async fn a_call_that_is_dropped_cancels_all_its_attempts() {
    let servers = Servers::start([Script::Silence, Script::Silence]).await;
    let channel = servers.channel(hedging()).await;
    let call = {
        let channel = channel.clone();
        tokio::spawn(async move { greet(&channel).await.is_ok() })
    };
    until("the hedge", || servers.calls() == [1, 1]).await;
    call.abort();
    until("both to be cancelled", || servers.peers.iter().all(|peer| peer.seen.cancelled() == 1)).await;
    until("nothing to be in flight", || channel.servers().iter().all(|server| server.in_flight() == 0)).await;
    assert!(channel.servers().iter().all(|server| server.failures() == 0));
}

#[tokio::test]
async fn undeclared_methods_are_not_hedged() {
    let servers = Servers::start([Script::Silence, Script::Greet]).await;
    let policy = RetryPolicy::new().repeatable("/helloworld.Greeter/Other").hedge_after(SOON);
    let channel = servers.channel_of(builder().retry(policy).timeout(SOON * 6)).await;
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::DeadlineExceeded);
    until("the call to arrive", || servers.calls() == [1, 0]).await;
}

#[tokio::test]
async fn servers_that_are_all_slow_do_not_get_twice_the_load() {
    let slow = || Script::After(Duration::from_millis(12), Box::new(Script::Greet));
    let servers = Servers::start([slow(), slow(), slow()]).await;
    let policy = repeating().hedge_after(Duration::from_millis(3)).budget(20, 0.1);
    let channel = servers.channel(policy).await;
    for _ in 0..200 {
        greeted_by(&channel).await;
    }
    // 9 at once, and one for ten calls.
    assert!(servers.calls().iter().sum::<usize>() <= 200 + 9 + 20 + 1, "{:?}", servers.calls());
    assert!(costs(&channel).0.iter().sum::<u64>() >= 9);
}
