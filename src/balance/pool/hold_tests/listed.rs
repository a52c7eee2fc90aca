//! What etcd lists decides, whatever is doubtful of the same server.

use super::*;

/// A server comes back under another key, and drains: etcd says so, whatever is doubtful of its first key.
#[tokio::test]
async fn a_server_that_drains_under_another_key_is_not_held() {
    let servers = Servers::new();
    let (mut feed, channel) = Feed::start(BalancedChannel::builder());
    let address = servers.start(10);
    feed.insert(0, address);
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    feed.doubt([0], Doubt::Sudden);
    until("it to be held", || count(&channel, ServerState::Held) == 1).await;
    feed.insert(1, address);
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    feed.send(vec![InstanceChange::Insert(1, Instance::new(address).unwrap().with_draining(true))]);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(greet(&channel, "").await.map_err(|status| status.code()), Err(tonic::Code::Unavailable));
    assert!(channel.servers().is_empty(), "{:?}", channel.servers());
}

/// A server is held over the connection that it had. One that it has made since is another witness: it was
/// registered again under another key, and that key is deleted.
#[tokio::test]
async fn a_server_is_not_held_over_a_connection_that_was_made_after_the_doubt() {
    let servers = Servers::new();
    let (mut feed, channel) = Feed::start(BalancedChannel::builder());
    let proxy = Proxy::to(servers.start(10));
    feed.insert(0, proxy.address());
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    feed.doubt([0], Doubt::Sudden);
    until("it to be held", || count(&channel, ServerState::Held) == 1).await;
    proxy.cut();
    until("it to go", || channel.servers().is_empty()).await;
    feed.insert(1, proxy.address());
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    feed.send(vec![InstanceChange::Remove(1)]);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(greet(&channel, "").await.map_err(|status| status.code()), Err(tonic::Code::Unavailable));
    assert!(channel.servers().is_empty(), "{:?}", channel.servers());
}

/// Two servers that fail their calls, and are ejected: one that etcd lists, and one that has left, as it seems.
#[tokio::test]
async fn a_listed_server_that_is_ejected_gets_the_calls_before_one_that_has_left() {
    let servers = Servers::new();
    let detection = crate::balance::OutlierDetection::default()
        .max_ejection_percent(100)
        .min_servers(1)
        .consecutive_failures(Some(2))
        .failure_percentage(None, 1)
        .success_rate(None, 1)
        .interval(Duration::from_millis(200));
    let (mut feed, channel) = Feed::start(BalancedChannel::builder().outlier_detection(detection));
    let well = Servers::new();
    servers.patient.fails.store(true, Ordering::SeqCst);
    for key in 0..2 {
        feed.insert(key, servers.start(10));
    }
    for key in 2..6 {
        feed.insert(key, well.start(10));
    }
    until("all to be ready", || count(&channel, ServerState::Ready) == 6).await;
    let end = Instant::now() + Duration::from_secs(10);
    while count(&channel, ServerState::Ejected) < 2 {
        assert!(Instant::now() < end, "both are ejected: {:?}", channel.servers());
        drop(greet(&channel, "").await);
    }
    servers.patient.fails.store(false, Ordering::SeqCst);
    feed.doubt([1], Doubt::Gradual);
    feed.send((2..6).map(InstanceChange::Remove).collect());
    until("two to be left", || channel.servers().len() == 2).await;
    let address = feed.addresses[&1].clone();
    let attempts = || {
        let servers = channel.servers();
        let left = servers.iter().find(|server| server.address().to_string() == address);
        left.map_or(0, crate::ServerStatus::attempts)
    };
    let before = attempts();
    for _ in 0..20 {
        assert_eq!(count(&channel, ServerState::Ejected), 2);
        greet(&channel, "").await.unwrap();
    }
    assert_eq!(attempts(), before, "the one that etcd lists is connected, too");
}
