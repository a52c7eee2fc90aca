//! Servers of `grpc.testing.TestService` in this process, on tonic's server.

mod around;
mod service;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use greeter_proto::testing::test_service_server::{TestService, TestServiceServer};
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::{Server, server::TcpIncoming};
use tower::layer::layer_fn;

use around::Around;
use service::Service;

/// Servers of one service; they end with it.
pub(crate) struct Fleet {
    pub(crate) servers: Vec<Tested>,
    _tasks: JoinSet<()>,
}

/// A server, as its test sees it.
#[derive(Clone, Debug)]
pub(crate) struct Tested {
    pub(crate) address: SocketAddr,
    calls: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

/// A call that has not ended yet.
pub(crate) struct Open(Arc<AtomicUsize>);

impl Fleet {
    /// With the standard test service.
    pub(crate) fn start(size: usize) -> Self {
        let service = || TestServiceServer::new(Service).accept_compressed(Gzip).send_compressed(Gzip);
        Self::serve(size, &Server::builder(), service)
    }

    pub(crate) fn serve<T: TestService>(
        size: usize,
        settings: &Server,
        service: impl Fn() -> TestServiceServer<T>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let servers = (0..size).map(|_| Tested::start(settings.clone(), service(), &mut tasks)).collect();
        Self { servers, _tasks: tasks }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.address.to_string()).collect()
    }

    /// Calls that have not ended, at any server.
    pub(crate) fn open(&self) -> usize {
        self.servers.iter().map(Tested::open).sum()
    }
}

impl Tested {
    fn start<T: TestService>(settings: Server, service: TestServiceServer<T>, tasks: &mut JoinSet<()>) -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
        let address = incoming.local_addr().unwrap();
        let server = Self { address, calls: Arc::default(), open: Arc::default() };
        let counts = server.clone();
        let around = layer_fn(move |service| Around::new(service, counts.clone()));
        let serving = settings.layer(around).add_service(service).serve_with_incoming(incoming);
        tasks.spawn(async { serving.await.unwrap() });
        server
    }

    /// Calls that have come.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    /// Calls that have not ended, whoever ends them.
    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    fn enter(&self) -> Open {
        self.calls.fetch_add(1, SeqCst);
        self.open.fetch_add(1, SeqCst);
        Open(self.open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
