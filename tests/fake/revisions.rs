//! Revisions that are gone, not yet there, or lower than they were.

use etcd_client::proto::PbWatchResponse;
use tonic::Status;

use crate::server::message::{compacted, created};
use crate::server::{Fake, Reply, Store};
use crate::support::{resolve, resolved, servers_are, starts, until, watching};

/// Others change everything and compact it away.
fn overtake(store: &mut Store) {
    store.delete(b"s/1");
    store.put("s/2", "h:2");
    store.compact();
}

/// One server, that moved a lot.
fn ten_revisions(store: &mut Store) {
    for port in 1..=9 {
        store.put("s/1", format!("h:{port}"));
    }
}

#[tokio::test]
async fn a_start_compacted_between_list_and_watch_is_listed_again() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    // The watch is created, then canceled without a reason, and its stream stays open and silent.
    fake.rpcs(|rpcs| {
        rpcs.watch.first(1, |store, _| {
            overtake(store);
            Reply::Honest
        });
    });
    let resolution = resolve(&fake);
    servers_are(&resolution, &["h:2"]).await;
    assert_eq!(starts(&fake, 2).await, [2, 4]);
    assert_eq!(fake.rpcs(|rpcs| rpcs.lists()), 2);
    fake.store(|store| store.put("s/3", "h:3"));
    servers_are(&resolution, &["h:2", "h:3"]).await;
}

#[tokio::test]
async fn compaction_is_believed_however_little_is_said_of_it() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    let mut rounds = 0;
    fake.rpcs(|rpcs| {
        rpcs.watch.first(2, move |store, _| {
            rounds += 1;
            store.put("s/2", format!("h:{}", 20 + rounds));
            store.compact();
            let message = compacted(store.revision(), store.compacted());
            // Never created; once not even canceled.
            Reply::Say(vec![if rounds == 1 { message } else { uncanceled(message) }])
        });
    });
    let resolution = resolve(&fake);
    servers_are(&resolution, &["h:1", "h:22"]).await;
    assert_eq!(starts(&fake, 3).await, [2, 3, 4]);
    assert_eq!(fake.rpcs(|rpcs| rpcs.lists()), 3);
}

fn uncanceled(message: PbWatchResponse) -> PbWatchResponse {
    PbWatchResponse { canceled: false, ..message }
}

#[tokio::test]
async fn a_compaction_while_the_watch_was_away_removes_what_is_gone() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    let resolution = watching(&fake).await;
    fake.rpcs(|rpcs| {
        rpcs.watch.first(1, |store, _| {
            overtake(store);
            Reply::Honest
        });
    });
    fake.cut();
    servers_are(&resolution, &["h:2"]).await;
    assert_eq!(starts(&fake, 3).await, [2, 2, 4]);
    assert_eq!(fake.rpcs(|rpcs| rpcs.lists()), 2);
}

#[tokio::test]
async fn a_member_that_lags_keeps_its_watch() {
    let fake = Fake::start().await;
    fake.store(ten_revisions);
    fake.rpcs(|rpcs| rpcs.watch.first(1, |_, _| Reply::Say(vec![created(3)])));
    let resolution = watching(&fake).await;
    until("a verification", || fake.rpcs(|rpcs| rpcs.verifications() == 1)).await;
    fake.rpcs(|rpcs| {
        let asked = rpcs.range.requests().find(|request| request.count_only).unwrap();
        assert!(!asked.serializable, "only a linearizable read knows the cluster's revision");
        assert_eq!(asked.revision, 0);
    });
    // The member has caught up.
    fake.speak();
    fake.store(|store| store.put("s/2", "h:20"));
    servers_are(&resolution, &["h:20", "h:9"]).await;
    assert_eq!(fake.rpcs(|rpcs| (rpcs.lists(), rpcs.starts())), (1, vec![10]), "neither list nor watch anew");
}

/// Under the same address, an etcd with a backup of long ago.
fn restore(store: &mut Store) {
    *store = Store::default();
    store.put("s/2", "h:20");
}

#[tokio::test]
async fn an_etcd_restored_between_list_and_watch_is_believed() {
    let fake = Fake::start().await;
    fake.store(ten_revisions);
    fake.rpcs(|rpcs| {
        rpcs.watch.first(1, |store, _| {
            restore(store);
            Reply::Honest
        });
    });
    let resolution = resolve(&fake);
    servers_are(&resolution, &["h:20"]).await;
    assert_eq!(starts(&fake, 2).await, [10, 2]);
    assert_eq!(fake.rpcs(|rpcs| (rpcs.lists(), rpcs.verifications())), (2, 1));
    fake.store(|store| store.put("s/3", "h:30"));
    servers_are(&resolution, &["h:20", "h:30"]).await;
}

#[tokio::test]
async fn an_etcd_restored_while_the_watch_was_away_is_believed() {
    let fake = Fake::start().await;
    fake.store(ten_revisions);
    let resolution = watching(&fake).await;
    servers_are(&resolution, &["h:9"]).await;
    fake.store(restore);
    fake.cut();
    servers_are(&resolution, &["h:20"]).await;
    assert_eq!(starts(&fake, 3).await, [10, 10, 2]);
    fake.store(|store| store.put("s/3", "h:30"));
    servers_are(&resolution, &["h:20", "h:30"]).await;
    resolved(&resolution, "the revision", |snapshot| snapshot.revision() == 3).await;
}

#[tokio::test]
async fn a_verification_that_fails_is_made_good() {
    let fake = Fake::start().await;
    fake.store(ten_revisions);
    fake.rpcs(|rpcs| {
        rpcs.watch.first(1, |_, _| Reply::Say(vec![created(3)]));
        rpcs.range.rule(|_, request| {
            if request.count_only { Reply::Fail(Status::unavailable("etcdserver: no leader")) } else { Reply::Honest }
        });
    });
    let resolution = watching(&fake).await;
    // The next watch is on a member that does not lag: nothing is to verify.
    starts(&fake, 2).await;
    fake.store(|store| store.put("s/2", "h:20"));
    servers_are(&resolution, &["h:20", "h:9"]).await;
    assert_eq!(fake.rpcs(|rpcs| rpcs.starts()), [10, 10]);
}
