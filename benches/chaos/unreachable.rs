//! Addresses at which nobody answers, each in its own way.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener as Listener, TcpSocket};
use tokio::runtime::Runtime;

/// How long a connection to a full backlog is tried before it counts as full.
const FULL: Duration = Duration::from_millis(300);

/// Three of them, for as long as it is held.
pub(crate) struct Unreachable {
    /// Refuses connections.
    closed: SocketAddr,
    /// Accepts them, and says nothing.
    silent: SocketAddr,
    /// Lets them wait for being accepted.
    full: SocketAddr,
    _bound: TcpSocket,
    _listener: Listener,
    _waiting: Vec<TcpStream>,
    _runtime: Runtime,
}

impl Unreachable {
    pub(crate) fn new() -> io::Result<Self> {
        let runtime = Runtime::new()?;
        let _entered = runtime.enter();
        // Bound and not listening: nobody else can take the port, and the system refuses whoever connects.
        let bound = TcpSocket::new_v4()?;
        bound.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(1)?;
        let full = listener.local_addr()?;
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&full, FULL) {
            waiting.push(stream);
        }
        Ok(Self {
            closed: bound.local_addr()?,
            silent: silent()?,
            full,
            _bound: bound,
            _listener: listener,
            _waiting: waiting,
            _runtime: runtime,
        })
    }

    pub(crate) fn addresses(&self) -> [String; 3] {
        [self.closed, self.silent, self.full].map(|address| address.to_string())
    }
}

/// Its thread ends with the process.
fn silent() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        let held: Vec<_> = listener.incoming().collect();
        drop(held);
    });
    Ok(address)
}
