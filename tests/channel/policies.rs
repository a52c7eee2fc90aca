//! Who is picked, and who is left out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use test_support::Log;
use tonic_etcd::policy::{
    AttemptEnd, AttemptResult, Call, PeakEwma, Pick, PickFirst, PickNotifier, Picker, ReadySet, RoundRobin,
};
use tonic_etcd::{BalancedChannel, Instance, OutlierDetection, Policy, ServedBy, ServerState, WaitForReady};

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
        assert_eq!((server.attempts(), server.in_flight()), (spread[&server.address().to_string()] as u64, 0));
    }
}

#[tokio::test]
async fn round_robin_goes_round() {
    let peers = three().await;
    let channel = over(builder().policy(RoundRobin::new()), peers.iter().map(|peer| &peer.address));
    ready(&channel, 3).await;
    assert!(spread(&channel, 30).await.values().all(|calls| *calls == 10));
}

#[tokio::test]
async fn pick_first_stays_with_one_and_goes_on_with_the_next() {
    let mut peers = Vec::from(three().await);
    let channel = over(builder().policy(PickFirst::new()), peers.iter().map(|peer| &peer.address));
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
    let channel = over(builder().policy(PeakEwma::new()), peers.iter().map(|peer| &peer.address));
    ready(&channel, 3).await;
    assert_eq!(spread(&channel, 300).await.len(), 3);
}

/// What a policy of one's own was told.
#[derive(Clone, Debug, Default)]
struct Mine {
    sets: Arc<AtomicUsize>,
    ends: Arc<Mutex<Vec<(String, AttemptResult, bool)>>>,
    /// Calls marked `x-wait` wait until then.
    open: Arc<AtomicBool>,
    notifier: Arc<Mutex<Option<PickNotifier>>>,
}

struct MinePicker {
    mine: Mine,
    set: ReadySet,
}

impl Policy for Mine {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        self.sets.fetch_add(1, Ordering::SeqCst);
        *self.notifier.lock().unwrap() = Some(set.notifier().clone());
        Arc::new(MinePicker { mine: self.clone(), set: set.clone() })
    }
}

/// A mark in the extensions of a request.
#[derive(Clone)]
struct Marked;

impl Picker for MinePicker {
    fn pick(&self, call: &Call<'_>) -> Pick {
        assert_eq!((call.path(), call.attempt()), (crate::support::SAY_HELLO, 1));
        assert!(
            call.headers().contains_key("user-agent") && (0..self.set.len()).all(|server| call.is_available(server))
        );
        if call.headers().contains_key("x-fail") {
            return Pick::Fail(tonic::Status::failed_precondition("not today"));
        }
        if call.headers().contains_key("x-wait") && !self.mine.open.load(Ordering::SeqCst) {
            return Pick::Wait;
        }
        match call.extensions().get::<Marked>() {
            Some(_) => Pick::Server(usize::MAX),
            None => Pick::Server(1.min(self.set.len() - 1)),
        }
    }

    fn ended(&self, end: &AttemptEnd<'_>) {
        assert!(end.time_to_head().is_none_or(|head| head <= end.time_to_end()));
        let end = (end.server().address().to_string(), end.result(), end.time_to_head().is_some());
        self.mine.ends.lock().unwrap().push(end);
    }
}

async fn greet_marked(channel: &BalancedChannel, header: &'static str) -> Result<String, tonic::Status> {
    let mut request = tonic::Request::new(greeter_proto::HelloRequest { name: "world".into() });
    request.metadata_mut().insert(header, "1".parse().unwrap());
    if header == "x-beyond" {
        request.extensions_mut().insert(Marked);
    }
    let answer = greeter_proto::greeter_client::GreeterClient::new(channel.clone()).say_hello(request).await?;
    Ok(answer.extensions().get::<ServedBy>().unwrap().address().to_string())
}

