//! Documents and names that are refused.

use std::time::Duration;

use test_support::Log;
use tokio::time::{Instant, sleep};
use tonic_etcd::Resolver;

use super::{channel, document, put, shows};
use crate::support::World;

/// Issue 17: "one WARN for each" document that is refused.
#[tokio::test]
async fn each_document_that_is_refused_is_logged() {
    let (log, _guard) = Log::begin();
    let world = World::start().await;
    let channel = channel(&world.resolver(), "s");
    shows(&channel, "word of etcd", |status| status.source().is_some()).await;
    for (number, timeout) in ["soon", "soon"].into_iter().enumerate() {
        let text = document(timeout).replace("[{}]", &format!(r#"[{{"service": "s{number}"}}]"#));
        world.put("tonic-etcd/config/s", &text).await;
        let revision = world.revision().await;
        let wanted = format!("revision {revision}");
        shows(&channel, "the refusal", |status| {
            status.error().is_some()
                && status.error_source().is_some_and(|source| source.to_string().ends_with(&wanted))
        })
        .await;
    }
    let warned = log.warned("service config refused");
    assert_eq!(warned, 2, "two documents were refused: {}", log.text());
}

/// Issue 17: "state and log say revision, path and reason". Of two documents that are not UTF-8 the second one is not told at all.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_has_the_revision_of_the_last_document_that_was_refused() {
    let world = World::start().await;
    let channel = channel(&world.resolver(), "s");
    shows(&channel, "word of etcd", |status| status.source().is_some()).await;
    for value in [b"\xffA", b"\xffB"] {
        put(&world.admin, "tonic-etcd/config/s", value.as_slice()).await;
        let wanted = format!("revision {}", world.revision().await);
        let end = Instant::now() + Duration::from_secs(5);
        while !channel.service_config().error_source().is_some_and(|source| source.to_string().ends_with(&wanted)) {
            assert!(Instant::now() < end, "{wanted} was refused: {:?}", channel.service_config());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Issue 17: the key is never below the service's own prefix. With a control prefix of two segments it may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_above_the_control_prefix_does_not_read_documents_as_records() {
    let world = World::start().await;
    let resolver = Resolver::builder([world.etcd.endpoint()]).control_prefix("team/control").connect_lazy().unwrap();
    // A document may have fields that nobody knows: it would be a server too.
    world.put("team/control/config/team", r#"{"Addr": "10.0.0.9:80", "methodConfig": []}"#).await;
    let error = resolver.resolve("team").unwrap_err();
    assert!(error.is_invalid_argument() && error.to_string().contains("team/control"), "{error}");
    resolver.resolve("team/greeter").unwrap();
}
