//! What the tests share: waiting for conditions, and where they look.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{EtcdOptions, Instance, Registrar, Registration, Resolution, Resolver, Snapshot};

use crate::server::{Fake, Seen};

/// How long a condition may take before the test fails: far longer than it ever should.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What waits less did not wait for people to mend anything: such waits last 2.5 s at least.
pub(crate) const SLOW: Duration = Duration::from_secs(2);

/// How long leases live: three seconds, so that they are renewed every second.
pub(crate) const TTL: Duration = Duration::from_secs(3);

pub(crate) async fn resolve(fake: &Fake) -> Resolution {
    resolve_with(EtcdOptions::from([fake.endpoint()])).await
}

pub(crate) async fn resolve_with(options: EtcdOptions) -> Resolution {
    Resolver::connect_lazy(options).unwrap().resolve("s").unwrap()
}

/// Resolves, and waits until the watch is open.
pub(crate) async fn watching(fake: &Fake) -> Resolution {
    let resolution = resolve(fake).await;
    resolution.ready(PATIENCE).await.unwrap();
    starts(fake, 1).await;
    resolution
}

/// Waits until so many watches were asked for, and tells where they begin.
pub(crate) async fn starts(fake: &Fake, count: usize) -> Vec<i64> {
    until(&format!("watch {count}"), || fake.rpcs(|rpcs| rpcs.starts().len() >= count)).await;
    fake.rpcs(|rpcs| rpcs.starts())
}

pub(crate) fn registrar(fake: &Fake) -> Registrar {
    Registrar::builder([fake.endpoint()]).ttl(TTL).connect_lazy().unwrap()
}

pub(crate) async fn register(registrar: &Registrar, address: &str) -> Registration {
    registrar.register("s", Instance::new(address).unwrap()).unwrap()
}

pub(crate) async fn registered(registrar: &Registrar, address: &str) -> Registration {
    let registration = register(registrar, address).await;
    registration.ready(PATIENCE).await.unwrap();
    registration
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the snapshot is as wanted.
pub(crate) async fn resolved(resolution: &Resolution, what: &str, wanted: impl Fn(&Snapshot) -> bool) {
    let mut resolution = resolution.clone();
    let wait = async {
        while !wanted(&resolution.snapshot()) {
            resolution.changed().await.unwrap();
        }
    };
    let result = timeout(PATIENCE, wait).await;
    let (error, snapshot) = (resolution.last_error(), resolution.snapshot());
    assert!(result.is_ok(), "not in time: {what}\n{resolution:?}\n{error:?}\n{snapshot:?}");
}

/// Waits until these are the servers.
pub(crate) async fn servers_are(resolution: &Resolution, wanted: &[&str]) {
    resolved(resolution, &format!("{wanted:?}"), |snapshot| servers(snapshot) == set(wanted)).await;
}

pub(crate) fn servers(snapshot: &Snapshot) -> BTreeSet<String> {
    snapshot.instances().flat_map(Instance::addresses).map(ToString::to_string).collect()
}

pub(crate) fn set(servers: &[&str]) -> BTreeSet<String> {
    servers.iter().map(|server| (*server).to_owned()).collect()
}

/// The time between two requests, counted from 0.
pub(crate) fn gap<Q>(seen: &[Seen<Q>], first: usize, second: usize) -> Duration {
    seen[second].at - seen[first].at
}