#[tokio::test]
async fn a_policy_of_ones_own_is_asked_and_told() {
    let mut peers = Vec::from(three().await);
    peers.sort_by_key(|peer| peer.address.to_string());
    let mine = Mine::default();
    let (log, _guard) = Log::begin();
    let (channel, set) = changing(builder().policy(mine.clone()));
    peers.iter().for_each(|peer| set.add(peer.address));
    ready(&channel, 3).await;
    let second = peers[1].address.to_string();
    assert_eq!(greeted_by(&channel).await, second);
    // An index out of range is a fault of the policy, which is said once.
    for _ in 0..2 {
        assert_eq!(greet_marked(&channel, "x-beyond").await.unwrap(), peers[0].address.to_string());
    }
    assert_eq!(log.warned("policy picked an index out of range"), 1, "{}", log.text());
    assert_eq!(log.warned(&format!("index={} servers=3", usize::MAX)), 1, "{}", log.text());
    let status = greet_marked(&channel, "x-fail").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::FailedPrecondition, "not today"));
    let ok = AttemptResult::Status(tonic::Code::Ok);
    let first = (peers[0].address.to_string(), ok, true);
    let ends = [(second, ok, true), first.clone(), first];
    assert_eq!(*mine.ends.lock().unwrap(), ends);
    // Calls ask for no new picker, and neither does a change of load; a weight does.
    let sets = mine.sets.load(Ordering::SeqCst);
    assert!((1..=3).contains(&sets), "{sets}");
    let weighty = Instance::new(peers[0].address).unwrap().with_weight(3).unwrap();
    set.put(&peers[0].address.to_string(), weighty);
    until("a picker for the new weight", || mine.sets.load(Ordering::SeqCst) == sets + 1).await;
}

#[tokio::test]
async fn a_dropped_call_is_told_as_dropped() {
    let peer = Peer::start(Script::Silence).await;
    let mine = Mine::default();
    let channel = over(builder().policy(mine.clone()), [&peer.address]);
    ready(&channel, 1).await;
    let call = tokio::spawn(async move { greet(&channel).await });
    until("the call to arrive", || peer.seen.calls() == 1).await;
    call.abort();
    until("its end", || !mine.ends.lock().unwrap().is_empty()).await;
    assert_eq!(*mine.ends.lock().unwrap(), [(peer.address.to_string(), AttemptResult::Dropped, false)]);
}

#[tokio::test]
async fn calls_wait_for_the_policy_until_it_notifies_or_the_set_changes() {
    let peers = three().await;
    let mine = Mine::default();
    let (channel, set) = changing(builder().policy(mine.clone()).wait_limit(Duration::from_millis(200)));
    set.add(peers[0].address);
    ready(&channel, 1).await;
    let status = greet_marked(&channel, "x-wait").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("the policy picked none"), "{status:?}");
    let waiting = |for_ready: bool| {
        let mut request = tonic::Request::new(greeter_proto::HelloRequest { name: "world".into() });
        request.metadata_mut().insert("x-wait", "1".parse().unwrap());
        request.extensions_mut().insert(WaitForReady(for_ready));
        let channel = channel.clone();
        tokio::spawn(async move { greeter_proto::greeter_client::GreeterClient::new(channel).say_hello(request).await })
    };
    let first = waiting(true);
    // It keeps nobody waiting, whether it has begun to wait or not.
    greet(&channel).await.unwrap();
    tokio::task::yield_now().await;
    mine.open.store(true, Ordering::SeqCst);
    mine.notifier.lock().unwrap().as_ref().unwrap().notify();
    first.await.unwrap().unwrap();
    mine.open.store(false, Ordering::SeqCst);
    let second = waiting(true);
    greet(&channel).await.unwrap();
    mine.open.store(true, Ordering::SeqCst);
    set.add(peers[1].address); // a new set, without a notice
    second.await.unwrap().unwrap();
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
    let detection = OutlierDetection::default().ejection_time(second, second);
    let channel =
        over(builder().outlier_detection(detection).policy(RoundRobin::new()), [&failing.address, &good.address]);
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
