//! Proofs of faults: each of these fails.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic_etcd::{Instance, Resolution, Resolver, State};

use crate::server::message::{canceled, created, events, put};
use crate::server::{Fake, Reply};
use crate::support::{PATIENCE, registered, registrar, resolve, servers, servers_are, set, until};

async fn services(fake: &Fake, names: &[&str]) -> (Resolver, Vec<Resolution>) {
    let resolver = Resolver::connect([fake.endpoint()]).await.unwrap();
    let mut all = Vec::new();
    for name in names {
        let resolution = resolver.resolve(*name).await.unwrap();
        resolution.ready(PATIENCE).await.unwrap();
        all.push(resolution);
    }
    (resolver, all)
}

/// An endpoint behind which etcd's grpc-proxy answers where etcd itself did before, and a resolver that has another watch at
/// that moment, which is tried again: the ids of the proxy are taken for its own.
#[tokio::test]
async fn p01_a_member_that_becomes_a_grpc_proxy_is_watched_rightly() {
    let fake = Fake::start().await;
    let (resolver, all) = services(&fake, &["a", "b", "c"]).await;
    until("the watches", || fake.rpcs(|rpcs| rpcs.watch.seen.len() >= 3)).await;
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|_, watched| if watched.key == b"mute/" { Reply::Never } else { Reply::Honest });
    });
    let mute = resolver.resolve("mute").await.unwrap();
    until("a late watch", || mute.last_error().is_some()).await;
    fake.as_grpc_proxy();
    fake.cut();
    // Lists after the break come within 10 s.
    sleep(Duration::from_secs(15)).await;
    for name in ["a", "b", "c"] {
        fake.store(|store| store.put(format!("{name}/1"), "h:1"));
    }
    sleep(Duration::from_secs(20)).await;
    let blind: Vec<_> = all.iter().filter(|resolution| resolution.snapshot().is_empty()).collect();
    assert!(blind.is_empty(), "{blind:?}; {:?}", blind[0].last_error());
}

/// grpc-proxy answers two creations late, in their order: the first answer is taken for that of the second.
#[tokio::test]
async fn p02_a_late_answer_of_a_grpc_proxy_is_not_taken_for_anothers() {
    let fake = Fake::start().await;
    fake.as_grpc_proxy();
    let (resolver, _first) = services(&fake, &["a"]).await;
    until("a watch", || fake.rpcs(|rpcs| !rpcs.watch.seen.is_empty())).await;
    sleep(Duration::from_millis(300)).await;
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|store, watched| match (&watched.key[..], watched.stream) {
            // Not answered for six seconds: its id is 1.
            (b"b/", 1) => Reply::Never,
            // Then both are, in order: that of `b`, then its own.
            (b"c/", 1) => {
                let late = |id| etcd_client::proto::PbWatchResponse { watch_id: id, ..created(store.revision()) };
                Reply::Say(vec![late(1), late(2)])
            }
            _ => Reply::Honest,
        });
    });
    let b = resolver.resolve("b").await.unwrap();
    let c = resolver.resolve("c").await.unwrap();
    let creations = |key: &'static [u8]| fake.rpcs(|rpcs| rpcs.watch.requests().filter(|w| w.key == key).count());
    until("the watch of c", || creations(b"c/") >= 1).await;
    until("b again", || creations(b"b/") >= 2).await;
    sleep(Duration::from_secs(1)).await;
    println!(
        "{:?}",
        fake.rpcs(|rpcs| (
            rpcs.cancels.clone(),
            rpcs.watch.requests().map(|w| (String::from_utf8_lossy(&w.key).into_owned(), w.stream)).collect::<Vec<_>>()
        ))
    );
    assert_eq!((b.state(), c.state()), (State::ConfirmedEmpty, State::ConfirmedEmpty));
    // The right watch of `c` has id 2 on stream 1; it was canceled, and the one of `b` is kept for it.
    let cancels = fake.rpcs(|rpcs| rpcs.cancels.clone());
    assert!(!cancels.contains(&(1, 2)), "the watch of c was canceled, while {c:?} is said to be watched: {cancels:?}");
}

/// etcd ends each watch of an own key as soon as it was created.
#[tokio::test]
async fn p05_watches_of_own_keys_that_end_at_once_are_not_opened_without_end() {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|store, _| Reply::Say(vec![created(store.revision()), canceled(store.revision())]));
    });
    let registrar = registrar(&fake);
    let _registration = registered(&registrar, "h:1").await;
    sleep(Duration::from_secs(5)).await;
    let (watches, reads) = fake.rpcs(|rpcs| (rpcs.watch.seen.len(), rpcs.range.seen.len()));
    println!("{watches} creations and {reads} reads in 5 s");
    assert!(watches < 60, "{watches} creations and {reads} reads in 5 s");
}

