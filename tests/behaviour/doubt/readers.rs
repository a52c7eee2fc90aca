//! Readers without a second witness: tower's balancers and tonic's channel.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn readers_without_a_second_witness_learn_of_a_sudden_loss_later_where_that_is_wanted() {
    let world = World::start().await;
    for index in 1..=3 {
        world.put(&format!("s/{index}"), &format!("h:{index}")).await;
    }
    let delay = Duration::from_secs(2);
    for (options, delayed) in [
        (MassLoss::default(), false),
        (MassLoss::default().delay_removals(delay), true),
        (MassLoss::never_doubtful().delay_removals(delay), false),
    ] {
        let resolver = Resolver::builder([world.etcd.endpoint()]).mass_loss(options).connect_lazy().unwrap();
        let resolution = resolver.resolve("s").unwrap();
        let mut discover = resolution.discover();
        let mut next = async || timeout(PATIENCE, discover.next()).await.expect("a change in time").unwrap().unwrap();
        for _ in 0..3 {
            assert!(matches!(next().await, Change::Insert(..)));
        }
        world.delete_prefix("s/").await;
        resolved(&resolution, "no instance", tonic_etcd::Snapshot::is_empty).await;
        let began = Instant::now();
        // One comes again in time: nothing is said of it.
        world.put("s/3", "h:3").await;
        for index in [1, 2] {
            let Change::Remove(key) = next().await else { panic!("{options:?}") };
            assert!(key.to_string() == format!("h:{index}") || !delayed, "{key} {options:?}");
        }
        assert_eq!(began.elapsed() > delay / 2, delayed, "{:?} {options:?}", began.elapsed());
        drop(discover);
        for index in 1..=2 {
            world.put(&format!("s/{index}"), &format!("h:{index}")).await;
        }
    }
}

/// A delay keeps what is removed for a while. It changes nothing of what is registered.
#[cfg(feature = "_tls")]
#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_removal_does_not_decide_about_tls_of_what_is_registered_anew() {
    let world = World::start().await;
    for index in 1..=3 {
        world.put(&format!("s/{index}"), &format!("https://h:{index}")).await;
    }
    let options = MassLoss::default().delay_removals(Duration::from_secs(8));
    let resolver = Resolver::builder([world.etcd.endpoint()]).mass_loss(options).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    let mut discover = resolution.discover();
    let mut next = async || timeout(Duration::from_secs(3), discover.next()).await.ok().flatten().map(Result::unwrap);
    for _ in 0..3 {
        assert!(matches!(next().await, Some(Change::Insert(..))));
    }
    world.delete_prefix("s/").await;
    resolved(&resolution, "no instance", tonic_etcd::Snapshot::is_empty).await;
    world.put("s/new", "http://h:1").await;
    resolved(&resolution, "one instance", |snapshot| snapshot.len() == 1).await;
    match next().await {
        Some(Change::Insert(key, endpoint)) => {
            assert_eq!((key.to_string().as_str(), endpoint.uri().scheme_str()), ("h:1", Some("http")));
        }
        other => panic!("etcd lists h:1 without TLS, and readers are told {other:?}"),
    }
}

/// What the end of a delay changes is nothing that a resolution shows.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_delay_is_no_change_of_the_resolution() {
    let world = World::start().await;
    for index in 1..=3 {
        world.put(&format!("s/{index}"), &format!("h:{index}")).await;
    }
    let options = MassLoss::default().delay_removals(Duration::from_secs(2));
    let resolver = Resolver::builder([world.etcd.endpoint()]).mass_loss(options).connect_lazy().unwrap();
    let mut resolution = resolver.resolve("s").unwrap();
    resolved(&resolution, "three instances", |snapshot| snapshot.len() == 3).await;
    world.delete_prefix("s/").await;
    while timeout(Duration::from_millis(700), resolution.changed()).await.is_ok() {}
    let seen = (resolution.state(), resolution.snapshot());
    if let Ok(Ok(snapshot)) = timeout(Duration::from_secs(4), resolution.changed()).await {
        assert_ne!((resolution.state(), snapshot), seen, "told of a change where there is none");
    }
}
