//! Weights, where some servers say one and some do not.

use std::sync::Arc;

use std::collections::BTreeMap;

use tonic_etcd::policy::{LeastRequest, PeakEwma, PickFirst};
use tonic_etcd::{Instance, Policy};

use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet, greeted_by, ready, shared};

const CALLS: usize = 600;

/// The share of each server, in the order of what they say.
async fn shares(policy: Arc<dyn Policy>, said: &[Option<u32>], channels: usize) -> Vec<f64> {
    let mut peers = Vec::new();
    for _ in said {
        peers.push(Peer::start(Script::Greet).await);
    }
    let mut all = Vec::new();
    for _ in 0..channels {
        let (channel, set) = changing(builder().policy(policy.clone()));
        for (peer, weight) in peers.iter().zip(said) {
            let instance = Instance::new(peer.address).unwrap();
            let instance = weight.iter().try_fold(instance, |instance, weight| instance.with_weight(*weight)).unwrap();
            set.put(&peer.address.to_string(), instance);
        }
        all.push((channel, set));
    }
    for (channel, _set) in &all {
        ready(channel, said.len()).await;
        for _ in 0..CALLS / channels {
            greet(channel).await.unwrap();
        }
    }
    let calls: Vec<_> = peers.iter().map(|peer| peer.seen.calls() as f64).collect();
    let sum: f64 = calls.iter().sum();
    calls.into_iter().map(|calls| calls / sum).collect()
}

/// F24: who says no weight counts as the mean of those who do: one at 100 beside silent ones takes no more than they.
#[tokio::test]
async fn who_says_no_weight_counts_as_the_mean() {
    for (policy, channels) in
        [(shared(LeastRequest::new()), 1), (shared(PeakEwma::new()), 1), (shared(PickFirst::new()), 150)]
    {
        for (said, expected) in [
            (&[Some(100), None, None][..], &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0][..]),
            (&[Some(1), Some(3), None], &[1.0 / 6.0, 1.0 / 2.0, 1.0 / 3.0]),
            (&[None, None], &[0.5, 0.5]),
            (&[Some(9), Some(1)], &[0.9, 0.1]),
        ] {
            let shares = shares(policy.clone(), said, channels).await;
            for (share, expected) in shares.iter().zip(expected) {
                // Five standard deviations of so many draws, and what latencies add.
                let draws = if channels == 1 { CALLS } else { channels } as f64;
                let tolerance = 5.0 * (expected * (1.0 - expected) / draws).sqrt() + 0.03;
                assert!((share - expected).abs() < tolerance, "{policy:?} {said:?}: {shares:?}");
            }
        }
    }
}

/// F24: the mean is that of the servers that are connected now.
#[tokio::test]
async fn the_mean_follows_the_servers() {
    let peers = [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await, Peer::start(Script::Greet).await];
    let (channel, set) = changing(builder());
    let put = |index: usize, weight: Option<u32>| {
        let peer = &peers[index];
        let instance = Instance::new(peer.address).unwrap();
        let instance = weight.into_iter().try_fold(instance, Instance::with_weight).unwrap();
        set.put(&peer.address.to_string(), instance);
    };
    let spread = async || {
        let mut spread = BTreeMap::<String, usize>::new();
        for _ in 0..CALLS {
            *spread.entry(greeted_by(&channel).await).or_default() += 1;
        }
        peers.each_ref().map(|peer| spread.get(&peer.address.to_string()).copied().unwrap_or_default())
    };
    (0..3).for_each(|index| put(index, None));
    ready(&channel, 3).await;
    assert!(spread().await.iter().all(|calls| (120..290).contains(calls)));
    put(0, Some(1));
    put(1, Some(99));
    // 1, 99 and their mean of 50, once the channel has heard of it.
    let mut last = spread().await;
    for _ in 0..20 {
        if last[0] < 40 && (280..520).contains(&last[1]) && (90..310).contains(&last[2]) {
            return;
        }
        last = spread().await;
    }
    panic!("{last:?}");
}
