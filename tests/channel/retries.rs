//! Calls that go to another server: always when nobody has processed them, else only where that is declared harmless.

use std::sync::atomic::Ordering;
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tonic::Code;
use tonic_etcd::RetryPolicy;
use tower::ServiceExt as _;

use crate::peer::{Part, Peer, Script};
use crate::raw::goaway_at_first_call;
use crate::support::{Lowest, SAY_HELLO, builder, changing, greet, greeted_by, over, ready, repeating, server_of};

/// Calls go to the first server first.
async fn pair(script: Script) -> (Peer, Peer) {
    let (one, other) = (Peer::start(script.clone()).await, Peer::start(Script::Greet).await);
    if one.address < other.address {
        return (one, other);
    }
    drop((one, other));
    Box::pin(pair(script)).await
}

fn first(builder: tonic_etcd::BalancedChannelBuilder) -> tonic_etcd::BalancedChannelBuilder {
    builder.policy(Lowest)
}

#[tokio::test]
async fn refused_calls_go_to_another_server_undeclared() {
    let (refusing, good) = pair(Script::Reset(h2::Reason::REFUSED_STREAM)).await;
    let channel = over(first(builder()), [&refusing.address, &good.address]);
    ready(&channel, 2).await;
    for call in 1..=20 {
        assert_eq!(greeted_by(&channel).await, good.address.to_string());
        assert_eq!(refusing.seen.calls(), call, "it was asked first");
    }
}

#[tokio::test]
async fn calls_beyond_a_goaway_go_to_another_server_undeclared() {
    let good = Peer::start(Script::Greet).await;
    let (leaving, calls) = goaway_at_first_call(0).await;
    let (channel, set) = changing(builder().wait_for_ready(true));
    set.add(leaving);
    ready(&channel, 1).await;
    let call = tokio::spawn(async move {
        let by = greeted_by(&channel).await;
        (by, channel)
    });
    crate::support::until("the call to arrive", || calls.load(Ordering::SeqCst) > 0).await;
    set.add(good.address);
    assert_eq!(call.await.unwrap().0, good.address.to_string());
}

#[tokio::test]
async fn calls_that_a_goaway_leaves_open_are_not_repeated_undeclared() {
    let (leaving, calls) = goaway_at_first_call(1).await;
    let channel = over(builder(), [&leaving]);
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(server_of(&status), leaving.to_string());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_that_may_have_been_processed_fails_and_names_the_server() {
    let (breaking, good) = pair(Script::Break).await;
    let channel = over(first(builder()), [&breaking.address, &good.address]);
    ready(&channel, 2).await;
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(server_of(&status), breaking.address.to_string());
    assert_eq!((breaking.seen.calls(), good.seen.calls()), (1, 0));
}

#[tokio::test]
async fn declared_calls_are_repeated_and_say_how_often() {
    for script in [Script::Break, Script::BreakAfter(Part::Head), Script::BreakAfter(Part::Message)] {
        let (breaking, good) = pair(script).await;
        let channel = over(first(repeating()), [&breaking.address, &good.address]);
        ready(&channel, 2).await;
        assert_eq!(greeted_by(&channel).await, good.address.to_string());
        assert_eq!(breaking.seen.calls(), 1);
        assert_eq!(breaking.seen.header(0, "grpc-previous-rpc-attempts"), None);
        assert_eq!(good.seen.header(0, "grpc-previous-rpc-attempts").unwrap(), "1");
    }
}

#[tokio::test]
async fn a_streaming_method_is_repeated_only_until_its_answer_begins() {
    let policy = RetryPolicy::new().repeatable_streaming(SAY_HELLO);
    for (script, repeated) in [(Script::Break, true), (Script::BreakAfter(Part::Head), false)] {
        let (breaking, good) = pair(script).await;
        let channel = over(first(builder().retry(policy.clone())), [&breaking.address, &good.address]);
        ready(&channel, 2).await;
        assert_eq!(greet(&channel).await.is_ok(), repeated);
        assert_eq!(good.seen.calls(), usize::from(repeated));
    }
}

#[tokio::test]
async fn every_call_of_one_lost_connection_is_repeated() {
    const CALLS: usize = 500;
    let told = std::sync::Arc::new(tokio::sync::Notify::new());
    let (doomed, good) = pair(Script::GreetLater(told)).await;
    let channel = over(first(repeating()), [&doomed.address, &good.address]);
    ready(&channel, 2).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        let channel = channel.clone();
        calls.spawn(async move { greeted_by(&channel).await });
    }
    let seen = doomed.seen.clone();
    crate::support::until("all calls to arrive", || seen.calls() == CALLS).await;
    drop(doomed);
    while let Some(by) = calls.join_next().await {
        assert_eq!(by.unwrap(), good.address.to_string());
    }
}

