//! What a stock handler sees of an upload that ends halfway: what the docs of `Serve` say.

use std::net::SocketAddr;
use std::time::Duration;

use greeter_proto::testing::StreamingInputCallRequest;
use greeter_proto::testing::test_service_client::TestServiceClient;
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;

use super::recorded::Stock;
use crate::support::{builder, over, until};

/// One message, and no end.
fn half() -> impl tokio_stream::Stream<Item = StreamingInputCallRequest> {
    tokio_stream::once(StreamingInputCallRequest::default()).chain(tokio_stream::pending())
}

async fn upload<T>(channel: T)
where
    T: tonic::client::GrpcService<tonic::body::Body> + Send + 'static,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let _ = TestServiceClient::new(channel).streaming_input_call(half()).await;
}

async fn tonics(address: SocketAddr) -> tonic::transport::Channel {
    Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// F73: by dropping the call, with our channel and with tonic's; the end of the client shows.
#[tokio::test]
async fn half_an_upload_looks_whole_to_a_handler() {
    for ours in [true, false] {
        let stock = Stock::start();
        let address = stock.address;
        let call = tokio::spawn(async move {
            if ours {
                upload(over(builder(), [&address])).await;
            } else {
                upload(tonics(address).await).await;
            }
        });
        until("the call to arrive", || stock.calls() == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await; // and its message
        call.abort();
        until("the end to come", || stock.ended().len() == 1).await;
        assert_eq!(stock.ended(), [(1, None)], "dropped, ours: {ours}");
    }

    let stock = Stock::start();
    let client = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = stock.address;
    client.spawn(async move { upload(over(builder(), [&address])).await });
    until("the call to arrive", || stock.calls() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await; // and its message
    client.shutdown_background();
    until("the end to come", || stock.ended().len() == 1).await;
    assert!(matches!(stock.ended()[..], [(1, Some(_))]), "the end of the client: {:?}", stock.ended());
}
