//! Calls with several attempts.

use std::time::Duration;

use tonic::Code;
use tonic_etcd::RetryPolicy;

use super::{AGAIN, ATTEMPTS, CALLS, METHOD, STARTED, by_status, check, recorder};
use crate::peer::{Peer, Script};
use crate::support::{Lowest, SAY_HELLO, builder, greet, over, ready};

/// Passes in each test.
const SOON: Duration = Duration::from_millis(30);

/// Calls go to the first server first.
async fn pair(script: Script) -> (Peer, Peer) {
    let (one, other) = (Peer::start(script.clone()).await, Peer::start(Script::Greet).await);
    if one.address.to_string() < other.address.to_string() {
        return (one, other);
    }
    drop((one, other));
    Box::pin(pair(script)).await
}

/// Makes one call that one server fails and the other answers, and returns retries, transparent retries and hedges.
async fn again(script: Script, policy: RetryPolicy, failed: &str) -> [f64; 3] {
    let (recorder, metrics) = recorder();
    let (failing, good) = pair(script).await;
    let channel = over(builder().policy(Lowest).metrics(metrics).retry(policy), [&failing.address, &good.address]);
    ready(&channel, 2).await;
    greet(&channel).await.unwrap();
    assert_eq!(by_status(&recorder, CALLS), [("OK".to_owned(), 1)].into());
    assert_eq!(by_status(&recorder, ATTEMPTS), [("OK".to_owned(), 1), (failed.to_owned(), 1)].into());
    assert_eq!(recorder.values(STARTED, &[]).value, 2.0);
    check(&channel, &recorder);
    AGAIN.map(|instrument| {
        let values = recorder.values(instrument, &[("grpc.method", METHOD)]);
        assert_eq!(values.count, u64::from(values.value > 0.0), "zero is not recorded");
        values.value
    })
}

fn repeating() -> RetryPolicy {
    RetryPolicy::new().repeatable(SAY_HELLO)
}

#[tokio::test]
async fn a_retry_counts_once_with_its_own_status() {
    let unavailable = Script::Status(14, Vec::new());
    assert_eq!(again(unavailable, repeating(), "UNAVAILABLE").await, [1.0, 0.0, 0.0]);
    assert_eq!(again(Script::Break, repeating(), "UNAVAILABLE").await, [1.0, 0.0, 0.0]);
}

#[tokio::test]
async fn a_call_that_was_not_processed_has_a_transparent_retry() {
    let refused = Script::Reset(h2::Reason::REFUSED_STREAM);
    assert_eq!(again(refused, RetryPolicy::new(), "UNAVAILABLE").await, [0.0, 1.0, 0.0]);
}

#[tokio::test]
async fn a_hedge_counts_and_the_attempt_that_loses_is_cancelled() {
    assert_eq!(again(Script::Silence, repeating().hedge_after(SOON), "CANCELLED").await, [0.0, 0.0, 1.0]);
}

#[tokio::test]
async fn an_attempt_that_is_given_up_is_cancelled_and_the_next_is_a_retry() {
    assert_eq!(again(Script::HeadOnly, repeating().attempt_timeout(SOON), "CANCELLED").await, [1.0, 0.0, 0.0]);
}

#[tokio::test]
async fn the_pause_before_a_retry_is_a_delay_of_the_call() {
    let (recorder, metrics) = recorder();
    let script = Script::Status(14, vec![("grpc-retry-pushback-ms", "40")]);
    let peer = Peer::start(script).await;
    let policy = repeating().max_attempts(3);
    let channel = over(builder().metrics(metrics).retry(policy), [&peer.address]);
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::Unavailable);
    let delay = recorder.values("grpc.client.call.retry_delay", &[("grpc.method", METHOD)]);
    assert_eq!(delay.count, 1);
    assert!(delay.value >= 0.08, "two pauses: {delay:?}");
    assert_eq!(recorder.values(AGAIN[0], &[]).value, 2.0);
    assert_eq!(by_status(&recorder, ATTEMPTS), [("UNAVAILABLE".to_owned(), 3)].into());
    assert_eq!(by_status(&recorder, CALLS), [("UNAVAILABLE".to_owned(), 1)].into());
    check(&channel, &recorder);
}

#[tokio::test]
async fn a_deadline_during_a_pause_begins_no_attempt() {
    let (recorder, metrics) = recorder();
    let script = Script::Status(14, vec![("grpc-retry-pushback-ms", "600000")]);
    let peer = Peer::start(script).await;
    let builder = builder().metrics(metrics).retry(repeating()).timeout(Duration::from_secs(1_200));
    let channel = over(builder, [&peer.address]);
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { greet(&channel).await.map(drop) }
    });
    crate::support::until("the first attempt to end", || recorder.count(ATTEMPTS, &[]) == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(recorder.values(STARTED, &[]).value, 1.0);
    assert_eq!(by_status(&recorder, CALLS), [("CANCELLED".to_owned(), 1)].into());
    check(&channel, &recorder);
}

#[tokio::test]
async fn without_the_experimental_ones_only_the_stable_are_recorded() {
    let recorder = test_support::SeriesRecorder::default();
    let (failing, good) = pair(Script::Break).await;
    let builder = builder().policy(Lowest).metrics(recorder.clone()).retry(repeating());
    let channel = over(builder, [&failing.address, &good.address]);
    ready(&channel, 2).await;
    greet(&channel).await.unwrap();
    for instrument in tonic_etcd::metrics::instruments().filter(|instrument| instrument.is_experimental()) {
        assert_eq!(recorder.series(instrument.name()), [""; 0], "{}", instrument.name());
    }
    assert_eq!(channel.stats().method(METHOD).unwrap().retries().sum(), 1.0, "they are counted all the same");
}
