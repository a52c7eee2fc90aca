//! Calls that end otherwise than with an answer: statuses, deadlines, cancellation.

use std::time::Duration;

use greeter_proto::testing::unimplemented_service_client::UnimplementedServiceClient;
use greeter_proto::testing::{Empty, SimpleRequest, StreamingInputCallRequest, StreamingOutputCallRequest};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use super::{Client, Transport, ask, assert_zeros, echo, empty_unary, zeros};

/// Both a unary call and a stream end with the status that they ask for.
async fn status_comes_back(transport: &Transport, message: &str) {
    let mut client = Client::new(transport.clone());
    let request = SimpleRequest { response_status: echo(Code::Unknown, message), ..SimpleRequest::default() };
    let status = client.unary_call(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, message));

    let response_status = echo(Code::Unknown, message);
    let request = StreamingOutputCallRequest { response_status, ..StreamingOutputCallRequest::default() };
    let status = end(&mut client, tokio_stream::iter([request])).await;
    assert_eq!((status.code(), status.message()), (Code::Unknown, message));
}

/// How a stream without answers ends: its status may come with the headers or after them.
async fn end(
    client: &mut Client,
    request: impl tonic::IntoStreamingRequest<Message = StreamingOutputCallRequest>,
) -> Status {
    match client.full_duplex_call(request).await {
        Ok(answer) => answer.into_inner().message().await.expect_err("it ends with a status"),
        Err(status) => status,
    }
}

pub(crate) async fn status_code_and_message(transport: &Transport) {
    status_comes_back(transport, "test status message").await;
}

pub(crate) async fn special_status_message(transport: &Transport) {
    status_comes_back(transport, "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n").await;
}

pub(crate) async fn unimplemented_method(transport: &Transport) {
    let status = Client::new(transport.clone()).unimplemented_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

pub(crate) async fn unimplemented_service(transport: &Transport) {
    let mut client = UnimplementedServiceClient::new(transport.clone());
    assert_eq!(client.unimplemented_call(Empty {}).await.unwrap_err().code(), Code::Unimplemented);
}

pub(crate) async fn timeout_on_sleeping_server(transport: &Transport) {
    let message = StreamingOutputCallRequest { payload: zeros(27_182), ..StreamingOutputCallRequest::default() };
    // The client says one thing and then nothing, as the server does.
    let mut request = Request::new(tokio_stream::iter([message]).chain(tokio_stream::pending()));
    request.set_timeout(Duration::from_millis(1));
    let status = end(&mut Client::new(transport.clone()), request).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
}

pub(crate) async fn cancel_after_begin(transport: &Transport) {
    let (_silent, messages) = mpsc::channel::<StreamingInputCallRequest>(1);
    let mut client = Client::new(transport.clone());
    // To drop a call is to cancel it, and nobody is left to whom a status could be told.
    tokio::select! {
        biased;
        answer = client.streaming_input_call(ReceiverStream::new(messages)) => panic!("{answer:?}"),
        () = tokio::task::yield_now() => {}
    }
    empty_unary(transport).await;
}

pub(crate) async fn cancel_after_first_response(transport: &Transport) {
    let messages = tokio_stream::iter([ask(31_415, 27_182)]).chain(tokio_stream::pending());
    let answer = Client::new(transport.clone()).full_duplex_call(messages).await.unwrap();
    let mut answers = answer.into_inner();
    assert_zeros(answers.message().await.unwrap().unwrap().payload, 31_415);
    drop(answers);
    empty_unary(transport).await;
}
