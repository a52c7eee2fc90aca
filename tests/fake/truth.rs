//! That the fake does as etcd does, where clients lean on it.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, WatchOptions, WatchResponse, WatchStream,
};
use tokio::time::timeout;

use crate::server::message::{CLUSTER, learner, old_learner, progress, refused};
use crate::server::{Fake, Reply, Store};
use crate::support::{PATIENCE, until};

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

/// Opens a watch, and tells its id.
async fn create(stream: &mut WatchStream, key: &str, id: i64, start: i64) -> i64 {
    stream.watch(key, Some(from(id, start))).await.unwrap();
    let created = said(stream).await;
    assert!(created.created() && !created.canceled(), "{created:?}");
    created.watch_id()
}

#[tokio::test]
async fn a_stream_carries_many_watches_under_ids_of_their_own() {
    let fake = Fake::start().await;
    let mut client = client(&fake).await;
    let mut stream = client.watch("a", Some(from(1, 2))).await.unwrap();
    assert_eq!(said(&mut stream).await.watch_id(), 1);
    assert_eq!(create(&mut stream, "b", 0, 0).await, 0);
    assert_eq!(create(&mut stream, "c", 0, 0).await, 2, "1 is taken");
    stream.watch("d", Some(from(1, 0))).await.unwrap();
    let twice = said(&mut stream).await;
    assert!(twice.created() && twice.canceled());
    assert_eq!((twice.watch_id(), twice.compact_revision()), (-1, 0));
    assert_eq!(twice.cancel_reason(), "mvcc: duplicate watch ID provided on the WatchStream");

    fake.store(|store| store.put("c", "1"));
    assert_eq!(said(&mut stream).await.watch_id(), 2);
    stream.cancel(7).await.unwrap();
    stream.cancel(2).await.unwrap();
    let canceled = said(&mut stream).await;
    assert!(canceled.canceled() && !canceled.created() && canceled.cancel_reason().is_empty());
    assert_eq!((canceled.watch_id(), revision(&canceled)), (2, 2));
    fake.store(|store| (store.put("c", "2"), store.put("a", "1")));
    let news = said(&mut stream).await;
    assert_eq!((news.watch_id(), news.events().len()), (1, 1));
    assert_eq!(create(&mut stream, "e", 0, 0).await, 3, "etcd gives none twice");

    let mut other = client.watch("a", Some(from(1, 0))).await.unwrap();
    assert_eq!(said(&mut other).await.watch_id(), 1, "as on any stream");
    fake.rpcs(|rpcs| {
        let asked: Vec<_> = rpcs.watch.requests().map(|watched| (watched.stream, watched.id)).collect();
        assert_eq!(asked, [(1, 1), (1, 0), (1, 0), (1, 1), (1, 0), (2, 1)]);
        assert_eq!(rpcs.cancels, [(1, 7), (1, 2)]);
    });
    assert_eq!((fake.watch_streams(), fake.open_watch_streams()), (2, 2));
    drop(other);
    until("one stream less", || fake.open_watch_streams() == 1).await;
    fake.cut();
    assert_eq!((fake.watch_streams(), fake.open_watch_streams()), (2, 0));
    assert!(stream.message().await.is_err());
}