#[tokio::test]
async fn other_failures_of_declared_calls_are_repeated_by_code_and_pushback() {
    let cases = [
        (14, vec![], true),
        (14, vec![("grpc-retry-pushback-ms", "0")], true),
        (14, vec![("grpc-retry-pushback-ms", "-1")], false),
        (14, vec![("grpc-retry-pushback-ms", "later")], false),
        (13, vec![], false),
    ];
    for (code, headers, repeated) in cases {
        let (failing, good) = pair(Script::Status(code, headers.clone())).await;
        let retry = RetryPolicy::new().repeatable(SAY_HELLO).backoff(Duration::ZERO, Duration::ZERO);
        let channel = over(first(builder().retry(retry)), [&failing.address, &good.address]);
        ready(&channel, 2).await;
        let answer = greet(&channel).await;
        assert_eq!(answer.is_ok(), repeated, "{code} {headers:?}");
        if let Err(status) = answer {
            // As the server said it, and who that was.
            assert_eq!((status.code(), status.message()), (Code::from_i32(code), "as told"));
            assert_eq!(server_of(&status), failing.address.to_string());
        }
    }
}

#[tokio::test]
async fn attempts_end() {
    let failing = [Peer::start(Script::Status(14, vec![])).await, Peer::start(Script::Status(14, vec![])).await];
    let retry = RetryPolicy::new().repeatable(SAY_HELLO).max_attempts(3).backoff(Duration::ZERO, Duration::ZERO);
    let channel = over(builder().retry(retry), failing.iter().map(|peer| &peer.address));
    ready(&channel, 2).await;
    assert_eq!(greet(&channel).await.unwrap_err().message(), "as told");
    let mut calls = failing.each_ref().map(|peer| peer.seen.calls());
    calls.sort_unstable();
    assert_eq!(calls, [1, 2], "never twice at once on the one that has failed");
}

