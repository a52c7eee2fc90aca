//! Statuses whose text or metadata is large.

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{SimpleRequest, StreamingOutputCallRequest};
use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};
use tonic_etcd::{BalancedChannel, RetryPolicy};

use super::large_heads::{Answer, LargeHeads, Text};
use super::scripted::{self, Scripted};
use super::stock::{Beside, Stock, TEST_SERVICE};
use crate::support::{PATIENCE, builder, over, ready, until};

/// Everything is worth repeating, so that what is not repeated is seen.
fn repeating() -> RetryPolicy {
    let codes = [Code::Unavailable, Code::ResourceExhausted, Code::Internal, Code::Unknown, Code::FailedPrecondition];
    RetryPolicy::new().repeatable(TEST_SERVICE).retryable_codes(codes)
}

async fn alone(channel: &BalancedChannel) -> Status {
    TestServiceClient::new(channel.clone()).unary_call(SimpleRequest::default()).await.unwrap_err()
}

async fn after_a_message(channel: &BalancedChannel) -> Status {
    let mut client = TestServiceClient::new(channel.clone());
    let mut answers = match client.streaming_output_call(StreamingOutputCallRequest::default()).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        }
    }
}

fn has(status: &Status, parts: &[&str]) {
    let text = status.message();
    assert!(text.len() < 1000, "{} bytes of text", text.len());
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

/// What Huffman's code makes larger, not smaller: 13 bits for each byte.
fn hard(length: usize) -> String {
    "~".repeat(length)
}

/// F39, F40: a stock tonic server's status of 20 KB, 70 KB, and 25 KB of non-ASCII text comes whole.
#[tokio::test]
async fn large_statuses_come_whole() {
    for text in ["x".repeat(20_000), hard(70_000), "ü".repeat(12_500)] {
        let stock = Stock::start(Status::failed_precondition(text.clone()));
        let channel = over(builder(), [&stock.address]);
        ready(&channel, 1).await;
        let mut beside = Beside::open(&channel).await;
        for status in [alone(&channel).await, after_a_message(&channel).await] {
            assert_eq!(status.code(), Code::FailedPrecondition, "{}", &status.message()[..100]);
            assert_eq!(status.message(), text);
        }
        beside.turn().await.unwrap();
    }
}

/// F39, F40: the same in metadata.
#[tokio::test]
async fn large_metadata_comes_whole() {
    let mut status = Status::failed_precondition("short");
    status.metadata_mut().insert("detail", hard(70_000).parse().unwrap());
    let stock = Stock::start(status);
    let channel = over(builder(), [&stock.address]);
    ready(&channel, 1).await;
    for status in [alone(&channel).await, after_a_message(&channel).await] {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "short"));
        assert_eq!(status.metadata().get("detail").unwrap().len(), 70_000);
    }
}

/// F39, F40: a stock tonic server's status of 1 MiB, and of 1.5 MiB of text that Huffman does not shrink, fails its own call
/// alone, once.
#[tokio::test]
async fn a_status_beyond_our_limit_fails_its_own_call() {
    for text in ["x".repeat(1 << 20), hard(3 << 19)] {
        let least = text.len();
        let stock = Stock::start(Status::failed_precondition(text));
        let channel = over(builder().retry(repeating()), [&stock.address]);
        ready(&channel, 1).await;
        let mut beside = Beside::open(&channel).await;
        for status in [alone(&channel).await, after_a_message(&channel).await] {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            has(&status, &["FAILED_PRECONDITION", "max_header_list_size", "1048576", &format!("{}", least >> 20)]);
        }
        beside.turn().await.unwrap();
        assert_eq!(stock.calls(), 2, "none is repeated");
    }
}

/// F39: the limit is an option's, and a head without a status is bound by it too.
#[tokio::test]
async fn the_limit_is_an_option() {
    let stock = Stock::start(Status::failed_precondition("x".repeat(3000)));
    let channel = over(builder().max_header_list_size(2048), [&stock.address]);
    ready(&channel, 1).await;
    for status in [alone(&channel).await, after_a_message(&channel).await] {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        has(&status, &["FAILED_PRECONDITION", "max_header_list_size", "2048"]);
    }
    let headers: HeaderMap =
        [("detail".parse().unwrap(), HeaderValue::try_from(hard(3000)).unwrap())].into_iter().collect();
    let head = scripted::Answer::Http { status: 200, headers, body: "late".into(), ends: false };
    let scripted = Scripted::start(head).await;
    let channel = over(builder().max_header_list_size(2048), [&scripted.address]);
    ready(&channel, 1).await;
    let status = alone(&channel).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    has(&status, &["max_header_list_size", "2048"]);
}

