//! How long answers of declared methods are held back.

use std::time::Duration;

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{ResponseParameters, StreamingOutputCallRequest};
use tokio::time::Instant;
use tonic_etcd::RetryPolicy;

use super::recorded::Stock;
use crate::support::{builder, over};

/// F46: a server-streaming method that was declared as unary, by its service and by its name.
#[tokio::test]
async fn a_whole_message_is_not_held_back_until_the_next() {
    for declared in ["/grpc.testing.TestService/", "grpc.testing.TestService/StreamingOutputCall"] {
        let stock = Stock::start();
        let channel = over(builder().retry(RetryPolicy::new().repeatable(declared)), [&stock.address]);
        let mut client = TestServiceClient::new(channel);
        let interval = |millis: i32| ResponseParameters { interval_us: millis * 1000, ..Default::default() };
        let response_parameters = vec![interval(0), interval(10_000)];
        let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
        let began = Instant::now();
        let mut answers = client.streaming_output_call(request).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
