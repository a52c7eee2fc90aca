//! `grpc.testing.TestService` on tonic's server with its defaults, and what it saw.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;

use greeter_proto::testing::test_service_server::{TestService, TestServiceServer};
use greeter_proto::testing::{
    EchoStatus, Empty, SimpleRequest, SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use tokio::task::AbortHandle;
use tokio_stream::Stream;
use tonic::codegen::Bytes;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Code, Request, Response, Status, Streaming};

/// Ends with its owner.
pub(crate) struct Stock {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Seen>>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Metadata of the calls, in order.
    pub(crate) calls: Vec<MetadataMap>,
    /// How requests' streams ended: the messages that came, and an error if that was the end.
    pub(crate) ended: Vec<(i32, Option<Code>)>,
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stock {
    pub(crate) fn start() -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
        let address = incoming.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let service = TestServiceServer::new(Service(seen.clone()));
        let serving = Server::builder().add_service(service).serve_with_incoming(incoming);
        let task = tokio::spawn(async { serving.await.unwrap() }).abort_handle();
        Self { address, seen, task }
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().unwrap().calls.len()
    }

    /// How the requests' streams ended that have.
    pub(crate) fn ended(&self) -> Vec<(i32, Option<Code>)> {
        self.seen.lock().unwrap().ended.clone()
    }
}

/// A status with all that one can have.
pub(crate) fn rich(code: i32, message: &str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-text", "some".parse().unwrap());
    metadata.append("x-text", "more".parse().unwrap());
    metadata.insert_bin("x-data-bin", MetadataValue::from_bytes(&[0, 255]));
    let details = Bytes::from_static(&[7, 0, 200]);
    Status::with_details_and_metadata(Code::from_i32(code), message, details, metadata)
}

fn asked(status: Option<EchoStatus>) -> Result<(), Status> {
    match status {
        Some(EchoStatus { code, message }) if code != 0 => Err(rich(code, &message)),
        _ => Ok(()),
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

struct Service(Arc<Mutex<Seen>>);

impl Service {
    fn called<T>(&self, request: &Request<T>) {
        self.0.lock().unwrap().calls.push(request.metadata().clone());
    }
}

/// Reads to the end, and remembers how that was.
async fn read<T>(mut requests: Streaming<T>, seen: Arc<Mutex<Seen>>) -> i32 {
    let mut count = 0;
    let error = loop {
        match requests.message().await {
            Ok(Some(_)) => count += 1,
            Ok(None) => break None,
            Err(status) => break Some(status.code()),
        }
    };
    seen.lock().unwrap().ended.push((count, error));
    count
}

#[tonic::async_trait]
impl TestService for Service {
    async fn empty_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.called(&request);
        Ok(Response::new(Empty {}))
    }

    /// The status that is asked for, as trailers alone.
    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        self.called(&request);
        asked(request.into_inner().response_status)?;
        Ok(Response::new(SimpleResponse::default()))
    }

    type StreamingOutputCallStream = Answers;

    /// A message for each that is asked for, after its interval, and the status in the trailers.
    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Answers>, Status> {
        self.called(&request);
        let request = request.into_inner();
        let (send, answers) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for asked in &request.response_parameters {
                tokio::time::sleep(std::time::Duration::from_micros(asked.interval_us as u64)).await;
                let _ = send.send(Ok(StreamingOutputCallResponse::default()));
            }
            if let Err(status) = asked(request.response_status) {
                let _ = send.send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::UnboundedReceiverStream::new(answers))))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        self.called(&request);
        let count = read(request.into_inner(), self.0.clone()).await;
        Ok(Response::new(StreamingInputCallResponse { aggregated_payload_size: count }))
    }

    type FullDuplexCallStream = Answers;

    /// One message at once; the end when the request's stream has ended.
    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Answers>, Status> {
        self.called(&request);
        let (send, answers) = tokio::sync::mpsc::unbounded_channel();
        let _ = send.send(Ok(StreamingOutputCallResponse::default()));
        let seen = self.0.clone();
        tokio::spawn(async move {
            read(request.into_inner(), seen).await;
            drop(send);
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::UnboundedReceiverStream::new(answers))))
    }

    type HalfDuplexCallStream = Answers;

    async fn half_duplex_call(
        &self,
        _: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Answers>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
