//! A TCP proxy that breaks connections on demand.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A TCP proxy on a port of its own, between a client and the server that it is to lose.
///
/// Every method works at once and on all connections; dropping it closes them and ends its threads.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    accepted: usize,
    /// Both sockets of each open connection; who removes one closes it.
    open: HashMap<usize, Vec<TcpStream>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mode {
    #[default]
    Pass,
    Stall,
    Refuse,
    Ended,
}

impl Proxy {
    /// A proxy to `target`, which need not be there yet: a connection is made for each one accepted.
    ///
    /// # Panics
    /// When no port of 127.0.0.1 can be bound.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding a port of 127.0.0.1");
        let address = listener.local_addr().expect("the address of a bound listener");
        let shared = Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new() });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept_all(&listener)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients connect, as `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes all open connections, and goes on accepting new ones.
    pub fn cut(&self) {
        self.shared.state().close_all();
        self.shared.changed.notify_all();
    }

    /// Holds all bytes of old and new connections, both ways, without closing any: a network that swallows packets.
    pub fn stall(&self) {
        self.shared.set(Mode::Stall);
    }

    /// Back to work; bytes held by [`Proxy::stall`] arrive now.
    pub fn resume(&self) {
        self.shared.set(Mode::Pass);
    }

    /// Closes all connections, and every new one as soon as it is made.
    pub fn refuse(&self) {
        self.shared.set(Mode::Refuse);
        self.cut();
    }

    /// How many connections clients have made so far, refused ones included.
    pub fn connections(&self) -> usize {
        self.shared.state().accepted
    }

    /// How many of them are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.state().open.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.set(Mode::Ended);
        self.cut();
        let _ = TcpStream::connect(self.address); // wakes the acceptor, which sees that it is over
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl State {
    fn close_all(&mut self) {
        for socket in self.open.drain().flat_map(|(_, sockets)| sockets) {
            let _ = socket.shutdown(Shutdown::Both); // wakes whoever reads or writes it
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mode: Mode) {
        self.state().mode = mode;
        self.changed.notify_all();
    }

    fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            let id = {
                let mut state = self.state();
                if state.mode == Mode::Ended {
                    break;
                }
                state.accepted += 1;
                let Ok(socket) = client.try_clone() else { continue };
                if state.mode == Mode::Refuse {
                    continue;
                }
                let id = state.accepted;
                state.open.insert(id, vec![socket]);
                id
            };
            let shared = Arc::clone(self);
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread::spawn(move || shared.carry(id, &client)));
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// The life of one connection.
    fn carry(&self, id: usize, client: &TcpStream) {
        if let Some(server) = self.dial(id) {
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            thread::scope(|scope| {
                scope.spawn(|| self.pump(id, client, &server));
                self.pump(id, &server, client);
            });
        }
        let sockets = self.state().open.remove(&id);
        for socket in sockets.into_iter().flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Connects to the target, unless the connection is cut meanwhile.
    fn dial(&self, id: usize) -> Option<TcpStream> {
        if !self.may_pass(id) {
            return None;
        }
        let server = TcpStream::connect_timeout(&self.target, CONNECT_TIMEOUT).ok()?;
        let socket = server.try_clone().ok()?;
        self.state().open.get_mut(&id)?.push(socket);
        Some(server)
    }

    fn pump(&self, id: usize, mut from: &TcpStream, mut to: &TcpStream) {
        let mut bytes = [0; 16 * 1024];
        loop {
            let length = from.read(&mut bytes).unwrap_or(0);
            // What was read before a stall waits here, and so does the end of the stream.
            if !self.may_pass(id) {
                return;
            }
            if length == 0 || to.write_all(&bytes[..length]).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                let _ = from.shutdown(Shutdown::Read);
                return;
            }
        }
    }

    /// Waits out a stall; `false` when the connection has been cut.
    fn may_pass(&self, id: usize) -> bool {
        let held = |state: &mut State| state.mode == Mode::Stall && state.open.contains_key(&id);
        let state = self.changed.wait_while(self.state(), held).unwrap_or_else(PoisonError::into_inner);
        state.open.contains_key(&id)
    }
}
