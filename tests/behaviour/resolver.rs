//! Resolving: what stands in etcd is what users see.

use std::collections::BTreeSet;
use std::time::Duration;

use test_support::Etcd;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic_etcd::{ChangeStream, ResolutionState, Resolver, Target};
use tower::discover::Change;

use crate::support::{PATIENCE, World, addresses, naming, resolved, servers_are, until};

/// The next change, in words.
async fn next(discover: &mut ChangeStream) -> String {
    match timeout(PATIENCE, discover.next()).await.expect("a change in time") {
        Some(Ok(Change::Insert(key, endpoint))) => format!("+{key} {}", endpoint.uri()),
        Some(Ok(Change::Remove(key))) => format!("-{key}"),
        None => "end".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_by_hand_appears_and_what_is_deleted_goes() {
    let world = World::start().await;
    let resolution = world.resolver().await.resolve("greeter").unwrap();
    let snapshot = resolution.ready(PATIENCE).await.unwrap();
    assert!(snapshot.is_empty());
    assert_eq!(resolution.state(), ResolutionState::ConfirmedEmpty);
    let mut discover = resolution.discover();

    world.put("greeter/a", &naming("10.0.0.1:1")).await;
    assert_eq!(next(&mut discover).await, "+10.0.0.1:1 http://10.0.0.1:1/");
    assert_eq!(resolution.state(), ResolutionState::Current);
    world.put("greeter/b", "10.0.0.2:2").await;
    assert_eq!(next(&mut discover).await, "+10.0.0.2:2 http://10.0.0.2:2/");
    world.put("greeter/deep/er", "http://10.0.0.3:3").await;
    assert_eq!(next(&mut discover).await, "+10.0.0.3:3 http://10.0.0.3:3/");

    // A key whose address changes, a second key of one address, and the going of both.
    world.put("greeter/a", "10.0.0.4:4").await;
    assert_eq!(next(&mut discover).await, "+10.0.0.4:4 http://10.0.0.4:4/");
    assert_eq!(next(&mut discover).await, "-10.0.0.1:1");
    world.put("greeter/c", &naming("10.0.0.2:2")).await;
    world.delete("greeter/b").await;
    world.delete("greeter/deep/er").await;
    assert_eq!(next(&mut discover).await, "-10.0.0.3:3");
    world.delete("greeter/c").await;
    assert_eq!(next(&mut discover).await, "-10.0.0.2:2");
    servers_are(&resolution, &["10.0.0.4:4"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_record_is_counted_and_spoils_no_other() {
    let world = World::start().await;
    for (key, value) in [("s/1", "10.0.0.1:1"), ("s/2", "what is this"), ("s/3", "{\"Addr\":7}"), ("s/4", "h:4")] {
        world.put(key, value).await;
    }
    world.admin.kv_client().put("s/5", vec![0xff, 0xfe], None).await.unwrap();
    let resolution = world.resolver().await.resolve("s").unwrap();
    servers_are(&resolution, &["10.0.0.1:1", "h:4"]).await;
    assert_eq!(resolution.snapshot().unreadable(), 3);
    assert!(resolution.snapshot().get(b"s/2").unwrap().error().is_some());

    world.put("s/2", "10.0.0.2:2").await;
    world.put("s/1", "broken now").await;
    servers_are(&resolution, &["10.0.0.2:2", "h:4"]).await;
    assert_eq!(resolution.snapshot().unreadable(), 3);
    world.delete("s/1").await;
    resolved(&resolution, "one bad record less", |snapshot| snapshot.unreadable() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_begin_alike_stay_apart() {
    let world = World::start().await;
    let keys = ["/web", "/web/1", "/web-2", "/web.old", "/website", "/website/1", "/web0", "/we", "/web-2/1"];
    for (port, key) in (1..).zip(keys) {
        world.put(key, &format!("h:{port}")).await;
    }
    let resolver = world.resolver().await;
    let web = Target::parse("/web").unwrap();
    let plain = resolver.resolve(&web).unwrap();
    let named = resolver.resolve(web.with_name_key(true)).unwrap();
    let site = resolver.resolve("etcd:////website").unwrap();
    servers_are(&plain, &["h:2"]).await;
    servers_are(&named, &["h:1", "h:2"]).await;
    servers_are(&site, &["h:6"]).await;

    // The same once they come as events.
    for (port, key) in (11..).zip(keys) {
        world.put(key, &format!("h:{port}")).await;
    }
    servers_are(&plain, &["h:12"]).await;
    servers_are(&named, &["h:11", "h:12"]).await;
    servers_are(&site, &["h:16"]).await;
    for key in keys {
        world.delete(key).await;
    }
    for resolution in [&plain, &named, &site] {
        servers_are(resolution, &[]).await;
    }
    assert_eq!(named.snapshot().entries().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_instances_resolve() {
    let world = World::start().await;
    let metadata = "x".repeat(250);
    let key = |i: u32| format!("big/10.0.{}.{}:50051", i / 256, i % 256);
    for chunk in (0..20_000).collect::<Vec<u32>>().chunks(100) {
        let puts = chunk.iter().map(|i| {
            let value = format!(
                r#"{{"Op":0,"Addr":"10.0.{}.{}:50051","Metadata":{{"metadata":{{"note":"{metadata}"}}}}}}"#,
                i / 256,
                i % 256
            );
            etcd_client::TxnOp::put(key(*i), value, None)
        });
        world.admin.kv_client().txn(etcd_client::Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
    let resolution = world.resolver().await.resolve("big").unwrap();
    let snapshot = resolution.ready(PATIENCE).await.unwrap();
    assert_eq!((snapshot.len(), snapshot.unreadable()), (20_000, 0));
    assert_eq!(addresses(&snapshot).len(), 20_000);
    world.delete(&key(777)).await;
    resolved(&resolution, "one less", |snapshot| snapshot.len() == 19_999).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_larger_than_grpcs_limit_come_through() {
    let world = World::start().await;
    let note = "x".repeat(1 << 20);
    let value = |i: u32| format!(r#"{{"Addr":"h:{i}","Metadata":{{"metadata":{{"note":"{note}"}}}}}}"#);
    for i in 1..=6 {
        world.put(&format!("heavy/{i}"), &value(i)).await;
    }
    // Six mebibytes in one list.
    let resolution = world.resolver().await.resolve("heavy").unwrap();
    resolved(&resolution, "the list", |snapshot| snapshot.len() == 6).await;
    // And in one transaction: one message of the watch. etcd takes 1.5 MiB a request, so its keys are deleted and put
    // while nobody watches, and come together when the watch resumes.
    world.delete_prefix("heavy/").await;
    resolved(&resolution, "nothing", tonic_etcd::Snapshot::is_empty).await;
    drop(resolution);
    let proxy = test_support::Proxy::to(world.etcd.address());
    let resolution = Resolver::connect_lazy([proxy.endpoint()]).unwrap().resolve("heavy").unwrap();
    resolution.ready(PATIENCE).await.unwrap();
    proxy.refuse();
    for i in 1..=6 {
        world.put(&format!("heavy/{i}"), &value(i)).await;
    }
    proxy.resume();
    resolved(&resolution, "the events", |snapshot| snapshot.len() == 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_sleeps_through_a_thousand_changes_ends_right() {
    let world = World::start().await;
    let mut resolution = world.resolver().await.resolve("busy").unwrap();
    resolution.ready(PATIENCE).await.unwrap();
    let mut discover = resolution.discover();
    for i in 0..1_000 {
        match i % 3 {
            0 | 1 => world.put(&format!("busy/{}", i % 50), &format!("h:{}", 1 + i % 70)).await,
            _ => world.delete(&format!("busy/{}", i % 40)).await,
        }
    }
    world.put("busy/last", "h:999").await;
    let contents: BTreeSet<String> = world.contents("busy/").await.into_values().collect();
    // Only now does anyone read.
    let mut known = BTreeSet::new();
    while known != contents {
        match timeout(PATIENCE, discover.next()).await.expect("a change in time").unwrap().unwrap() {
            Change::Insert(key, _) => assert!(known.insert(key.to_string())),
            Change::Remove(key) => assert!(known.remove(&key.to_string())),
        }
    }
    while addresses(&resolution.snapshot()) != contents {
        resolution.changed().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_users_of_a_service_share_one_watch_that_ends_with_the_last() {
    let world = World::start().await;
    let resolver = world.resolver().await;
    let mut users = Vec::new();
    for _ in 0..50 {
        users.push(resolver.resolve("shared").unwrap());
        users.push(resolver.clone().resolve("etcd:///shared").unwrap());
    }
    for user in &users {
        user.ready(PATIENCE).await.unwrap();
    }
    let stream = users[0].discover();
    until("one watch", async || (world.watches() == 1).then_some(())).await;
    drop(users);
    let mut stream = stream;
    world.put("shared/1", "h:1").await;
    assert_eq!(next(&mut stream).await, "+h:1 http://h:1/");
    assert_eq!(world.watches(), 1);
    drop(stream);
    until("no watch", async || (world.watches() == 0).then_some(())).await;
    // And it can begin anew.
    let again = resolver.resolve("shared").unwrap();
    servers_are(&again, &["h:1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_of_another_etcd_are_refused() {
    let world = World::start().await;
    let resolver = world.resolver().await;
    let address = world.etcd.address();
    resolver.resolve(format!("etcd://{address}/greeter")).unwrap();
    let error = resolver.resolve("etcd://elsewhere:2379/greeter").unwrap_err();
    assert!(error.is_invalid_argument() && error.to_string().contains("elsewhere:2379"), "{error}");
    let error = resolver.resolve("http://elsewhere/greeter").unwrap_err();
    assert!(error.is_invalid_argument(), "{error}");

    let own = Resolver::new(world.admin.clone());
    assert!(own.resolve(format!("etcd://{address}/greeter")).unwrap_err().is_invalid_argument());
    world.put("greeter/1", "h:1").await;
    servers_are(&own.resolve("greeter").unwrap(), &["h:1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resolving_begins_while_etcd_is_away() {
    let etcd = Etcd::start();
    etcd.kill();
    let resolution = Resolver::connect_lazy([etcd.endpoint()]).unwrap().resolve("greeter").unwrap();
    let error = resolution.ready(Duration::from_millis(300)).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    let source = std::error::Error::source(&error).expect("what went wrong").to_string();
    assert!(source.contains(&etcd.endpoint()), "{source}");
    assert_eq!(resolution.state(), ResolutionState::Unresolved);
    etcd.start_again();
    resolution.ready(PATIENCE).await.unwrap();
    assert_eq!(resolution.state(), ResolutionState::ConfirmedEmpty);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_makes_each_endpoint_or_leaves_a_server_out() {
    let world = World::start().await;
    for port in 1..=3 {
        world.put(&format!("s/{port}"), &format!("h:{port}")).await;
    }
    world.put("s/4", "https://h:4").await;
    let resolver = Resolver::builder([world.etcd.endpoint()])
        .configure_endpoint(|address, endpoint| match address.port() {
            2 => Err("not this one"),
            _ => Ok(endpoint.user_agent("mine").unwrap()),
        })
        .connect_lazy()
        .unwrap();
    let resolution = resolver.resolve("s").unwrap();
    resolution.ready(PATIENCE).await.unwrap();
    let mut discover = resolution.discover();
    assert_eq!(next(&mut discover).await, "+h:1 http://h:1/");
    assert_eq!(next(&mut discover).await, "+h:3 http://h:3/");
    // What was never inserted is never removed.
    for key in ["s/2", "s/3"] {
        world.delete(key).await;
    }
    let secure = cfg!(any(feature = "tls-ring", feature = "tls-aws-lc"));
    if secure {
        assert_eq!(next(&mut discover).await, "+h:4 https://h:4/");
    }
    assert_eq!(next(&mut discover).await, "-h:3");
    // From plain text to TLS and back is another endpoint.
    world.put("s/1", "https://h:1").await;
    assert_eq!(next(&mut discover).await, if secure { "+h:1 https://h:1/" } else { "-h:1" });
    world.put("s/1", "h:1").await;
    assert_eq!(next(&mut discover).await, "+h:1 http://h:1/");
}
