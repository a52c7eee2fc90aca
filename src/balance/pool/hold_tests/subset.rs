//! Servers in doubt, and a subset.

use super::*;

/// etcd has lost the two servers of a subset one by one, as it seems; it lists two others. "After a gradual loss a server gets calls
/// only while no server that etcd lists is ready": those two have to be connected for that.
#[tokio::test]
async fn servers_that_have_left_gradually_do_not_keep_listed_ones_out_of_a_subset() {
    let servers = Servers::new();
    let (mut feed, channel) = Feed::start(BalancedChannel::builder().subset(2).client_id("client"));
    let addresses: Vec<_> = (0..4).map(|_| servers.start(10)).collect();
    for (key, address) in addresses.iter().enumerate() {
        feed.insert(key, *address);
    }
    until("all to be listed", || channel.servers().len() == 4).await;
    until("two to be ready", || count(&channel, ServerState::Ready) == 2).await;
    let ready: Vec<_> =
        channel.servers().iter().filter(|s| s.state() == ServerState::Ready).map(|s| s.address().to_string()).collect();
    let keys = (0..4).filter(|key| ready.contains(&addresses[*key].to_string()));
    feed.doubt(keys, Doubt::Gradual);
    until("two to be held", || count(&channel, ServerState::Held) == 2).await;
    sleep(Duration::from_secs(2)).await;
    assert!(count(&channel, ServerState::Ready) > 0, "no listed server is connected: {:?}", channel.servers());
}
