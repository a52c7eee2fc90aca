//! Several connections to a server, and the channel's own limit of calls for each server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::Code;
use tonic_etcd::policy::{LeastRequest, PeakEwma, PickFirst, Picker, Policy, ReadyServer, ReadySet, RoundRobin};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, ServerState, ServerStatus};

use crate::field::watched::{Watched, finished, waiting};
use crate::peer::{Peer, Script, Seen, speak};
use crate::support::{PATIENCE, builder, changing, greet, over, ready, shared, told, until};

/// A server whose next calls do as the test says, …
struct Told {
    peer: Peer,
    next: Arc<Mutex<Script>>,
}

impl Told {
    /// … with so many at once over a connection.
    async fn start(limit: u32) -> Self {
        let next = Arc::new(Mutex::new(Script::Greet));
        Self { peer: Peer::limited(Script::Now(next.clone()), Some(limit)).await, next }
    }

    fn next(&self, script: Script) {
        *self.next.lock().unwrap() = script;
    }

    /// Begins calls, one after the other, each of which does this.
    async fn begin(&self, channel: &BalancedChannel, count: usize, script: Script) -> Vec<Watched> {
        self.next(script);
        let mut calls = Vec::new();
        for _ in 0..count {
            let before = self.peer.seen.calls();
            calls.push(Watched::greet(channel, false));
            until("the call to arrive", || self.peer.seen.calls() > before).await;
        }
        calls
    }
}

fn connections(count: usize) -> BalancedChannelBuilder {
    builder().connections_per_server(count)
}

fn only(channel: &BalancedChannel) -> ServerStatus {
    let servers = channel.servers();
    assert_eq!(servers.len(), 1);
    servers[0].clone()
}

fn is_ready(channel: &BalancedChannel) -> bool {
    only(channel).state() == ServerState::Ready
}

/// Lets calls end that wait for this, and returns how they do.
async fn end_all(told: &Notify, calls: Vec<Watched>) -> Vec<Result<(), Code>> {
    until("the calls to end", || {
        told.notify_waiters(); // again and again: some may not wait for it yet
        finished(&calls) == calls.len()
    })
    .await;
    let mut results = Vec::new();
    for call in calls {
        results.push(call.task.await.unwrap().map_err(|status| status.code()));
    }
    results
}

async fn held(channel: &BalancedChannel, count: usize) {
    until(&format!("{count} connections"), || only(channel).connections() == count).await;
}

