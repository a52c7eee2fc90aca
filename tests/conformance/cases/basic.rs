//! Calls that succeed, of all four kinds.

use greeter_proto::testing::{Empty, SimpleRequest, StreamingInputCallRequest, StreamingOutputCallRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::{Client, LARGE_REQUEST, LARGE_RESPONSE, Transport, ask, assert_zeros, zeros};

pub(crate) const SIZES: [(i32, usize); 4] = [(31_415, 27_182), (9, 8), (2_653, 1_828), (58_979, 45_904)];
const INITIAL: &str = "x-grpc-test-echo-initial";
const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

fn large() -> SimpleRequest {
    SimpleRequest { response_size: LARGE_RESPONSE, payload: zeros(LARGE_REQUEST), ..SimpleRequest::default() }
}

pub(crate) async fn empty_unary(transport: &Transport) {
    let answer = Client::new(transport.clone()).empty_call(Empty {}).await.unwrap();
    assert_eq!(answer.into_inner(), Empty {});
}

pub(crate) async fn large_unary(transport: &Transport) {
    let answer = Client::new(transport.clone()).unary_call(large()).await.unwrap();
    assert_zeros(answer.into_inner().payload, LARGE_RESPONSE);
}

pub(crate) async fn client_streaming(transport: &Transport) {
    let message =
        |(_, size)| StreamingInputCallRequest { payload: zeros(size), ..StreamingInputCallRequest::default() };
    let messages = tokio_stream::iter(SIZES.map(message));
    let answer = Client::new(transport.clone()).streaming_input_call(messages).await.unwrap();
    assert_eq!(answer.into_inner().aggregated_payload_size, 74_922);
}

pub(crate) async fn server_streaming(transport: &Transport) {
    let response_parameters = SIZES.iter().flat_map(|(size, _)| ask(*size, 0).response_parameters).collect();
    let request = StreamingOutputCallRequest { response_parameters, ..StreamingOutputCallRequest::default() };
    let mut answers = Client::new(transport.clone()).streaming_output_call(request).await.unwrap().into_inner();
    for (size, _) in SIZES {
        assert_zeros(answers.message().await.unwrap().expect("four answers").payload, size);
    }
    assert_eq!(answers.message().await.unwrap(), None);
}

pub(crate) async fn ping_pong(transport: &Transport) {
    let (send, messages) = mpsc::channel(1);
    let mut pings = SIZES.into_iter().map(|(answer, size)| ask(answer, size));
    // The first goes out with the call: a server need not answer a call that says nothing.
    send.send(pings.next().unwrap()).await.unwrap();
    let call = Client::new(transport.clone()).full_duplex_call(ReceiverStream::new(messages)).await;
    let mut answers = call.unwrap().into_inner();
    for (size, _) in SIZES {
        assert_zeros(answers.message().await.unwrap().expect("an answer to each").payload, size);
        if let Some(ping) = pings.next() {
            send.send(ping).await.unwrap();
        }
    }
    drop(send);
    assert_eq!(answers.message().await.unwrap(), None);
}

pub(crate) async fn empty_stream(transport: &Transport) {
    let call = Client::new(transport.clone()).full_duplex_call(tokio_stream::empty()).await;
    assert_eq!(call.unwrap().into_inner().message().await.unwrap(), None);
}

pub(crate) async fn custom_metadata(transport: &Transport) {
    fn with_metadata<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(INITIAL, "test_initial_metadata_value".parse().unwrap());
        request.metadata_mut().insert_bin(TRAILING, MetadataValue::from_bytes(&[0xab; 3]));
        request
    }
    let mut client = Client::new(transport.clone());

    let answer = client.unary_call(with_metadata(large())).await.unwrap();
    assert_eq!(answer.metadata().get(INITIAL).unwrap(), "test_initial_metadata_value");
    // tonic adds the trailers of a unary call to its metadata.
    assert_eq!(answer.metadata().get_bin(TRAILING).unwrap().to_bytes().unwrap(), [0xab; 3][..]);
    assert_zeros(answer.into_inner().payload, LARGE_RESPONSE);

    let messages = tokio_stream::iter([ask(LARGE_RESPONSE, LARGE_REQUEST)]);
    let answer = client.full_duplex_call(with_metadata(messages)).await.unwrap();
    assert_eq!(answer.metadata().get(INITIAL).unwrap(), "test_initial_metadata_value");
    assert!(answer.metadata().get_bin(TRAILING).is_none(), "trailers do not come first");
    let mut answers = answer.into_inner();
    assert_zeros(answers.message().await.unwrap().unwrap().payload, LARGE_RESPONSE);
    assert_eq!(answers.message().await.unwrap(), None);
    let trailers = answers.trailers().await.unwrap().unwrap();
    assert_eq!(trailers.get_bin(TRAILING).unwrap().to_bytes().unwrap(), [0xab; 3][..]);
}
