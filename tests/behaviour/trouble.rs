//! Resolving while etcd dies, freezes, forgets, refuses and comes back.

use std::process::Command;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Permission, WatchOptions};
use test_support::{Cluster, Etcd, Process, Proxy, Signal, example_bin};
use tokio::time::{Instant, timeout};
use tonic_etcd::{EtcdOptions, Instance, Registrar, RegistrationState, ResolutionState, Resolver};

use crate::support::{PATIENCE, World, naming, resolved, servers_are, until};

#[tokio::test(flavor = "multi_thread")]
async fn etcd_killed_for_three_seconds_removes_nothing() {
    let world = World::start().await;
    let proxy = Proxy::to(world.etcd.address());
    for port in 1..=3 {
        world.put(&format!("s/{port}"), &format!("h:{port}")).await;
    }
    let mut resolution = Resolver::connect_lazy([proxy.endpoint()]).unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;
    resolution.changed().await.unwrap();

    world.etcd.kill();
    let end = Instant::now() + Duration::from_secs(3);
    until("stale", async || matches!(resolution.state(), ResolutionState::Stale { .. }).then_some(())).await;
    while let Ok(snapshot) = tokio::time::timeout_at(end, resolution.changed()).await {
        assert_eq!(snapshot.unwrap().len(), 3, "an error never shrinks the set");
    }
    assert!(resolution.last_error().is_some());
    // What changes while etcd is back and we still cannot reach it appears as soon as we can.
    proxy.refuse();
    world.etcd.start_again();
    world.delete("s/2").await;
    world.put("s/4", "h:4").await;
    assert_eq!(resolution.snapshot().len(), 3);
    proxy.resume();
    servers_are(&resolution, &["h:1", "h:3", "h:4"]).await;
    assert_eq!(resolution.state(), ResolutionState::Current);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_frozen_while_etcd_restarted_and_compacted_comes_right() {
    let world = World::start().await;
    world.put("s/1", "h:1").await;
    let mut command = Command::new(example_bin("watch_service"));
    command.args(["--etcd", &world.etcd.endpoint(), "--service", "s"]);
    let client = Process::spawn(&mut command).unwrap();
    let shows = |servers: &'static str| move |line: &str| line.starts_with("current") && line.ends_with(servers);
    client.wait_line(shows("servers=h:1"), PATIENCE).unwrap();

    client.signal(Signal::STOP);
    world.etcd.kill();
    world.etcd.start_again();
    for round in 0..50 {
        world.put("s/2", &format!("h:{}", 100 + round)).await;
    }
    world.delete("s/1").await;
    world.put("s/3", "h:3").await;
    world.compact().await;
    client.signal(Signal::CONT);
    let continued = Instant::now();
    client.wait_line(shows("servers=h:149,h:3"), PATIENCE).unwrap();
    let right = continued.elapsed();
    assert!(right < Duration::from_secs(1), "right only {} ms after it was continued", right.as_millis());
    world.put("s/4", "h:4").await;
    client.wait_line(shows("servers=h:149,h:3,h:4"), PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_while_cut_off_is_relisted() {
    let world = World::start().await;
    let proxy = Proxy::to(world.etcd.address());
    world.put("s/1", "h:1").await;
    let resolution = Resolver::connect_lazy([proxy.endpoint()]).unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    proxy.refuse();
    world.delete("s/1").await;
    world.put("s/2", "h:2").await;
    world.compact().await;
    proxy.resume();
    servers_are(&resolution, &["h:2"]).await;
    world.put("s/3", "h:3").await;
    servers_are(&resolution, &["h:2", "h:3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_was_wiped_is_believed() {
    let world = World::start().await;
    for port in 1..=9 {
        world.put(&format!("s/{port}"), &format!("h:{port}")).await;
    }
    let resolution = world.resolver().resolve("s").unwrap();
    resolved(&resolution, "nine", |snapshot| snapshot.len() == 9).await;
    world.etcd.kill();
    world.etcd.wipe();
    world.etcd.start_again();
    servers_are(&resolution, &[]).await;
    assert!(matches!(resolution.state(), ResolutionState::Doubtful { instances: 9, .. }), "{resolution:?}");
    world.put("s/1", "h:10").await;
    servers_are(&resolution, &["h:10"]).await;

    // Wiped again, and past the old revision before we see it.
    let proxy = Proxy::to(world.etcd.address());
    let resolution = Resolver::connect_lazy([proxy.endpoint()]).unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:10"]).await;
    proxy.refuse();
    world.etcd.kill();
    world.etcd.wipe();
    world.etcd.start_again();
    for port in 20..40 {
        world.put("s/2", &format!("h:{port}")).await;
    }
    proxy.resume();
    servers_are(&resolution, &["h:39"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_found_out() {
    let world = World::start().await;
    let proxy = Proxy::to(world.etcd.address());
    world.put("s/1", "h:1").await;
    let resolution = Resolver::connect_lazy([proxy.endpoint()]).unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    // Every byte is held back, and no connection closes.
    proxy.stall();
    world.put("s/2", "h:2").await;
    until("stale", async || matches!(resolution.state(), ResolutionState::Stale { .. }).then_some(())).await;
    assert_eq!(resolution.snapshot().len(), 1);
    proxy.resume();
    servers_are(&resolution, &["h:1", "h:2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_nobodys_trouble() {
    let cluster = Cluster::start(3);
    let options = EtcdOptions::new(cluster.endpoints());
    cluster.member(1).kill();
    let resolver = Resolver::builder(options.clone()).connect_lazy().unwrap();
    // Each begins at a member of its own choice, so that some begin at the dead one.
    let mut registrations = Vec::new();
    for port in 1..=20 {
        let registrar = Registrar::builder(options.clone()).connect_lazy().unwrap();
        let instance = Instance::new(format!("h:{port}")).unwrap();
        registrations.push(registrar.register("s", instance).unwrap());
    }
    for _ in 0..20 {
        let resolution = Resolver::builder(options.clone()).connect_lazy().unwrap().resolve("s").unwrap();
        resolved(&resolution, "all twenty", |snapshot| snapshot.len() == 20).await;
    }
    let resolution = resolver.resolve("s").unwrap();
    resolved(&resolution, "all twenty", |snapshot| snapshot.len() == 20).await;

    // The member that serves us dies too, once the other is back.
    cluster.member(1).start_again();
    for dies in [0, 2] {
        cluster.member(dies).kill();
        let admin = Client::connect([cluster.member(1).endpoint()], None).await.unwrap();
        until("a put", async || admin.kv_client().put(format!("s/x{dies}"), "h:99", None).await.ok()).await;
        resolved(&resolution, "the put", |snapshot| snapshot.get(format!("s/x{dies}").as_bytes()).is_some()).await;
        cluster.member(dies).start_again();
    }
    resolved(&resolution, "all of them still", |snapshot| snapshot.len() == 22).await;
    for registration in registrations {
        registration.deregister().await.unwrap();
    }
    resolved(&resolution, "none of them", |snapshot| snapshot.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_is_left_also_with_a_user() {
    let etcd = guarded().await;
    let stalled = Proxy::to(etcd.address());
    stalled.stall();
    let mut registrations = Vec::new();
    for port in 1..=6 {
        let options = EtcdOptions::from([stalled.endpoint(), etcd.endpoint()]).user("root", "rootpw");
        let registrar = Registrar::builder(options).ttl(Duration::from_secs(9)).connect_lazy().unwrap();
        let instance = Instance::new(format!("h:{port}")).unwrap();
        registrations.push(registrar.register("s", instance).unwrap());
    }
    for registration in registrations {
        registration.ready(PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_services_are_watched_over_one_connection() {
    let etcd = guarded().await;
    let proxy = Proxy::to(etcd.address());
    let options = EtcdOptions::from([proxy.endpoint()]).user("root", "rootpw");
    let resolver = Resolver::builder(options).connect_lazy().unwrap();
    let mut resolutions = Vec::new();
    for service in 0..100 {
        resolutions.push(resolver.resolve(format!("s/{service}")).unwrap());
    }
    for resolution in &resolutions {
        resolution.ready(PATIENCE).await.unwrap();
    }
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn a_runtime_that_ends_is_told() {
    let etcd = Etcd::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (registration, resolution) = runtime.block_on(async {
        let registrar = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
        let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
        registration.ready(PATIENCE).await.unwrap();
        let resolution = Resolver::connect_lazy([etcd.endpoint()]).unwrap().resolve("s").unwrap();
        servers_are(&resolution, &["h:1"]).await;
        (registration, resolution)
    });
    drop(runtime);
    assert_eq!(resolution.state(), ResolutionState::Closed);
    assert_eq!(resolution.snapshot().len(), 1);
    assert!(!registration.is_registered());
    let other = tokio::runtime::Runtime::new().unwrap();
    other.block_on(async {
        let (mut registration, mut resolution) = (registration, resolution);
        while registration.changed().await.is_ok() {}
        while resolution.changed().await.is_ok() {}
        assert!(matches!(registration.state(), RegistrationState::Lost { .. }));
        assert!(registration.deregister().await.unwrap_err().is_closed());
    });
}

/// An etcd with authentication: root, and a user who may only read what is under `s/`.
async fn guarded() -> Etcd {
    let etcd = Etcd::start();
    let admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    let mut auth = admin.auth_client();
    auth.user_add("root", "rootpw", None).await.unwrap();
    auth.user_grant_role("root", "root").await.unwrap();
    auth.role_add("reader").await.unwrap();
    auth.role_grant_permission("reader", Permission::read("s/").with_prefix()).await.unwrap();
    auth.user_add("reader", "readerpw", None).await.unwrap();
    auth.user_grant_role("reader", "reader").await.unwrap();
    auth.role_add("writer").await.unwrap();
    auth.role_grant_permission("writer", Permission::write("s/").with_prefix()).await.unwrap();
    auth.user_add("writer", "writerpw", None).await.unwrap();
    auth.user_grant_role("writer", "writer").await.unwrap();
    auth.auth_enable().await.unwrap();
    etcd
}

async fn root(etcd: &Etcd) -> Client {
    let options = ConnectOptions::new().with_user("root", "rootpw");
    until("root", async || Client::connect([etcd.endpoint()], Some(options.clone())).await.ok()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_end_are_renewed() {
    let etcd = guarded().await;
    let put = async |key: &str, value: &str| {
        root(&etcd).await.kv_client().put(key, value, None).await.unwrap();
    };
    put("s/1", "h:1").await;
    let reader = EtcdOptions::from([etcd.endpoint()]).user("reader", "readerpw");
    let resolver = Resolver::builder(reader).connect_lazy().unwrap();
    let resolution = resolver.resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    // A restart forgets all tokens.
    etcd.kill();
    etcd.start_again();
    put("s/2", "h:2").await;
    servers_are(&resolution, &["h:1", "h:2"]).await;
    // Any edit of users makes every token old.
    root(&etcd).await.auth_client().user_add("another", "pw", None).await.unwrap();
    let other = resolver.resolve("s/deeper").unwrap();
    other.ready(PATIENCE).await.unwrap();
    put("s/3", "h:3").await;
    servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;

    // What the role does not allow is said, and nothing else is harmed.
    let refused = resolver.resolve("forbidden").unwrap();
    let denied = async || refused.last_error().filter(tonic_etcd::Error::is_permission_denied);
    until("permission denied", denied).await;
    assert!(refused.ready(Duration::from_millis(1)).await.unwrap_err().is_timeout());
    servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_and_a_needless_user_is_not_an_error() {
    let etcd = guarded().await;
    let wrong = EtcdOptions::from([etcd.endpoint()]).user("reader", "wrong");
    let resolution = Resolver::builder(wrong).connect_lazy().unwrap().resolve("s").unwrap();
    let said = async || resolution.last_error().filter(|error| error.to_string().contains("authentication failed"));
    until("what is wrong", said).await;

    let world = World::start().await;
    world.put("s/1", &naming("h:1")).await;
    let needless = EtcdOptions::from([world.etcd.endpoint()]).user("reader", "readerpw");
    let resolution = Resolver::builder(needless).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authentication_that_is_turned_on_later_is_no_trouble() {
    let world = World::start().await;
    let options = EtcdOptions::from([world.etcd.endpoint()]).user("user", "userpw");
    let registrar = Registrar::builder(options.clone()).ttl(Duration::from_secs(30)).connect_lazy().unwrap();
    let first = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    first.ready(PATIENCE).await.unwrap();
    let resolution = Resolver::builder(options).connect_lazy().unwrap().resolve("s").unwrap();
    servers_are(&resolution, &["h:1"]).await;
    let root = world.protect("s/").await;
    // Its watch joins a stream that began without a user.
    let second = registrar.register("s", Instance::new("h:2").unwrap()).unwrap();
    second.ready(PATIENCE).await.unwrap();
    servers_are(&resolution, &["h:1", "h:2"]).await;
    let mut changes = root.watch_client().watch("s/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    for key in ["s/h:1", "s/h:2"] {
        root.kv_client().delete(key, None).await.unwrap();
        let again = async {
            while let Some(message) = changes.message().await.unwrap() {
                let is_put = |event: &etcd_client::Event| {
                    event.kv().is_some_and(|kv| kv.key() == key.as_bytes() && kv.lease() != 0)
                };
                if message.events().iter().any(is_put) {
                    return;
                }
            }
        };
        timeout(PATIENCE, again).await.expect("put again as soon as the watch tells, and not a minute later");
    }
    assert_eq!(first.lease_id(), second.lease_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrar_needs_no_more_than_to_write() {
    let etcd = guarded().await;
    let admin = root(&etcd).await;
    let writer = EtcdOptions::from([etcd.endpoint()]).user("writer", "writerpw");
    let registrar = Registrar::builder(writer).ttl(Duration::from_secs(2)).connect_lazy().unwrap();
    let first = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    let second = registrar.register("s", Instance::new("h:2").unwrap()).unwrap();
    first.ready(PATIENCE).await.unwrap();
    second.ready(PATIENCE).await.unwrap();
    first.deregister().await.unwrap();
    let there = async |key: &str| !admin.kv_client().get(key, None).await.unwrap().kvs().is_empty();
    assert!(!there("s/h:1").await && there("s/h:2").await);
    // It outlives a restart, which forgets all tokens, and goes with the last.
    etcd.kill();
    etcd.start_again();
    second.ready(PATIENCE).await.unwrap();
    second.deregister().await.unwrap();
    assert!(root(&etcd).await.kv_client().get("s/h:2", None).await.unwrap().kvs().is_empty());

    let forbidden = registrar.register("elsewhere", Instance::new("h:1").unwrap()).unwrap();
    let denied = async || match forbidden.state() {
        RegistrationState::Registering { why: Some(why), .. } => why.is_permission_denied().then_some(()),
        _ => None,
    };
    until("permission denied", denied).await;
}
