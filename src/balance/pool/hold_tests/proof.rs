//! A server that is held has to prove that it lives.

use super::*;

/// A connection that was idle answers, and takes calls.
#[tokio::test]
async fn an_idle_connection_is_held_if_it_answers_and_calls_fail_at_once_if_not() {
    let servers = Servers::new();
    let builder = BalancedChannel::builder().without_keep_alive().idle_timeout(Duration::from_secs(1));
    let (mut feed, channel) = Feed::start(builder);
    let proxies: Vec<Proxy> = (0..2).map(|_| Proxy::to(servers.start(10))).collect();
    for (key, proxy) in proxies.iter().enumerate() {
        feed.insert(key, proxy.address());
    }
    until("both to be ready", || count(&channel, ServerState::Ready) == 2).await;
    sleep(Duration::from_millis(1_500)).await;
    feed.doubt([0, 1], Doubt::Gradual);
    greet(&channel, "").await.unwrap();
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(count(&channel, ServerState::Held), 2);
    greet(&channel, "").await.unwrap();
    sleep(Duration::from_millis(1_500)).await;
    feed.insert_again(0);
    feed.insert_again(1);
    until("both to be ready", || count(&channel, ServerState::Ready) == 2).await;
    proxies.iter().for_each(Proxy::stall);
    feed.doubt([0, 1], Doubt::Gradual);
    let began = Instant::now();
    let status = greet(&channel, "").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(began.elapsed() < Duration::from_millis(1_300), "{:?} {status}", began.elapsed());
}

/// The runtime stands still as soon as a doubt has arisen, for longer than a PING may take. No PING was
/// sent before, so that no server can have answered.
#[tokio::test]
async fn a_runtime_that_stands_still_before_the_pings_are_sent_costs_no_server() {
    let servers = Servers::new();
    let (mut feed, channel) = Feed::start(BalancedChannel::builder());
    for key in 0..3 {
        feed.insert(key, servers.far(servers.start(10), Duration::from_millis(50)));
    }
    until("all to be ready", || count(&channel, ServerState::Ready) == 3).await;
    sleep(Duration::from_secs(1)).await; // the last frames of the handshakes have come
    let handed_over = feed.handed_over.clone();
    let busy = tokio::spawn(async move {
        handed_over.notified().await;
        std::thread::sleep(Duration::from_millis(1_300));
    });
    yield_now().await;
    feed.doubt(0..3, Doubt::Sudden);
    busy.await.unwrap();
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(count(&channel, ServerState::Held), 3, "all answer 50 ms after they were asked");
    greet(&channel, "").await.unwrap();
}

/// The runtime is slow for less than a second, and the network does the rest.
#[tokio::test]
async fn the_time_for_an_answer_begins_when_the_ping_is_sent() {
    let servers = Servers::new();
    let (mut feed, channel) = Feed::start(BalancedChannel::builder());
    for key in 0..3 {
        feed.insert(key, servers.far(servers.start(10), Duration::from_millis(300)));
    }
    until("all to be ready", || count(&channel, ServerState::Ready) == 3).await;
    sleep(Duration::from_secs(1)).await; // the last frames of the handshakes have come
    let handed_over = feed.handed_over.clone();
    let busy = tokio::spawn(async move {
        handed_over.notified().await;
        std::thread::sleep(Duration::from_millis(800));
    });
    yield_now().await;
    feed.doubt(0..3, Doubt::Sudden);
    busy.await.unwrap();
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(count(&channel, ServerState::Held), 3, "all answer 300 ms after they were asked");
}

/// A server with two connections: the oldest has not proven that it lives, the other one has. That one is
/// what is kept.
#[tokio::test]
async fn the_connection_that_has_answered_is_not_closed_as_unused() {
    let servers = Servers::new();
    let unused_after = Duration::from_secs(3);
    let builder = BalancedChannel::builder().connections_per_server(2).unused_after(unused_after).without_keep_alive();
    let (mut feed, channel) = Feed::start(builder);
    let proxy = Proxy::to(servers.start(1));
    let (switch, address) = servers.switch(proxy.address());
    feed.insert(0, address);
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { greet(&channel, "wait").await })
        })
        .collect();
    until("both calls to arrive", || servers.patient.calls.load(Ordering::SeqCst) == 2).await;
    servers.patient.told.add_permits(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    sleep(Duration::from_millis(300)).await;
    assert_eq!(channel.servers()[0].connections(), 2);
    switch.store(1, Ordering::SeqCst); // the first connection is frozen
    sleep(Duration::from_millis(50)).await;
    feed.doubt([0], Doubt::Sudden);
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(count(&channel, ServerState::Held), 1);
    greet(&channel, "").await.unwrap();
    sleep(unused_after + unused_after / 2).await;
    assert_eq!(count(&channel, ServerState::Held), 1, "the server has answered");
    greet(&channel, "").await.unwrap();
}

