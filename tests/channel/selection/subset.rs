//! Channels that connect to a part of the servers.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tonic_etcd::{BalancedChannel, Instance, SelectionReason, ServerState};

use super::{greeters, put};
use crate::support::{builder, changing, greet, ready, states, until};

fn connected(channel: &BalancedChannel) -> BTreeSet<String> {
    let servers = channel.servers();
    let connected = servers.iter().filter(|server| server.state() == ServerState::Ready);
    connected.map(|server| server.address().to_string()).collect()
}

#[tokio::test]
async fn so_many_servers_are_connected_and_the_same_ones_under_the_same_id() {
    let peers = greeters(12).await;
    let mut chosen = Vec::new();
    for id in ["one", "one", "two"] {
        let (channel, set) = changing(builder().subset(4).client_id(id));
        peers.iter().for_each(|peer| put(&set, peer, |instance| instance));
        ready(&channel, 4).await;
        until("all to be listed", || channel.servers().len() == 12).await;
        sleep(Duration::from_millis(50)).await;
        for _ in 0..20 {
            greet(&channel).await.unwrap();
        }
        let left_out = channel.servers().into_iter().filter(|server| server.state() == ServerState::Idle);
        assert_eq!(left_out.filter(|server| server.selection() == SelectionReason::OutsideSubset).count(), 8);
        chosen.push(connected(&channel));
    }
    assert_eq!(chosen[0], chosen[1]);
    assert_ne!(chosen[0], chosen[2]);
    until("all connections to close", || peers.iter().all(|peer| peer.seen.open() == 0)).await;
    let most = peers.iter().map(|peer| peer.seen.connections()).sum::<usize>();
    // The set comes at once: nobody is connected who is not chosen, but for those who came first.
    assert!(most <= 3 * 4 + 3, "{most}");
}

#[tokio::test]
async fn one_that_goes_is_replaced_and_one_that_comes_replaces_one_at_most() {
    let peers = greeters(10).await;
    let (channel, set) = changing(builder().subset(3).client_id("client"));
    peers[..8].iter().for_each(|peer| put(&set, peer, |instance| instance));
    ready(&channel, 3).await;
    until("all to be listed", || channel.servers().len() == 8).await;
    let mut before = connected(&channel);
    for peer in &peers[8..] {
        put(&set, peer, |instance| instance);
        until("it to be listed", || states(&channel).contains_key(&peer.address.to_string())).await;
        until("three to be ready", || connected(&channel).len() == 3).await;
        let now = connected(&channel);
        assert!(before.difference(&now).count() <= 1, "{before:?} {now:?}");
        before = now;
    }
    let gone = before.first().unwrap().clone();
    set.remove(&gone);
    until("another one to be ready", || !states(&channel).contains_key(&gone) && connected(&channel).len() == 3).await;
    assert_eq!(before.difference(&connected(&channel)).count(), 1);
}

#[tokio::test]
async fn those_that_cannot_be_connected_are_replaced_until_they_are_back() {
    // Nobody listens there yet.
    let mut reserved = Vec::new();
    for _ in 0..6 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        reserved.push(socket);
    }
    let addresses: Vec<_> = reserved.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let peers = greeters(6).await;
    let (channel, set) = changing(builder().subset(4).client_id("client"));
    for address in &addresses {
        set.put(&address.to_string(), Instance::new(*address).unwrap());
    }
    peers.iter().for_each(|peer| put(&set, peer, |instance| instance));
    until("four to be ready", || connected(&channel).len() == 4).await;
    let substitutes = |channel: &BalancedChannel| {
        channel.servers().iter().filter(|server| server.selection() == SelectionReason::Substitute).count()
    };
    let wanted = substitutes(&channel);
    assert!(wanted > 0, "by the client's id: {:?}", channel.servers());
    let listening: Vec<TcpListener> = reserved.into_iter().map(|socket| socket.listen(16).unwrap()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listening {
        tasks.spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(tcp).await.unwrap();
                    while connection.accept().await.is_some() {}
                });
            }
        });
    }
    until("the substitutes to go", || substitutes(&channel) == 0 && connected(&channel).len() == 4).await;
}

#[tokio::test]
async fn the_smaller_subset_of_code_and_service_config_holds() {
    let peers = greeters(8).await;
    let config = |size: usize| {
        format!(
            r#"{{"loadBalancingConfig": [{{"random_subsetting_experimental":
            {{"subsetSize": {size}, "childPolicy": [{{"round_robin": {{}}}}]}}}}]}}"#
        )
    };
    for (code, document, expected) in [(Some(2), 5, 2), (Some(5), 2, 2), (None, 3, 3)] {
        let builder = builder().service_config(config(document)).policy_from_service_config();
        let (channel, set) = changing(code.map_or(builder.clone(), |code| builder.subset(code)));
        peers.iter().for_each(|peer| put(&set, peer, |instance| instance));
        until("all to be listed", || channel.servers().len() == 8).await;
        ready(&channel, expected).await;
        let left_out = channel.servers().into_iter().filter(|server| server.state() == ServerState::Idle).count();
        assert_eq!(left_out, 8 - expected, "{code:?} in the code, {document} in the document");
    }
}
