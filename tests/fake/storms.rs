//! Watches that end as soon as they are created: they are not opened without end.

use std::time::Duration;

use etcd_client::proto::PbWatchResponse;
use tokio::time::sleep;

use crate::server::message::{canceled, created, events, put};
use crate::server::{Fake, Reply};
use crate::support::{registered, registrar, resolve};

/// How long is looked on, and what may be asked for in that time: each wait is up to 0.8 s after the first ones.
const LONG: Duration = Duration::from_secs(5);
const MOST: usize = 60;

#[tokio::test]
async fn watches_that_end_at_once_are_opened_ever_more_slowly() {
    tokio::join!(of_own_keys(), of_a_service());
}

async fn of_own_keys() {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|store, _| Reply::Say(vec![created(store.revision()), canceled(store.revision())]));
    });
    let registrar = registrar(&fake);
    let _registration = registered(&registrar, "h:1").await;
    sleep(LONG).await;
    let (watches, reads) = fake.rpcs(|rpcs| (rpcs.watch.seen.len(), rpcs.range.seen.len()));
    assert!(watches < MOST && reads < MOST, "{watches} creations and {reads} reads");
}

/// Each watch says something before it ends.
async fn of_a_service() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|store, watched| {
            let at = store.revision();
            let told = PbWatchResponse { watch_id: watched.id, ..events(at, vec![put(at, "s/1", "h:1")]) };
            Reply::Say(vec![created(at), told, canceled(at)])
        });
    });
    let _resolution = resolve(&fake);
    sleep(LONG).await;
    let (watches, lists) = fake.rpcs(|rpcs| (rpcs.watch.seen.len(), rpcs.lists()));
    assert!(watches < MOST && lists < MOST, "{watches} creations and {lists} lists");
}
