//! Streams on which nothing comes. What is waited for here is the crate's own patience: 5 s of silence, and 3 s more.

use std::sync::{Arc, Mutex};

use tonic_etcd::ResolutionState;

use crate::server::message::created;
use crate::server::{Fake, Reply};
use crate::support::{register, registrar, resolve, servers_are, starts, until, watching};

/// At once, because each waits so long.
#[tokio::test]
async fn a_silent_watch_is_opened_again_and_a_quiet_one_is_not() {
    tokio::join!(
        a_watch_that_gives_no_sign_of_life_is_opened_again(),
        a_watch_that_is_never_created_is_opened_again(),
        a_quiet_watch_that_answers_is_left_alone(),
        a_service_that_cannot_be_watched_is_listed(),
        a_quiet_stream_is_asked_for_no_history(),
    );
}

async fn a_watch_that_gives_no_sign_of_life_is_opened_again() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| {
        rpcs.watch.first(1, |store, _| Reply::Say(vec![created(store.revision())]));
        rpcs.probe.rule(|_, _| Reply::Never);
    });
    let resolution = watching(&fake).await;
    let (states, looking) = (Arc::new(Mutex::new(Vec::new())), resolution.clone());
    let seen = states.clone();
    fake.rpcs(|rpcs| {
        let mut asked = 0;
        rpcs.watch.rule(move |_, _| {
            asked += 1;
            if asked == 1 {
                return Reply::Never; // the second watch, for the sake of its answer
            }
            seen.lock().unwrap().push(looking.state());
            Reply::Honest
        });
    });
    fake.store(|store| store.put("s/2", "h:2"));

    assert_eq!(starts(&fake, 3).await, [2, 0, 2], "it goes on where it was, after a second watch was asked for");
    assert_eq!(fake.rpcs(|rpcs| rpcs.probe.seen.len()), 1, "it was asked first");
    assert!(matches!(states.lock().unwrap()[..], [ResolutionState::Stale { .. }]));
    servers_are(&resolution, &["h:1", "h:2"]).await;
    assert_eq!(resolution.state(), ResolutionState::Current);
}

/// A second watch that began where the quiet one stands would let etcd read all that came since, each time.
async fn a_quiet_stream_is_asked_for_no_history() {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| rpcs.probe.rule(|_, _| Reply::Never));
    let registrar = registrar(&fake);
    let _registration = register(&registrar, "h:1").await;
    assert_eq!(starts(&fake, 2).await, [0, 0], "the key, and the second watch for the sake of its answer");
}

async fn a_quiet_watch_that_answers_is_left_alone() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    let resolution = watching(&fake).await;
    until("a second request for progress", || fake.rpcs(|rpcs| rpcs.probe.seen.len() >= 2)).await;
    assert_eq!(fake.rpcs(|rpcs| (rpcs.lists(), rpcs.starts())), (1, vec![2]));
    assert_eq!(resolution.state(), ResolutionState::Current);
    fake.store(|store| store.put("s/2", "h:2"));
    servers_are(&resolution, &["h:1", "h:2"]).await;
}

/// Lists are answered, and no watch is: what is known of dead servers is what a list last said, some seconds ago.
async fn a_service_that_cannot_be_watched_is_listed() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| rpcs.watch.rule(|_, _| Reply::Never));
    let resolution = resolve(&fake);
    servers_are(&resolution, &["h:1"]).await;
    fake.store(|store| {
        store.delete(b"s/1");
        store.put("s/2", "h:2")
    });
    servers_are(&resolution, &["h:2"]).await;
}

async fn a_watch_that_is_never_created_is_opened_again() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| rpcs.watch.first(1, |_, _| Reply::Never));
    let resolution = resolve(&fake);
    assert_eq!(starts(&fake, 2).await, [2, 2]);
    fake.store(|store| store.put("s/2", "h:2"));
    servers_are(&resolution, &["h:1", "h:2"]).await;
}
