//! Watches that etcd refuses for the token they carry.

use tonic_etcd::{EtcdOptions, Resolution, State};

use crate::server::message::refused;
use crate::server::{Fake, Reply};
use crate::support::{SLOW, gap, resolve_with, servers_are, starts};

async fn resolve_as_user(fake: &Fake) -> Resolution {
    resolve_with(EtcdOptions::from([fake.endpoint()]).user("reader", "readerpw")).await
}

fn tokens(fake: &Fake) -> Vec<Option<String>> {
    fake.rpcs(|rpcs| rpcs.watch.requests().map(|watched| watched.token.clone()).collect())
}

fn numbered(numbers: &[usize]) -> Vec<Option<String>> {
    numbers.iter().map(|number| Some(format!("token-{number}"))).collect()
}

/// A watch that a new token does not mend: one is fetched, and then it is for people to mend.
async fn refused_for_good(reason: &'static str, denied: bool) {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| rpcs.watch.first(2, |store, _| Reply::Say(vec![refused(store.revision(), reason)])));
    let resolution = resolve_as_user(&fake).await;
    starts(&fake, 2).await;
    servers_are(&resolution, &["h:1"]).await;

    starts(&fake, 3).await;
    assert_eq!(tokens(&fake), numbered(&[1, 2, 2]));
    fake.rpcs(|rpcs| {
        assert_eq!(rpcs.authenticate.seen.len(), 2, "one to connect, one because of the refusal");
        assert!(gap(&rpcs.watch.seen, 0, 1) < SLOW, "a new token is tried at once");
        assert!(gap(&rpcs.watch.seen, 1, 2) > SLOW, "and what it does not mend is tried slowly");
    });
    let error = resolution.last_error().expect("what went wrong");
    assert!(error.to_string().contains(reason), "{error}");
    assert_eq!(error.is_permission_denied(), denied);

    fake.store(|store| store.put("s/2", "h:2"));
    servers_are(&resolution, &["h:1", "h:2"]).await;
    assert_eq!(resolution.state(), State::Current);
    // It was served since: another refusal is worth another token.
    fake.say(refused(3, reason));
    starts(&fake, 4).await;
    fake.store(|store| store.put("s/3", "h:3"));
    servers_are(&resolution, &["h:1", "h:2", "h:3"]).await;
    assert_eq!(tokens(&fake), numbered(&[1, 2, 2, 3]));
    assert_eq!(fake.rpcs(|rpcs| rpcs.authenticate.seen.len()), 3);
}

#[tokio::test]
async fn a_refusal_is_worth_one_new_token() {
    tokio::join!(
        refused_for_good("etcdserver: permission denied", true),
        refused_for_good("etcdserver: invalid auth token", false),
        refused_for_good("rpc error: code = PermissionDenied desc = etcdserver: permission denied", true),
    );
}

#[tokio::test]
async fn a_watch_that_a_new_token_mends_goes_on_at_once() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    // The first token has ended, and etcd says so as 3.5 does.
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|store, watched| match watched.token.as_deref() {
            Some("token-1") => Reply::Say(vec![refused(store.revision(), "etcdserver: permission denied")]),
            _ => Reply::Honest,
        });
    });
    let resolution = resolve_as_user(&fake).await;
    starts(&fake, 2).await;
    fake.store(|store| store.put("s/2", "h:2"));
    servers_are(&resolution, &["h:1", "h:2"]).await;
    assert_eq!(tokens(&fake), numbered(&[1, 2]));
    fake.rpcs(|rpcs| {
        assert_eq!(rpcs.authenticate.seen.len(), 2);
        assert!(gap(&rpcs.watch.seen, 0, 1) < SLOW);
    });
}