/// F39: servers that write small frames although larger ones are allowed reach our limit before h2's on their number.
#[tokio::test]
async fn large_frames_leave_room_for_small_ones() {
    let answer = Answer { alone: true, fields: fields(true, Text::Plain(vec![b'~'; 1 << 20])) };
    let server = LargeHeads::start(answer).await;
    let channel = over(builder().max_frame_size((1 << 24) - 1), [&server.address]);
    ready(&channel, 1).await;
    let _beside = Beside::open(&channel).await;
    let status = alone(&channel).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    has(&status, &["FAILED_PRECONDITION", "max_header_list_size", "1048576", "10487"]);
}

/// `grpc-status`, and this much in another, in this order.
fn fields(status_first: bool, text: Text) -> Vec<(&'static str, Text)> {
    let status = ("grpc-status", Text::Plain(b"9".to_vec()));
    if status_first { vec![status, ("detail", text)] } else { vec![("detail", text), status] }
}

/// `grpc-status` first and last, as a head and as trailers.
fn answers(text: &Text) -> Vec<Answer> {
    let ways = [(true, true), (true, false), (false, true), (false, false)];
    ways.map(|(alone, first)| Answer { alone, fields: fields(first, text.clone()) }).into()
}

/// F39, F40: on either side of the limit of ours, with `grpc-status` first and last, as a head and as trailers.
#[tokio::test]
async fn order_and_place_make_no_difference() {
    for (size, code) in [(70_000, Code::FailedPrecondition), (3 << 19, Code::ResourceExhausted)] {
        for answer in answers(&Text::Plain(vec![b'~'; size])) {
            let server = LargeHeads::start(answer).await;
            let channel = over(builder().retry(repeating().max_attempts(1)), [&server.address]);
            ready(&channel, 1).await;
            let mut beside = Beside::open(&channel).await;
            let status = alone(&channel).await;
            assert_eq!(status.code(), code, "{}", &status.message());
            if code == Code::ResourceExhausted {
                has(&status, &["FAILED_PRECONDITION", "max_header_list_size", "1048576", "157"]);
            }
            beside.turn().await.unwrap();
            assert_eq!((server.firsts(), server.others()), (1, 1));
        }
    }
}

/// F40: beyond h2's limit, which it neither tells of trailers nor puts into words: the same status, for that call alone.
#[tokio::test]
async fn what_h2_refuses_fails_its_own_call() {
    let plain = answers(&Text::Plain(vec![b'~'; 17 << 20]));
    // Beyond 16 MiB of headers, and little above 10 MiB on the wire.
    let shrunk = answers(&Text::As(33 << 16)).into_iter().skip(2).take(1);
    for answer in plain.into_iter().chain(shrunk) {
        let (alone_first, code_survives) = (answer.fields[0].0 == "grpc-status", !answer.alone);
        let server = LargeHeads::start(answer).await;
        let channel = over(builder().retry(repeating()), [&server.address]);
        ready(&channel, 1).await;
        let mut beside = Beside::open(&channel).await;
        let status = alone(&channel).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        has(&status, &["max_header_list_size", "1048576", "16777216"]);
        assert_eq!(status.message().contains("FAILED_PRECONDITION"), alone_first && code_survives);
        beside.turn().await.unwrap();
        assert_eq!((server.firsts(), server.others()), (1, 1), "it is not repeated");
    }
}

/// F40: 25 MiB on the wire end the connection. The call that they belong to is not repeated.
#[tokio::test]
async fn what_ends_the_connection_is_told_by_its_own_call() {
    for answer in answers(&Text::Plain(vec![b'~'; 25 << 20])) {
        let server = LargeHeads::start(answer).await;
        let channel = over(builder().retry(repeating()), [&server.address]);
        ready(&channel, 1).await;
        let mut beside = Beside::open(&channel).await;
        let status = alone(&channel).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        has(&status, &["max_header_list_size", "1048576", "16777216"]);
        assert_eq!((server.firsts(), server.others()), (1, 1), "it is not repeated");
        let status = beside.turn().await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        has(&status, &["headers", "16777216"]);
    }
}

/// F40: whoever shares connections with such calls is repeated once, whatever the policy allows.
#[tokio::test]
async fn the_others_are_repeated_once() {
    let answer = Answer { alone: true, fields: fields(false, Text::Plain(vec![b'~'; 25 << 20])) };
    let server = LargeHeads::with(answer, false).await;
    let channel = over(builder().retry(repeating()), [&server.address]);
    ready(&channel, 1).await;
    let other = tokio::spawn({
        let channel = channel.clone();
        async move { alone(&channel).await }
    });
    for attempt in 1..=2 {
        until("the other call to arrive", || server.firsts() == attempt).await;
        assert_eq!(after_a_message(&channel).await.code(), Code::ResourceExhausted);
    }
    let status = tokio::time::timeout(PATIENCE, other).await.expect("it is not repeated again").unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    has(&status, &["headers", "16777216"]);
    assert_eq!((server.firsts(), server.others()), (2, 2));
}
