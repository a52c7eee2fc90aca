//! A server process: the greeter and streams without an end; says its address on stdout and serves until it is killed.

use greeter_proto::bench::streams_server::{Streams, StreamsServer};
use greeter_proto::bench::{Chunk, DownloadRequest, UploadReply};
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Tells who it is, so that a client can see that it reaches every server.
struct Named(String);

#[tonic::async_trait]
impl Greeter for Named {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: self.0.clone() }))
    }
}

struct Endless;

type Repeated = tokio_stream::Iter<std::iter::Repeat<Result<Chunk, Status>>>;

#[tonic::async_trait]
impl Streams for Endless {
    type DownloadStream = Repeated;

    async fn download(&self, request: Request<DownloadRequest>) -> Result<Response<Repeated>, Status> {
        let chunk = Chunk { payload: vec![0; request.get_ref().size as usize].into() };
        Ok(Response::new(tokio_stream::iter(std::iter::repeat(Ok(chunk)))))
    }

    async fn upload(&self, request: Request<Streaming<Chunk>>) -> Result<Response<UploadReply>, Status> {
        let (mut stream, mut chunks) = (request.into_inner(), 0);
        while stream.message().await?.is_some() {
            chunks += 1;
        }
        Ok(Response::new(UploadReply { chunks }))
    }
}

#[tokio::main]
pub(crate) async fn run() {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port").with_nodelay(Some(true));
    let address = incoming.local_addr().expect("its address").to_string();
    println!("{address}");
    let server =
        Server::builder().add_service(GreeterServer::new(Named(address))).add_service(StreamsServer::new(Endless));
    server.serve_with_incoming(incoming).await.expect("serves until it is killed");
}
