//! Ids of watches that are not the client's to choose, as behind etcd's grpc-proxy.

use etcd_client::proto::PbWatchResponse;
use tonic_etcd::{Resolution, ResolutionState, Resolver};

use crate::server::message::created;
use crate::server::{Fake, Reply};
use crate::support::{PATIENCE, servers_are, until};

async fn services(fake: &Fake, names: &[&str]) -> (Resolver, Vec<Resolution>) {
    let resolver = Resolver::connect_lazy([fake.endpoint()]).unwrap();
    let mut all = Vec::new();
    for name in names {
        let resolution = resolver.resolve(*name).unwrap();
        resolution.ready(PATIENCE).await.unwrap();
        all.push(resolution);
    }
    (resolver, all)
}

/// How often a watch of this key was asked for.
fn creations(fake: &Fake, key: &str) -> usize {
    fake.rpcs(|rpcs| rpcs.watch.requests().filter(|watched| watched.key == key.as_bytes()).count())
}

/// An endpoint behind which grpc-proxy answers where etcd itself did before, and a resolver that knew it as etcd: the ids of the
/// proxy are not taken for its own.
#[tokio::test]
async fn a_member_that_becomes_a_grpc_proxy_is_watched_rightly() {
    let fake = Fake::start().await;
    let (resolver, all) = services(&fake, &["a", "b", "c"]).await;
    until("the watches", || fake.rpcs(|rpcs| rpcs.watch.seen.len() >= 3)).await;
    // One that is tried again and again, so that what is known of the member is not forgotten.
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|_, watched| if watched.key == b"mute/" { Reply::Never } else { Reply::Honest });
    });
    let mute = resolver.resolve("mute").unwrap();
    until("a late watch", || mute.last_error().is_some()).await;
    fake.as_grpc_proxy();
    fake.cut();
    for round in 1..=2 {
        for name in ["a", "b", "c"] {
            fake.store(|store| store.put(format!("{name}/1"), format!("h:{round}")));
        }
        for resolution in &all {
            servers_are(resolution, &[&format!("h:{round}")]).await;
        }
    }
}

/// grpc-proxy answers a creation late, after another was asked for: its answer is not taken for that of the other.
#[tokio::test]
async fn a_late_answer_of_a_grpc_proxy_is_not_taken_for_anothers() {
    let fake = Fake::start().await;
    fake.as_grpc_proxy();
    let (resolver, _first) = services(&fake, &["a"]).await;
    until("a watch", || creations(&fake, "a/") == 1).await;
    until("which is answered", || fake.open_watch_streams() == 1).await;
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|store, watched| match (&watched.key[..], watched.stream) {
            // Not answered for six seconds: its id is 1.
            (b"b/", 1) => Reply::Never,
            // Then both are, in order: that of `b`, then its own.
            (b"c/", 1) => {
                let late = |id| PbWatchResponse { watch_id: id, ..created(store.revision()) };
                Reply::Say(vec![late(1), late(2)])
            }
            _ => Reply::Honest,
        });
    });
    let b = resolver.resolve("b").unwrap();
    let c = resolver.resolve("c").unwrap();
    until("b again", || creations(&fake, "b/") >= 2).await;
    for (name, resolution) in [("b", &b), ("c", &c)] {
        fake.store(|store| store.put(format!("{name}/1"), "h:1"));
        servers_are(resolution, &["h:1"]).await;
        assert_eq!(resolution.state(), ResolutionState::Current);
    }
    assert!(!fake.rpcs(|rpcs| rpcs.cancels.contains(&(1, 2))), "the watch of c was canceled for that of b");
}
