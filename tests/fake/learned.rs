//! F20: an etcd, or what stands before it, that knows nothing of members.

use std::time::Duration;

use test_support::Log;
use tonic_etcd::EtcdOptions;

use crate::server::Fake;
use crate::support::{PATIENCE, resolve_with, servers_are, until};

/// F20: the refusal is said once, whatever the number of tries, and costs nothing else.
#[tokio::test]
async fn a_refusal_to_list_members_is_said_once() {
    let (log, _guard) = Log::begin();
    let fake = Fake::start().await;
    fake.store(|store| store.put("s/1", "h:1"));
    let options = EtcdOptions::from([fake.endpoint()]).learn_members(Duration::from_secs(1));
    let resolution = resolve_with(options).await;
    resolution.ready(PATIENCE).await.unwrap();
    until("three tries", || log.count("not learned") >= 3).await;
    assert_eq!(log.warned("members not learned; using the given endpoints"), 1);
    fake.store(|store| store.put("s/2", "h:2"));
    servers_are(&resolution, &["h:1", "h:2"]).await;
}
