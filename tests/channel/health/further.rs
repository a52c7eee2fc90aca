//! Health checks of a server that may have several connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tonic_etcd::ServerState;

use super::limits::begin;
use super::peer::{Answer, NOT_SERVING, Peer, SERVING};
use super::{checking, is, only};
use crate::field::watched::waiting;
use crate::support::{greet, over, ready, until};

/// One call waits: one further connection is enough for it.
#[tokio::test]
async fn one_waiting_call_gets_one_further_connection_while_its_health_is_awaited() {
    let peer = Peer::limited(Answer::OnlyFirst(SERVING), Some(2)).await;
    let channel = over(checking().connections_per_server(10), [&peer.address]);
    ready(&channel, 1).await;
    let _calls = begin(&channel, &peer, 1).await;
    let _waits = waiting(&channel, 1, true).await;
    until("a further connection", || peer.seen.connections() >= 2).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(peer.seen.connections(), 2, "one call waits");
}

/// The same where the further connections are unhealthy.
#[tokio::test]
async fn one_waiting_call_gets_no_ten_unhealthy_connections() {
    let peer = Peer::limited(Answer::ByConnection(SERVING, NOT_SERVING), Some(2)).await;
    let channel = over(checking().connections_per_server(10), [&peer.address]);
    ready(&channel, 1).await;
    let _calls = begin(&channel, &peer, 1).await;
    let _waits = waiting(&channel, 1, true).await;
    until("a further connection", || peer.seen.connections() >= 2).await;
    sleep(Duration::from_millis(300)).await;
    assert!(peer.seen.connections() <= 3, "{} connections for one call", peer.seen.connections());
}

/// An address with several servers behind it: the first connection is unhealthy, the second one serves. A document lowers the
/// number of connections.
#[tokio::test]
async fn a_lower_number_of_connections_keeps_the_healthy_one() {
    let scaling = |most: u32| -> Arc<str> {
        format!(r#"{{"connectionScaling": {{"maxConnectionsPerSubchannel": {most}}}}}"#).into()
    };
    let (documents, updates) = watch::channel(scaling(2));
    let peer = Peer::limited(Answer::Says(SERVING), Some(2)).await;
    let channel = over(checking().service_config_updates(updates), [&peer.address]);
    ready(&channel, 1).await;
    let calls = begin(&channel, &peer, 2).await;
    peer.hold_calls(false);
    for call in calls {
        call.task.await.unwrap().unwrap();
    }
    assert_eq!(only(&channel).connections(), 2);
    peer.answer(Answer::ByConnection(NOT_SERVING, SERVING));
    until("the first to be unhealthy", || only(&channel).connections() == 1).await;
    greet(&channel).await.unwrap();
    documents.send_replace(scaling(1));
    until("the document", || channel.service_config().text() == Some(&*scaling(1))).await;
    sleep(Duration::from_millis(300)).await;
    greet(&channel).await.unwrap();
    is(&channel, ServerState::Ready).await;
}