#[tokio::test]
async fn the_budget_ends_repetition() {
    let failing = Peer::start(Script::Status(14, vec![])).await;
    let retry = RetryPolicy::new().repeatable(SAY_HELLO).budget(10, 0.0).backoff(Duration::ZERO, Duration::ZERO);
    let channel = over(builder().retry(retry), [&failing.address]);
    for _ in 0..20 {
        greet(&channel).await.unwrap_err();
    }
    assert_eq!(failing.seen.calls(), 20 + 4);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_sent_whole_and_not_twice() {
    let (breaking, good) = pair(Script::Break).await;
    let channel = over(first(repeating().replay_limit(1000)), [&breaking.address, &good.address]);
    ready(&channel, 2).await;
    let mut client = GreeterClient::new(channel);
    let long = HelloRequest { name: "x".repeat(2000) };
    assert_eq!(client.say_hello(long.clone()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(good.seen.calls(), 0);
    // Not so when the connection is known to be gone: nothing was sent.
    client.say_hello(HelloRequest { name: "world".into() }).await.unwrap();
}

#[tokio::test]
async fn a_call_that_nobody_takes_ends_with_the_limit_and_says_why() {
    let refusing = Peer::start(Script::Reset(h2::Reason::REFUSED_STREAM)).await;
    let channel = over(builder().wait_limit(Duration::from_millis(300)), [&refusing.address]);
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(refusing.seen.calls() > 1, "tried again, with backoff");
}

#[tokio::test]
async fn a_call_that_one_refuses_waits_for_the_other_with_room() {
    let told = std::sync::Arc::new(tokio::sync::Notify::new());
    let refusing = Peer::start(Script::Reset(h2::Reason::REFUSED_STREAM)).await;
    let full = Peer::limited(Script::GreetLater(told.clone()), Some(1)).await;
    let channel = over(builder(), [&refusing.address, &full.address]);
    ready(&channel, 2).await;
    let start = || {
        let channel = channel.clone();
        tokio::spawn(async move { greeted_by(&channel).await })
    };
    let first = start();
    crate::support::until("the first call to arrive", || full.seen.calls() == 1).await;
    let before = refusing.seen.calls();
    let second = start();
    crate::support::until("the second call to be refused", || refusing.seen.calls() > before).await;
    told.notify_one();
    first.await.unwrap();
    crate::support::until("the second call to arrive", || full.seen.calls() == 2).await;
    told.notify_one();
    assert_eq!(second.await.unwrap(), full.address.to_string());
    assert!(refusing.seen.calls() < before + 100, "with backoff, not round and round");
}

#[tokio::test]
async fn the_pause_before_a_repetition_is_no_waiting_for_a_server() {
    let (failing, good) = pair(Script::Status(14, vec![("grpc-retry-pushback-ms", "20")])).await;
    // Any waiting for a server would be too long.
    let channel = over(first(repeating().wait_limit(Duration::ZERO)), [&failing.address, &good.address]);
    ready(&channel, 2).await;
    assert_eq!(greeted_by(&channel).await, good.address.to_string());
    assert_eq!(failing.seen.calls(), 1);
}

#[tokio::test]
async fn a_large_call_that_was_never_processed_goes_elsewhere_whole() {
    let good = Peer::start(Script::Greet).await;
    let (leaving, calls) = goaway_at_first_call(0).await;
    let (channel, set) = changing(builder().wait_for_ready(true).replay_limit(1000));
    set.add(leaving);
    ready(&channel, 1).await;
    let large = HelloRequest { name: "x".repeat(20_000) };
    let call = tokio::spawn(async move { GreeterClient::new(channel).say_hello(large).await });
    crate::support::until("the call to arrive", || calls.load(Ordering::SeqCst) > 0).await;
    set.add(good.address);
    call.await.unwrap().unwrap();
}

/// Each attempt of a call has the headers of the call, and says how many attempts went before: of calls without
/// metadata, and of calls with several values of one name, binary ones, an agent of their own, and a timeout that is none.
#[tokio::test]
async fn each_attempt_has_the_headers_of_its_call() {
    let peer = Peer::start(Script::Status(14, vec![])).await;
    let retry = RetryPolicy::new().repeatable(SAY_HELLO).max_attempts(3).backoff(Duration::ZERO, Duration::ZERO);
    let channel = over(builder().retry(retry), [&peer.address]);
    let own: [&[(&'static str, &'static str)]; 5] = [
        &[],
        &[("x-one", "1"), ("x-one", "2"), ("data-bin", "AAEC")],
        &[("user-agent", "mine/1.0")],
        &[("grpc-timeout", "nonsense")],
        &[("grpc-timeout", "1H")],
    ];
    for (call, own) in own.into_iter().enumerate() {
        let mut request = http::Request::post(SAY_HELLO).body(tonic::body::Body::empty()).unwrap();
        for (name, value) in [("te", "trailers"), ("content-type", "application/grpc")].iter().chain(own) {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        channel.clone().oneshot(request).await.unwrap();
        let heads = peer.seen.heads.lock().unwrap();
        let attempts = heads[call * 3..].iter().map(|head| {
            let mut headers = head.headers.clone();
            let previous = headers.remove("grpc-previous-rpc-attempts");
            let headers = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
            (headers.collect::<Vec<_>>(), previous.map(|count| count.to_str().unwrap().to_owned()))
        });
        let attempts: Vec<_> = attempts.collect();
        assert_eq!(attempts.len(), 3, "{own:?}");
        let count: Vec<_> = attempts.iter().map(|(_, previous)| previous.as_deref()).collect();
        assert_eq!(count, [None, Some("1"), Some("2")]);
        let sorted = |at: usize| {
            let mut headers = attempts[at].0.clone();
            headers.sort();
            headers
        };
        assert!(sorted(0) == sorted(1) && sorted(1) == sorted(2), "{attempts:#?}");
        for fixed in ["te: trailers", "content-type: application/grpc"] {
            assert!(attempts[0].0.iter().any(|header| header == fixed), "{attempts:#?}");
        }
    }
}
