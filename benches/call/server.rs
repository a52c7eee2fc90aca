//! A server process: the greeter and streams without an end, on one listener or many. It says the addresses on stdout, as a list
//! in JSON, and serves until it is killed.

use std::sync::atomic::{AtomicU64, Ordering};

use greeter_proto::bench::streams_server::{Streams, StreamsServer};
use greeter_proto::bench::{Chunk, DownloadRequest, UploadReply};
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::block_on;
use crate::job::ServerJob;

/// Tells who it is, so that a client can see that it reaches every server.
struct Named {
    name: String,
    /// Fails every second call.
    fails: bool,
    calls: AtomicU64,
}

#[tonic::async_trait]
impl Greeter for Named {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        if self.fails && self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Err(Status::unavailable("every second call fails"));
        }
        Ok(Response::new(HelloReply { message: self.name.clone() }))
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

pub(crate) fn run(job: &ServerJob) {
    block_on(job.single_thread, async {
        let (mut servers, mut addresses) = (JoinSet::new(), Vec::new());
        for number in 0..job.listeners {
            let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port").with_nodelay(Some(true));
            let name = incoming.local_addr().expect("its address").to_string();
            addresses.push(name.clone());
            let greeter = Named { name, fails: job.first_fails && number == 0, calls: AtomicU64::new(0) };
            let router =
                Server::builder().add_service(GreeterServer::new(greeter)).add_service(StreamsServer::new(Endless));
            #[cfg(feature = "tonic-health")]
            let router = router.add_service(health().await);
            servers.spawn(router.serve_with_incoming(incoming));
        }
        println!("{}", serde_json::to_string(&addresses).expect("addresses are JSON"));
        while let Some(ended) = servers.join_next().await {
            ended.expect("a server without a panic").expect("serves until it is killed");
        }
    });
}

/// tonic's own health service: the greeter serves.
#[cfg(feature = "tonic-health")]
async fn health() -> tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<GreeterServer<Named>>().await;
    health
}
