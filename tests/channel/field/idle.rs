//! Connections that somebody between forgets while they are idle, and tells nobody.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::policy::{LeastRequest, PeakEwma, PickFirst, RoundRobin};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder};

use super::driven::current_thread;
use crate::peer::{Peer, Script};
use crate::support::{builder, greet, greeted_by, over, ready, shared, until};

/// Well below the second that a proof may take, so that connections are idle soon.
const IDLE: Duration = Duration::from_millis(300);

/// Carries connections to a server, until it forgets those that there are: it swallows their bytes then, and never ends
/// them. New ones are carried.
struct Forgetful {
    address: SocketAddr,
    forget: watch::Sender<()>,
    task: AbortHandle,
}

impl Forgetful {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let forget = watch::Sender::new(());
        let forgets = forget.clone();
        let carry = async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, server, forgets.subscribe()));
            }
        };
        Self { address, forget, task: tokio::spawn(carry).abort_handle() }
    }

    fn forget(&self) {
        self.forget.send_replace(());
    }
}

impl Drop for Forgetful {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, mut forget: watch::Receiver<()>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        _ = forget.changed() => {}
    }
    let mut bytes = [0; 1024];
    while client.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    std::future::pending::<()>().await; // nor does the end of one side end the other
}

/// No keep-alive, which would find out some of it by itself.
fn idling() -> BalancedChannelBuilder {
    builder().idle_timeout(IDLE).without_keep_alive()
}

async fn be_idle() {
    sleep(IDLE + Duration::from_millis(100)).await;
}

/// Calls, and gives who answered and how long it took.
async fn timed(channel: &BalancedChannel) -> (String, Duration) {
    let began = Instant::now();
    let by = timeout(Duration::from_secs(20), greeted_by(channel)).await.expect("an answer");
    (by, began.elapsed())
}

/// F47: the only server's connection was forgotten while it was idle: the call goes over a new one, once.
#[tokio::test]
async fn a_call_to_the_only_server_goes_over_a_new_connection_where_the_idle_one_was_forgotten() {
    let peer = Peer::start(Script::Greet).await;
    let proxy = Forgetful::to(peer.address).await;
    let channel = over(idling(), [&proxy.address]);
    timed(&channel).await;
    for round in 1..=3 {
        be_idle().await;
        proxy.forget();
        let (_, took) = timed(&channel).await;
        assert!(took >= Duration::from_millis(900), "nobody was asked for a proof: {took:?}");
        assert_eq!((peer.seen.calls(), peer.seen.connections()), (round + 1, round + 1));
    }
}

/// F47: nothing was forgotten: the call goes over the connection that there is, after the PONG.
#[tokio::test]
async fn an_idle_connection_that_was_not_forgotten_is_used_after_a_ping() {
    let peer = Peer::start(Script::Greet).await;
    let channel = over(idling(), [&peer.address]);
    for _ in 0..4 {
        timed(&channel).await;
        be_idle().await;
    }
    let all = futures(&channel, 20).await;
    assert_eq!(all, 20, "calls that began while it was asked");
    assert_eq!(peer.seen.connections(), 1);
}

async fn futures(channel: &BalancedChannel, count: usize) -> usize {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let channel = channel.clone();
        calls.spawn(async move { timed(&channel).await });
    }
    calls.join_all().await.len()
}

