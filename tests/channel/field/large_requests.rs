//! Request metadata beyond what a server takes.

use std::sync::atomic::Ordering::SeqCst;

use greeter_proto::testing::Empty;
use greeter_proto::testing::test_service_client::TestServiceClient;
use tonic::transport::Server;
use tonic::{Code, Request, Status};
use tonic_etcd::{BalancedChannel, RetryPolicy};

use super::scripted::{Answer, Scripted};
use super::stock::{Beside, Stock, TEST_SERVICE};
use crate::raw::goaway_with;
use crate::support::{builder, over, ready};

async fn with_token(channel: &BalancedChannel, length: usize) -> Result<(), Status> {
    let mut request = Request::new(Empty {});
    request.metadata_mut().insert("authorization", "s".repeat(length).parse().unwrap());
    request.metadata_mut().insert("x-small", "small".parse().unwrap());
    TestServiceClient::new(channel.clone()).empty_call(request).await.map(drop)
}

fn repeating() -> RetryPolicy {
    RetryPolicy::new().repeatable(TEST_SERVICE).retryable_codes([
        Code::Internal,
        Code::Unavailable,
        Code::ResourceExhausted,
    ])
}

fn is_refused(status: &Status, limit: &str, length: usize) {
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    for part in ["not sent", limit, "\"authorization\"", &length.to_string()] {
        assert!(status.message().contains(part), "no {part:?} in {status:?}");
    }
    assert!(!status.message().contains("sss"), "a value in {status:?}");
}

/// F65: 17, 70 and 200 KiB to stock tonic servers with their defaults: refused here, and no other call is touched.
#[tokio::test]
async fn a_fat_token_is_refused_before_it_is_sent() {
    let servers: Vec<_> = (0..3).map(|_| Stock::start(Status::ok(""))).collect();
    let channel = over(builder().retry(repeating()), servers.iter().map(|server| &server.address));
    ready(&channel, 3).await;
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.push(Beside::open(&channel).await);
    }
    for length in [17 << 10, 70 << 10, 200 << 10] {
        for _ in 0..3 {
            let status = with_token(&channel, length).await.unwrap_err();
            is_refused(&status, "16384 (its SETTINGS_MAX_HEADER_LIST_SIZE)", length);
        }
        for stream in &mut streams {
            stream.turn().await.unwrap();
        }
    }
    with_token(&channel, 8 << 10).await.unwrap();
    let calls: Vec<_> = servers.iter().map(Stock::calls).collect();
    assert_eq!(calls.iter().sum::<usize>(), 1, "{calls:?}");
    assert!(channel.servers().iter().all(|server| server.failures() == 0), "no server's fault");
}

/// F65: the size is counted as the server counts it, to the byte.
#[tokio::test]
async fn the_limit_is_met_to_the_byte() {
    let stock = Stock::start(Status::ok(""));
    let channel = over(builder(), [&stock.address]);
    ready(&channel, 1).await;
    // h2's server refuses its limit itself, with 431: were one byte too many let through, this would find it.
    let mut taken = 0;
    for length in (16 << 10) - 600..16 << 10 {
        match with_token(&channel, length).await {
            Ok(()) => taken += 1,
            Err(status) => is_refused(&status, "16384", length),
        }
    }
    assert!(taken > 0 && taken < 600, "{taken}");
    // And were one refused that the server takes, the first that is refused would be less than the limit.
    let refused = with_token(&channel, (16 << 10) - 600 + taken).await.unwrap_err();
    assert!(refused.message().contains("are 16384 bytes"), "{refused:?}");
}

/// F65: a server that takes more says so, and is given more.
#[tokio::test]
async fn the_limit_is_the_servers() {
    let large = Stock::with(Server::builder().http2_max_header_list_size(1 << 20), Status::ok(""));
    let channel = over(builder(), [&large.address]);
    ready(&channel, 1).await;
    with_token(&channel, 200 << 10).await.unwrap();
    is_refused(&with_token(&channel, 1 << 20).await.unwrap_err(), "1048576", 1 << 20);
}

/// F65: a server that does not say what it takes: an option.
#[tokio::test]
async fn without_settings_an_option_is_the_limit() {
    let ok = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
    let silent = Scripted::silent(Answer::Trailers(ok)).await;
    let channel = over(builder(), [&silent.address]);
    ready(&channel, 1).await;
    with_token(&channel, 500 << 10).await.unwrap();
    is_refused(&with_token(&channel, 1 << 20).await.unwrap_err(), "1048576", 1 << 20);
    let channel = over(builder().max_request_header_list_size(4096), [&silent.address]);
    ready(&channel, 1).await;
    with_token(&channel, 3000).await.unwrap();
    let status = with_token(&channel, 4000).await.unwrap_err();
    is_refused(&status, "4096 (BalancedChannelBuilder::max_request_header_list_size", 4000);
    assert_eq!(silent.calls(), 2);
}

/// F65: servers that say nothing of what they take, and end their connections over what is beyond it: two of them at most.
#[tokio::test]
async fn what_ends_connections_goes_to_two_servers_at_most() {
    let mut servers = Vec::new();
    for _ in 0..6 {
        servers.push(goaway_with(0, 11).await); // ENHANCE_YOUR_CALM, nothing processed
    }
    let channel = over(builder().retry(repeating()), servers.iter().map(|(address, _)| address));
    ready(&channel, 6).await;
    with_token(&channel, 70 << 10).await.unwrap_err();
    let calls: Vec<_> = servers.iter().map(|(_, calls)| calls.load(SeqCst)).collect();
    assert_eq!(calls.iter().filter(|calls| **calls > 0).count(), 2, "{calls:?}");
}
