//! Calls stay in the zone of their client while that has room.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tonic::{Code, Status};
use tonic_etcd::policy::{Call, ConsistentHash, HashKey, Pick, Picker, ReadySet, RoundRobin};
use tonic_etcd::{Instance, Policy, SelectionReason, ServerState};

use super::{call_with, calls, greeters, put, status_of};
use crate::field::watched::{Watched, finished};
use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, greeted_by, ready, states, until};

fn zone(name: &'static str) -> impl Fn(Instance) -> Instance {
    move |instance| instance.with_zone(name)
}

#[tokio::test]
async fn calls_stay_at_home_leave_when_it_is_gone_and_return() {
    let peers = greeters(4).await;
    let (channel, set) = changing(builder().zone("a").further_zones(["b"]));
    put(&set, &peers[0], zone("a"));
    put(&set, &peers[1], zone("b"));
    put(&set, &peers[2], zone("c"));
    put(&set, &peers[3], |instance| instance);
    ready(&channel, 4).await;
    let distances: Vec<_> = peers.iter().map(|peer| status_of(&channel, peer).zone_distance()).collect();
    assert_eq!(distances, [0, 1, 2, 2]);
    assert_eq!(status_of(&channel, &peers[1]).selection(), SelectionReason::OtherZone);
    assert!(format!("{:?}", status_of(&channel, &peers[1])).contains("selection: other zone"));
    for _ in 0..20 {
        greet(&channel).await.unwrap();
    }
    assert_eq!(calls(&peers), [20, 0, 0, 0]);
    for (gone, next) in [(0, vec![1]), (1, vec![2, 3])] {
        set.remove(&peers[gone].address);
        until("it to go", || !states(&channel).contains_key(&peers[gone].address.to_string())).await;
        let next: BTreeSet<_> = next.iter().map(|next| peers[*next].address.to_string()).collect();
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            seen.insert(greeted_by(&channel).await);
        }
        assert_eq!(seen, next);
    }
    put(&set, &peers[0], zone("a"));
    ready(&channel, 3).await;
    for _ in 0..20 {
        assert_eq!(greeted_by(&channel).await, peers[0].address.to_string());
    }
}

#[tokio::test]
async fn a_busy_home_gets_help_and_an_idle_one_gives_nothing_away() {
    let end = Arc::new(Notify::new());
    let home = Peer::start(Script::GreetLater(end.clone())).await;
    let away = Peer::start(Script::GreetLater(end.clone())).await;
    let (channel, set) = changing(builder().zone("a").zone_busy(4));
    put(&set, &home, zone("a"));
    put(&set, &away, zone("b"));
    ready(&channel, 2).await;
    let mut running = Vec::new();
    let begin = |count: usize| (0..count).map(|_| Watched::greet(&channel, false)).collect::<Vec<_>>();
    running.extend(begin(4));
    until("them to arrive", || home.seen.calls() + away.seen.calls() == 4).await;
    assert_eq!((home.seen.calls(), away.seen.calls()), (4, 0));
    // From now on it is busy: the other has less than half until it has 2.
    for number in 5..=30 {
        running.extend(begin(1));
        until("it to arrive", || home.seen.calls() + away.seen.calls() == number).await;
    }
    let (home_calls, away_calls) = (home.seen.calls(), away.seen.calls());
    assert!(away_calls * 2 <= home_calls + 2 && away_calls * 2 + 3 >= home_calls, "{home_calls} {away_calls}");
    until("all to end", || {
        end.notify_waiters();
        finished(&running) == running.len()
    })
    .await;
}

#[tokio::test]
async fn a_home_without_streams_left_sends_its_calls_away() {
    let home = Peer::limited(Script::Silence, Some(2)).await;
    let away = greeters(1).await;
    let (channel, set) = changing(builder().zone("a"));
    put(&set, &home, zone("a"));
    put(&set, &away[0], zone("b"));
    ready(&channel, 2).await;
    let _held: Vec<_> = (0..2).map(|_| Watched::greet(&channel, false)).collect();
    until("it to be full", || home.seen.calls() == 2).await;
    for _ in 0..10 {
        assert_eq!(greeted_by(&channel).await, away[0].address.to_string());
    }
}

#[tokio::test]
async fn a_client_without_a_zone_and_consistent_hash_take_all_alike() {
    let peers = greeters(4).await;
    let hash = ConsistentHash::by_extension();
    for (channel, set) in [changing(builder()), changing(builder().zone("a").policy(hash))] {
        for (number, peer) in peers.iter().enumerate() {
            put(&set, peer, zone(if number == 0 { "a" } else { "b" }));
        }
        ready(&channel, 4).await;
        assert!(states(&channel).values().all(|state| *state == ServerState::Ready));
        let mut seen = BTreeSet::new();
        for number in 0..100_u32 {
            seen.insert(call_with(&channel, HashKey::of(number.to_string())).await.unwrap());
        }
        assert_eq!(seen.len(), 4);
    }
}

