//! `grpc.testing.TestService` as gRPC's `doc/interop-test-descriptions.md` describes its servers.

use std::pin::Pin;
use std::time::Duration;

use greeter_proto::testing::test_service_server::TestService;
use greeter_proto::testing::{
    BoolValue, EchoStatus, Empty, Payload, SimpleRequest, SimpleResponse, StreamingInputCallRequest,
    StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

use crate::cases::{Flags, zeros};

pub(crate) struct Service;

type Answer = Result<StreamingOutputCallResponse, Status>;
type Answers = Pin<Box<dyn Stream<Item = Answer> + Send>>;

/// A status that was asked for, other than OK.
fn asked(status: Option<EchoStatus>) -> Result<(), Status> {
    match status {
        Some(EchoStatus { code, message }) if code != 0 => Err(Status::new(Code::from_i32(code), message)),
        _ => Ok(()),
    }
}

fn payload(kind: i32, size: i32) -> Result<Option<Payload>, Status> {
    let size = usize::try_from(size).ok().filter(|_| kind == 0);
    size.map(zeros).ok_or_else(|| Status::invalid_argument("no such type or size of payload"))
}

/// Whether the message that came last is compressed as it was said to be.
fn expected(compressed: Option<BoolValue>, extensions: &Extensions) -> Result<(), Status> {
    let came = extensions.get::<Flags>().and_then(|flags| flags.so_far().last().copied());
    match compressed {
        Some(BoolValue { value }) if came != Some(value) => Err(Status::invalid_argument("compressed otherwise")),
        _ => Ok(()),
    }
}

/// Answers of which each waits until there is room for it.
fn answers<F: Future<Output = Result<(), Status>> + Send + 'static>(
    answer: impl FnOnce(Sender<Answer>) -> F,
) -> Response<Answers> {
    let (send, answers) = mpsc::channel(1);
    let answering = answer(send.clone());
    tokio::spawn(async move {
        // A client that has gone takes the stream with it, and ends a server that still reads.
        let ended = tokio::select! {
            ended = answering => ended,
            () = send.closed() => return,
        };
        if let Err(status) = ended {
            let _ = send.send(Err(status)).await;
        }
    });
    Response::new(Box::pin(ReceiverStream::new(answers)))
}

/// The answers that a message asks for.
async fn answer(request: StreamingOutputCallRequest, send: &Sender<Answer>) -> Result<(), Status> {
    asked(request.response_status)?;
    for wanted in request.response_parameters {
        if let Ok(wait @ 1..) = wanted.interval_us.try_into() {
            tokio::time::sleep(Duration::from_micros(wait)).await;
        }
        let payload = payload(request.response_type, wanted.size)?;
        // Whoever does not listen has gone.
        let _ = send.send(Ok(StreamingOutputCallResponse { payload })).await;
    }
    Ok(())
}

#[tonic::async_trait]
impl TestService for Service {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        expected(request.expect_compressed, &extensions)?;
        asked(request.response_status)?;
        let payload = payload(request.response_type, request.response_size)?;
        let mut response = Response::new(SimpleResponse { payload });
        if request.response_compressed.is_some_and(|compressed| !compressed.value) {
            response.disable_compression();
        }
        Ok(response)
    }

    type StreamingOutputCallStream = Answers;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Answers>, Status> {
        Ok(answers(|send| async move { answer(request.into_inner(), &send).await }))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let (_, extensions, mut requests) = request.into_parts();
        let mut size = 0_i32;
        while let Some(request) = requests.message().await? {
            expected(request.expect_compressed, &extensions)?;
            size += request
                .payload
                .map_or(0, |payload| i32::try_from(payload.body.len()).expect("tonic takes no message so large"));
        }
        Ok(Response::new(StreamingInputCallResponse { aggregated_payload_size: size }))
    }

    type FullDuplexCallStream = Answers;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        Ok(answers(|send| async move {
            while let Some(request) = requests.message().await? {
                answer(request, &send).await?;
            }
            Ok(())
        }))
    }

    type HalfDuplexCallStream = Answers;

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let mut all = Vec::new();
        while let Some(request) = requests.message().await? {
            all.push(request);
        }
        Ok(answers(|send| async move {
            for request in all {
                answer(request, &send).await?;
            }
            Ok(())
        }))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("nobody has it"))
    }
}
