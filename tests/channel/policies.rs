//! Who is picked, and who is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic_etcd::{BalancedChannel, Call, Ejection, Instance, Picker, Policy, ReadyServer, ServerState};

use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, greeted_by, over, ready, states, until};

async fn three() -> [Peer; 3] {
    [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await, Peer::start(Script::Greet).await]
}

async fn spread(channel: &BalancedChannel, calls: usize) -> BTreeMap<String, usize> {
    let mut spread = BTreeMap::new();
    for _ in 0..calls {
        *spread.entry(greeted_by(channel).await).or_default() += 1;
    }
    spread
}

#[tokio::test]
async fn calls_spread_over_all_servers_and_are_counted() {
    let peers = three().await;
    let channel = over(builder(), peers.iter().map(|peer| &peer.address));
    ready(&channel, 3).await;
    let spread = spread(&channel, 300).await;
    for server in channel.servers() {
        assert!(spread[&server.address().to_string()] > 30, "{spread:?}");
        assert_eq!((server.calls(), server.in_flight()), (spread[&server.address().to_string()] as u64, 0));
    }
}

#[tokio::test]
async fn round_robin_goes_round() {
    let peers = three().await;
    let channel = over(builder().policy(Policy::RoundRobin), peers.iter().map(|peer| &peer.address));
    ready(&channel, 3).await;
    assert!(spread(&channel, 30).await.values().all(|calls| *calls == 10));
}

#[tokio::test]
async fn pick_first_stays_with_one_and_goes_on_with_the_next() {
    let mut peers = Vec::from(three().await);
    let channel = over(builder().policy(Policy::PickFirst), peers.iter().map(|peer| &peer.address));
    ready(&channel, 3).await;
    for left in [2, 1] {
        let first = greeted_by(&channel).await;
        assert_eq!(spread(&channel, 10).await, BTreeMap::from([(first.clone(), 10)]));
        peers.retain(|peer| peer.address.to_string() != first);
        ready(&channel, left).await;
    }
    assert_eq!(spread(&channel, 10).await, BTreeMap::from([(peers[0].address.to_string(), 10)]));
}

#[tokio::test]
async fn weights_share_out_idle_calls() {
    let peers = three().await;
    let (channel, set) = changing(builder());
    for (peer, weight) in peers.iter().zip([1, 1, 8]) {
        set.put(&peer.address.to_string(), Instance::new(peer.address).unwrap().with_weight(weight).unwrap());
    }
    ready(&channel, 3).await;
    let spread = spread(&channel, 1000).await;
    let heavy = spread[&peers[2].address.to_string()];
    assert!((600..950).contains(&heavy), "{spread:?}");
    assert_eq!(spread.len(), 3, "{spread:?}");
}

#[tokio::test]
async fn peak_ewma_reaches_all_servers() {
    let peers = three().await;
    let channel = over(builder().policy(Policy::PeakEwma), peers.iter().map(|peer| &peer.address));
    ready(&channel, 3).await;
    assert_eq!(spread(&channel, 300).await.len(), 3);
}

/// By the last letter of the method, and once beyond the end.
struct Mine;

impl Picker for Mine {
    fn pick(&self, call: &Call<'_>, servers: &[ReadyServer]) -> usize {
        assert_eq!(call.path(), crate::support::SAY_HELLO);
        assert!(call.headers().contains_key("user-agent") && servers.iter().all(ReadyServer::has_room));
        if call.headers().contains_key("x-beyond") { usize::MAX } else { 1 }
    }
}

#[tokio::test]
async fn a_policy_of_ones_own_is_asked() {
    let mut peers = Vec::from(three().await);
    peers.sort_by_key(|peer| peer.address.to_string());
    let channel = over(builder().policy(Policy::custom(Mine)), peers.iter().map(|peer| &peer.address));
    ready(&channel, 3).await;
    assert_eq!(greeted_by(&channel).await, peers[1].address.to_string());
    let mut request = tonic::Request::new(greeter_proto::HelloRequest { name: "world".into() });
    request.metadata_mut().insert("x-beyond", "1".parse().unwrap());
    greeter_proto::greeter_client::GreeterClient::new(channel).say_hello(request).await.unwrap();
    assert_eq!(peers[2].seen.calls(), 1);
}

#[tokio::test]
async fn a_server_that_fails_at_once_does_not_draw_the_calls() {
    let (failing, good) = (Peer::start(Script::Status(14, vec![])).await, Peer::start(Script::Greet).await);
    let channel = over(builder(), [&failing.address, &good.address]);
    ready(&channel, 2).await;
    let mut failed = 0;
    for _ in 0..1000 {
        failed += usize::from(greet(&channel).await.is_err());
    }
    assert!(failed > 0 && failed < 100, "{failed}");
}

#[tokio::test]
async fn an_outlier_is_ejected_and_comes_back() {
    let (failing, good) = (Peer::start(Script::Status(14, vec![])).await, Peer::start(Script::Greet).await);
    let second = Duration::from_secs(1);
    let ejection = Ejection::default().times(second, second);
    let channel = over(builder().ejection(ejection).policy(Policy::RoundRobin), [&failing.address, &good.address]);
    ready(&channel, 2).await;
    let state = || states(&channel)[&failing.address.to_string()];
    while state() != ServerState::Ejected {
        let _ = greet(&channel).await; // it may be the failing one
    }
    let before = failing.seen.calls();
    assert!((5..15).contains(&before), "{before}");
    for _ in 0..100 {
        if state() == ServerState::Ejected {
            let by = greet(&channel).await;
            assert!(by.is_ok() || state() != ServerState::Ejected);
        }
    }
    until("it to come back", || state() == ServerState::Ready).await;
    assert_eq!(failing.seen.open(), 1, "connected all the while");
    // On probation: one failure, and it is out again.
    let returned = failing.seen.calls();
    while state() != ServerState::Ejected {
        let _ = greet(&channel).await;
    }
    assert!(failing.seen.calls() - returned < 5);
}
