//! Calls and connections while servers are held, listed again, and go.

use super::*;

/// Keys come and go while connections end: none is lost, and none stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_listed_is_connected_whatever_came_before() {
    keys_come_and_go(3).await;
}

#[tokio::test]
async fn a_server_that_is_listed_is_connected_on_one_thread_as_well() {
    keys_come_and_go(1).await;
}

async fn keys_come_and_go(connections: usize) {
    let servers = Servers::new();
    let (mut feed, channel) = Feed::start(BalancedChannel::builder().connections_per_server(connections));
    let proxies: Vec<Proxy> = (0..4).map(|_| Proxy::to(servers.start(1))).collect();
    for (key, proxy) in proxies.iter().enumerate() {
        feed.insert(key, proxy.address());
    }
    servers.patient.told.add_permits(100_000);
    until("all to be ready", || count(&channel, ServerState::Ready) == 4).await;
    for round in 0..40 {
        let calls: Vec<_> = (0..4 * connections)
            .map(|_| {
                let channel = channel.clone();
                tokio::spawn(async move { drop(greet(&channel, "wait").await) })
            })
            .collect();
        for _ in 0..30 {
            let key = fastrand::usize(..4);
            match fastrand::u8(..6) {
                0 => feed.doubt([key], Doubt::Sudden),
                1 => feed.doubt([key], Doubt::Gradual),
                2 => feed.send(vec![InstanceChange::Remove(key)]),
                3 => proxies[key].cut(),
                _ => feed.insert_again(key),
            }
            if fastrand::bool() {
                sleep(Duration::from_micros(fastrand::u64(..3_000))).await;
            }
        }
        (0..4).for_each(|key| feed.insert_again(key));
        until(&format!("all to be ready in round {round}"), || count(&channel, ServerState::Ready) == 4).await;
        for call in calls {
            call.await.unwrap();
        }
        // Each can have as many connections as ever.
        if round % 10 == 9 {
            let before = servers.patient.calls.load(Ordering::SeqCst);
            servers.patient.told.forget_permits(usize::MAX >> 4);
            let calls: Vec<_> = (0..4 * connections)
                .map(|_| {
                    let channel = channel.clone();
                    tokio::spawn(async move { greet(&channel, "wait").await })
                })
                .collect();
            until(&format!("all calls at a time in round {round}"), || {
                servers.patient.calls.load(Ordering::SeqCst) >= before + 4 * connections
            })
            .await;
            servers.patient.told.add_permits(100_000);
            for call in calls {
                call.await.unwrap().unwrap();
            }
        }
    }
    feed.send((0..4).map(InstanceChange::Remove).collect());
    until("all to go", || channel.servers().is_empty()).await;
}

/// A call waits for room at a server that is held, and fails at once when that goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_fail_when_the_last_connection_ends() {
    for doubt in [Doubt::Sudden, Doubt::Gradual] {
        for connections in [1, 2] {
            let servers = Servers::new();
            // Where a call did not fail at once, it would wait for longer than the test.
            let builder = BalancedChannel::builder().wait_limit(Duration::from_secs(600));
            let (mut feed, channel) = Feed::start(builder.connections_per_server(connections));
            let proxy = Proxy::to(servers.start(1));
            feed.insert(0, proxy.address());
            until("it to be ready", || count(&channel, ServerState::Ready) == 1).await;
            let first = tokio::spawn({
                let channel = channel.clone();
                async move { greet(&channel, "wait").await }
            });
            until("the call to arrive", || servers.patient.calls.load(Ordering::SeqCst) == 1).await;
            feed.doubt([0], doubt);
            until("it to be held", || count(&channel, ServerState::Held) == 1).await;
            let second = tokio::spawn({
                let channel = channel.clone();
                async move { greet(&channel, "").await }
            });
            sleep(Duration::from_millis(300)).await;
            assert!(!second.is_finished());
            proxy.cut();
            until("both to fail", || first.is_finished() && second.is_finished()).await;
            assert_eq!(second.await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
            assert_eq!(first.await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
            assert_eq!(proxy.connections(), 1);
        }
    }
}

/// Of a server that is held nobody asks for another connection: others grow, and it does once it is listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_get_room_where_it_can_be_made() {
    for doubt in [Doubt::Sudden, Doubt::Gradual] {
        let servers = Servers::new();
        let (mut feed, channel) = Feed::start(BalancedChannel::builder().connections_per_server(2));
        let proxies: Vec<Proxy> = (0..2).map(|_| Proxy::to(servers.start(1))).collect();
        for (key, proxy) in proxies.iter().enumerate() {
            feed.insert(key, proxy.address());
        }
        until("both to be ready", || count(&channel, ServerState::Ready) == 2).await;
        let call = || {
            tokio::spawn({
                let channel = channel.clone();
                async move { greet(&channel, "wait").await }
            })
        };
        let seen = servers.patient.calls.clone();
        let arrived = |calls| {
            let seen = seen.clone();
            move || seen.load(Ordering::SeqCst) == calls
        };
        let mut calls = vec![call(), call()];
        until("two calls", arrived(2)).await;
        feed.doubt([0], doubt);
        until("it to be held", || count(&channel, ServerState::Held) == 1).await;
        calls.push(call());
        until("the third at the other one", arrived(3)).await;
        calls.push(call());
        sleep(Duration::from_millis(500)).await;
        assert_eq!(servers.patient.calls.load(Ordering::SeqCst), 3);
        assert_eq!(proxies[0].connections(), 1);
        let began = Instant::now();
        feed.insert_again(0);
        until("the fourth", arrived(4)).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}