#[tokio::test]
async fn a_full_server_gets_further_connections_up_to_their_number() {
    for policy in
        [shared(LeastRequest::new()), shared(PeakEwma::new()), shared(RoundRobin::new()), shared(PickFirst::new())]
    {
        let server = Told::start(4).await;
        let channel =
            over(connections(3).policy(policy).wait_limit(Duration::from_millis(300)), [&server.peer.address]);
        ready(&channel, 1).await;
        let mut streams = server.begin(&channel, 4, Script::Silence).await;
        assert_eq!(server.peer.seen.connections(), 1, "no further one while there is room");
        streams.extend(server.begin(&channel, 7, Script::Silence).await);
        assert_eq!((only(&channel).connections(), only(&channel).in_flight()), (3, 11));
        server.next(Script::Greet);
        greet(&channel).await.unwrap();

        let ended = Arc::new(Notify::new());
        let mut last = server.begin(&channel, 1, Script::GreetLater(ended.clone())).await;
        let status = greet(&channel).await.unwrap_err();
        let limit = "none of the ready has room: 1 at the limit of streams \
                     (12 streams over 3 connections; connections_per_server is 3)";
        assert!(status.code() == Code::Unavailable && status.message().contains(limit), "{status}");
        let mut next = waiting(&channel, 1, true).await;
        assert_eq!((server.peer.seen.connections(), finished(&next)), (3, 0));
        server.next(Script::Greet);
        ended.notify_one();
        next.pop().unwrap().task.await.unwrap().unwrap();
        last.pop().unwrap().task.await.unwrap().unwrap();
        assert_eq!(finished(&streams), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_connections_are_made_as_calls_need_that_come_at_once() {
    let server = Told::start(4).await;
    let end = Arc::new(Notify::new());
    server.next(Script::GreetLater(end.clone()));
    let channel = over(connections(10), [&server.peer.address]);
    ready(&channel, 1).await;
    let calls: Vec<_> = (0..64).map(|_| Watched::greet(&channel, true)).collect();
    until("the room of ten connections to be taken", || server.peer.seen.calls() == 40).await;
    assert_eq!((server.peer.seen.connections(), only(&channel).in_flight()), (10, 40));
    server.next(Script::Greet);
    assert!(end_all(&end, calls).await.iter().all(Result::is_ok));
    assert_eq!(only(&channel).in_flight(), 0);
}

#[tokio::test]
async fn calls_take_the_oldest_connection_with_room() {
    let server = Told::start(2).await;
    let end = Arc::new(Notify::new());
    let channel = over(connections(3), [&server.peer.address]);
    ready(&channel, 1).await;
    let first = server.begin(&channel, 1, Script::GreetLater(end.clone())).await;
    let others = server.begin(&channel, 3, Script::Silence).await;
    assert_eq!(server.peer.seen.connections(), 2);
    end.notify_one();
    for call in first {
        call.task.await.unwrap().unwrap();
    }
    // The first has room for one: the second is full, and no third is needed.
    server.next(Script::Greet);
    for _ in 0..10 {
        greet(&channel).await.unwrap();
    }
    assert_eq!((server.peer.seen.connections(), finished(&others)), (2, 0));
}

#[tokio::test]
async fn no_connection_is_made_while_another_server_has_room() {
    let (small, large) = (Told::start(1).await, Told::start(100).await);
    let channel = over(connections(3), [&small.peer.address, &large.peer.address]);
    ready(&channel, 2).await;
    small.next(Script::Silence);
    let mut calls = Vec::new();
    while small.peer.seen.calls() == 0 {
        let arrived = || small.peer.seen.calls() + large.peer.seen.calls();
        let before = arrived();
        calls.push(Watched::greet(&channel, false));
        until("the call to arrive", || arrived() > before).await;
    }
    for _ in 0..50 {
        greet(&channel).await.unwrap();
    }
    assert_eq!((small.peer.seen.connections(), large.peer.seen.connections()), (1, 1));
    assert_eq!(small.peer.seen.calls(), 1);
    // Once both are full, one of them gets what one call needs, and not both.
    large.next(Script::Silence);
    calls.extend((0..100).map(|_| Watched::greet(&channel, false)));
    until("the room to be taken", || large.peer.seen.running.load(Ordering::SeqCst) == 100).await;
    small.next(Script::Greet);
    large.next(Script::Greet);
    greet(&channel).await.unwrap();
    assert_eq!(small.peer.seen.connections() + large.peer.seen.connections(), 3);
}

/// What ends a connection, and whether its calls end with it.
fn ends(told: &Arc<Notify>) -> [(Script, bool); 2] {
    let goaway = Script::GoAway(Box::new(Script::After(Duration::from_millis(50), Box::new(Script::Greet))));
    [Script::Break, goaway].map(|end| {
        let goes_on = matches!(end, Script::GoAway(_));
        (Script::Later(told.clone(), Box::new(end)), goes_on)
    })
}

#[tokio::test]
async fn a_connection_that_ends_concerns_its_calls_alone() {
    let told = Arc::new(Notify::new());
    for (end, goes_on) in ends(&told) {
        for which in 0..3 {
            let server = Told::start(2).await;
            let rest = Arc::new(Notify::new());
            let channel = over(connections(3), [&server.peer.address]);
            ready(&channel, 1).await;
            let (mut own, mut others) = (Vec::new(), Vec::new());
            for connection in 0..3 {
                let (calls, script) = if connection == which {
                    (&mut own, end.clone())
                } else {
                    (&mut others, Script::GreetLater(rest.clone()))
                };
                calls.extend(server.begin(&channel, 2, script).await);
            }
            held(&channel, 3).await;
            server.next(Script::Greet);
            let is_left = std::cell::Cell::new(true);
            until("the connection to go", || {
                told.notify_waiters();
                is_left.set(is_left.get() && is_ready(&channel));
                only(&channel).connections() == 2
            })
            .await;
            assert!(is_left.get(), "always ready");
            let expected = if goes_on { Ok(()) } else { Err(Code::Unavailable) };
            assert_eq!(end_all(&told, own).await, [expected; 2]);
            // The others are full: this takes a new connection. It is the same server to whoever looks.
            greet(&channel).await.unwrap();
            assert_eq!((server.peer.seen.connections(), finished(&others)), (4, 0));
            assert!(is_ready(&channel) && only(&channel).last_error().is_some());
            assert_eq!(end_all(&rest, others).await, [Ok(()); 4]);
        }
    }
}

#[tokio::test]
async fn a_server_is_gone_when_its_last_connection_goes() {
    let told = Arc::new(Notify::new());
    let server = Told::start(1).await;
    let channel = over(connections(2), [&server.peer.address]);
    ready(&channel, 1).await;
    let calls = server.begin(&channel, 2, Script::Later(told.clone(), Box::new(Script::Break))).await;
    server.next(Script::Greet);
    assert_eq!(end_all(&told, calls).await, [Err(Code::Unavailable); 2]);
    greet(&channel).await.unwrap();
    held(&channel, 1).await;
    assert_eq!(server.peer.seen.connections(), 3, "both are over, and one is enough now");
}

/// Speaks over the first connection, and closes each further one at once. Also returns when those came.
async fn speaks_once(script: Script, limit: u32, seen: Arc<Seen>) -> (SocketAddr, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let refused = Arc::<Mutex<Vec<Instant>>>::default();
    let counted = refused.clone();
    tokio::spawn(async move {
        let (first, _) = listener.accept().await.unwrap();
        tokio::spawn(speak(first, script, Some(limit), seen));
        while let Ok((further, _)) = listener.accept().await {
            drop(further);
            counted.lock().unwrap().push(Instant::now());
        }
    });
    (address, refused)
}

#[tokio::test]
async fn a_server_that_accepts_one_connection_stays_ready_and_is_asked_at_the_backoffs_pace() {
    let next = Arc::new(Mutex::new(Script::Silence));
    let seen = Arc::<Seen>::default();
    let (address, refused) = speaks_once(Script::Now(next.clone()), 2, seen.clone()).await;
    let (channel, set) = changing(connections(3));
    set.add(address);
    ready(&channel, 1).await;
    let held = Watched::greet(&channel, false);
    until("the call to arrive", || seen.calls() == 1).await;
    let end = Arc::new(Notify::new());
    *next.lock().unwrap() = Script::GreetLater(end.clone());
    let mut calls = waiting(&channel, 1, true).await;
    until("the next call to arrive", || seen.calls() == 2).await;
    calls.extend(waiting(&channel, 4, true).await);
    let attempts = || refused.lock().unwrap().len();
    until("some attempts", || {
        assert!(is_ready(&channel) && only(&channel).connections() == 1);
        attempts() == 4
    })
    .await;
    let times = refused.lock().unwrap().clone();
    // 100 ms, 160 ms, 256 ms, less a fifth.
    assert!(times[3] - times[0] >= Duration::from_millis(400), "{:?}", times[3] - times[0]);
    assert!(only(&channel).last_error().is_some());
    // A call that gives up says what is wrong, without an address.
    let mut late = tonic::Request::new(greeter_proto::HelloRequest::default());
    late.set_timeout(Duration::from_millis(1));
    let mut greeter = greeter_proto::greeter_client::GreeterClient::new(channel.clone());
    let status = greeter.say_hello(late).await.unwrap_err();
    assert!(status.message().contains("2 streams over 1 connections"), "{status}");
    assert!(status.message().contains("last error: "), "{status}");
    assert!(!status.message().contains(&address.to_string()) && told(&status).contains(&address.to_string()));
    // Calls go on meanwhile, one after the other.
    *next.lock().unwrap() = Script::Greet;
    end.notify_one();
    for call in calls {
        call.task.await.unwrap().unwrap();
    }
    // Nobody waits: nothing is tried.
    let before = attempts();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(attempts() <= before + 1, "at most the one that was under way");
    held.task.abort();
}

#[tokio::test]
async fn idle_connections_are_checked_before_a_further_one_is_made() {
    let server = Told::start(1).await;
    let end = Arc::new(Notify::new());
    let channel = over(connections(3).idle_timeout(Duration::from_millis(100)), [&server.peer.address]);
    ready(&channel, 1).await;
    for _ in 0..2 {
        let calls = server.begin(&channel, 2, Script::GreetLater(end.clone())).await;
        assert_eq!(server.peer.seen.connections(), 2);
        assert_eq!(end_all(&end, calls).await, [Ok(()); 2]);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(only(&channel).connections(), 2);
}

#[tokio::test]
async fn idle_connections_whose_streams_are_all_taken_get_a_further_one() {
    let server = Told::start(2).await;
    let idle = Duration::from_millis(100);
    let channel = over(connections(2).idle_timeout(idle), [&server.peer.address]);
    ready(&channel, 1).await;
    let streams = server.begin(&channel, 2, Script::Silence).await;
    tokio::time::sleep(idle * 3).await;
    server.next(Script::Greet);
    greet(&channel).await.unwrap();
    assert_eq!((server.peer.seen.connections(), finished(&streams)), (2, 0));
}

#[tokio::test]
async fn a_connection_that_is_slow_to_come_holds_up_no_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::<Seen>::default();
    let end = Arc::new(Notify::new());
    let silent = Arc::<AtomicUsize>::default();
    tokio::spawn({
        let (seen, end, silent) = (seen.clone(), end.clone(), silent.clone());
        async move {
            let (first, _) = listener.accept().await.unwrap();
            tokio::spawn(speak(first, Script::GreetLater(end), Some(1), seen));
            let mut kept = Vec::new(); // accepted, and never answered
            while let Ok((further, _)) = listener.accept().await {
                kept.push(further);
                silent.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let channel = over(connections(2), [&address]);
    ready(&channel, 1).await;
    let mut calls = waiting(&channel, 1, true).await;
    until("the first call to arrive", || seen.calls() == 1).await;
    calls.extend(waiting(&channel, 9, true).await);
    until("a further connection to be asked for", || silent.load(Ordering::SeqCst) == 1).await;
    for (number, call) in calls.into_iter().enumerate() {
        until("the call to have come", || seen.calls() > number).await;
        end.notify_one();
        call.task.await.unwrap().unwrap();
    }
    assert!(is_ready(&channel));
    assert_eq!((only(&channel).connections(), silent.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_server_that_is_removed_closes_all_its_connections_after_their_calls() {
    let told = Arc::new(Notify::new());
    let server = Told::start(1).await;
    let (channel, set) = changing(connections(3));
    set.add(server.peer.address);
    ready(&channel, 1).await;
    let calls = server.begin(&channel, 3, Script::GreetLater(told.clone())).await;
    set.remove(&server.peer.address);
    until("it to go", || channel.servers().is_empty()).await;
    assert_eq!(server.peer.seen.open(), 3);
    assert_eq!(end_all(&told, calls).await, [Ok(()); 3]);
    until("its connections to close", || server.peer.seen.open() == 0).await;
}

/// Counts the sets, and keeps the servers of the last one.
#[derive(Debug, Default)]
struct Counted {
    sets: AtomicUsize,
    servers: Mutex<Vec<ReadyServer>>,
}

impl Policy for Counted {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        self.sets.fetch_add(1, Ordering::SeqCst);
        *self.servers.lock().unwrap() = set.servers().to_vec();
        LeastRequest::new().picker(set)
    }
}

#[tokio::test]
async fn policies_see_one_server_with_the_sum_of_its_calls() {
    let counted = Arc::<Counted>::default();
    let server = Told::start(2).await;
    let channel = over(connections(3).policy(counted.clone()), [&server.peer.address]);
    ready(&channel, 1).await;
    let sets = counted.sets.load(Ordering::SeqCst);
    let _calls = server.begin(&channel, 5, Script::Silence).await;
    let servers = counted.servers.lock().unwrap().clone();
    assert_eq!((servers.len(), servers[0].in_flight(), servers[0].load()), (1, 5, 5));
    assert_eq!((only(&channel).connections(), counted.sets.load(Ordering::SeqCst)), (3, sets));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_server_gets_more_calls_than_the_channel_gives_it() {
    for (most, limit, connections) in [(5, 1_000, 1), (5, 2, 3), (3, 4, 1), (9, 4, 2)] {
        let servers = [Told::start(limit).await, Told::start(limit).await];
        let builder = connections_and_calls(connections, most).policy(RoundRobin::new());
        let channel = over(builder, servers.iter().map(|server| &server.peer.address));
        ready(&channel, 2).await;
        let expected = most.min(limit as usize * connections);
        let end = Arc::new(Notify::new());
        servers.iter().for_each(|server| server.next(Script::GreetLater(end.clone())));
        let calls: Vec<_> = (0..64).map(|_| Watched::greet(&channel, true)).collect();
        let running = |server: &Told| server.peer.seen.running.load(Ordering::SeqCst);
        until("all room to be taken", || servers.iter().all(|server| running(server) == expected)).await;
        servers.iter().for_each(|server| server.next(Script::Greet));
        assert!(end_all(&end, calls).await.iter().all(Result::is_ok));
        // As many again, as fast as they go.
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let channel = channel.clone();
            callers.spawn(async move {
                for _ in 0..10 {
                    greet(&channel).await.unwrap();
                }
            });
        }
        while let Some(done) = callers.join_next().await {
            done.unwrap();
        }
        for server in &servers {
            assert_eq!(server.peer.seen.most.load(Ordering::SeqCst), expected, "{most} {limit} {connections}");
        }
        assert!(channel.servers().iter().all(|server| server.in_flight() == 0));
    }
}

fn connections_and_calls(count: usize, calls: usize) -> BalancedChannelBuilder {
    connections(count).max_in_flight_per_server(calls)
}

#[tokio::test]
async fn calls_beyond_the_channels_limit_wait_in_order_and_say_so() {
    let server = Told::start(4).await;
    let builder = connections_and_calls(3, 5).wait_limit(Duration::from_millis(300));
    let channel = over(builder, [&server.peer.address]);
    ready(&channel, 1).await;
    let end = Arc::new(Notify::new());
    let first = server.begin(&channel, 1, Script::GreetLater(end.clone())).await;
    let _others = server.begin(&channel, 4, Script::Silence).await;
    let status = greet(&channel).await.unwrap_err();
    let limit = "none of the ready has room: 1 at max_in_flight_per_server (5)";
    assert!(status.message().contains(limit), "{status}");
    assert_eq!(server.peer.seen.connections(), 2, "a third would give no room");
    let calls = waiting(&channel, 3, true).await;
    server.next(Script::GreetLater(end.clone()));
    for (ended, call) in first.into_iter().chain(calls).enumerate() {
        until("the call to have come", || server.peer.seen.calls() == 5 + ended).await;
        end.notify_one();
        tokio::time::timeout(PATIENCE, call.task).await.expect("in order").unwrap().unwrap();
    }
    assert_eq!(server.peer.seen.most.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn calls_over_a_connection_that_drains_count_for_the_channels_limit() {
    let told = Arc::new(Notify::new());
    let (server, end) = (Told::start(100).await, Arc::new(Notify::new()));
    let channel = over(builder().max_in_flight_per_server(2), [&server.peer.address]);
    ready(&channel, 1).await;
    let goaway = Script::GoAway(Box::new(Script::GreetLater(end.clone())));
    let calls = server.begin(&channel, 2, Script::Later(told.clone(), Box::new(goaway))).await;
    until("the next connection", || {
        told.notify_waiters();
        server.peer.seen.connections() == 2
    })
    .await;
    ready(&channel, 1).await;
    server.next(Script::Greet);
    let next = waiting(&channel, 1, true).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((finished(&next), server.peer.seen.calls()), (0, 2));
    end.notify_one();
    for call in next {
        call.task.await.unwrap().unwrap();
    }
    assert_eq!(end_all(&end, calls).await, [Ok(()); 2]);
}

#[tokio::test]
async fn a_call_gets_a_further_connection_once_the_channels_limit_leaves_room_for_it() {
    let (told, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = Told::start(1).await;
    let channel = over(connections_and_calls(2, 2), [&server.peer.address]);
    ready(&channel, 1).await;
    let goaway = Script::GoAway(Box::new(Script::GreetLater(end.clone())));
    let drained = server.begin(&channel, 1, Script::Later(told.clone(), Box::new(goaway))).await;
    until("the next connection", || {
        told.notify_waiters();
        server.peer.seen.connections() == 2
    })
    .await;
    ready(&channel, 1).await;
    let silent = server.begin(&channel, 1, Script::Silence).await;
    server.next(Script::Greet);
    let next = waiting(&channel, 1, true).await;
    assert_eq!((only(&channel).in_flight(), finished(&next)), (2, 0));
    assert_eq!(end_all(&end, drained).await, [Ok(())]);
    assert_eq!(end_all(&end, next).await, [Ok(())], "the connection that is left is full");
    assert_eq!((server.peer.seen.connections(), finished(&silent)), (3, 0));
}

#[tokio::test]
async fn a_server_that_comes_back_has_no_more_calls_than_before() {
    let (server, end) = (Told::start(100).await, Arc::new(Notify::new()));
    let (channel, set) = changing(builder().max_in_flight_per_server(1));
    set.add(server.peer.address);
    ready(&channel, 1).await;
    let first = server.begin(&channel, 1, Script::GreetLater(end.clone())).await;
    set.remove(&server.peer.address);
    until("it to go", || channel.servers().is_empty()).await;
    set.add(server.peer.address);
    ready(&channel, 1).await;
    assert_eq!(only(&channel).in_flight(), 1, "over the connection that closes after it");
    server.next(Script::Greet);
    let next = waiting(&channel, 1, true).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((finished(&next), server.peer.seen.calls()), (0, 1));
    assert_eq!(end_all(&end, first).await, [Ok(())]);
    assert_eq!(end_all(&end, next).await, [Ok(())]);
    assert_eq!((server.peer.seen.most.load(Ordering::SeqCst), only(&channel).in_flight()), (1, 0));
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let address = "127.0.0.1:1".parse().unwrap();
    let refused = |builder: BalancedChannelBuilder| {
        let insert = tower::discover::Change::Insert(0, tonic_etcd::Instance::new::<SocketAddr>(address).unwrap());
        let fixed = tokio_stream::iter([Ok::<_, std::convert::Infallible>(insert)]);
        builder.build_with_discovery("greeter", fixed).map(drop).map_err(|error| {
            assert!(error.is_invalid_argument());
            error.to_string()
        })
    };
    for count in [0, 11, usize::MAX] {
        let error = refused(connections(count)).unwrap_err();
        assert!(error.contains("connections per server") && error.contains("from 1 to 10"), "{error}");
    }
    let error = refused(builder().max_in_flight_per_server(0)).unwrap_err();
    assert!(error.contains("calls in flight per server"), "{error}");
    for builder in [connections(1), connections(10), builder().max_in_flight_per_server(usize::MAX)] {
        refused(builder).unwrap();
    }
}

fn scaling(connections: usize) -> Arc<str> {
    format!(r#"{{"connectionScaling": {{"maxConnectionsPerSubchannel": {connections}}}}}"#).into()
}

#[tokio::test]
async fn a_service_config_gives_a_server_more_connections_and_takes_them_back() {
    let server = Told::start(2).await;
    let (documents, updates) = watch::channel(Arc::from("{}"));
    let channel = over(builder().service_config_updates(updates), [&server.peer.address]);
    ready(&channel, 1).await;
    let end = Arc::new(Notify::new());
    let mut calls = server.begin(&channel, 2, Script::GreetLater(end.clone())).await;
    // They wait already when the document comes.
    calls.extend(waiting(&channel, 3, true).await);
    assert_eq!((only(&channel).connections(), server.peer.seen.calls()), (1, 2));
    documents.send_replace(scaling(3));
    held(&channel, 3).await;
    until("the calls to be sent", || server.peer.seen.calls() == 5).await;
    assert_eq!(only(&channel).in_flight(), 5);

    // Those beyond the new number take no more calls: with the first full, calls wait.
    documents.send_replace(scaling(1));
    held(&channel, 1).await;
    assert_eq!((finished(&calls), only(&channel).in_flight()), (0, 5));
    let waits = waiting(&channel, 1, true).await;
    assert_eq!((only(&channel).connections(), server.peer.seen.calls()), (1, 5));
    server.next(Script::Greet);
    calls.extend(waits);
    assert!(end_all(&end, calls).await.iter().all(Result::is_ok));
    until("the others to close", || server.peer.seen.open() == 1).await;
    assert_eq!((only(&channel).in_flight(), server.peer.seen.connections()), (0, 3));
}

#[tokio::test]
async fn the_connections_of_the_code_replace_those_of_the_document() {
    let server = Told::start(1).await;
    let (documents, updates) = watch::channel(scaling(4));
    let channel = over(connections(2).service_config_updates(updates), [&server.peer.address]);
    ready(&channel, 1).await;
    let _calls = server.begin(&channel, 2, Script::Silence).await;
    let _waits = waiting(&channel, 1, true).await;
    documents.send_replace(scaling(5));
    until("the document to be in force", || channel.service_config().text() == Some(&*scaling(5))).await;
    assert_eq!((only(&channel).connections(), server.peer.seen.calls()), (2, 2));
}

#[tokio::test]
async fn a_document_gives_ten_connections_at_most() {
    let server = Told::start(1).await;
    let channel =
        over(builder().service_config(&*scaling(400)).wait_limit(Duration::from_millis(300)), [&server.peer.address]);
    ready(&channel, 1).await;
    let _calls = server.begin(&channel, 10, Script::Silence).await;
    let status = greet(&channel).await.unwrap_err();
    assert!(status.message().contains("10 streams over 10 connections"), "{status}");
}
