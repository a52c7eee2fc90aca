//! What takes tokens out of the retry budget, and what puts them back.

use std::time::Duration;

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{EchoStatus, ResponseParameters, SimpleRequest, StreamingOutputCallRequest};
use tonic::Code;
use tonic_etcd::{RetryPolicy, ServerState};

use super::recorded::Stock;
use crate::peer::{Peer, Script};
use crate::support::{SAY_HELLO, builder, changing, greet, over, states, until};

const CALLS: usize = 100;
const CODES: [i32; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

/// Of ten tokens four can be taken before repetition ends.
fn policy() -> RetryPolicy {
    let codes = CODES.map(Code::from_i32);
    RetryPolicy::new().retryable_codes(codes).budget(10, 1.0).backoff(Duration::ZERO, Duration::ZERO)
}

/// F32: each code, as trailers alone and after a message.
#[tokio::test]
async fn failures_of_every_code_use_up_the_budget() {
    for code in CODES {
        let stock = Stock::start();
        let status = || Some(EchoStatus { code, message: "no".into() });
        let channel = || over(builder().retry(policy().repeatable("/grpc.testing.TestService/")), [&stock.address]);
        let mut client = TestServiceClient::new(channel());
        for _ in 0..CALLS {
            let request = SimpleRequest { response_status: status(), ..Default::default() };
            assert_eq!(client.unary_call(request).await.unwrap_err().code(), Code::from_i32(code));
        }
        assert_eq!(stock.calls(), CALLS + 4, "{code}");
        let mut client = TestServiceClient::new(channel());
        for _ in 0..CALLS {
            let response_parameters = vec![ResponseParameters::default()];
            let request =
                StreamingOutputCallRequest { response_status: status(), response_parameters, ..Default::default() };
            let mut answers = client.streaming_output_call(request).await.unwrap().into_inner();
            answers.message().await.unwrap().unwrap();
            assert_eq!(answers.message().await.unwrap_err().code(), Code::from_i32(code));
        }
        assert_eq!(stock.calls(), 2 * (CALLS + 4), "{code} in trailers");
    }
}

/// F32: answers of OK pay, whatever their method.
#[tokio::test]
async fn only_ok_pays_into_the_budget() {
    let stock = Stock::start();
    let method = "/grpc.testing.TestService/UnaryCall";
    let channel = over(builder().retry(policy().repeatable(method)), [&stock.address]);
    let mut client = TestServiceClient::new(channel);
    let fail = async |client: &mut TestServiceClient<_>| {
        let response_status = Some(EchoStatus { code: 8, message: "no".into() });
        client.unary_call(SimpleRequest { response_status, ..Default::default() }).await.unwrap_err();
    };
    for _ in 0..CALLS {
        fail(&mut client).await;
    }
    let before = stock.calls();
    for _ in 0..10 {
        client.empty_call(greeter_proto::testing::Empty {}).await.unwrap();
    }
    fail(&mut client).await;
    assert_eq!(stock.calls() - before - 10, 5, "it is full again");
}

/// F32: gRFC A6 counts a pushback that forbids as a failure, whatever the code, declared or not.
#[tokio::test]
async fn a_pushback_that_forbids_takes_a_token_whatever_the_code() {
    for (code, method) in [(3, SAY_HELLO), (14, SAY_HELLO), (8, SAY_HELLO), (3, "/not.This/One")] {
        for text in ["-1", "later", ""] {
            let forbidding = Peer::start(Script::Status(code, vec![("grpc-retry-pushback-ms", text)])).await;
            let failing = Peer::start(Script::Status(14, vec![])).await;
            let retry = RetryPolicy::new().budget(10, 0.0).backoff(Duration::ZERO, Duration::ZERO);
            let (channel, set) = changing(builder().retry(retry.repeatable(method).repeatable_streaming("/x.Y/Z")));
            set.add(forbidding.address);
            for _ in 0..5 {
                assert_eq!(greet(&channel).await.unwrap_err().code(), Code::from_i32(code));
            }
            assert_eq!(forbidding.seen.calls(), 5, "none was repeated");
            set.add(failing.address);
            set.remove(&forbidding.address);
            let only = [(failing.address.to_string(), ServerState::Ready)].into();
            until("the other alone to be ready", || states(&channel) == only).await;
            greet(&channel).await.unwrap_err();
            assert_eq!(failing.seen.calls(), 1, "the budget is used up: {code} {method} {text:?}");
        }
    }
}
