//! The durations that a quantile is of, where a method of a declared service has settings of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic_etcd::{MethodConfig, RetryPolicy};

use super::{SOON, Servers, costs};
use crate::peer::Script;
use crate::support::{builder, greet, greeted_by, until};

/// The service is declared with a quantile. A document that gives one of its methods a timeout says nothing about hedging.
#[tokio::test]
async fn a_document_that_names_a_method_leaves_the_durations_of_its_service() {
    let servers = Servers::start([Script::Greet, Script::Greet]).await;
    let policy = RetryPolicy::new().repeatable("/helloworld.Greeter/");
    let policy = policy.hedge_after_quantile(0.9, Duration::from_millis(1)).budget(1000, 1.0);
    let (documents, updates) = watch::channel::<Arc<str>>("{}".into());
    let channel = servers.channel_of(builder().retry(policy).timeout(SOON * 50).service_config_updates(updates)).await;
    for _ in 0..120 {
        greeted_by(&channel).await;
    }
    let before: u64 = costs(&channel).0.iter().sum();
    servers.set(0, Script::Silence);
    assert_eq!(greeted_by(&channel).await, servers.name(1), "hedged before the document");
    let document =
        r#"{"methodConfig": [{"name": [{"service": "helloworld.Greeter", "method": "SayHello"}], "timeout": "1s"}]}"#;
    documents.send_replace(document.into());
    until("the document", || channel.service_config().text() == Some(document)).await;
    let result = greet(&channel).await;
    assert!(costs(&channel).0.iter().sum::<u64>() >= before + 2 && result.is_ok(), "not hedged any more: {result:?}");
}

/// The same in code: the entry of the method sets a limit of sizes alone, and the one of its service declares it.
#[tokio::test]
async fn a_method_that_inherits_its_services_policy_has_the_services_durations() {
    let servers = Servers::start([Script::Greet, Script::Greet]).await;
    let policy = RetryPolicy::new().hedge_after_quantile(0.9, Duration::from_millis(1));
    let service = MethodConfig::new().retry(policy);
    let method = MethodConfig::new().max_response_message_bytes(1 << 20);
    let builder = builder().timeout(SOON * 50).method_config("/helloworld.Greeter/", service);
    let channel = servers.channel_of(builder.method_config("/helloworld.Greeter/Other", method)).await;
    let other = async || {
        use tonic::client::Grpc;
        use tonic::codegen::http::uri::PathAndQuery;
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/helloworld.Greeter/Other");
        grpc.unary(tonic::Request::new(vec![]), path, crate::field::codec::Raw).await.map(drop)
    };
    for _ in 0..120 {
        greeted_by(&channel).await;
    }
    other().await.unwrap();
    servers.set(0, Script::Silence);
    greet(&channel).await.unwrap();
    let result = other().await;
    assert!(result.is_ok(), "what was declared is the service: {result:?} {:?}", costs(&channel));
}
