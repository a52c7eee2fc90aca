//! Attempts that are given up after their time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Code;
use tonic_etcd::{OutlierDetection, RetryPolicy};

use super::{NEVER, SOON, Servers, costs, repeating};
use crate::peer::Script;
use crate::support::{SAY_HELLO, builder, greet, greeted_by, server_of, until};

#[tokio::test]
async fn the_next_attempt_goes_to_a_server_that_was_not_tried() {
    let servers = Servers::start([Script::Silence, Script::Silence, Script::Greet]).await;
    let policy = repeating().attempt_timeout(SOON);
    let channel = servers.channel_of(builder().retry(policy).timeout(NEVER)).await;
    assert_eq!(greeted_by(&channel).await, servers.name(2));
    assert_eq!(servers.calls(), [1, 1, 1]);
    let previous: Vec<_> = (0..3).map(|server| servers.previous_attempts(server)).collect();
    assert_eq!(previous, [None, Some("1".into()), Some("2".into())]);
    assert_eq!(costs(&channel), (vec![0, 0, 0], vec![1, 1, 0]));
    until("the others to be cancelled", || servers.peers.iter().map(|peer| peer.seen.cancelled()).sum::<usize>() == 2)
        .await;
    for peer in &servers.peers {
        let sent = peer.seen.header(0, "grpc-timeout").unwrap();
        let millis = sent.to_str().unwrap().strip_suffix('m').and_then(|text| text.parse::<u128>().ok());
        assert!(
            millis.is_some_and(|millis| millis > NEVER.as_millis() / 2),
            "what is left of the call's own: {sent:?}"
        );
    }
}

#[tokio::test]
async fn for_a_unary_method_the_whole_answer_counts_and_for_a_stream_its_head() {
    let servers = Servers::start([Script::HeadOnly, Script::Greet]).await;
    let channel = servers.channel(repeating().attempt_timeout(SOON)).await;
    assert_eq!(greeted_by(&channel).await, servers.name(1));
    assert_eq!(costs(&channel).1, [1, 0]);
    let policy = RetryPolicy::new().repeatable_streaming(SAY_HELLO).attempt_timeout(SOON);
    let channel = servers.channel_of(builder().retry(policy).timeout(SOON * 8)).await;
    let status = greet(&channel).await.unwrap_err();
    assert_eq!((status.code(), server_of(&status)), (Code::DeadlineExceeded, servers.name(0)));
    assert_eq!((servers.calls(), costs(&channel).1), (vec![2, 1], vec![0, 0]));
    servers.set(0, Script::Silence);
    assert_eq!(greeted_by(&channel).await, servers.name(1));
}

/// What a call does that gets no second attempt: it goes on.
async fn goes_on(servers: &Servers, policy: RetryPolicy) {
    let told = Arc::new(Notify::new());
    servers.set(0, Script::GreetLater(told.clone()));
    let channel = servers.channel(policy.attempt_timeout(SOON)).await;
    let before = servers.calls();
    let call = tokio::spawn(async move { (greeted_by(&channel).await, channel) });
    until("the call to arrive", || servers.calls()[0] > before[0]).await;
    tokio::time::sleep(SOON * 5).await;
    told.notify_one();
    let (by, channel) = call.await.unwrap();
    assert_eq!(by, servers.name(0));
    assert_eq!(servers.calls()[1..], before[1..]);
    assert!(costs(&channel).1.iter().all(|count| *count == 0));
}

#[tokio::test]
async fn a_timeout_alone_fails_no_call() {
    goes_on(&Servers::start([Script::Greet]).await, repeating()).await; // no other server
    let two = Servers::start([Script::Greet, Script::Greet]).await;
    goes_on(&two, repeating().max_attempts(1)).await;
    goes_on(&two, repeating().budget(0, 1.0)).await;
    goes_on(&two, RetryPolicy::new().repeatable("/helloworld.Greeter/Other")).await;
}

#[tokio::test]
async fn a_call_without_a_further_attempt_ends_with_its_own_deadline() {
    let servers = Servers::start([Script::Silence, Script::Greet]).await;
    let policy = repeating().attempt_timeout(Duration::from_millis(5)).budget(0, 1.0);
    let limit = Duration::from_millis(200);
    let channel = servers.channel_of(builder().retry(policy).timeout(limit)).await;
    let began = Instant::now();
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(began.elapsed() >= limit);
    until("the call to arrive", || servers.calls() == [1, 0]).await;
}

#[tokio::test]
async fn it_is_looked_at_again_when_it_is_twice_as_old() {
    let servers = Servers::limited([Script::Greet, Script::Greet], Some(1)).await;
    let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    servers.set(0, Script::GreetLater(first.clone()));
    servers.set(1, Script::GreetLater(second.clone()));
    let channel = servers.channel(repeating().attempt_timeout(SOON)).await;
    let calls: Vec<_> = (1..=2)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { greeted_by(&channel).await })
        })
        .collect();
    until("both servers to be full", || servers.calls() == [1, 1]).await;
    tokio::time::sleep(SOON * 3).await;
    assert_eq!(servers.calls(), [1, 1], "nobody waits for room with an attempt in flight");
    servers.set(1, Script::Greet);
    second.notify_one();
    for call in calls {
        assert_eq!(call.await.unwrap(), servers.name(1), "there was room at the next look");
    }
    assert_eq!(costs(&channel).1, [1, 0]);
}

#[tokio::test]
async fn it_takes_one_token_and_gives_no_verdict() {
    let servers = Servers::start([Script::Silence, Script::Greet]).await;
    let policy = repeating().attempt_timeout(SOON).budget(4, 0.0);
    let limit = SOON * 50;
    let detection = OutlierDetection::default();
    let channel = servers.channel_of(builder().retry(policy).timeout(limit).outlier_detection(detection)).await;
    for _ in 0..2 {
        assert_eq!(greeted_by(&channel).await, servers.name(1));
    }
    let first = &channel.servers()[0];
    assert_eq!((first.attempts(), first.failures(), first.attempt_timeouts()), (0, 0, 2));
    assert_eq!(
        greet(&channel).await.unwrap_err().code(),
        Code::DeadlineExceeded,
        "no more than half of the tokens is left"
    );
    assert_eq!(channel.servers()[0].failures(), 1);
}

#[tokio::test]
async fn an_attempt_that_is_given_up_counts_for_as_long_as_it_lasted() {
    for script in [Script::Silence, Script::HeadOnly] {
        let servers = Servers::start([script, Script::Greet]).await;
        let policy = repeating().attempt_timeout(SOON);
        let channel = crate::support::over(builder().retry(policy), servers.peers.iter().map(|peer| &peer.address));
        crate::support::ready(&channel, 2).await;
        for _ in 0..40 {
            assert_eq!(greeted_by(&channel).await, servers.name(1));
        }
        assert!(servers.calls()[0] <= 10, "least request leaves it alone: {:?}", servers.calls());
    }
}
