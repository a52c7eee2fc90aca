//! Servers that are held, with a source of the test's own.

mod calls;
mod listed;
mod proof;
mod subset;
#[cfg(feature = "tonic-health")]
mod unhealthy;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use test_support::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status};

use crate::address_index::Doubt;
use crate::balance::{BalancedChannelBuilder, DirectoryStatus, InstanceChange, Update};
use crate::{BalancedChannel, Instance, ServerState};

/// Answers at once, but a call named `wait` when it is told to.
#[derive(Clone)]
struct Patient {
    told: Arc<Semaphore>,
    calls: Arc<AtomicUsize>,
    /// Fails all calls.
    fails: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Greeter for Patient {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let name = request.into_inner().name;
        if self.fails.load(Ordering::SeqCst) {
            return Err(Status::internal("as it was told"));
        }
        if name == "wait" {
            self.told.acquire().await.unwrap().forget();
        }
        Ok(Response::new(HelloReply { message: name }))
    }
}

/// Servers on a thread of their own.
struct Servers {
    runtime: Option<tokio::runtime::Runtime>,
    patient: Patient,
}

impl Servers {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let patient = Patient { told: Arc::new(Semaphore::new(0)), calls: Arc::default(), fails: Arc::default() };
        Self { runtime: Some(runtime), patient }
    }

    fn start(&self, max_streams: u32) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let service = GreeterServer::new(self.patient.clone());
        self.runtime.as_ref().unwrap().spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut server = tonic::transport::Server::builder().max_concurrent_streams(max_streams);
            server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        address
    }

    /// A way to a server on which every answer takes so long.
    fn far(&self, to: SocketAddr, delay: Duration) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        self.runtime.as_ref().unwrap().spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = tokio::net::TcpStream::connect(to).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    loop {
                        let read = from_server.read(&mut bytes).await.unwrap_or(0);
                        sleep(delay).await;
                        if read == 0 || to_client.write_all(&bytes[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }
}

impl Servers {
    /// A way to a server, of which the first connections are frozen: as many as the number says.
    fn switch(&self, to: SocketAddr) -> (Arc<AtomicUsize>, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let frozen = Arc::new(AtomicUsize::new(0));
        let switch = frozen.clone();
        self.runtime.as_ref().unwrap().spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            for place in 0.. {
                let (mut client, _) = listener.accept().await.unwrap();
                let frozen = frozen.clone();
                tokio::spawn(async move {
                    let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
                    let is_frozen = async {
                        while place >= frozen.load(Ordering::SeqCst) {
                            sleep(Duration::from_millis(2)).await;
                        }
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        () = is_frozen => std::future::pending().await,
                    }
                });
            }
        });
        (switch, address)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
    }
}

/// What the source says.
struct Feed {
    updates: UnboundedSender<Update<usize>>,
    addresses: HashMap<usize, String>,
    /// Notified while an update is handed over, before the pool has applied it.
    handed_over: Arc<Notify>,
}

impl Feed {
    fn start(builder: BalancedChannelBuilder) -> (Self, BalancedChannel) {
        let (updates, receiver) = unbounded_channel();
        let handed_over = Arc::new(Notify::new());
        let notify = handed_over.clone();
        let source = UnboundedReceiverStream::new(receiver).map(move |update| {
            notify.notify_waiters();
            update
        });
        let channel =
            builder.start("discover:///greeter".into(), DirectoryStatus::new("greeter", None), source, None).unwrap();
        (Self { updates, addresses: HashMap::new(), handed_over }, channel)
    }

    fn send(&self, changes: Vec<InstanceChange<usize>>) {
        let directory = DirectoryStatus { resolved: true, ..DirectoryStatus::new("greeter", None) };
        assert!(self.updates.send(Update { changes, directory: Some(directory) }).is_ok());
    }

    fn insert(&mut self, key: usize, address: SocketAddr) {
        let instance = Instance::new(address).unwrap();
        self.addresses.insert(key, address.to_string());
        self.send(vec![InstanceChange::Insert(key, instance)]);
    }

    fn insert_again(&self, key: usize) {
        self.send(vec![InstanceChange::Insert(key, Instance::new(self.addresses[&key].clone()).unwrap())]);
    }

    fn doubt(&self, keys: impl IntoIterator<Item = usize>, doubt: Doubt) {
        self.send(keys.into_iter().map(|key| InstanceChange::PutInDoubt(key, doubt)).collect());
    }
}

fn count(channel: &BalancedChannel, state: ServerState) -> usize {
    channel.servers().iter().filter(|server| server.state() == state).count()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn greet(channel: &BalancedChannel, name: &str) -> Result<(), Status> {
    let request = HelloRequest { name: name.into() };
    GreeterClient::new(channel.clone()).say_hello(request).await.map(drop)
}