/// F47: one of two idle connections was forgotten: the other server gets the calls until the first has a new connection.
#[tokio::test]
async fn a_forgotten_connection_is_passed_over_while_another_server_is_ready() {
    for policy in
        [shared(LeastRequest::new()), shared(PeakEwma::new()), shared(RoundRobin::new()), shared(PickFirst::new())]
    {
        let (lost, kept) = (Peer::start(Script::Greet).await, Peer::start(Script::Greet).await);
        let mut proxies = [Forgetful::to(lost.address).await, Forgetful::to(kept.address).await];
        let forgotten = proxies[0].address;
        proxies.sort_by_key(|proxy| proxy.address); // the order in which pick-first has them is either
        let channel = over(idling().policy(policy.clone()), proxies.iter().map(|proxy| &proxy.address));
        ready(&channel, 2).await;
        be_idle().await;
        proxies.iter().filter(|proxy| proxy.address == forgotten).for_each(Forgetful::forget);
        for _ in 0..20 {
            let (by, _) = timed(&channel).await;
            assert!(by != forgotten.to_string() || lost.seen.connections() == 2, "{policy:?}");
        }
        let again = async {
            // Least request finds out only when it draws the server.
            while lost.seen.connections() < 2 {
                timed(&channel).await;
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), again).await.expect("a new connection");
        assert_eq!(kept.seen.connections(), 1, "{policy:?}");
    }
}

/// F47, F66: the same where nobody drives the runtime between two calls.
#[test]
fn a_call_after_a_pause_goes_over_a_new_connection_where_the_idle_one_was_forgotten() {
    let world = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (peer, proxy) = world.block_on(async {
        let peer = Peer::start(Script::Greet).await;
        let proxy = Forgetful::to(peer.address).await;
        (peer, proxy)
    });
    let client = current_thread();
    let channel = client.block_on(async { over(idling(), [&proxy.address]) });
    for round in 1..=3 {
        client.block_on(timed(&channel));
        std::thread::sleep(2 * IDLE);
        client.block_on(timed(&channel));
        assert_eq!((peer.seen.calls(), peer.seen.connections()), (2 * round, round), "the idle one is well");
        proxy.forget();
        std::thread::sleep(2 * IDLE);
    }
}

/// F47: `keep_alive_while_idle` finds out a forgotten connection before any call does.
#[tokio::test]
async fn an_idle_connection_is_pinged_where_that_is_wanted() {
    let keep_alive = tonic_etcd::KeepAlive::new(Duration::from_millis(100), Duration::from_millis(200));
    for (wanted, connections) in [(true, 2), (false, 1)] {
        let peer = Peer::start(Script::Greet).await;
        let proxy = Forgetful::to(peer.address).await;
        let options = builder().keep_alive(keep_alive).keep_alive_while_idle(wanted).without_idle_timeout();
        let channel = over(options, [&proxy.address]);
        timed(&channel).await;
        sleep(Duration::from_millis(300)).await; // what the call used is looked at
        proxy.forget();
        let again = async {
            while peer.seen.connections() < 2 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let patience = if wanted { Duration::from_secs(20) } else { Duration::from_secs(1) };
        let _ = timeout(patience, again).await;
        assert_eq!(peer.seen.connections(), connections);
    }
}

/// A call waits for the only stream of a connection, and that becomes idle meanwhile. Where the stream is given up then,
/// nothing is read that would end the silence: the call that waits has to ask.
#[tokio::test]
async fn a_call_that_waits_asks_a_connection_that_has_become_idle() {
    let peer = Peer::limited(Script::Silence, Some(1)).await;
    let channel = over(idling().wait_for_ready(true), [&peer.address]);
    ready(&channel, 1).await;
    be_idle().await; // its limit is known, and a call asks for a sign of life
    let call = || {
        let channel = channel.clone();
        tokio::spawn(async move { greet(&channel).await })
    };
    let silent = call();
    until("the first call to be sent", || peer.seen.calls() == 1).await;
    let waiting = call();
    be_idle().await;
    be_idle().await;
    silent.abort();
    until("the other call to be sent", || peer.seen.calls() == 2).await;
    waiting.abort();
}

/// F47: TCP's own keep-alive and user timeout are accepted by the system, at their bounds too.
#[tokio::test]
async fn tcp_can_be_told_to_probe() {
    for (time, retries) in [(1, 1), (30, 3), (32_767, 127)] {
        let time = Duration::from_secs(time);
        let peer = Peer::start(Script::Greet).await;
        let options = builder().tcp_keepalive(time, time, retries).tcp_user_timeout(time);
        timed(&over(options, [&peer.address])).await;
    }
}
