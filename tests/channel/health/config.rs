//! Health checks that a service config asks for.

use std::sync::Arc;
use std::time::Duration;

use test_support::Log;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic_etcd::ServerState;

use crate::health::peer::{Answer, NOT_SERVING, Peer, SERVING};
use crate::health::{is, only};
use crate::support::{builder, greet, over, ready, until};

const GREETER: &str = r#"{"healthCheckConfig": {"serviceName": "helloworld.Greeter"}}"#;

fn text(document: &str) -> Arc<str> {
    document.into()
}

#[tokio::test]
async fn a_document_turns_health_checks_on_and_off_over_the_same_connection() {
    let (log, _guard) = Log::begin();
    let peer = Peer::start(Answer::Says(NOT_SERVING)).await;
    let (documents, updates) = watch::channel(text("{}"));
    let channel = over(builder().service_config_updates(updates), [&peer.address]);
    ready(&channel, 1).await;
    assert_eq!(peer.seen.watches(), 0);
    for round in 1..=2 {
        documents.send_replace(text(GREETER));
        is(&channel, ServerState::Unhealthy).await;
        assert_eq!(peer.seen.watches(), round);
        greet(&channel).await.unwrap_err();
        documents.send_replace(text("{}"));
        ready(&channel, 1).await;
        greet(&channel).await.unwrap();
    }
    until("the check to end", || peer.seen.open_watches() == 0).await;
    assert_eq!(peer.seen.connections(), 1);
    // The server has never said that it serves.
    let not_checked = log.count("health not checked any more, the server gets calls again");
    assert_eq!((log.count("server healthy again"), not_checked), (0, 2), "{}", log.text());
}

#[tokio::test]
async fn a_server_without_the_service_is_not_asked_again_by_a_document_that_comes_back() {
    for connections in [1, 2] {
        let peer = Peer::start(Answer::Ends(12)).await; // UNIMPLEMENTED
        let (documents, updates) = watch::channel(text(GREETER));
        let builder = builder().connections_per_server(connections).service_config_updates(updates);
        let channel = over(builder, [&peer.address]);
        ready(&channel, 1).await;
        for document in ["{}", GREETER, "{}", GREETER] {
            documents.send_replace(text(document));
            until("the document", || channel.service_config().text() == Some(document)).await;
            sleep(Duration::from_millis(50)).await;
            greet(&channel).await.unwrap();
        }
        assert_eq!((peer.seen.watches(), peer.seen.connections()), (1, 1));
    }
}

#[tokio::test]
async fn a_document_that_is_known_when_the_channel_is_built_is_followed_from_the_first_connection_on() {
    let peer = Peer::start(Answer::Silence).await;
    let channel = over(builder().service_config(GREETER), [&peer.address]);
    until("it to be asked", || peer.seen.open_watches() == 1).await;
    assert_eq!(only(&channel).state(), ServerState::Connecting);
    peer.says(SERVING);
    ready(&channel, 1).await;
}

#[tokio::test]
async fn the_health_check_of_the_code_replaces_that_of_the_document() {
    let peer = Peer::start(Answer::Says(NOT_SERVING)).await;
    let (documents, updates) = watch::channel(text(r#"{"healthCheckConfig": {"serviceName": "other"}}"#));
    let channel = over(builder().health_check("helloworld.Greeter").service_config_updates(updates), [&peer.address]);
    is(&channel, ServerState::Unhealthy).await;
    documents.send_replace(text("{}"));
    until("the document to be in force", || channel.service_config().text() == Some("{}")).await;
    assert_eq!((only(&channel).state(), peer.seen.watches()), (ServerState::Unhealthy, 1));
}

#[tokio::test]
async fn a_policy_of_the_document_that_does_without_ends_the_checks() {
    let peer = Peer::start(Answer::Says(NOT_SERVING)).await;
    let (documents, updates) = watch::channel(text(GREETER));
    let channel = over(builder().policy_from_service_config().service_config_updates(updates), [&peer.address]);
    is(&channel, ServerState::Unhealthy).await;
    let pick_first = r#"{"loadBalancingConfig": [{"pick_first": {}}],"#;
    documents.send_replace(text(&GREETER.replacen('{', pick_first, 1)));
    ready(&channel, 1).await;
    until("the check to end", || peer.seen.open_watches() == 0).await;
    documents.send_replace(text(GREETER));
    is(&channel, ServerState::Unhealthy).await;
}
