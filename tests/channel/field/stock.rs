//! A stock tonic server with its defaults, whose calls end with a given status, and a stream beside them.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::test_service_server::{TestService, TestServiceServer};
use greeter_proto::testing::{
    Empty, SimpleRequest, SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Request, Response, Status, Streaming};
use tonic_etcd::BalancedChannel;

/// The whole service, for what is declared.
pub(crate) const TEST_SERVICE: &str = "/grpc.testing.TestService/";

pub(crate) struct Stock {
    pub(crate) address: SocketAddr,
    calls: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Stock {
    pub(crate) fn start(status: Status) -> Self {
        Self::with(Server::builder(), status)
    }

    pub(crate) fn with(mut settings: Server, status: Status) -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let service = TestServiceServer::new(Service { status, calls: calls.clone() });
        let serve = settings.add_service(service).serve_with_incoming(incoming);
        Self { address, calls, task: tokio::spawn(serve).abort_handle() }
    }

    /// Calls that reached a handler, streams beside them not counted.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service {
    status: Status,
    calls: Arc<AtomicUsize>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl TestService for Service {
    type StreamingOutputCallStream = Answers<StreamingOutputCallResponse>;
    type FullDuplexCallStream = Answers<StreamingOutputCallResponse>;
    type HalfDuplexCallStream = Answers<StreamingOutputCallResponse>;

    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.calls.fetch_add(1, SeqCst);
        Ok(Response::new(Empty {}))
    }

    /// The status alone.
    async fn unary_call(&self, _: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        self.calls.fetch_add(1, SeqCst);
        Err(self.status.clone())
    }

    /// The status after a message.
    async fn streaming_output_call(
        &self,
        _: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Self::StreamingOutputCallStream>, Status> {
        self.calls.fetch_add(1, SeqCst);
        let answers = [Ok(StreamingOutputCallResponse::default()), Err(self.status.clone())];
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn streaming_input_call(
        &self,
        _: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        Err(Status::unimplemented("no test needs it"))
    }

    /// One answer for each request.
    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Self::FullDuplexCallStream>, Status> {
        let answers = request.into_inner().map(|request| request.map(|_| StreamingOutputCallResponse::default()));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn half_duplex_call(
        &self,
        _: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Self::HalfDuplexCallStream>, Status> {
        Err(Status::unimplemented("no test needs it"))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("by its name"))
    }
}

/// A stream that goes on while other calls of its connection come to their ends.
pub(crate) struct Beside {
    requests: mpsc::Sender<StreamingOutputCallRequest>,
    answers: Streaming<StreamingOutputCallResponse>,
}

impl Beside {
    pub(crate) async fn open(channel: &BalancedChannel) -> Self {
        let (requests, outgoing) = mpsc::channel(4);
        requests.send(StreamingOutputCallRequest::default()).await.unwrap();
        let mut client = TestServiceClient::new(channel.clone());
        let answers = client.full_duplex_call(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        let mut beside = Self { requests, answers };
        assert!(beside.answers.message().await.unwrap().is_some());
        beside
    }

    /// A request and its answer.
    pub(crate) async fn turn(&mut self) -> Result<(), Status> {
        // Should the stream have ended, the answer says why.
        drop(self.requests.send(StreamingOutputCallRequest::default()).await);
        match self.answers.message().await? {
            Some(_) => Ok(()),
            None => Err(Status::unknown("it has ended")),
        }
    }
}
