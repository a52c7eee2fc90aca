//! What a caller gets of a server's status, beside what tonic's own channel gives.

use std::time::Duration;

use bytes::Bytes;
use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{SimpleRequest, StreamingOutputCallRequest};
use http::uri::PathAndQuery;
use tokio_stream::StreamExt;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tower::ServiceBuilder;

use super::codec::Raw;
use crate::field::stock::Stock;
use crate::support::{builder, over, ready, repeating};

type Told = (Code, String, Vec<u8>, Vec<(String, Vec<u8>)>);

fn told(status: &Status) -> Told {
    let headers = status.metadata().clone().into_headers();
    let mut all: Vec<_> = headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    all.sort();
    (status.code(), status.message().to_owned(), status.details().to_vec(), all)
}

macro_rules! all {
    ($service:expr) => {{
        let mut out = Vec::new();
        let mut client = TestServiceClient::new($service);
        out.push(told(&client.unary_call(SimpleRequest::default()).await.unwrap_err()));
        let mut stream =
            client.streaming_output_call(StreamingOutputCallRequest::default()).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
        out.push(told(&stream.message().await.unwrap_err()));
        out.push(told(&client.streaming_input_call(tokio_stream::iter([])).await.unwrap_err()));
        out
    }};
}

macro_rules! by_hand {
    ($service:expr) => {{
        let mut grpc = tonic::client::Grpc::new($service);
        let mut out = Vec::new();
        for path in ["UnaryCall", "StreamingOutputCall"] {
            let path = PathAndQuery::try_from(format!("/grpc.testing.TestService/{path}")).unwrap();
            grpc.ready().await.map_err(|_| ()).unwrap();
            out.push(told(&grpc.unary(Request::new(Vec::new()), path, Raw).await.unwrap_err()));
        }
        out
    }};
}

#[tokio::test]
async fn statuses_are_those_of_tonic() {
    let mut metadata = MetadataMap::new();
    metadata.append("x-a", "1".parse().unwrap());
    metadata.append("x-a", "2".parse().unwrap());
    metadata.append_bin("x-b-bin", MetadataValue::from_bytes(&[0, 255, 1]));
    metadata.append_bin("x-b-bin", MetadataValue::from_bytes(&[]));
    for code in 1..=16 {
        for message in ["", "at 10.0.0.5:80, 100 % sure\nähm %41", " a  b "] {
            let details = if code % 2 == 0 { Bytes::new() } else { Bytes::from_static(&[0, 255, 7]) };
            let status = Status::with_details_and_metadata(Code::from_i32(code), message, details, metadata.clone());
            let stock = Stock::start(status);
            let theirs = Endpoint::from_shared(format!("http://{}", stock.address)).unwrap().connect().await.unwrap();
            let expected = all!(theirs.clone());
            let expected_by_hand = by_hand!(theirs);
            for builder in [builder(), repeating(), builder().timeout(Duration::from_secs(5))] {
                let ours = over(builder, [&stock.address]);
                ready(&ours, 1).await;
                assert_eq!(all!(ours.clone()), expected, "{code} {message}");
                assert_eq!(by_hand!(ours.clone()), expected_by_hand, "{code} {message}, by hand");
                let intercepted =
                    tonic::service::interceptor::InterceptedService::new(ours.clone(), |r: Request<()>| Ok(r));
                assert_eq!(all!(intercepted), expected, "{code} {message}, intercepted");
                let layered = ServiceBuilder::new()
                    .map_err(|e: Status| Box::<dyn std::error::Error + Send + Sync>::from(e))
                    .service(ours);
                assert_eq!(all!(layered), expected, "{code} {message}, layered");
            }
        }
    }
}

/// A stream is `fused` by an error: one error, and then its end.
#[tokio::test]
async fn the_status_of_a_stream_is_told_once() {
    let stock = Stock::start(Status::not_found("gone"));
    let ours = over(builder(), [&stock.address]);
    ready(&ours, 1).await;
    let theirs = Endpoint::from_shared(format!("http://{}", stock.address)).unwrap().connect().await.unwrap();
    let request = StreamingOutputCallRequest::default;
    let all = TestServiceClient::new(theirs).streaming_output_call(request()).await.unwrap().into_inner();
    let expected: Vec<_> = all.map(|item| item.map(drop).map_err(|status| status.code())).collect().await;
    let all = TestServiceClient::new(ours).streaming_output_call(request()).await.unwrap().into_inner();
    let got: Vec<_> = all.map(|item| item.map(drop).map_err(|status| status.code())).collect().await;
    assert_eq!(got, expected, "tonic's own channel says the second");
}
