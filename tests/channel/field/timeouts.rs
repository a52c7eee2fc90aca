//! tower's idiom, and calls without the channel's deadline.

use std::time::Duration;

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{ResponseParameters, StreamingOutputCallRequest};
use tonic::{Code, Request, Status};
use tonic_etcd::{BalancedChannelBuilder, CallTimeout, MethodConfig};
use tower::{Service, ServiceExt};

use super::recorded::Stock;
use crate::support::{PATIENCE, builder, over};

/// F52: tower's `ServiceExt::ready`, beside our `wait_until_ready`.
#[tokio::test]
async fn towers_ready_compiles_and_is_ready_at_once() {
    let stock = Stock::start();
    let mut channel = over(builder(), [&stock.address]);
    let request = http::Request::post("http://x/grpc.testing.TestService/EmptyCall").body(tonic::body::Body::empty());
    let answer = channel.ready().await.unwrap().call(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    channel.wait_until_ready(PATIENCE).await.unwrap();
}

/// A stream of half a second.
async fn watch(builder: BalancedChannelBuilder, own: Option<CallTimeout>) -> Result<(), Status> {
    let stock = Stock::start();
    let channel = over(builder.wait_for_ready(true), [&stock.address]);
    channel.wait_until_ready(PATIENCE).await.unwrap();
    let response_parameters = vec![ResponseParameters { interval_us: 500_000, ..Default::default() }];
    let mut request = Request::new(StreamingOutputCallRequest { response_parameters, ..Default::default() });
    if let Some(own) = own {
        request.extensions_mut().insert(own);
    }
    let mut answers = TestServiceClient::new(channel).streaming_output_call(request).await?.into_inner();
    while answers.message().await?.is_some() {}
    let told = stock.seen.lock().unwrap().calls[0].get("grpc-timeout").is_some();
    assert!(!told, "nor does the server have one");
    Ok(())
}

/// F52: `CallTimeout` outweighs `MethodConfig`, which outweighs `timeout`.
#[tokio::test]
async fn a_call_or_a_method_can_be_without_the_channels_deadline() {
    let short = || builder().timeout(Duration::from_millis(200));
    let method = "/grpc.testing.TestService/StreamingOutputCall";
    assert_eq!(watch(short(), None).await.unwrap_err().code(), Code::DeadlineExceeded);
    watch(short(), Some(CallTimeout(None))).await.unwrap();
    watch(short().method_config(method, MethodConfig::new().no_timeout()), None).await.unwrap();
    watch(short().method_config("grpc.testing.TestService/", MethodConfig::new().no_timeout()), None).await.unwrap();
    let own = CallTimeout(Some(Duration::from_millis(200)));
    assert_eq!(watch(builder(), Some(own)).await.unwrap_err().code(), Code::DeadlineExceeded);
    let one = builder().method_config(method, MethodConfig::new().timeout(Duration::from_millis(200)));
    assert_eq!(watch(one, None).await.unwrap_err().code(), Code::DeadlineExceeded);
    let other = short().method_config("/grpc.testing.TestService/Other", MethodConfig::new().no_timeout());
    assert_eq!(watch(other, None).await.unwrap_err().code(), Code::DeadlineExceeded);
}
