//! Instances that are marked as draining, from any discovery.

use std::sync::Arc;

use tokio::sync::Notify;
use tonic::Code;
use tonic_etcd::policy::{LeastRequest, PeakEwma, PickFirst, RoundRobin};
use tonic_etcd::{Instance, ServerState};

use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, greeted_by, ready, shared, states, until};

fn at(peer: &Peer, draining: bool) -> Instance {
    Instance::new(peer.address).unwrap().with_draining(draining)
}

/// F41: it gets no call, under any policy.
#[tokio::test]
async fn what_is_draining_gets_no_calls() {
    for policy in
        [shared(LeastRequest::new()), shared(PeakEwma::new()), shared(RoundRobin::new()), shared(PickFirst::new())]
    {
        let peers = [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await];
        let (channel, set) = changing(builder().policy(policy));
        set.put("a", at(&peers[0], true));
        set.put("b", at(&peers[1], false));
        ready(&channel, 1).await;
        for _ in 0..50 {
            assert_eq!(greeted_by(&channel).await, peers[1].address.to_string());
        }
        assert_eq!(peers[0].seen.calls(), 0);
    }
}

/// F41: a call in flight goes on; the server takes calls again once it drains no more.
#[tokio::test]
async fn a_call_goes_on_when_its_server_begins_to_drain() {
    let told = Arc::new(Notify::new());
    let (leaving, staying) = (Peer::start(Script::GreetLater(told.clone())).await, Peer::start(Script::Greet).await);
    let (channel, set) = changing(builder());
    set.put("a", at(&leaving, false));
    ready(&channel, 1).await;
    let call = tokio::spawn({
        let channel = channel.clone();
        async move { greeted_by(&channel).await }
    });
    until("the call to arrive", || leaving.seen.calls() == 1).await;
    set.put("a", at(&leaving, true));
    set.put("b", at(&staying, false));
    let only = |peer: &Peer| {
        let address = peer.address.to_string();
        let channel = channel.clone();
        move || states(&channel).into_iter().eq([(address.clone(), ServerState::Ready)])
    };
    until("the one to go and the other to be ready", only(&staying)).await;
    for _ in 0..50 {
        assert_eq!(greeted_by(&channel).await, staying.address.to_string());
    }
    assert_eq!((leaving.seen.calls(), leaving.seen.open()), (1, 1));
    told.notify_one();
    assert_eq!(call.await.unwrap(), leaving.address.to_string());
    set.put("a", at(&leaving, false));
    set.remove("b");
    told.notify_one();
    until("the one to be ready and the other to go", only(&leaving)).await;
    assert_eq!(greeted_by(&channel).await, leaving.address.to_string());
}

/// F41: an address that one key drains and another does not is callable, whichever was put last.
#[tokio::test]
async fn an_address_is_callable_while_any_key_says_so() {
    for last_drains in [true, false] {
        let peer = Peer::start(Script::Greet).await;
        let (channel, set) = changing(builder());
        set.put("a", at(&peer, !last_drains).with_weight(3).unwrap());
        set.put("b", at(&peer, last_drains).with_weight(5).unwrap());
        ready(&channel, 1).await;
        assert_eq!(greeted_by(&channel).await, peer.address.to_string());
        set.remove(if last_drains { "a" } else { "b" });
        until("it to go", || channel.servers().is_empty()).await;
    }
}

/// F41: where all drain, calls fail at once and say so.
#[tokio::test]
async fn where_all_drain_the_error_says_so() {
    let peer = Peer::start(Script::Greet).await;
    let (channel, set) = changing(builder());
    set.put("a", at(&peer, true));
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("draining"), "{status}");
    set.put("a", at(&peer, false));
    ready(&channel, 1).await;
    assert_eq!(greeted_by(&channel).await, peer.address.to_string());
}
