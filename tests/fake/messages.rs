//! Messages of a watch that are not as they should be, or say more than they should.

use etcd_client::proto::{PbEvent, PbRangeResponse, PbWatchResponse};

use crate::server::message::{created, events, progress, put};
use crate::server::{Fake, Reply};
use crate::support::{resolve, servers_are, starts, until, watching};

#[tokio::test]
async fn an_event_of_an_unknown_type_or_without_a_key_spoils_no_other() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    let resolution = watching(&fake).await;
    servers_are(&resolution, &["h:1"]).await;

    let unknown = PbEvent { r#type: 7, ..put(3, "s/7", "h:7") };
    let keyless = [0, 1, 7].map(|r#type| PbEvent { r#type, kv: None, prev_kv: None });
    let mut message = vec![unknown];
    message.extend(keyless);
    message.push(put(3, "s/2", "h:2"));
    fake.say(events(3, message));
    // What has a key and a value stands there, whatever the event is called.
    servers_are(&resolution, &["h:1", "h:2", "h:7"]).await;
    fake.say(events(4, vec![PbEvent { r#type: -1, kv: None, prev_kv: None }]));
    fake.say(events(5, vec![put(5, "s/3", "h:3")]));
    servers_are(&resolution, &["h:1", "h:2", "h:3", "h:7"]).await;
    assert_eq!(fake.rpcs(|rpcs| (rpcs.lists(), rpcs.starts())), (1, vec![2]), "the watch went on");
}

#[tokio::test]
async fn answers_without_a_header_are_answers() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| {
        rpcs.watch.first(1, |store, _| Reply::Say(vec![headless(created(store.revision()))]));
    });
    let resolution = watching(&fake).await;
    // A member that does not say its revision may be one that lags: it is asked.
    until("a verification", || fake.rpcs(|rpcs| rpcs.verifications() == 1)).await;
    fake.say(headless(events(0, vec![put(3, "s/2", "h:2")])));
    fake.say(headless(progress(0, 0)));
    fake.say(headless(progress(-1, 0)));
    fake.say(headless(events(0, vec![put(4, "s/3", "h:3")])));
    servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;
    assert_eq!(fake.rpcs(|rpcs| (rpcs.lists(), rpcs.starts())), (1, vec![2]), "the watch went on");
}

#[tokio::test]
async fn a_list_without_a_header_ends_right() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| {
        rpcs.range.first(1, |store, request| match store.range(request) {
            Ok(response) => Reply::Say(PbRangeResponse { header: None, ..response }),
            Err(status) => Reply::Fail(status),
        });
    });
    let resolution = resolve(&fake);
    servers_are(&resolution, &["h:1"]).await;
    fake.store(|store| store.delete(b"s/1"));
    servers_are(&resolution, &[]).await;
    fake.store(|store| store.put("s/2", "h:2"));
    servers_are(&resolution, &["h:2"]).await;
}

fn headless(message: PbWatchResponse) -> PbWatchResponse {
    PbWatchResponse { header: None, ..message }
}

/// How far a watch is, as its next one shows after a break.
async fn resumes_at(fake: &Fake, watches: usize) -> i64 {
    fake.cut();
    starts(fake, watches).await[watches - 1]
}

#[tokio::test]
async fn a_header_ahead_of_its_events_skips_nothing() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| rpcs.watch.first(1, |store, _| Reply::Say(vec![created(store.revision())])));
    let resolution = watching(&fake).await;

    let (second, third) = fake.store(|store| (store.put("s/2", "h:2"), store.put("s/3", "h:3")));
    // Far behind, a member sends what it has come to under the revision of today.
    fake.say(events(third, vec![put(second, "s/2", "h:2")]));
    servers_are(&resolution, &["h:1", "h:2"]).await;
    assert_eq!(resumes_at(&fake, 2).await, second);
    servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;
}

#[tokio::test]
async fn the_answer_to_a_request_for_progress_skips_nothing() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| rpcs.watch.first(1, |store, _| Reply::Say(vec![created(store.revision())])));
    let resolution = watching(&fake).await;

    let second = fake.store(|store| store.put("s/2", "h:2"));
    // Some releases of etcd answer with a revision whose events are still to be sent.
    fake.say(progress(-1, second));
    assert_eq!(resumes_at(&fake, 2).await, second - 1);
    servers_are(&resolution, &["h:1", "h:2"]).await;

    // What a watch says by itself holds: everything before it was sent.
    fake.say(progress(0, second + 7));
    assert_eq!(resumes_at(&fake, 3).await, second + 7);
}
