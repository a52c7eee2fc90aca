//! Two thousand random changes with compactions, lease expiries and restarts among them: in the end etcd, the snapshot and
//! the change stream agree.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use etcd_client::PutOptions;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;
use tonic_etcd::codec::{Codec as _, Detect};
use tonic_etcd::{Resolution, ServerKey, Snapshot, SnapshotEntry};
use tower::discover::Change;

use crate::support::{PATIENCE, World, resolved, until};

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

async fn leased_put(world: &World, key: &str, value: &str) {
    let lease = until("grant", async || world.admin.lease_client().grant(1, None).await.ok()).await.id();
    // Should etcd have gone down since, the key may be there or not: either is a state to agree on.
    let options = PutOptions::new().with_lease(lease);
    drop(world.admin.kv_client().put(key, value, Some(options)).await);
}

async fn step(world: &World, random: &mut Random) {
    let key = format!("chaos/{}", random.below(60));
    match random.below(1_000) {
        0..550 => {
            let value = match random.below(12) {
                0 => "unreadable".to_owned(),
                1 => format!("https://h:{}", 1 + random.below(40)),
                _ => format!("h:{}", 1 + random.below(40)),
            };
            world.put(&key, &value).await;
        }
        550..900 => world.delete(&key).await,
        900..960 => leased_put(world, &key, &format!("h:{}", 1 + random.below(40))).await,
        960..985 => world.compact().await,
        985..990 => world.delete_prefix("chaos/1").await,
        990..996 => {
            world.etcd.kill();
            world.etcd.start_again();
        }
        _ => {
            world.etcd.freeze();
            tokio::time::sleep(Duration::from_millis(random.below(200))).await;
            world.etcd.thaw();
        }
    }
}

/// What the codec reads of what stands in etcd.
async fn truth(world: &World) -> BTreeMap<Vec<u8>, Vec<tonic_etcd::Instance>> {
    let contents = world.contents("chaos/").await;
    let read = |(key, value): (String, String)| {
        let instances = Detect.decode(key.as_bytes(), value.as_bytes()).unwrap_or_default();
        (key.into_bytes(), instances)
    };
    contents.into_iter().map(read).collect()
}

fn seen(snapshot: &Snapshot) -> BTreeMap<Vec<u8>, Vec<tonic_etcd::Instance>> {
    snapshot.entries().map(|entry: &SnapshotEntry| (entry.key().to_vec(), entry.instances().to_vec())).collect()
}

/// Follows the change stream from the beginning until the server `done:1` is in it, and tells what it ends with.
async fn follow(resolution: Resolution) -> BTreeMap<String, bool> {
    let mut known = BTreeMap::new();
    let mut discover = resolution.discover();
    while !known.contains_key("done:1") {
        let change = timeout(PATIENCE * 4, discover.next()).await.expect("a change in time");
        take(&mut known, change.unwrap().unwrap());
    }
    // What else belongs to that step of the service is there already.
    while let Poll::Ready(change) = poll_once(discover.next()).await {
        take(&mut known, change.unwrap().unwrap());
    }
    known
}

fn take(known: &mut BTreeMap<String, bool>, change: Change<ServerKey, Endpoint>) {
    match change {
        Change::Insert(key, endpoint) => {
            let secure = endpoint.uri().scheme_str() == Some("https");
            let before = known.insert(key.to_string(), secure);
            assert_ne!(before, Some(secure), "inserted again though nothing differs: {key}");
        }
        Change::Remove(key) => {
            assert!(known.remove(&key.to_string()).is_some(), "removed what was not inserted: {key}");
        }
    }
}

async fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_random_changes_leave_all_agreed() {
    let world = World::start().await;
    let resolution = world.resolver().await.resolve("chaos").unwrap();
    let follower = tokio::spawn(follow(resolution.clone()));
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random = Random(seed.unwrap_or_else(|| std::process::id().into()));
    eprintln!("SEED={}", random.0);
    for _ in 0..2_000 {
        step(&world, &mut random).await;
    }
    // The leases that were granted end by themselves; what they held goes.
    until("leases to end", async || world.leases().await.is_empty().then_some(())).await;
    let truth = truth(&world).await;
    resolved(&resolution, "what etcd holds", |snapshot| seen(snapshot) == truth).await;
    world.put("chaos/zzz", "done:1").await;

    let mut expected = BTreeMap::new();
    for address in truth.values().flatten().flat_map(tonic_etcd::Instance::addresses) {
        *expected.entry(address.authority().to_owned()).or_insert(false) |= address.is_secure();
    }
    expected.insert("done:1".into(), false);
    if !cfg!(any(feature = "tls-ring", feature = "tls-aws-lc")) {
        expected.retain(|_, secure| !*secure);
    }
    assert_eq!(follower.await.unwrap(), expected);
}
