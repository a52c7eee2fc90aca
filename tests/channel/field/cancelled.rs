//! F31: calls that are cancelled cost no other call anything.

use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::bench::streams_client::StreamsClient;
use greeter_proto::bench::{Chunk, DownloadRequest};
use greeter_proto::greeter_client::GreeterClient;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::{Status, Streaming};
use tonic_etcd::BalancedChannel;

use super::frozen::{NOBODY, QUIET, Stock, TICKS};
use crate::support::{builder, greet, over, ready, until};

/// tonic's default: 200 streams at once.
const LIMIT: usize = 200;

async fn download(channel: &BalancedChannel, size: u32) -> Streaming<Chunk> {
    StreamsClient::new(channel.clone()).download(DownloadRequest { size }).await.unwrap().into_inner()
}

async fn greet_as(channel: BalancedChannel, name: &'static str) -> Result<String, Status> {
    let reply = GreeterClient::new(channel).say_hello(HelloRequest { name: name.into() }).await?;
    Ok(reply.into_inner().message)
}

fn in_flight(channel: &BalancedChannel) -> usize {
    channel.servers()[0].in_flight()
}

/// The stream goes on, a call is answered, and it is the same connection.
async fn is_well(server: &Stock, channel: &BalancedChannel, stream: &mut Streaming<Chunk>) {
    for _ in 0..20 {
        stream.message().await.expect("the other call goes on").expect("without an end");
    }
    assert_eq!(greet(channel).await.unwrap().get_ref().message, "Hello world");
    assert_eq!((server.connections(), channel.servers()[0].last_error()), (1, None));
}

/// So many calls, all dropped at once while the server stands still.
async fn dropped_while_it_stands_still(server: &Stock, limit: usize, calls: usize, name: &'static str) {
    let channel = over(builder(), [&server.address]);
    ready(&channel, 1).await;
    let mut stream = download(&channel, TICKS).await;
    stream.message().await.unwrap();
    server.freeze(Duration::from_millis(600)).await;
    let mut all = JoinSet::new();
    (0..calls).for_each(|_| _ = all.spawn(greet_as(channel.clone(), name)));
    until("the calls to be sent", || in_flight(&channel) >= limit.min(calls + 1)).await;
    all.shutdown().await;
    is_well(server, &channel, &mut stream).await;
    until("no stream to be kept", || in_flight(&channel) == 1).await;
    is_well(server, &channel, &mut stream).await;
}

/// F31: 25, 64 and 500 calls are dropped at once while a stock server stands still: h2's guard allows 20.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_dropped_while_the_server_stands_still_cost_nobody_anything() {
    for calls in [25, 64, 500] {
        for name in ["world", NOBODY] {
            dropped_while_it_stands_still(&Stock::start(), LIMIT, calls, name).await;
        }
    }
}

/// F31: the same where the server takes all of them at once, also those whose handlers never answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_unanswered_calls_may_be_dropped_as_the_server_takes_at_once() {
    for (calls, name) in [(500, "world"), (500, NOBODY), (2000, "world"), (2000, NOBODY)] {
        let server = Stock::with(Server::builder().max_concurrent_streams(4000));
        dropped_while_it_stands_still(&server, 4000, calls, name).await;
    }
}

/// F31: 20 000 streams of one connection are cancelled one after another: unanswered, in the middle of an answer, and with
/// small messages under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_cancelled_one_after_another_cost_nobody_anything() {
    let server = Stock::start();
    let channel = over(builder(), [&server.address]);
    ready(&channel, 1).await;
    let mut other = download(&channel, TICKS).await;
    for i in 0..20_000 {
        match i % 4 {
            0 => {
                let call = greet_as(channel.clone(), NOBODY);
                tokio::select! { biased; _ = call => panic!("nobody is greeted"), () = std::future::ready(()) => {} }
            }
            1 => {
                let size = if i % 100 == 1 { 1 } else { TICKS };
                assert!(download(&channel, size).await.message().await.unwrap().is_some());
            }
            2 => drop(download(&channel, QUIET).await),
            _ => {
                let call = greet_as(channel.clone(), "world");
                tokio::select! { _ = call => {}, () = tokio::task::yield_now() => {} }
            }
        }
    }
    is_well(&server, &channel, &mut other).await;
    until("no stream to be kept", || in_flight(&channel) == 1).await;
}

/// F31: 2 000 streams are cancelled at the same moment, more than h2 remembers: quiet ones, and those on which messages are
/// under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_cancelled_at_the_same_moment_cost_nobody_anything() {
    let server = Stock::with(Server::builder().max_concurrent_streams(4000));
    let channel = over(builder(), [&server.address]);
    ready(&channel, 1).await;
    let mut other = download(&channel, TICKS).await;
    for size in [QUIET, 1000] {
        let mut all = Vec::new();
        for _ in 0..2000 {
            all.push(download(&channel, size).await);
        }
        drop(all);
        is_well(&server, &channel, &mut other).await;
    }
    assert_eq!(in_flight(&channel), 1);
}
