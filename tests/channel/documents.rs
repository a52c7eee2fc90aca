//! Documents that change under load, and what the code lets them do.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Code;
use tonic_etcd::{MethodConfig, RetryPolicy, ServerState};

use crate::method_config::failing_first;
use crate::peer::{Peer, Script};
use crate::support::{PATIENCE, SAY_HELLO, builder, greet, over, ready, states, until};

/// A document changes the maximum age of ejections, and nothing else: a bad server stays ejected (gRFC A50, as in grpc-go).
#[tokio::test]
async fn another_option_of_outlier_detection_does_not_bring_ejected_servers_back() {
    let text = |percent: u32| -> Arc<str> {
        format!(
            r#"{{"loadBalancingConfig": [{{"outlier_detection_experimental": {{"interval": "1s",
            "baseEjectionTime": "300s", "maxEjectionPercent": {percent},
            "failurePercentageEjection": {{"threshold": 50, "minimumHosts": 1, "requestVolume": 3}},
            "childPolicy": [{{"round_robin": {{}}}}]}}}}]}}"#
        )
        .into()
    };
    let bad = Peer::start(Script::Status(Code::Internal as i32, vec![])).await;
    let (one, two) = (Peer::start(Script::Greet).await, Peer::start(Script::Greet).await);
    let (documents, updates) = watch::channel(text(50));
    let builder = builder().policy_from_service_config().service_config_updates(updates);
    let channel = over(builder, [&bad.address, &one.address, &two.address]);
    ready(&channel, 3).await;
    let name = bad.address.to_string();
    let end = Instant::now() + PATIENCE;
    while states(&channel)[&name] != ServerState::Ejected {
        assert!(Instant::now() < end, "not ejected");
        drop(greet(&channel).await);
        sleep(Duration::from_millis(5)).await;
    }
    let calls = bad.seen.calls();
    documents.send_replace(text(60));
    until("the document", || channel.service_config().text() == Some(&*text(60))).await;
    sleep(Duration::from_millis(20)).await;
    let mut failed = 0;
    for _ in 0..12 {
        failed += usize::from(greet(&channel).await.is_err());
    }
    assert_eq!((failed, bad.seen.calls() - calls), (0, 0), "calls that went to the server that was ejected");
}

/// `from_service_config`: "Takes `retryPolicy`, `hedgingPolicy` and `retryThrottling` from the channel's service config".
#[tokio::test]
async fn the_policy_of_a_method_takes_the_throttling_of_the_document_too() {
    let document = r#"{"methodConfig": [{"name": [{"service": "helloworld.Greeter"}], "retryPolicy": {"maxAttempts": 3,
        "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}],
        "retryThrottling": {"maxTokens": 1, "tokenRatio": 0.1}}"#;
    for by_method in [false, true] {
        let policy = RetryPolicy::new().from_service_config();
        let builder = builder().service_config(document);
        let builder = if by_method {
            builder.method_config(SAY_HELLO, MethodConfig::new().retry(policy))
        } else {
            builder.retry(policy)
        };
        let (_failing, good, channel) = failing_first(builder).await;
        let result = greet(&channel).await;
        // One failure leaves no token: not more than half.
        assert_eq!((result.is_ok(), good.seen.calls()), (false, 0), "by method: {by_method}");
    }
}
