//! A stock tonic server without etcd, whose behaviour is switched while it runs; in this process, or as one of its own.

pub(crate) mod conduct;
mod greet;
pub(crate) mod log;
mod process;
pub(crate) mod refusing;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use greeter_proto::bench::streams_server::StreamsServer;
use greeter_proto::greeter_server::GreeterServer;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use self::conduct::{Conduct, Switch};
use self::greet::Me;
pub(crate) use self::greet::{ASK_FOR_TEXT, ATTEMPTS_BEFORE, TEXT_CODE};
use self::log::Arrivals;
pub(crate) use self::process::run;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How long a server that stops waits for its connections to end.
const DRAIN: Duration = Duration::from_millis(150);

/// What differs from tonic's defaults; nothing by default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    /// Where it listens, when not on localhost's usual address.
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) max_streams: Option<u32>,
    /// At this age a connection gets its GOAWAY.
    pub(crate) max_age: Option<Duration>,
}

/// A server with a thread of its own; killed when it is dropped.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) switch: Arc<Switch>,
    settings: Settings,
    me: Me,
    accepted: Arc<AtomicUsize>,
    running: Option<Running>,
}

struct Running {
    end: oneshot::Sender<End>,
    thread: JoinHandle<()>,
}

enum End {
    /// All connections are closed at once, as the kernel does it for a process that is killed.
    Kill,
    /// GOAWAY first, and the calls in flight may end.
    Gracefully,
}

impl Peer {
    /// Each call that reaches it is noted under this number.
    pub(crate) fn start(number: u8, conduct: Conduct, arrivals: Arc<Arrivals>, settings: Settings) -> Result<Self> {
        let switch = Arc::new(Switch::new(conduct));
        let me = Me::new(number, switch.clone(), arrivals);
        let address = (settings.ip.unwrap_or(Ipv4Addr::LOCALHOST), 0).into();
        let mut peer = Self { address, switch, settings, me, accepted: Arc::default(), running: None };
        peer.start_again()?;
        Ok(peer)
    }

    pub(crate) fn kill(&mut self) {
        self.end(End::Kill);
    }

    pub(crate) fn stop(&mut self) {
        self.end(End::Gracefully);
    }

    /// At the same address.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = TcpListener::bind(self.address)?;
        listener.set_nonblocking(true)?;
        self.address = listener.local_addr()?;
        let (settings, me, accepted) = (self.settings, self.me.clone(), self.accepted.clone());
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn(move || runtime.block_on(serve(listener, settings, me, accepted, ended)));
        self.running = Some(Running { end, thread });
        Ok(())
    }

    /// How many connections it has accepted since it was first started.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Returns when its sockets are closed.
    fn end(&mut self, end: End) {
        if let Some(running) = self.running.take() {
            // Either fails only where the thread has ended by itself.
            let _ = running.end.send(end);
            let _ = running.thread.join();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Until it is told to end; the runtime's end then closes what is open.
async fn serve(
    listener: TcpListener,
    settings: Settings,
    me: Me,
    accepted: Arc<AtomicUsize>,
    mut ended: oneshot::Receiver<End>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).map(move |accept| {
        accepted.fetch_add(1, Ordering::SeqCst);
        accept
    });
    let mut server = Server::builder().max_concurrent_streams(settings.max_streams);
    if let Some(age) = settings.max_age {
        server = server.max_connection_age(age);
    }
    let router = server.add_service(GreeterServer::new(me.clone())).add_service(StreamsServer::new(me));
    let (drain, draining) = oneshot::channel::<()>();
    let serving = router.serve_with_incoming_shutdown(incoming, async {
        // A sender that is dropped never asks.
        if draining.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    tokio::pin!(serving);
    tokio::select! {
        _ = &mut serving => {}
        end = &mut ended => if let Ok(End::Gracefully) = end {
            let _ = drain.send(()); // the receiver is in `serving`
            let _ = timeout(DRAIN, serving).await; // a client that does nothing keeps its connection
        },
    }
}
