//! What becomes of a call when one of several attempts has ended and others are in flight.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic_etcd::{BalancedChannel, RetryPolicy};

use super::{SOON, Servers, repeating, unavailable};
use crate::peer::{Peer, Script};
use crate::raw::goaway_once_told;
use crate::support::{PATIENCE, builder, greet, greeted_by, over, ready, server_of, until};

fn hedging() -> RetryPolicy {
    repeating().hedge_after(SOON)
}

fn begin(channel: &BalancedChannel) -> JoinHandle<String> {
    let channel = channel.clone();
    tokio::spawn(async move { greeted_by(&channel).await })
}

/// Refuses the call once it is told to.
fn refuse(told: &Arc<Notify>) -> Script {
    Script::Later(told.clone(), Box::new(Script::Reset(h2::Reason::REFUSED_STREAM)))
}

#[tokio::test]
async fn an_attempt_that_no_server_has_processed_is_sent_again_while_another_hangs() {
    let told = Arc::new(Notify::new());
    let servers = Servers::start([refuse(&told), Script::Silence]).await;
    let channel = servers.channel(hedging()).await;
    let call = begin(&channel);
    until("the hedge", || servers.calls() == [1, 1]).await;
    servers.set(0, Script::Greet);
    told.notify_one();
    let by = tokio::time::timeout(PATIENCE, call).await.expect("as without a hedge").unwrap();
    assert_eq!((by, servers.calls()), (servers.name(0), vec![2, 1]));
}

#[tokio::test]
async fn it_goes_to_a_server_that_was_not_tried_and_costs_no_token() {
    let told = Arc::new(Notify::new());
    let servers = Servers::start([refuse(&told), Script::Silence, Script::Greet]).await;
    let channel = servers.channel(hedging().budget(2, 0.0)).await; // one hedge
    let call = begin(&channel);
    until("the hedge", || servers.calls() == [1, 1, 0]).await;
    told.notify_one();
    let by = tokio::time::timeout(PATIENCE, call).await.expect("as without a hedge").unwrap();
    assert_eq!((by, servers.calls()), (servers.name(2), vec![1, 1, 1]));
    assert_eq!(super::costs(&channel).0, [0, 1, 0], "it is no hedge");
}

#[tokio::test]
async fn a_server_that_restarts_gets_it_over_its_next_connection() {
    let told = Arc::new(Notify::new());
    let (address, calls) = goaway_once_told(told.clone(), 0).await;
    let hung = Peer::start(Script::Silence).await;
    let channel = over(builder().retry(hedging()), [&address, &hung.address]);
    ready(&channel, 2).await;
    let call = begin(&channel);
    until("both attempts", || calls.load(Ordering::SeqCst) == 1 && hung.seen.calls() == 1).await;
    told.notify_waiters();
    until("it to come again", || calls.load(Ordering::SeqCst) == 2).await;
    call.abort();
}

#[tokio::test]
async fn servers_that_go_on_refusing_are_asked_at_the_backoffs_pace() {
    let told = Arc::new(Notify::new());
    let servers = Servers::start([Script::GreetLater(told.clone()), Script::Reset(h2::Reason::REFUSED_STREAM)]).await;
    let channel = servers.channel(hedging()).await;
    let call = begin(&channel);
    until("some refusals", || servers.calls()[1] > 3).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(servers.calls()[1] < 20, "{:?}", servers.calls());
    told.notify_one();
    assert_eq!(call.await.unwrap(), servers.name(0));
}

#[tokio::test]
async fn what_one_server_forbids_is_not_retried_when_the_last_attempt_fails() {
    let told = Arc::new(Notify::new());
    let servers = Servers::start([Script::Greet, Script::Greet, Script::Greet]).await;
    servers.set(0, Script::Later(told.clone(), Box::new(unavailable())));
    servers.set(1, Script::Status(14, vec![("grpc-retry-pushback-ms", "-1")]));
    let channel = servers.channel(hedging()).await;
    let call = {
        let channel = channel.clone();
        tokio::spawn(async move { greet(&channel).await })
    };
    until("the hedge to fail", || channel.servers()[1].failures() == 1).await;
    told.notify_one();
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert_eq!(servers.calls(), [1, 1, 0]);
}

#[tokio::test]
async fn connections_that_the_call_may_have_ended_do_not_end_an_attempt_that_is_well() {
    let (told, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (one, calls) = goaway_once_told(told.clone(), 2).await;
    let (other, more) = goaway_once_told(told.clone(), 2).await;
    let good = Peer::start(Script::GreetLater(end.clone())).await;
    let channel = over(builder().retry(hedging()), [&one, &other, &good.address]);
    ready(&channel, 3).await;
    let call = begin(&channel);
    let arrived = || calls.load(Ordering::SeqCst) + more.load(Ordering::SeqCst) + good.seen.calls();
    until("three attempts", || arrived() == 3).await;
    told.notify_waiters();
    until("both to end", || channel.servers().iter().filter(|server| server.last_error().is_some()).count() == 2).await;
    tokio::time::sleep(SOON).await; // so that the call has seen it
    end.notify_one();
    assert_eq!(call.await.unwrap(), good.address.to_string());
}

#[tokio::test]
async fn the_deadline_blames_the_oldest_attempt_without_a_head() {
    for (scripts, to_blame) in [
        ([Script::HeadOnly, Script::Silence], 1),
        ([Script::Silence, Script::HeadOnly], 0),
        ([Script::HeadOnly, Script::HeadOnly], 0),
    ] {
        let servers = Servers::start(scripts).await;
        let channel = servers.channel_of(builder().retry(hedging()).timeout(SOON * 20)).await;
        let status = greet(&channel).await.unwrap_err();
        assert_eq!((status.code(), server_of(&status)), (Code::DeadlineExceeded, servers.name(to_blame)));
        assert_eq!(servers.calls(), [1, 1]);
        let failures: Vec<_> = channel.servers().iter().map(tonic_etcd::ServerStatus::failures).collect();
        assert_eq!((failures[to_blame], failures.iter().sum()), (1, 1));
    }
}
