//! Watches that etcd refuses for the token they carry.

use std::time::Duration;

use tonic_etcd::{Error, EtcdOptions, Resolution, ResolutionState};

use crate::server::message::refused;
use crate::server::{Fake, Reply};
use crate::support::{SLOW, gap, resolve_with, servers_are, starts, until};

/// A token that is younger is not to blame for what is denied.
const FRESH: Duration = Duration::from_secs(2);

async fn resolve_as_user(fake: &Fake) -> Resolution {
    resolve_with(EtcdOptions::from([fake.endpoint()]).user("reader", "readerpw")).await
}

fn tokens(fake: &Fake) -> Vec<Option<String>> {
    fake.rpcs(|rpcs| rpcs.watch.requests().map(|watched| watched.token.clone()).collect())
}

fn numbered(numbers: &[usize]) -> Vec<Option<String>> {
    numbers.iter().map(|number| Some(format!("token-{number}"))).collect()
}

/// The first two creations are refused. Then people mend it, and nothing is said of it any more; gives what was said before.
async fn refused_twice(reason: &'static str) -> (Fake, Error) {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    fake.rpcs(|rpcs| rpcs.watch.first(2, |store, _| Reply::Say(vec![refused(store.revision(), reason)])));
    let resolution = resolve_as_user(&fake).await;
    starts(&fake, 2).await;
    servers_are(&resolution, &["h:1"]).await;
    until("what went wrong", || resolution.last_error().is_some()).await;
    let error = resolution.last_error().expect("it is tried again after seconds");
    assert!(error.to_string().contains(reason), "{error}");
    starts(&fake, 3).await;
    fake.store(|store| store.put("s/2", "h:2"));
    servers_are(&resolution, &["h:1", "h:2"]).await;
    assert_eq!(resolution.state(), ResolutionState::Current);
    assert!(resolution.last_error().is_none(), "{:?}", resolution.last_error());
    (fake, error)
}

#[tokio::test]
async fn a_token_that_is_refused_is_worth_one_new_token() {
    let (fake, error) = refused_twice("etcdserver: invalid auth token").await;
    assert_eq!(tokens(&fake), numbered(&[1, 2, 3]));
    assert!(!error.is_permission_denied());
    fake.rpcs(|rpcs| {
        assert!(gap(&rpcs.watch.seen, 0, 1) < SLOW, "a new token is tried at once");
        assert!(gap(&rpcs.watch.seen, 1, 2) > SLOW, "and what it does not mend is tried slowly");
    });
}

/// F11: what a role may not do costs etcd no password check while the token is fresh.
#[tokio::test]
async fn what_is_denied_with_a_fresh_token_is_tried_slowly_with_the_same() {
    for reason in
        ["etcdserver: permission denied", "rpc error: code = PermissionDenied desc = etcdserver: permission denied"]
    {
        let (fake, error) = refused_twice(reason).await;
        assert_eq!(tokens(&fake)[..2], numbered(&[1, 1]));
        assert!(error.is_permission_denied());
        fake.rpcs(|rpcs| assert!(gap(&rpcs.watch.seen, 0, 1) > SLOW, "only people can mend it"));
    }
}

/// Of a token that has ended etcd 3.5 says that permission is denied.
#[tokio::test]
async fn what_is_denied_with_an_old_token_goes_on_at_once_with_a_new_one() {
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    let resolution = resolve_as_user(&fake).await;
    starts(&fake, 1).await;
    until("an old token", || fake.rpcs(|rpcs| rpcs.authenticate.seen[0].at.elapsed() > FRESH)).await;
    fake.rpcs(|rpcs| {
        rpcs.watch.rule(|store, watched| match watched.token.as_deref() {
            Some("token-1") => Reply::Say(vec![refused(store.revision(), "etcdserver: permission denied")]),
            _ => Reply::Honest,
        });
    });
    fake.cut();
    starts(&fake, 3).await;
    fake.store(|store| store.put("s/2", "h:2"));
    servers_are(&resolution, &["h:1", "h:2"]).await;
    assert_eq!(tokens(&fake), numbered(&[1, 1, 2]));
    fake.rpcs(|rpcs| {
        assert_eq!(rpcs.authenticate.seen.len(), 2);
        assert!(gap(&rpcs.watch.seen, 1, 2) < SLOW);
    });
}