/// The same for a resolver, where each watch says something before it ends.
#[tokio::test]
async fn p06_watches_that_say_something_and_end_are_not_opened_without_end() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|store, watched| {
            let at = store.revision();
            let told =
                etcd_client::proto::PbWatchResponse { watch_id: watched.id, ..events(at, vec![put(at, "s/1", "h:1")]) };
            Reply::Say(vec![created(at), told, canceled(at)])
        });
    });
    let _resolution = resolve(&fake).await;
    sleep(Duration::from_secs(5)).await;
    let (watches, lists) = fake.rpcs(|rpcs| (rpcs.watch.seen.len(), rpcs.lists()));
    println!("{watches} creations and {lists} lists in 5 s");
    assert!(watches < 60, "{watches} creations and {lists} lists in 5 s");
}

/// Watches are not answered, lists are: what is listed is not read again for five to ten minutes.
#[tokio::test]
async fn p07_a_service_that_cannot_be_watched_is_listed() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| rpcs.watch.rule(|_, _| Reply::Never));
    let resolution = resolve(&fake).await;
    servers_are(&resolution, &["h:1"]).await;
    fake.store(|store| {
        store.delete(b"s/1");
        store.put("s/2", "h:2")
    });
    let end = Instant::now() + Duration::from_secs(40);
    while Instant::now() < end && servers(&resolution.snapshot()) != set(&["h:2"]) {
        sleep(Duration::from_millis(100)).await;
    }
    let lists = fake.rpcs(|rpcs| rpcs.lists());
    assert_eq!(servers(&resolution.snapshot()), set(&["h:2"]), "{lists} lists, {:?}", resolution.state());
}

async fn registers_where_streams_are_few(streams: u32) {
    let fake = Fake::start_with(Some(streams)).await;
    let registrar = registrar(&fake);
    let first = registrar.register("s", Instance::new("h:1").unwrap()).await.unwrap();
    let ready = first.ready(Duration::from_secs(15)).await;
    assert!(ready.is_ok(), "the first with {streams} streams: {ready:?}, {:?}", first.state());
    let lease = first.lease_id();
    until("renewals", || fake.rpcs(|rpcs| rpcs.renew.seen.len() >= 2)).await;
    let second = registrar.register("s", Instance::new("h:2").unwrap()).await.unwrap();
    let ready = second.ready(Duration::from_secs(15)).await;
    assert!(ready.is_ok(), "the second with {streams} streams: {ready:?}, {:?}", second.state());
    assert_eq!(first.lease_id(), lease);
    second.deregister().await.unwrap();
    first.deregister().await.unwrap();
}

#[tokio::test]
async fn p08_a_registrar_works_with_one_stream() {
    registers_where_streams_are_few(1).await;
}

#[tokio::test]
async fn p09_a_registrar_works_with_two_streams() {
    registers_where_streams_are_few(2).await;
}

/// With one stream the watch takes it, and nothing is ever read again: seen as a second service that is never resolved.
#[tokio::test]
async fn p10_a_resolver_works_with_one_stream() {
    let fake = Fake::start_with(Some(1)).await;
    let (resolver, _all) = services(&fake, &["a"]).await;
    until("a watch", || fake.rpcs(|rpcs| !rpcs.watch.seen.is_empty())).await;
    let b = resolver.resolve("b").await.unwrap();
    let ready = b.ready(Duration::from_secs(20)).await;
    assert!(ready.is_ok(), "{ready:?}");
}

/// What is slow to be dropped with its runtime.
struct Slow;

impl Drop for Slow {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(1_000));
    }
}

/// The first runtime ends while it connects: the one that takes over waits for the attempt that has gone with it.
#[test]
fn p11_a_runtime_that_ends_while_it_connects_holds_up_no_other() {
    a_runtime_ends_while_it_connects(true);
}

/// The control: it goes well where nothing takes its time between the two tasks.
#[test]
fn p11_control() {
    a_runtime_ends_while_it_connects(false);
}

fn a_runtime_ends_while_it_connects(slowly: bool) {
    // It accepts, and says nothing until it is told to.
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let build = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) =
        (build(), tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
    let resolver = first.block_on(Resolver::connect([format!("http://{address}")])).unwrap();
    let kept = first.block_on(async {
        let kept = resolver.resolve("a").await.unwrap();
        tokio::spawn(async move {
            tokio::spawn(async move {
                let _slow = slowly.then_some(Slow);
                std::future::pending::<()>().await;
            });
        });
        sleep(Duration::from_millis(300)).await;
        kept
    });
    // Those of the second runtime wait for the search of the first.
    let b = second.block_on(async {
        let b = resolver.resolve("b").await.unwrap();
        sleep(Duration::from_millis(100)).await;
        b
    });
    drop(first);
    drop(kept);
    // From now on there is a server that closes what it accepts: each attempt fails at once, and is told of.
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(connection);
        }
    });
    second.block_on(async { sleep(Duration::from_secs(10)).await });
    let before = attempts.load(Ordering::Relaxed);
    second.block_on(async { sleep(Duration::from_secs(15)).await });
    let after = attempts.load(Ordering::Relaxed);
    println!("{before} {after} {:?}", b.last_error());
    assert!(after > before, "nobody connects any more: {before} attempts at first, then {after}; {:?}", b.last_error());
}