/// Says this of zone b, and picks the first server elsewhere.
#[derive(Debug)]
struct NotIn(fn() -> Pick);

impl Policy for NotIn {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        let is_refused = set.servers()[0].instance().zone() == Some("b");
        Arc::new(NotIn(if is_refused { self.0 } else { || Pick::Server(0) }))
    }
}

impl Picker for NotIn {
    fn pick(&self, _: &Call<'_>) -> Pick {
        (self.0)()
    }
}

/// Home is full, b has room, and this is what the policy says of b. Returns the result of a call, and how many calls b has got.
async fn call_beside(in_b: fn() -> Pick, has_c: bool) -> (Result<(), Status>, usize) {
    let home = Peer::limited(Script::Silence, Some(1)).await;
    let away = greeters(2).await;
    let limit = Duration::from_millis(300);
    let (channel, set) = changing(builder().zone("a").further_zones(["b", "c"]).policy(NotIn(in_b)).wait_limit(limit));
    put(&set, &home, zone("a"));
    put(&set, &away[0], zone("b"));
    if has_c {
        put(&set, &away[1], zone("c"));
    }
    ready(&channel, 2 + usize::from(has_c)).await;
    let _held = Watched::greet(&channel, false);
    until("it to be full", || home.seen.calls() == 1).await;
    let result = greet(&channel).await;
    (result.map(drop), calls(&away)[0])
}

#[tokio::test]
async fn a_policy_keeps_calls_out_of_a_further_zone() {
    let fail = || Pick::Fail(Status::resource_exhausted("not across zones"));
    let (result, calls) = call_beside(fail, false).await;
    assert_eq!((result.unwrap_err().code(), calls), (Code::ResourceExhausted, 0));
    let (result, calls) = call_beside(|| Pick::Wait, false).await;
    let status = result.unwrap_err();
    assert_eq!((status.code(), calls), (Code::Unavailable, 0));
    assert!(status.message().contains("the policy picked none"), "{status}");
    for refusal in [fail, || Pick::Wait] {
        let (result, calls) = call_beside(refusal, true).await;
        result.unwrap();
        assert_eq!(calls, 0, "the next zone takes the call");
    }
}

/// Round robin does not count weights: so a light server is not busy sooner.
#[tokio::test]
async fn a_light_server_at_home_is_no_reason_to_leave_it_under_round_robin() {
    let end = Arc::new(Notify::new());
    let (mut home, away) = (Vec::new(), Peer::start(Script::GreetLater(end.clone())).await);
    for _ in 0..2 {
        home.push(Peer::start(Script::GreetLater(end.clone())).await);
    }
    let (channel, set) = changing(builder().zone("a").policy(RoundRobin::new()));
    put(&set, &home[0], |instance| zone("a")(instance).with_weight(1).unwrap());
    put(&set, &home[1], |instance| zone("a")(instance).with_weight(99).unwrap());
    put(&set, &away, zone("b"));
    ready(&channel, 3).await;
    let mut running = Vec::new();
    for number in 1..=12 {
        running.push(Watched::greet(&channel, false));
        until("it to arrive", || calls(&home).iter().sum::<usize>() + away.seen.calls() == number).await;
    }
    let (home_calls, away_calls) = (calls(&home), away.seen.calls());
    until("all to end", || {
        end.notify_waiters();
        finished(&running) == running.len()
    })
    .await;
    assert_eq!(away_calls, 0, "12 calls in flight, busy from 64 on: {home_calls:?} at home");
}

#[tokio::test]
async fn the_order_of_zones_holds_under_load_too() {
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(Peer::start(Script::Silence).await);
    }
    let (channel, set) = changing(builder().zone("a").further_zones(["b"]).zone_busy(4));
    for (peer, name) in peers.iter().zip(["a", "b", "c"]) {
        put(&set, peer, zone(name));
    }
    ready(&channel, 3).await;
    let mut running = Vec::new();
    for number in 1..=12 {
        running.push(Watched::greet(&channel, false));
        until("it to arrive", || calls(&peers).iter().sum::<usize>() == number).await;
        // The second zone has 4 calls and is busy with the eleventh.
        assert_eq!(calls(&peers)[2], usize::from(number == 12), "{:?}", calls(&peers));
    }
    assert_eq!(calls(&peers), [7, 4, 1]);
}
