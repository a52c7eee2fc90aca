//! Many servers in this process, on a runtime of their own. Each counts its calls and its connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::counted::Counted;
use super::delay::Delay;
use crate::world::Result;

/// Where servers run. Dropped, it ends them all.
pub(super) struct Host(Option<Runtime>);

/// How long a call takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    /// `None`: it is done at once.
    takes: Option<Arc<Delay>>,
    /// How many calls are worked on at once. The others wait.
    slots: Option<Arc<Semaphore>>,
    /// How long it takes until then.
    cold: Option<(Instant, Duration)>,
}

/// Killed when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    calls: Arc<AtomicU64>,
    connections: Arc<Connections>,
    accepting: AbortHandle,
}

#[derive(Default)]
struct Connections {
    open: Arc<AtomicUsize>,
    /// Second handles of their sockets. `None` once the server is killed.
    sockets: Mutex<Option<Vec<std::net::TcpStream>>>,
}

impl Host {
    pub(super) fn start() -> Result<Self> {
        Ok(Self(Some(Runtime::new()?)))
    }

    pub(super) fn servers(&self, count: usize, work: impl Fn() -> Work) -> Result<Vec<Server>> {
        (0..count).map(|_| self.server(work())).collect()
    }

    pub(super) fn server(&self, work: Work) -> Result<Server> {
        let runtime = self.0.as_ref().ok_or("the host has ended")?;
        let _entered = runtime.enter();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let (address, listener) = (listener.local_addr()?, TcpListener::from_std(listener)?);
        let (calls, connections) = (Arc::<AtomicU64>::default(), Arc::<Connections>::default());
        *connections.lock() = Some(Vec::new());
        let accepted = connections.clone();
        let incoming = TcpListenerStream::new(listener).map(move |stream| accepted.accept(stream?));
        let greeter = GreeterServer::new(Me { work, calls: calls.clone() });
        let serving = tonic::transport::Server::builder().add_service(greeter).serve_with_incoming(incoming);
        let accepting = runtime.spawn(serving).abort_handle();
        Ok(Server { address, calls, connections, accepting })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background(); // it may be dropped within another runtime
        }
    }
}

impl Work {
    pub(super) fn of(takes: Duration) -> Self {
        Self { takes: Some(Arc::new(Delay::of(takes))), ..Self::default() }
    }

    pub(super) fn slots(self, slots: usize) -> Self {
        Self { slots: Some(Arc::new(Semaphore::new(slots))), ..self }
    }

    /// It takes longer at first, from now on.
    pub(super) fn cold(self, lasts: Duration, takes: Duration) -> Self {
        Self { cold: Some((Instant::now() + lasts, takes)), ..self }
    }

    async fn done(&self) {
        let _slot = match &self.slots {
            Some(slots) => slots.acquire().await.ok(), // it is never closed
            None => None,
        };
        match (self.cold.filter(|(until, _)| Instant::now() < *until), &self.takes) {
            (Some((_, takes)), _) => sleep(takes).await,
            (None, Some(takes)) => takes.pass().await,
            (None, None) => {}
        }
    }
}

impl Server {
    /// How many calls have reached it.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many connections it has accepted that are still open.
    pub(super) fn open(&self) -> usize {
        self.connections.open.load(Ordering::SeqCst)
    }

    /// All connections are closed at once, and none is accepted any more, as the kernel does it for a process that is
    /// killed.
    pub(super) fn kill(&self) {
        self.accepting.abort();
        for socket in self.connections.lock().take().into_iter().flatten() {
            let _ = socket.shutdown(std::net::Shutdown::Both); // the other side may have closed it
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Connections {
    fn accept(&self, stream: TcpStream) -> std::io::Result<Counted> {
        stream.set_nodelay(true)?;
        let socket = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        match &mut *self.lock() {
            Some(sockets) => sockets.push(socket),
            None => socket.shutdown(std::net::Shutdown::Both)?,
        }
        Ok(Counted::new(stream, self.open.clone()))
    }

    /// Whole after every step of its holder.
    fn lock(&self) -> MutexGuard<'_, Option<Vec<std::net::TcpStream>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Me {
    work: Work,
    calls: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, _: Request<HelloRequest>) -> std::result::Result<Response<HelloReply>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.work.done().await;
        Ok(Response::new(HelloReply { message: "Hello".into() }))
    }
}
