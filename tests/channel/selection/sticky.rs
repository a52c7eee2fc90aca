//! Consistent hash: the calls of one key go to one server.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonic_etcd::policy::{ConsistentHash, HashKey};
use tonic_etcd::{BalancedChannel, ServerState};

use super::{call_with, calls, greeters, put};
use crate::peer::{Peer, Script};
use crate::support::{builder, changing, ready, repeating, states, until};

async fn owners(channel: &BalancedChannel) -> BTreeMap<u32, String> {
    let mut owners = BTreeMap::new();
    for key in 0..60 {
        owners.insert(key, call_with(channel, HashKey::of(key.to_string())).await.unwrap());
    }
    owners
}

#[tokio::test]
async fn a_key_keeps_its_server_while_others_come_and_go() {
    let peers = greeters(5).await;
    let (channel, set) = changing(builder().policy(ConsistentHash::by_extension()));
    for (number, peer) in peers[..4].iter().enumerate() {
        put(&set, peer, |instance| instance.with_id(format!("server-{number}")));
    }
    ready(&channel, 4).await;
    let before = owners(&channel).await;
    assert_eq!(owners(&channel).await, before);
    assert!(calls(&peers[..4]).iter().all(|count| *count > 0));
    // One goes, and comes back under its id at another address.
    set.remove(&peers[3].address);
    until("it to go", || states(&channel).len() == 3).await;
    let gone = peers[3].address.to_string();
    for (key, owner) in owners(&channel).await {
        assert!(before[&key] == owner || before[&key] == gone, "{key}: {} {owner}", before[&key]);
    }
    put(&set, &peers[4], |instance| instance.with_id("server-3"));
    ready(&channel, 4).await;
    let back = peers[4].address.to_string();
    for (key, owner) in owners(&channel).await {
        assert_eq!(owner, if before[&key] == gone { back.clone() } else { before[&key].clone() }, "{key}");
    }
}

/// The ring has the servers that are not connected too: what they lose comes back to them.
#[tokio::test]
async fn keys_of_a_server_that_is_not_connected_go_on_along_the_ring_and_come_back() {
    let scripts = Arc::new(std::sync::Mutex::new(Script::Greet));
    let shaky = Peer::start(Script::Now(scripts.clone())).await;
    let peers = greeters(3).await;
    let retries = repeating().policy(ConsistentHash::by_extension());
    let (channel, set) = changing(retries);
    put(&set, &shaky, |instance| instance);
    peers.iter().for_each(|peer| put(&set, peer, |instance| instance));
    ready(&channel, 4).await;
    let before = owners(&channel).await;
    let own = shaky.address.to_string();
    assert!(before.values().any(|owner| *owner == own));
    *scripts.lock().unwrap() = Script::Break;
    for (key, owner) in owners(&channel).await {
        assert!(owner != own && (before[&key] == own || before[&key] == owner), "{key}");
    }
    *scripts.lock().unwrap() = Script::Greet;
    until("it to be back", || states(&channel)[&own] == ServerState::Ready).await;
    assert_eq!(owners(&channel).await, before);
}
