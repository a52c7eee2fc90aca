//! Leases whose lengths make no sense, or that are called by another's name.

use etcd_client::proto::{PbLeaseGrantResponse, PbLeaseKeepAliveResponse};
use tonic_etcd::Registration;

use crate::server::message::header;
use crate::server::{Fake, Reply};
use crate::support::{PATIENCE, register, registered, registrar, until};

/// Registers while etcd says of every new lease that it lives so long.
async fn granted(length: i64) -> (Fake, Registration) {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| {
        rpcs.grant.rule(move |store, request| {
            store.grant(request.id, request.ttl);
            Reply::Say(PbLeaseGrantResponse {
                header: header(store.revision()),
                id: request.id,
                ttl: length,
                error: String::new(),
            })
        });
    });
    let registration = register(&registrar(&fake), "h:1").await;
    if let Err(error) = registration.ready(PATIENCE / 6).await {
        panic!("granted {length} s: {error:?}");
    }
    (fake, registration)
}

/// Registers while etcd says of every lease that is renewed that it goes on so long.
async fn renewed(length: i64) -> (Fake, Registration) {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| {
        rpcs.renew.rule(move |store, renewal| {
            let header = header(store.revision());
            Reply::Say(PbLeaseKeepAliveResponse { header, id: renewal.lease, ttl: length })
        });
    });
    let registration = registered(&registrar(&fake), "h:1").await;
    until("renewals", || fake.rpcs(|rpcs| rpcs.renew.seen.len() >= 2)).await;
    (fake, registration)
}

/// Leaves, which shows that the registrar lives.
async fn leaves(what: &str, length: i64, (fake, registration): (Fake, Registration)) {
    if let Err(error) = registration.deregister().await {
        panic!("{what} {length} s: {error:?}");
    }
    fake.store(|store| {
        assert!(store.get(b"s/h:1").is_none());
        assert!(store.leases().is_empty());
    });
}

#[tokio::test]
async fn a_lease_without_length_is_renewed_every_moment() {
    for length in [0, -1, i64::MIN] {
        let (fake, registration) = granted(length).await;
        until("a renewal", || fake.rpcs(|rpcs| rpcs.renew.seen.len() >= 2)).await;
        leaves("granted", length, (fake, registration)).await;
    }
}

#[tokio::test]
async fn a_long_lease_is_only_a_lease() {
    for length in [9_000_000_000, i64::MAX / 2] {
        leaves("granted", length, granted(length).await).await;
        leaves("renewed", length, renewed(length).await).await;
    }
}

#[tokio::test]
async fn a_lease_granted_for_longer_than_time_is_only_a_lease() {
    leaves("granted", i64::MAX, granted(i64::MAX).await).await;
}

#[tokio::test]
async fn a_lease_renewed_for_longer_than_time_is_only_a_lease() {
    leaves("renewed", i64::MAX, renewed(i64::MAX).await).await;
}

#[tokio::test]
async fn an_answer_under_the_name_of_another_lease_ends_none() {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| {
        rpcs.grant.first(1, |store, request| {
            store.grant(request.id, request.ttl);
            let (header, error) = (header(store.revision()), String::new());
            Reply::Say(PbLeaseGrantResponse { header, id: request.id ^ 1, ttl: request.ttl, error })
        });
    });
    let registration = registered(&registrar(&fake), "h:1").await;
    until("renewals", || fake.rpcs(|rpcs| rpcs.renew.seen.len() >= 2)).await;
    let lease = registration.lease_id().expect("a lease");
    assert_eq!(fake.store(|store| store.leases()), [lease]);
    leaves("granted", 3, (fake, registration)).await;
}
