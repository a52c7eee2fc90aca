//! That the fake does as etcd does, where clients lean on it.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, WatchOptions, WatchResponse, WatchStream};
use tokio::time::timeout;

use crate::server::Fake;
use crate::support::PATIENCE;

async fn client(fake: &Fake) -> Client {
    Client::connect([fake.endpoint()], None).await.unwrap()
}

fn from(id: i64, start: i64) -> WatchOptions {
    WatchOptions::new().with_watch_id(id).with_start_revision(start)
}

async fn said(stream: &mut WatchStream) -> WatchResponse {
    timeout(PATIENCE, stream.message()).await.expect("in time").unwrap().expect("a message")
}

fn revision(response: &WatchResponse) -> i64 {
    response.header().unwrap().revision()
}

#[tokio::test]
async fn a_transaction_is_done_at_one_revision_or_not_at_all() {
    let fake = Fake::start().await;
    let mut client = client(&fake).await;
    let mut stream = client.watch("a", Some(from(0, 2))).await.unwrap();
    said(&mut stream).await;
    let absent = |key: &str| Compare::mod_revision(key, CompareOp::Equal, 0);
    let puts = || [TxnOp::put("a", "1", None), TxnOp::put("b", "2", None)];
    let done = client.txn(Txn::new().when([absent("a"), absent("b")]).and_then(puts())).await.unwrap();
    assert!(done.succeeded());
    assert_eq!((done.header().unwrap().revision(), done.op_responses().len()), (2, 2));
    assert_eq!(revision(&said(&mut stream).await), 2);
    assert_eq!(fake.store(|store| store.get(b"b")).unwrap().mod_revision, 2);

    let otherwise = [TxnOp::get("a", None), TxnOp::delete("b", None)];
    let not = client.txn(Txn::new().when([absent("a")]).and_then(puts()).or_else(otherwise)).await.unwrap();
    assert!(!not.succeeded());
    assert_eq!((not.header().unwrap().revision(), not.op_responses().len()), (3, 2));

    let leased = TxnOp::put("c", "3", Some(PutOptions::new().with_lease(7)));
    client.txn(Txn::new().and_then([TxnOp::put("a", "9", None), leased])).await.unwrap_err();
    assert_eq!(fake.store(|store| store.revision()), 3);
    timeout(Duration::from_millis(50), stream.message()).await.unwrap_err();
}