#[tokio::test]
async fn progress_is_told_once_every_watch_has_come_up() {
    let fake = Fake::start().await;
    let mut client = client(&fake).await;
    let mut stream = client.watch("a", Some(from(1, 0))).await.unwrap();
    said(&mut stream).await;
    stream.request_progress().await.unwrap();
    let progress = said(&mut stream).await;
    assert_eq!((progress.watch_id(), revision(&progress), progress.events().len()), (-1, 1, 0));

    create(&mut stream, "b", 2, 2).await;
    stream.request_progress().await.unwrap();
    until("the request", || fake.rpcs(|rpcs| rpcs.probe.seen.len() == 2)).await;
    fake.store(|store| (store.put("z", ""), store.put("a", "")));
    assert_eq!(said(&mut stream).await.watch_id(), 1, "nothing came of the request");
    stream.request_progress().await.unwrap();
    assert_eq!(revision(&said(&mut stream).await), 3);

    // What was compacted is in the way until the client takes it away.
    fake.store(Store::compact);
    create(&mut stream, "c", 3, 2).await;
    let compacted = said(&mut stream).await;
    assert_eq!((compacted.watch_id(), compacted.compact_revision(), compacted.canceled()), (3, 3, true));
    stream.request_progress().await.unwrap();
    stream.cancel(3).await.unwrap();
    assert!(said(&mut stream).await.canceled());
    for id in [1, 2] {
        stream.cancel(id).await.unwrap();
        said(&mut stream).await;
    }
    stream.request_progress().await.unwrap();
    assert_eq!(said(&mut stream).await.watch_id(), -1, "also of no watch at all");
}

#[tokio::test]
async fn what_a_script_says_bears_the_id_of_the_watch() {
    let fake = Fake::start().await;
    let mut client = client(&fake).await;
    let mut stream = client.watch("a", Some(from(4, 0))).await.unwrap();
    said(&mut stream).await;
    let reason = "etcdserver: permission denied";
    fake.rpcs(|rpcs| rpcs.watch.first(1, |_, _| Reply::Say(vec![refused(1, reason)])));
    stream.watch("b", Some(from(5, 0))).await.unwrap();
    assert_eq!((said(&mut stream).await.watch_id(), fake.open_watch_streams()), (-1, 1));
    assert_eq!(create(&mut stream, "b", 5, 0).await, 5, "what was refused takes no id");
    fake.say(progress(0, 1));
    assert_eq!(said(&mut stream).await.watch_id(), 5);
}

#[tokio::test]
async fn a_grpc_proxy_chooses_ids_itself_and_knows_no_progress() {
    let fake = Fake::start().await;
    fake.as_grpc_proxy();
    let mut client = client(&fake).await;
    let mut stream = client.watch("a", Some(from(5, 9))).await.unwrap();
    let created = said(&mut stream).await;
    assert_eq!((created.watch_id(), revision(&created), created.header().unwrap().cluster_id()), (0, 9, 0));
    stream.request_progress().await.unwrap();
    stream.watch("b", Some(from(5, 0))).await.unwrap();
    let created = said(&mut stream).await;
    assert_eq!((created.watch_id(), revision(&created), created.header().unwrap().cluster_id()), (1, 0, 0));
    fake.store(|store| store.put("b", "1"));
    let news = said(&mut stream).await;
    assert_eq!((news.watch_id(), revision(&news), news.header().unwrap().cluster_id()), (1, 2, CLUSTER));
    fake.rpcs(|rpcs| assert!(rpcs.probe.requests().eq([&1])));
}

#[tokio::test]
async fn a_learner_serves_nothing_but_what_it_holds() {
    let fake = Fake::start().await;
    let mut client = client(&fake).await;
    for (refusal, code) in [(learner as fn() -> _, "FailedPrecondition"), (old_learner, "Unavailable")] {
        fake.learner(Some(refusal));
        let refused = [
            client.get("a", None).await.unwrap_err(),
            client.put("a", "1", None).await.unwrap_err(),
            client.watch("a", None).await.unwrap_err(),
            client.lease_keep_alive(1).await.unwrap_err(),
        ];
        for error in refused {
            let etcd_client::Error::GRpcStatus(status) = error else { panic!("{error}") };
            assert_eq!(format!("{:?}", status.code()), code);
            assert_eq!(status.message(), "etcdserver: rpc not supported for learner");
        }
        client.get("a", Some(GetOptions::new().with_serializable())).await.unwrap();
    }
    fake.learner(None);
    client.put("a", "1", None).await.unwrap();
    assert_eq!(fake.rpcs(|rpcs| (rpcs.turned_away, rpcs.put.seen.len())), (8, 1));
    assert_eq!(fake.watch_streams(), 0);
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
