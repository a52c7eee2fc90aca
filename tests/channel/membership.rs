//! Servers that come, leave, and are named anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;
use tokio_stream::StreamExt;
use tonic_etcd::{ConnectivityState, Instance, ServerState};
use tower::discover::Change;

use crate::peer::{Peer, Script};
use crate::support::{PATIENCE, builder, changing, greet, greeted_by, ready, states, until};

#[tokio::test]
async fn two_keys_with_one_address_are_one_connection_and_a_new_weight_keeps_it() {
    let peer = Peer::start(Script::Greet).await;
    let (channel, set) = changing(builder());
    let instance = Instance::new(peer.address).unwrap();
    set.put("a", instance.clone());
    set.put("b", instance.clone());
    ready(&channel, 1).await;
    set.put("a", instance.with_weight(7).unwrap().with_metadata("x", "y"));
    set.remove("b");
    for _ in 0..20 {
        greeted_by(&channel).await;
    }
    assert_eq!(peer.seen.connections(), 1);
    assert_eq!(channel.servers().len(), 1);
}

#[tokio::test]
async fn a_removed_server_finishes_its_calls_and_gets_no_more() {
    let told = Arc::new(Notify::new());
    let (leaving, staying) = (Peer::start(Script::GreetLater(told.clone())).await, Peer::start(Script::Greet).await);
    let (channel, set) = changing(builder());
    set.add(leaving.address);
    ready(&channel, 1).await;
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { greeted_by(&channel).await }
    });
    until("the call to arrive", || leaving.seen.calls() == 1).await;
    set.add(staying.address);
    set.remove(&leaving.address);
    until("the server to go", || !states(&channel).contains_key(&leaving.address.to_string())).await;
    ready(&channel, 1).await;
    for _ in 0..20 {
        assert_eq!(greeted_by(&channel).await, staying.address.to_string());
    }
    assert_eq!(leaving.seen.open(), 1, "its connection lives as long as its call");
    told.notify_one();
    assert_eq!(call.await.unwrap(), leaving.address.to_string());
    until("the connection to close", || leaving.seen.open() == 0).await;
}

#[tokio::test]
async fn an_idle_channel_closes_the_connections_of_removed_servers_and_its_own_at_the_end() {
    let peers = [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await];
    let (channel, set) = changing(builder());
    peers.iter().for_each(|peer| set.add(peer.address));
    ready(&channel, 2).await;
    set.remove(&peers[0].address);
    until("the first connection to close", || peers[0].seen.open() == 0).await;
    assert_eq!(peers[1].seen.open(), 1);
    drop(channel);
    until("the other connection to close", || peers[1].seen.open() == 0).await;
}

#[tokio::test]
async fn a_server_that_comes_back_takes_calls_again() {
    let peer = Peer::start(Script::Greet).await;
    let (channel, set) = changing(builder().wait_for_ready(true));
    set.add(peer.address);
    greeted_by(&channel).await;
    let address = peer.address;
    drop(peer);
    until("the loss to be seen", || states(&channel)[&address.to_string()] != ServerState::Ready).await;
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let seen = Arc::default();
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        crate::peer::speak(tcp, Script::Greet, None, Arc::clone(&seen)).await;
    };
    tokio::select! {
        by = greeted_by(&channel) => assert_eq!(by, address.to_string()),
        () = serve => panic!("the connection ended"),
    }
}

#[tokio::test]
async fn states_are_told() {
    let (channel, set) = changing(builder());
    let mut connectivity = channel.states();
    assert_eq!(connectivity.next().await, Some(ConnectivityState::Connecting));
    let peer = Peer::start(Script::Greet).await;
    let error = channel.wait_until_ready(std::time::Duration::from_millis(10)).await.unwrap_err();
    assert!(error.is_timeout() && format!("{error:?}").contains("not resolved yet"), "{error:?}");
    set.add(peer.address);
    channel.wait_until_ready(crate::support::PATIENCE).await.unwrap();
    assert_eq!(connectivity.next().await, Some(ConnectivityState::Ready));
    greeted_by(&channel).await;
    let servers = channel.servers();
    assert_eq!((servers.len(), servers[0].attempts(), servers[0].failures()), (1, 1, 0));
    assert!(servers[0].latency().is_some() && servers[0].last_error().is_none());
    set.remove(&peer.address);
    assert_eq!(connectivity.next().await, Some(ConnectivityState::TransientFailure));
    drop(channel);
    while connectivity.next().await.is_some() {}
    assert_eq!(peer.seen.connections.load(Ordering::SeqCst), 1);
}

/// A discovery that always has something to say leaves the runtime's only thread to others, and its servers are used.
#[test]
fn a_discovery_that_never_rests_leaves_others_their_turns() {
    let (tell, told) = std::sync::mpsc::channel();
    // It is left behind where the test fails.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let peer = Peer::start(Script::Greet).await;
            let instance = Instance::new(peer.address).unwrap();
            let storm = std::iter::repeat_with(move || Ok::<_, Infallible>(Change::Insert(1, instance.clone())));
            let channel = builder().build_with_discovery("greeter", tokio_stream::iter(storm)).unwrap();
            drop(tell.send(greet(&channel).await.map(drop)));
        });
    });
    told.recv_timeout(PATIENCE).unwrap().unwrap();
}
