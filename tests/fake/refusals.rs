//! Writes that etcd refuses: what is registered already is not harmed.

use std::error::Error;
use std::time::Duration;

use tonic::Status;
use tonic_etcd::{EtcdOptions, Instance, Registrar};

use crate::server::{Fake, Reply};
use crate::support::{PATIENCE, SLOW, TTL, gap, register, registered, registrar, until};

#[tokio::test]
async fn a_full_database_costs_nobody_a_lease() {
    let fake = Fake::start().await;
    let registrar = registrar(&fake);
    let first = registered(&registrar, "h:1").await;
    let lease = first.lease_id().expect("a lease");
    fake.rpcs(|rpcs| {
        let full = || Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        rpcs.put.rule(move |_, _| Reply::Fail(full()));
        rpcs.grant.rule(move |_, _| Reply::Fail(full()));
    });
    let second = register(&registrar, "h:2").await;
    until("a second try", || fake.rpcs(|rpcs| rpcs.put.seen.len() >= 3)).await;
    let error = second.ready(Duration::from_millis(1)).await.unwrap_err();
    let source = error.source().expect("what went wrong").to_string();
    assert!(source.contains("database space exceeded"), "{source}");
    assert!(!second.is_registered() && first.is_registered());
    fake.rpcs(|rpcs| {
        let (tried, again) = (&rpcs.put.seen[1], &rpcs.put.seen[2]);
        assert!(gap(&rpcs.put.seen, 1, 2) > SLOW, "only people can mend it");
        let renewals = rpcs.renew.seen.iter().filter(|renewal| tried.at < renewal.at && renewal.at < again.at);
        assert!(renewals.count() >= 2, "and the lease is renewed meanwhile");
        assert_eq!(rpcs.put.requests().filter(|put| put.key == b"s/h:1").count(), 1);
        assert_eq!((rpcs.grants(), rpcs.revoke.seen.len()), (vec![lease], 0));
    });
    assert_eq!(fake.store(|store| store.get(b"s/h:1")).expect("the first").lease, lease);
    // Someone makes room.
    fake.rpcs(|rpcs| {
        rpcs.put.honest();
        rpcs.grant.honest();
    });
    second.ready(PATIENCE).await.unwrap();
    assert!(first.is_registered());
    assert_eq!((first.lease_id(), fake.store(|store| store.leases())), (Some(lease), vec![lease]));
    assert_eq!(fake.rpcs(|rpcs| rpcs.grants()), [lease]);
}

#[tokio::test]
async fn one_of_several_leaves_although_its_role_may_not_read() {
    let fake = Fake::start().await;
    let writer = EtcdOptions::from([fake.endpoint()]).user("writer", "writerpw");
    let registrar = Registrar::builder(writer).ttl(TTL).connect_lazy().unwrap();
    let stays = registered(&registrar, "h:1").await;
    let leaves = registered(&registrar, "h:2").await;
    fake.rpcs(|rpcs| rpcs.txn.rule(|_, _| Reply::Fail(Status::permission_denied("etcdserver: permission denied"))));
    leaves.deregister().await.unwrap();
    assert!(fake.store(|store| store.get(b"s/h:2")).is_none());
    fake.rpcs(|rpcs| {
        assert_eq!(rpcs.authenticate.seen.len(), 1, "a token that is fresh is not to blame");
        assert_eq!(rpcs.txn.seen.len(), 1);
        let deleted: Vec<_> = rpcs.delete.requests().map(|delete| (&delete.key[..], &delete.range_end[..])).collect();
        assert_eq!(deleted, [(&b"s/h:2"[..], &b""[..])]);
        assert!(rpcs.txn.seen[0].at <= rpcs.delete.seen[0].at, "the guarded way first");
        assert_eq!(rpcs.revoke.seen.len(), 0);
    });
    assert!(stays.is_registered());
    assert_eq!(fake.store(|store| store.get(b"s/h:1")).expect("the other").lease, stays.lease_id().unwrap());
    // The last goes with its lease, and needs no transaction.
    stays.deregister().await.unwrap();
    assert!(fake.store(|store| store.get(b"s/h:1")).is_none());
    assert_eq!(fake.rpcs(|rpcs| (rpcs.txn.seen.len(), rpcs.revoke.seen.len())), (1, 1));
}

#[tokio::test]
async fn one_of_several_that_may_read_leaves_what_another_has_put() {
    let fake = Fake::start().await;
    let registrar = registrar(&fake);
    let stays = registered(&registrar, "h:1").await;
    let taken = registered(&registrar, "h:2").await;
    fake.store(|store| store.put("s/h:2", "another's"));
    taken.deregister().await.unwrap();
    assert_eq!(fake.store(|store| store.get(b"s/h:2")).expect("another's key").value, b"another's");
    assert_eq!(fake.rpcs(|rpcs| (rpcs.txn.seen.len(), rpcs.delete.seen.len())), (1, 0));
    assert!(stays.is_registered());
}

#[tokio::test]
async fn a_refused_put_holds_up_no_other() {
    let fake = Fake::start().await;
    fake.rpcs(|rpcs| {
        rpcs.put.rule(|_, put| {
            if put.key.starts_with(b"forbidden/") {
                return Reply::Fail(Status::permission_denied("etcdserver: permission denied"));
            }
            Reply::Honest
        });
    });
    let registrar = registrar(&fake);
    let forbidden = registrar.register("forbidden", Instance::new("h:1").unwrap()).unwrap();
    until("a try", || fake.rpcs(|rpcs| !rpcs.put.seen.is_empty())).await;
    let allowed = registered(&registrar, "h:1").await;
    assert!(allowed.is_registered() && !forbidden.is_registered());
    assert_eq!(fake.rpcs(|rpcs| rpcs.grants()).len(), 1);
}
