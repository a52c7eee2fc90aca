//! What is told of a service that is watched.

use std::time::Duration;

use test_support::{Proxy, Recorder};
use tonic_etcd::{Instance, Registrar, Resolution, ResolutionStats, Resolver};

use crate::cache::written;
use crate::metrics::{ended, shows, until_metrics};
use crate::support::{World, naming, resolved, servers_are, until};

/// A port on which nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";
const CONNECTED: &str = "tonic_etcd.resolver.connected{service=s}";
const STALENESS: &str = "tonic_etcd.resolver.staleness{service=s}";
const RELISTS: &str = "tonic_etcd.resolver.relists{service=s}";
const UNREADABLE: &str = "tonic_etcd.resolver.unreadable{service=s}";
const HELD: &str = "tonic_etcd.resolver.held{service=s}";
const CHANGES: &str = "tonic_etcd.resolver.changes{service=s}";

fn resolver(etcd: &str, recorder: &Recorder) -> Resolver {
    Resolver::builder([etcd]).metrics(recorder.clone()).connect_lazy().unwrap()
}

fn instances(state: &str) -> String {
    format!("tonic_etcd.resolver.instances{{service=s,state={state}}}")
}

/// Waits until the recorder says what `stats()` says, and gives that.
async fn same(resolution: &Resolution, recorder: &Recorder) -> ResolutionStats {
    let is_same = |stats: &ResolutionStats| {
        let numbers = [
            (CONNECTED, usize::from(stats.is_connected())),
            (RELISTS, stats.relists() as usize),
            (CHANGES, stats.changes() as usize),
            (UNREADABLE, stats.unreadable()),
            (HELD, stats.held()),
        ];
        let is_stale = !stats.staleness().is_zero();
        numbers.iter().all(|(series, value)| recorder.value(series) == *value as f64)
            && stats.instances().all(|(state, count)| recorder.value(&instances(state)) == count as f64)
            && is_stale == (recorder.value(STALENESS) > 0.0)
    };
    let what = format!("{:?}\n{}", resolution.stats(), recorder.text());
    let stats = until(&what, async || Some(resolution.stats()).filter(is_same)).await;
    let sum: usize = stats.instances().map(|(_, count)| count).sum();
    assert_eq!(sum, resolution.snapshot().len());
    stats
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_connected_until_etcd_is_away_and_stale_until_it_is_back() {
    let (world, recorder) = (World::start().await, Recorder::default());
    let draining = Registrar::connect_lazy([world.etcd.endpoint()]).unwrap();
    let _draining = draining.register("s", Instance::new("10.0.0.3:1").unwrap().with_draining(true)).unwrap();
    for key in ["s/1", "s/2"] {
        world.put(key, &naming(&key.replace("s/", "10.0.0.1:"))).await;
    }
    let resolution = resolver(&world.etcd.endpoint(), &recorder).resolve("s").unwrap();
    resolved(&resolution, "three", |snapshot| snapshot.len() == 3).await;
    shows(&recorder, CONNECTED, 1.0).await;
    shows(&recorder, &instances("current"), 2.0).await;
    shows(&recorder, &instances("draining"), 1.0).await;
    let stats = same(&resolution, &recorder).await;
    assert!(stats.is_connected() && stats.staleness().is_zero() && stats.changes() == 3, "{stats:?}");

    world.etcd.kill();
    // It is renewed while it is stale.
    until_metrics(&recorder, "a staleness that grows", || recorder.value(STALENESS) > 7.0).await;
    let stats = same(&resolution, &recorder).await;
    assert!(!stats.is_connected() && stats.staleness() > Duration::from_secs(7), "{stats:?}");
    assert_eq!(stats.instances().collect::<Vec<_>>(), [("current", 0), ("cached", 0), ("stale", 2), ("draining", 1)]);
    assert!(recorder.value(STALENESS) <= resolution.stats().staleness().as_secs_f64());
    let values = recorder.values(STALENESS);
    assert!(values.iter().filter(|value| **value > 0.0).is_sorted(), "{values:?}");

    world.etcd.start_again();
    shows(&recorder, CONNECTED, 1.0).await;
    shows(&recorder, STALENESS, 0.0).await;
    shows(&recorder, &instances("current"), 2.0).await;
    assert!(same(&resolution, &recorder).await.is_connected());
    drop(resolution);
    ended(&recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_etcd_has_never_confirmed_is_stale_from_its_start() {
    let recorder = Recorder::default();
    let resolution = resolver(NOBODY, &recorder).resolve("s").unwrap();
    until_metrics(&recorder, "a staleness that grows", || recorder.value(STALENESS) > 2.0).await;
    let stats = same(&resolution, &recorder).await;
    assert!(!stats.is_connected() && stats.staleness() > Duration::from_secs(2), "{stats:?}");
    drop(resolution);
    ended(&recorder).await;
    assert_eq!(recorder.value(STALENESS), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_instances_are_as_stale_as_their_file() {
    let (world, recorder) = (World::start().await, Recorder::default());
    let folder = tempfile::tempdir().unwrap();
    world.put("s/1", "h:1").await;
    let first = Resolver::builder([world.etcd.endpoint()]).cache(folder.path()).connect_lazy().unwrap();
    let first = first.resolve("s").unwrap();
    servers_are(&first, &["h:1"]).await;
    written(&folder.path().join("s%2F.cache"), "h:1").await;
    drop(first);
    let second = Resolver::builder([NOBODY]).cache(folder.path()).metrics(recorder.clone()).connect_lazy().unwrap();
    let second = second.resolve("s").unwrap();
    shows(&recorder, &instances("cached"), 1.0).await;
    let stats = same(&second, &recorder).await;
    assert!(!stats.is_connected() && stats.changes() == 1 && stats.staleness() > Duration::ZERO, "{stats:?}");
    drop(second);
    ended(&recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_in_the_place_of_a_watch_are_counted() {
    let (world, recorder) = (World::start().await, Recorder::default());
    let proxy = Proxy::to(world.etcd.address());
    world.put("s/1", "h:1").await;
    let resolution = resolver(&proxy.endpoint(), &recorder).resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    shows(&recorder, CONNECTED, 1.0).await;
    assert_eq!(same(&resolution, &recorder).await.relists(), 0, "the first list is none");
    proxy.refuse();
    world.put("s/1", "h:2").await;
    world.delete("s/1").await;
    world.put("s/2", "h:2").await;
    world.compact().await;
    proxy.resume();
    servers_are(&resolution, &["h:2"]).await;
    shows(&recorder, RELISTS, 1.0).await;
    let stats = same(&resolution, &recorder).await;
    assert_eq!((stats.relists(), stats.changes()), (1, 3), "{stats:?}");

    // Another etcd in the place of the known one.
    world.etcd.kill();
    world.etcd.wipe();
    world.etcd.start_again();
    servers_are(&resolution, &[]).await;
    until_metrics(&recorder, "another list", || recorder.value(RELISTS) > 1.0).await;
    same(&resolution, &recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_records_and_held_instances_are_counted() {
    let (world, recorder) = (World::start().await, Recorder::default());
    let resolution = resolver(&world.etcd.endpoint(), &recorder).resolve("s").unwrap();
    for key in 1..=4 {
        world.put(&format!("s/{key}"), &format!("h:{key}")).await;
    }
    world.put("s/5", "{").await;
    shows(&recorder, UNREADABLE, 1.0).await;
    shows(&recorder, &instances("current"), 4.0).await;
    assert_eq!(same(&resolution, &recorder).await.changes(), 5);
    world.put("s/5", "h:5").await;
    shows(&recorder, UNREADABLE, 0.0).await;
    world.delete_prefix("s/").await;
    shows(&recorder, HELD, 5.0).await;
    let stats = same(&resolution, &recorder).await;
    assert!(stats.is_connected() && stats.held() == 5 && stats.instances().all(|(_, count)| count == 0), "{stats:?}");
    world.put("s/1", "h:1").await;
    shows(&recorder, HELD, 4.0).await;
    assert_eq!(same(&resolution, &recorder).await.changes(), 12);
    drop(resolution);
    ended(&recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resolutions_of_one_service_are_counted_once() {
    let (world, recorder) = (World::start().await, Recorder::default());
    world.put("s/1", "h:1").await;
    let resolver = resolver(&world.etcd.endpoint(), &recorder);
    let resolution = resolver.resolve("s").unwrap();
    shows(&recorder, CONNECTED, 1.0).await;
    let bound = recorder.bound();
    let others: Vec<_> = (0..10_000).map(|_| resolver.resolve("s").unwrap()).collect();
    world.put("s/2", "h:2").await;
    shows(&recorder, CHANGES, 2.0).await;
    assert_eq!((recorder.value(CONNECTED), recorder.value(&instances("current"))), (1.0, 2.0));
    assert_eq!(recorder.bound(), bound);
    assert!(others.iter().all(|other| other.stats() == resolution.stats()));
    drop((resolution, others));
    ended(&recorder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_have_ended_leave_nothing() {
    let recorder = Recorder::default();
    let resolver = resolver(NOBODY, &recorder);
    for _ in 0..10_000 {
        drop(resolver.resolve("s").unwrap());
    }
    ended(&recorder).await;
    assert_eq!(recorder.series().len(), 10, "{:?}", recorder.series());
}