/// A server that is registered again within the time of its hold: what has not answered a PING for longer
/// than a second gets no call.
#[tokio::test]
async fn a_connection_that_has_not_answered_gets_no_call_once_its_server_is_listed_again() {
    let servers = Servers::new();
    let (mut feed, channel) = Feed::start(BalancedChannel::builder().connections_per_server(2));
    let (switch, address) = servers.switch(servers.start(1));
    feed.insert(0, address);
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { greet(&channel, "wait").await })
        })
        .collect();
    until("both calls to arrive", || servers.patient.calls.load(Ordering::SeqCst) == 2).await;
    servers.patient.told.add_permits(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    sleep(Duration::from_millis(300)).await;
    switch.store(1, Ordering::SeqCst); // the first connection is frozen
    sleep(Duration::from_millis(50)).await;
    feed.doubt([0], Doubt::Sudden);
    sleep(Duration::from_millis(1_500)).await;
    greet(&channel, "").await.unwrap();
    feed.insert_again(0);
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    for _ in 0..3 {
        let call = tokio::time::timeout(Duration::from_secs(2), greet(&channel, "")).await;
        call.expect("an answer over the connection that lives").unwrap();
    }
}

/// Servers that count PINGs close a connection at the fourth one after which they have not answered a call.
#[tokio::test]
async fn no_more_pings_are_sent_than_servers_permit() {
    let (log, _guard) = test_support::Log::begin();
    let servers = Servers::new();
    let keep_alive = crate::KeepAlive::new(Duration::from_secs(1), Duration::from_secs(1));
    let (mut feed, channel) = Feed::start(BalancedChannel::builder().keep_alive(keep_alive));
    feed.insert(0, servers.start(10));
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    let call = {
        let channel = channel.clone();
        tokio::spawn(async move { greet(&channel, "wait").await })
    };
    let pings = || log.count("send frame=Ping { ack: false");
    until("keep-alive to have sent what it may", || pings() == 2).await;
    // The answers too: one that comes later than the doubt is a proof.
    until("its PINGs to be answered", || log.count("received frame=Ping { ack: true") == 2).await;
    // The second time it may not be asked, and so it proves nothing.
    for is_held in [true, false] {
        feed.doubt([0], Doubt::Sudden);
        if is_held {
            sleep(Duration::from_millis(1_500)).await;
            assert_eq!(count(&channel, ServerState::Held), 1);
        } else {
            until("it to be gone", || channel.servers().is_empty()).await;
        }
        feed.insert_again(0);
        until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    }
    servers.patient.told.add_permits(1);
    call.await.unwrap().unwrap();
    assert!(pings() <= 3, "{}", log.text());
}

/// The log of a server that is held and falls silent.
#[tokio::test]
async fn nothing_is_said_of_a_connection_that_is_not_made() {
    let (log, _guard) = test_support::Log::begin();
    let servers = Servers::new();
    let keep_alive = crate::KeepAlive::new(Duration::from_secs(1), Duration::from_millis(500)).unthrottled();
    let (mut feed, channel) = Feed::start(BalancedChannel::builder().keep_alive(keep_alive));
    let proxy = Proxy::to(servers.start(10));
    feed.insert(0, proxy.address());
    until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
    feed.doubt([0], Doubt::Sudden);
    sleep(Duration::from_millis(1_200)).await;
    assert_eq!(count(&channel, ServerState::Held), 1);
    proxy.stall();
    let call = {
        let channel = channel.clone();
        tokio::spawn(async move { greet(&channel, "").await })
    };
    until("it to go", || channel.servers().is_empty()).await;
    call.await.unwrap().unwrap_err();
    assert_eq!(log.count("connecting again"), 0, "{}", log.text());
}
