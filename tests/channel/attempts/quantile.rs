//! Hedges after a quantile of earlier calls.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use tonic_etcd::RetryPolicy;

use super::{NEVER, SOON, Servers, costs, repeating, unavailable};
use crate::peer::Script;
use crate::support::{builder, greet, greeted_by, over};

#[tokio::test]
async fn the_quantile_is_of_a_hundred_ok_calls_and_before_there_is_no_hedge() {
    let servers = Servers::start([Script::Greet, Script::Greet]).await;
    let policy = repeating().hedge_after_quantile(0.9, Duration::from_millis(1));
    let channel = servers.channel_of(builder().retry(policy).timeout(SOON * 50)).await;
    for _ in 0..99 {
        greeted_by(&channel).await;
    }
    // Failures do not count.
    servers.set(0, Script::Status(Code::NotFound as i32, vec![]));
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::NotFound);
    servers.set(0, Script::Silence);
    let hedged = costs(&channel).0[1];
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!((costs(&channel).0[1], hedged), (0, 0));
    servers.set(0, Script::Greet);
    greeted_by(&channel).await;
    servers.set(0, Script::Silence);
    assert_eq!(greeted_by(&channel).await, servers.name(1));
    assert_eq!(costs(&channel).0[1], 1);
}

#[tokio::test]
async fn the_least_time_holds_where_calls_are_faster() {
    let servers = Servers::start([Script::Greet, Script::Greet]).await;
    let channel = servers.channel(repeating().hedge_after_quantile(0.5, NEVER)).await;
    for _ in 0..120 {
        greeted_by(&channel).await;
    }
    assert_eq!(servers.calls(), [120, 0]);
    assert_eq!(costs(&channel).0, [0, 0]);
}

#[tokio::test]
async fn the_time_of_a_call_counts_from_its_first_attempt() {
    let failing = SOON * 4;
    let servers = Servers::start([Script::After(failing, Box::new(unavailable())), Script::Greet]).await;
    let policy = repeating().hedge_after_quantile(0.1, Duration::from_millis(1)).budget(1000, 1.0);
    let channel = servers.channel(policy).await;
    let calls: Vec<_> = (0..110)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { greeted_by(&channel).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), servers.name(1));
    }
    servers.set(0, Script::Silence);
    let began = Instant::now();
    assert_eq!(greeted_by(&channel).await, servers.name(1));
    assert!(began.elapsed() >= failing, "{:?}", began.elapsed());
}

#[tokio::test]
async fn values_out_of_range_are_refused() {
    let policies = [
        (RetryPolicy::new().attempt_timeout(Duration::ZERO), "attempt_timeout"),
        (RetryPolicy::new().hedge_after(Duration::ZERO), "hedge_after"),
        (RetryPolicy::new().hedge_after_quantile(1.5, SOON), "quantile"),
    ];
    for (policy, named) in policies {
        let error =
            builder().retry(policy).build_with_discovery("greeter", tokio_stream::empty::<Never>()).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains(named), "{error}");
    }
    over(builder().retry(RetryPolicy::new().hedge_after(SOON).attempt_timeout(SOON)), []);
}

type Never = Result<tower::discover::Change<u8, tonic_etcd::Instance>, std::convert::Infallible>;
