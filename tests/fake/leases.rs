//! Leases that are granted unnoticed, end, or are not renewed.

use tonic::Status;
use tonic_etcd::{Registration, RegistrationState};

use crate::server::{Fake, Reply};
use crate::support::{TTL, gap, register, registered, registrar, until};

const KEY: &[u8] = b"s/h:1";

/// The lease under which the registration stands, which is the only one.
fn lease(fake: &Fake, registration: &Registration) -> i64 {
    let lease = registration.lease_id().expect("a lease");
    assert!(lease > 0);
    fake.store(|store| {
        assert_eq!(store.leases(), [lease]);
        assert_eq!(store.get(KEY).expect("the key").lease, lease);
    });
    lease
}

/// Waits until it stands under another lease than that one.
async fn registered_anew(fake: &Fake, registration: &Registration, ended: i64) {
    until("another lease", || {
        registration.is_registered() && registration.lease_id().is_some_and(|lease| lease != ended)
    })
    .await;
    let anew = lease(fake, registration);
    assert_eq!(fake.rpcs(|rpcs| rpcs.grants()), [ended, anew]);
}

#[tokio::test]
async fn a_grant_whose_answer_is_lost_is_not_made_twice() {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| {
        // More often than one request is tried.
        rpcs.grant.first(3, |store, request| {
            store.grant(request.id, request.ttl);
            Reply::Fail(Status::unavailable("the answer is lost"))
        });
    });
    let registration = registered(&registrar(&fake), "h:1").await;
    let lease = lease(&fake, &registration);
    until("a renewal", || fake.rpcs(|rpcs| !rpcs.renew.seen.is_empty())).await;
    fake.rpcs(|rpcs| {
        assert_eq!(rpcs.grants(), [lease; 4]);
        let renewed = rpcs.renew.seen.first().expect("a renewal");
        assert_eq!(renewed.request.lease, lease);
        let waited = renewed.at - rpcs.grant.seen[3].at;
        assert!(waited < TTL / 5, "how long it lives is not known, so it is renewed at once: {waited:?}");
    });
    registration.deregister().await.unwrap();
    assert!(fake.store(|store| store.leases()).is_empty());
}

#[tokio::test]
async fn a_lease_that_ends_between_two_renewals_is_granted_again() {
    let fake = Fake::start().await;
    let registration = registered(&registrar(&fake), "h:1").await;
    let ended = lease(&fake, &registration);
    // One to open the stream, and one on it.
    until("renewals", || fake.rpcs(|rpcs| rpcs.renew.seen.len() >= 2)).await;
    assert!(fake.store(|store| store.end_lease(ended)));
    registered_anew(&fake, &registration, ended).await;
    fake.rpcs(|rpcs| {
        let renewed = rpcs.renew.requests().filter(|renewal| renewal.lease == ended);
        assert_eq!(renewed.map(|renewal| renewal.stream).max(), Some(1), "the open stream told it");
    });
}

#[tokio::test]
async fn a_lease_that_ends_before_its_first_renewal_is_granted_again() {
    let fake = Fake::start().await;
    let registration = registered(&registrar(&fake), "h:1").await;
    let ended = lease(&fake, &registration);
    assert!(fake.store(|store| store.end_lease(ended)));
    registered_anew(&fake, &registration, ended).await;
}

#[tokio::test]
async fn a_lease_that_ends_before_its_first_key_is_granted_again() {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| {
        rpcs.put.first(1, |store, request| {
            assert!(store.end_lease(request.lease));
            Reply::Honest // which is: NotFound, "etcdserver: requested lease not found"
        });
    });
    let registration = registered(&registrar(&fake), "h:1").await;
    let ended = fake.rpcs(|rpcs| rpcs.grants()[0]);
    registered_anew(&fake, &registration, ended).await;
}

/// Renewals on the first stream stay unanswered from that one on.
async fn unanswered_from(unanswered: usize) {
    let fake = Fake::start().await;
    let mut renewals = 0;
    fake.rpcs(|rpcs| {
        rpcs.renew.rule(move |_, renewal| {
            renewals += 1;
            if renewal.stream == 1 && renewals >= unanswered { Reply::Never } else { Reply::Honest }
        });
    });
    let registration = registered(&registrar(&fake), "h:1").await;
    let held = lease(&fake, &registration);
    until("another stream that is used", || {
        fake.rpcs(|rpcs| rpcs.renew.requests().filter(|renewal| renewal.stream > 1).count() > 2)
    })
    .await;
    fake.rpcs(|rpcs| {
        assert!(rpcs.renew.requests().all(|renewal| renewal.lease == held));
        assert!(
            gap(&rpcs.renew.seen, unanswered - 1, unanswered) < TTL / 2,
            "no more than a third of its life is waited"
        );
        if unanswered > 1 {
            assert!(gap(&rpcs.renew.seen, unanswered - 2, unanswered) < TTL, "renewed while it lives");
        }
        assert_eq!(rpcs.grants(), [held]);
        assert_eq!(rpcs.put.seen.len(), 1);
    });
    assert!(registration.is_registered());
    assert_eq!(lease(&fake, &registration), held);
}

#[tokio::test]
async fn a_renewal_that_is_never_answered_costs_no_lease() {
    tokio::join!(unanswered_from(4), unanswered_from(1));
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_put_again() {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| {
        rpcs.put.first(1, |store, request| {
            store.put_under(request.key.clone(), request.value.clone(), request.lease);
            Reply::Fail(Status::unavailable("the answer is lost"))
        });
    });
    let registration = register(&registrar(&fake), "h:1").await;
    until("a second put", || fake.rpcs(|rpcs| rpcs.put.seen.len() >= 2)).await;
    until("registered", || registration.is_registered()).await;
    let held = lease(&fake, &registration);
    assert_eq!(fake.rpcs(|rpcs| rpcs.grants()), [held]);
}

#[tokio::test]
async fn what_was_done_to_a_key_is_told_while_it_is_put_again() {
    for (by_hand, said) in [(None, "was deleted"), (Some("another's"), "was overwritten")] {
        let fake = Fake::start().await;
        let registration = registered(&registrar(&fake), "h:1").await;
        until("a watch of the key", || fake.rpcs(|rpcs| rpcs.watch.requests().any(|watched| watched.key == KEY))).await;
        fake.rpcs(|rpcs| rpcs.put.rule(|_, _| Reply::Never));
        fake.store(|store| {
            if let Some(value) = by_hand {
                store.put(KEY, value);
            } else {
                store.delete(KEY);
            }
        });
        until("the loss", || matches!(registration.state(), RegistrationState::Lost { .. })).await;
        let state = registration.state();
        let told = state.why().map(ToString::to_string).unwrap_or_default();
        assert!(told.contains(said) && told.contains("s/h:1"), "{told}");
        fake.rpcs(|rpcs| rpcs.put.honest());
        until("registered again", || registration.is_registered()).await;
    }
}
