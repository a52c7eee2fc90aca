//! Answers that nobody reads.

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{Empty, StreamingOutputCallRequest};
use tokio::time::timeout;

use super::scripted::{Answer, Scripted};
use super::stock::Beside;
use crate::support::{PATIENCE, builder, over, ready};

/// F38: 64 answers that nobody reads, each with its window full, in large frames and in small ones.
#[tokio::test]
async fn unread_answers_stop_nobody() {
    for chunk in [16_000, 20] {
        let scripted = Scripted::start(Answer::Endless { chunk }).await;
        let channel = over(builder().stream_window(128 << 10), [&scripted.address]);
        ready(&channel, 1).await;
        let mut beside = Beside::open(&channel).await;
        let mut client = TestServiceClient::new(channel.clone());
        let mut unread = Vec::new();
        for _ in 0..64 {
            let answers = client.streaming_output_call(StreamingOutputCallRequest::default()).await.unwrap();
            unread.push(answers.into_inner());
        }
        scripted.stalled(64).await;
        timeout(PATIENCE, beside.turn()).await.expect("another stream goes on").unwrap();
        let call = client.empty_call(Empty {});
        timeout(PATIENCE, call).await.expect("another call goes on").unwrap();
        // None of them is lost.
        for answers in &mut unread {
            assert!(timeout(PATIENCE, answers.message()).await.unwrap().unwrap().is_some());
        }
    }
}

/// F38: with the defaults.
#[tokio::test]
async fn unread_answers_stop_nobody_by_default() {
    let scripted = Scripted::start(Answer::Endless { chunk: 16_000 }).await;
    let channel = over(builder(), [&scripted.address]);
    ready(&channel, 1).await;
    let mut client = TestServiceClient::new(channel.clone());
    let mut unread = Vec::new();
    for _ in 0..64 {
        let answers = client.streaming_output_call(StreamingOutputCallRequest::default()).await.unwrap();
        unread.push(answers.into_inner());
    }
    scripted.stalled(64).await;
    timeout(PATIENCE, client.empty_call(Empty {})).await.expect("another call goes on").unwrap();
}
