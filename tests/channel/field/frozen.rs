//! tonic's own server with its defaults, on a thread and a runtime of its own that can be made to stand still.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use greeter_proto::bench::streams_server::{Streams, StreamsServer};
use greeter_proto::bench::{Chunk, DownloadRequest, UploadReply};
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Who is greeted by this name waits for ever.
pub(crate) const NOBODY: &str = "nobody";
/// Whose handler panics.
pub(crate) const PANIC: &str = "panic";
/// The size of a download that sends a chunk in 10 ms, …
pub(crate) const TICKS: u32 = 0;
/// … and of one that never sends any.
pub(crate) const QUIET: u32 = u32::MAX;

pub(crate) struct Stock {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    freeze: mpsc::UnboundedSender<(Duration, oneshot::Sender<()>)>,
}

impl Stock {
    /// With tonic's defaults.
    pub(crate) fn start() -> Self {
        Self::with(Server::builder())
    }

    /// Ends with the test's process.
    pub(crate) fn with(mut builder: Server) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let (freeze, mut frozen) = mpsc::unbounded_channel::<(Duration, oneshot::Sender<()>)>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.spawn(async move {
                while let Some((how_long, told)) = frozen.recv().await {
                    let _ = told.send(());
                    std::thread::sleep(how_long);
                }
            });
            runtime.block_on(async move {
                let accepted =
                    TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap()).map(move |tcp| {
                        counted.fetch_add(1, Ordering::SeqCst);
                        tcp.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
                    });
                let server = builder.add_service(GreeterServer::new(Service));
                server.add_service(StreamsServer::new(Service)).serve_with_incoming(accepted).await.unwrap();
            });
        });
        Self { address, connections, freeze }
    }

    /// Stands still from now on, for so long.
    pub(crate) async fn freeze(&self, how_long: Duration) {
        let (tell, told) = oneshot::channel();
        self.freeze.send((how_long, tell)).unwrap();
        told.await.unwrap();
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

struct Service;

#[tonic::async_trait]
impl Greeter for Service {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let name = request.into_inner().name;
        assert_ne!(name, PANIC, "as asked");
        if name == NOBODY {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(HelloReply { message: format!("Hello {name}") }))
    }
}

#[tonic::async_trait]
impl Streams for Service {
    type DownloadStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    /// As fast as it is read, but for the two sizes above.
    async fn download(&self, request: Request<DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let size = request.into_inner().size;
        let chunk = move || Ok(Chunk { payload: vec![0; size as usize].into() });
        let chunks = tokio_stream::iter(std::iter::repeat_with(chunk));
        Ok(Response::new(match size {
            TICKS => Box::pin(chunks.throttle(Duration::from_millis(10))),
            QUIET => Box::pin(tokio_stream::pending()),
            _ => Box::pin(chunks),
        }))
    }

    async fn upload(&self, request: Request<Streaming<Chunk>>) -> Result<Response<UploadReply>, Status> {
        let mut chunks = request.into_inner();
        let mut count = 0;
        while chunks.message().await?.is_some() {
            count += 1;
        }
        Ok(Response::new(UploadReply { chunks: count }))
    }
}
