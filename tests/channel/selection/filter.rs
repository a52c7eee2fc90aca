//! Filters.

use tonic::Code;
use tonic_etcd::{Filter, SelectionReason, ServerState};

use super::{calls, greeters, put, status_of};
use crate::support::{builder, changing, greet, ready, until};

#[tokio::test]
async fn only_instances_that_match_are_connected_and_called() {
    let peers = greeters(4).await;
    let filter = Filter::new(|instance| instance.metadata().get("panics").is_none_or(|_| panic!("as it was told")));
    let (channel, set) = changing(builder().filter(Filter::version("2")).filter(filter));
    put(&set, &peers[0], |instance| instance.with_version("2"));
    put(&set, &peers[1], |instance| instance.with_version("1"));
    put(&set, &peers[2], |instance| instance);
    put(&set, &peers[3], |instance| instance.with_version("2").with_metadata("panics", "yes"));
    ready(&channel, 1).await;
    until("all to be listed", || channel.servers().len() == 4).await;
    for _ in 0..20 {
        greet(&channel).await.unwrap();
    }
    assert_eq!(calls(&peers), [20, 0, 0, 0]);
    for peer in &peers[1..] {
        let status = status_of(&channel, peer);
        assert_eq!((status.state(), status.selection()), (ServerState::Idle, SelectionReason::Filtered));
        assert_eq!(peer.seen.connections(), 0);
    }
    // An instance may come to match, and no longer.
    put(&set, &peers[1], |instance| instance.with_version("2"));
    ready(&channel, 2).await;
    put(&set, &peers[0], |instance| instance.with_version("3"));
    until("the connection to close", || peers[0].seen.open() == 0).await;
    greet(&channel).await.unwrap();
    assert_eq!(calls(&peers), [20, 1, 0, 0]);
}

#[tokio::test]
async fn a_filter_that_leaves_nothing_says_so() {
    let peers = greeters(3).await;
    let (channel, set) = changing(builder().filter(Filter::zone("a")));
    for peer in &peers {
        put(&set, peer, |instance| instance.with_zone("b"));
    }
    until("all to be listed", || channel.servers().len() == 3).await;
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("3 registered, 0 match the filter"), "{status}");
    put(&set, &peers[1], |instance| instance.with_zone("a"));
    ready(&channel, 1).await;
    greet(&channel).await.unwrap();
}
