//! Slow start.

use std::time::Duration;

use tonic_etcd::policy::{ConsistentHash, RoundRobin, WeightedRoundRobin};
use tonic_etcd::{Instance, SlowStart};

use super::{calls, greeters, put, status_of};
use crate::support::{builder, changing, greet, ready, shared, until};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_server_that_joins_begins_with_a_tenth_of_its_share() {
    for policy in [shared(WeightedRoundRobin::new()), shared(RoundRobin::new())] {
        let peers = greeters(4).await;
        let (channel, set) = changing(builder().policy(policy).slow_start(SlowStart::new(MINUTE)));
        peers[..3].iter().for_each(|peer| put(&set, peer, |instance| instance));
        ready(&channel, 3).await;
        assert!(peers[..3].iter().all(|peer| status_of(&channel, peer).slow_start_factor() == 1.0));
        put(&set, &peers[3], |instance| instance);
        ready(&channel, 4).await;
        until("it to warm up", || status_of(&channel, &peers[3]).slow_start_factor() < 1.0).await;
        let shown = format!("{:?}", status_of(&channel, &peers[3]));
        assert!(shown.contains("selected, warming at 10 %"), "{shown}");
        for _ in 0..310 {
            greet(&channel).await.unwrap();
        }
        let counts = calls(&peers);
        assert!((5..25).contains(&counts[3]), "{counts:?}");
        assert!(counts[..3].iter().all(|count| (90..110).contains(count)), "{counts:?}");
    }
}

#[tokio::test]
async fn new_servers_are_not_served_by_one_old_one() {
    let peers = greeters(5).await;
    let (channel, set) = changing(builder().policy(WeightedRoundRobin::new()).slow_start(SlowStart::new(MINUTE)));
    put(&set, &peers[0], |instance| instance);
    ready(&channel, 1).await;
    peers[1..].iter().for_each(|peer| put(&set, peer, |instance| instance));
    ready(&channel, 5).await;
    until("all to warm up", || peers[1..].iter().all(|peer| status_of(&channel, peer).slow_start_factor() < 1.0)).await;
    let before = calls(&peers)[0];
    for _ in 0..200 {
        greet(&channel).await.unwrap();
    }
    let old = calls(&peers)[0] - before;
    assert!((70..=90).contains(&old), "twice its share of a fifth: {old}");
}

#[tokio::test]
async fn slow_start_settings_are_checked_and_consistent_hash_has_none() {
    let peers = greeters(2).await;
    let hash = ConsistentHash::by_extension();
    let (channel, set) = changing(builder().policy(hash).slow_start(SlowStart::new(MINUTE)));
    put(&set, &peers[0], |instance| instance);
    ready(&channel, 1).await;
    put(&set, &peers[1], |instance| instance);
    ready(&channel, 2).await;
    assert!((status_of(&channel, &peers[1]).slow_start_factor() - 1.0).abs() < f64::EPSILON);
    let none = || tokio_stream::empty::<Result<tower::discover::Change<u8, Instance>, std::convert::Infallible>>();
    for refused in [SlowStart::new(Duration::from_millis(10)), SlowStart::new(MINUTE).aggression(f64::NAN)] {
        let refused = builder().slow_start(refused).build_with_discovery("greeter", none());
        assert!(refused.unwrap_err().is_invalid_argument());
    }
}
