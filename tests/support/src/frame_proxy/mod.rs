//! An HTTP/2 proxy that holds, delays or drops gRPC messages by method, stream and direction.
//!
//! It ends HTTP/2 on both sides: frames that are left out or delayed would break the other side's header compression.

mod connection;
mod cutter;
mod exchange;
mod queue;
mod rule;
mod state;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

pub use rule::Rule;
pub use state::Late;
use state::Shared;

/// An HTTP/2 proxy on a port of its own, between gRPC clients and an etcd. It passes everything on but what a
/// [`Rule`] catches.
///
/// - Each accepted connection gets one of its own to the target. Where either ends, the other is closed at once.
/// - Rules act on whole gRPC messages. The head of a request or answer, its end and its trailers count as messages
///   without bytes.
/// - Order holds within a stream and direction: what no rule catches waits behind what is held or delayed there.
///   Other streams pass.
/// - Pings are answered by the proxy itself. Its windows are as large as they can be. The target's limit of concurrent
///   streams is passed on.
/// - A reset is passed on at once: it discards what is held before it, and is never dropped. It does not overtake
///   what is delayed.
///
/// All methods return at once. They may be called in any runtime, or in none: the proxy has a thread of its own.
/// Dropping it closes all connections and ends the thread.
#[derive(Debug)]
pub struct FrameProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FrameProxy {
    /// A proxy to `target`, which need not be there yet: a connection is made for each one accepted.
    ///
    /// # Panics
    /// When no port of 127.0.0.1 can be bound.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding a port of 127.0.0.1");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("the address of a bound listener");
        let shared = Arc::new(Shared::new());
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, listener, target, ended)
        });
        Self { address, shared, end: Some(end), thread: Some(thread) }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients connect, as `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections clients have made so far.
    pub fn connections(&self) -> usize {
        self.shared.state().accepted
    }

    /// How many of them are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.state().connected
    }

    /// How many streams of this method clients have opened so far. A method is the last segment of the path:
    /// `Watch`, `Put`, `LeaseKeepAlive`.
    pub fn streams(&self, method: &str) -> usize {
        self.shared.state().count(method).opened
    }

    /// How many of them are open now.
    pub fn open_streams(&self, method: &str) -> usize {
        self.shared.state().count(method).open
    }

    /// The messages of clients that a rule held or delayed, and that have gone on to the target since, the oldest first. Those whose
    /// stream or connection ended before are not among them.
    pub fn late(&self) -> Vec<Late> {
        self.shared.state().late.clone()
    }

    /// Puts a rule in force, for messages that arrive from now on. Where several match, the one set first decides.
    pub fn rule(&self, rule: Rule) {
        self.shared.add(rule);
    }

    /// Ends all rules. What is held or delayed goes on at once, in the order of its arrival; what was dropped stays
    /// dropped.
    pub fn clear(&self) {
        self.shared.clear();
    }
}

impl Drop for FrameProxy {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: its runtime closes every connection when it is dropped.
fn run(shared: &Arc<Shared>, listener: TcpListener, target: SocketAddr, ended: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime of one thread");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener that does not block");
        tokio::select! {
            _ = ended => {}
            () = connection::accept_all(shared, &listener, target) => {}
        }
    });
}
