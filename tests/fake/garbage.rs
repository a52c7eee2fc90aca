//! Answers that make no sense: nothing panics, and what is true is found again.

use std::iter::once;

use etcd_client::proto::PbWatchResponse;
use tonic_etcd::{EtcdOptions, Resolution};
use tracing_subscriber::util::SubscriberInitExt;

use crate::server::message::{compacted, created, events, header, progress, put};
use crate::server::{Fake, Reply};
use crate::support::{resolve, resolve_with, servers_are, starts, until, watching};

/// Revisions as no etcd has them.
const WEIRD: [i64; 5] = [0, -1, i64::MIN, i64::MAX, i64::MAX - 1];

/// Everything that can be logged is, to nowhere.
fn logging() -> impl Drop {
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(std::io::sink).finish().set_default()
}

#[tokio::test]
async fn keys_that_are_no_text_are_keys() {
    let _logging = logging();
    let fake = Fake::start().await;
    let long = [&b"s/"[..], &vec![b'x'; 1 << 20]].concat();
    fake.store(|store| {
        store.put(b"s/\xff\xfe", "h:1");
        store.put(b"s/\xc3\x28", "no address");
        store.put(b"s/\0", b"\xff\xff");
        store.put(b"s/", "h:2");
        store.put(long.clone(), "h:3");
    });
    let resolution = watching(&fake).await;
    servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;
    assert_eq!(resolution.snapshot().unreadable(), 2);
    fake.store(|store| {
        store.put(b"s/\xff\xff", "h:4");
        store.put(b"s/\xff\xfe", b"\xc3\x28");
        store.delete(&long);
    });
    servers_are(&resolution, &["h:2", "h:4"]).await;
    assert_eq!(resolution.snapshot().unreadable(), 3);
    let error = resolution.snapshot().get(b"s/\xff\xfe").unwrap().error().cloned();
    assert!(error.expect("why it cannot be read").to_string().contains("UTF-8"));
}

#[tokio::test]
async fn keys_that_nobody_asked_for_are_nobodys() {
    let _logging = logging();
    let fake = Fake::start().await;
    let strange = [&b""[..], b"s", b"s0", b"r/1", b"\xff\xff", b"S/1"];
    fake.store(|store| {
        store.put("s/1", "h:1");
        for key in strange {
            store.put(key, "h:9");
        }
    });
    fake.rpcs(|rpcs| {
        rpcs.range.rule(|store, request| {
            let mut everything = request.clone();
            (everything.key, everything.range_end) = (Vec::new(), vec![0xff; 9]);
            store.range(&everything).map_or_else(Reply::Fail, Reply::Say)
        });
    });
    let resolution = watching(&fake).await;
    servers_are(&resolution, &["h:1"]).await;
    let message = strange.iter().map(|key| put(20, *key, "h:9")).chain(once(put(20, "s/2", "h:2")));
    fake.say(events(20, message.collect()));
    servers_are(&resolution, &["h:1", "h:2"]).await;
    assert_eq!(resolution.snapshot().entries().count(), 2);
}

#[tokio::test]
async fn values_beyond_every_usual_limit_are_read() {
    let _logging = logging();
    let fake = Fake::start().await;
    let note = "x".repeat(9 << 20);
    let value = |port: u16| format!(r#"{{"Addr":"h:{port}","Metadata":{{"metadata":{{"note":"{note}"}}}}}}"#);
    fake.store(|store| {
        store.put("s/1", value(1));
        store.put("s/2", note.clone());
    });
    let resolution = watching(&fake).await;
    servers_are(&resolution, &["h:1"]).await;
    fake.store(|store| store.put("s/3", value(3)));
    servers_are(&resolution, &["h:1", "h:3"]).await;
    assert_eq!(resolution.snapshot().unreadable(), 1);
    assert_eq!(fake.rpcs(|rpcs| (rpcs.lists(), rpcs.starts().len())), (1, 1));
}

/// Whatever came before: the truth is found, also after a break, and what happens then is heard.
async fn comes_right(fake: &Fake, resolution: &Resolution) {
    fake.cut();
    fake.store(|store| store.put("s/2", "h:2"));
    servers_are(resolution, &["h:1", "h:2"]).await;
    fake.store(|store| store.delete(b"s/2"));
    servers_are(resolution, &["h:1"]).await;
}

/// A fake with one server.
async fn one() -> Fake {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake
}

#[tokio::test]
async fn a_list_of_a_weird_revision_is_made_good() {
    let _logging = logging();
    for weird in WEIRD {
        let fake = one().await;
        fake.rpcs(|rpcs| {
            rpcs.range.first(1, move |store, request| {
                let mut response = store.range(request).unwrap();
                response.header = header(weird);
                Reply::Say(response)
            });
        });
        let resolution = resolve(&fake).await;
        servers_are(&resolution, &["h:1"]).await;
        starts(&fake, 1).await;
        comes_right(&fake, &resolution).await;
    }
}

#[tokio::test]
async fn a_watch_of_a_weird_revision_is_made_good() {
    let _logging = logging();
    for weird in WEIRD {
        let fake = one().await;
        fake.rpcs(|rpcs| {
            rpcs.watch.first(1, move |_, _| Reply::Say(vec![created(weird)]));
            rpcs.range.rule(move |store, request| {
                let mut response = store.range(request).unwrap();
                if request.count_only {
                    response.header = header(weird);
                }
                Reply::Say(response)
            });
        });
        let resolution = watching(&fake).await;
        comes_right(&fake, &resolution).await;
    }
}

/// Says it on the first watch, which then breaks.
async fn said(message: impl Fn(i64) -> PbWatchResponse) {
    let _logging = logging();
    for weird in WEIRD {
        let fake = one().await;
        let resolution = watching(&fake).await;
        fake.say(message(weird));
        comes_right(&fake, &resolution).await;
    }
}

#[tokio::test]
async fn weird_messages_of_a_watch_are_made_good() {
    said(|weird| events(3, vec![put(weird, "s/3", "h:3")])).await;
    said(|weird| events(weird, vec![put(weird, "s/3", "h:3"), put(3, "s/2", "h:2"), put(weird, "s/1", "h:9")])).await;
    said(|weird| progress(0, weird)).await;
    said(|weird| progress(-1, weird)).await;
    said(|weird| progress(weird, weird)).await;
    said(|weird| compacted(weird, weird)).await;
    said(created).await;
}

#[tokio::test]
async fn a_token_that_cannot_be_one_is_said_and_asked_for_again() {
    let _logging = logging();
    let fake = one().await;
    fake.rpcs(|rpcs| rpcs.authenticate.rule(|_, _| Reply::Say("no\ntoken".into())));
    let resolution = resolve_with(EtcdOptions::from([fake.endpoint()]).user("reader", "readerpw")).await;
    until("what went wrong", || {
        resolution.last_error().is_some_and(|error| error.to_string().contains("is not a valid header value"))
    })
    .await;
    fake.rpcs(|rpcs| rpcs.authenticate.honest());
    servers_are(&resolution, &["h:1"]).await;
}
