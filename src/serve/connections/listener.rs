//! The listeners that a server can be served on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpIncoming};

use crate::error::Error;
use crate::serve::advertise::plan::{AddressFamily, BoundAddress};
#[cfg(unix)]
use crate::serve::connections::socket_file::SocketFile;

/// What [`Serve::serve`](crate::serve::Serve::serve) listens on: tokio's `TcpListener` and
/// `UnixListener`, and tonic's `TcpIncoming`. Any other stream of connections goes to
/// [`Serve::serve_with_incoming`](crate::serve::Serve::serve_with_incoming).
///
/// Sealed: it cannot be implemented elsewhere.
///
/// # The file of a Unix socket
///
/// [`Serve::serve`](crate::serve::Serve::serve) removes the file before it closes the listener,
/// also if serving fails, so that a server that stops and starts again can bind the same path. The
/// file that is at the path when serving begins counts as the listener's own. These files stay:
///
/// - A file that another socket has put at the path since.
/// - The file of a listener that was passed to this process, as by systemd. On Linux the system
///   says which process listens; elsewhere a listener counts as given if `LISTEN_FDS` is set.
///
/// A server that is killed, or whose future is dropped, leaves its file: remove it before you bind.
///
/// # A listener on `[::]`
///
/// It accepts IPv4 too unless `IPV6_V6ONLY` is set. `serve` reads that option from a `TcpListener`,
/// but cannot read it from a `TcpIncoming`. There it tries to bind the same port for IPv4. If that
/// fails, it assumes that the `TcpIncoming` holds the port, and so accepts both families. If another
/// listener has that port for IPv4, use a `TcpListener`.
pub trait Listener: sealed::Sealed {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;
    /// The accepted connections.
    type Incoming: Stream<Item = io::Result<Self::Io>>;

    #[doc(hidden)]
    fn incoming(self, nodelay: bool) -> Self::Incoming;
}

mod sealed {
    use super::{BoundAddress, Error};

    pub trait Sealed {
        /// Where it listens.
        fn address(&self) -> Result<BoundAddress, Error>;

        /// The file that is removed with it.
        #[cfg(unix)]
        fn file(&self) -> Option<super::SocketFile> {
            None
        }
    }
}

/// The address and family of a TCP listener. `is_v6_only` is asked only of a listener on `[::]`.
fn tcp_address(
    bound: io::Result<SocketAddr>,
    is_v6_only: impl FnOnce(SocketAddr) -> bool,
) -> Result<BoundAddress, Error> {
    let address = bound.map_err(|error| unknown_address(&error))?;
    let family = match address {
        _ if address.ip().to_canonical().is_ipv4() => AddressFamily::V4,
        _ if address.ip().is_unspecified() && !is_v6_only(address) => AddressFamily::Any,
        _ => AddressFamily::V6,
    };
    Ok(BoundAddress::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()), family))
}

/// Whether a listener on `[::]` that cannot be asked leaves IPv4 to others: then another socket can
/// bind the same port there. Nothing listens on that socket.
fn leaves_ipv4_free(address: SocketAddr) -> bool {
    let bind = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())).into())
    };
    bind().is_ok()
}

/// The error of a listener without an address.
fn unknown_address(error: &io::Error) -> Error {
    Error::invalid("listener", "", format!("it does not tell where it listens: {error}"))
}

impl sealed::Sealed for TcpListener {
    fn address(&self) -> Result<BoundAddress, Error> {
        tcp_address(self.local_addr(), |_| SockRef::from(self).only_v6().unwrap_or(false))
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;
    type Incoming = TcpIncoming;

    fn incoming(self, nodelay: bool) -> TcpIncoming {
        TcpIncoming::from(self).with_nodelay(Some(nodelay))
    }
}

impl sealed::Sealed for TcpIncoming {
    fn address(&self) -> Result<BoundAddress, Error> {
        tcp_address(self.local_addr(), leaves_ipv4_free)
    }
}

impl Listener for TcpIncoming {
    type Io = TcpStream;
    type Incoming = Self;

    fn incoming(self, nodelay: bool) -> Self {
        self.with_nodelay(Some(nodelay))
    }
}

#[cfg(unix)]
impl sealed::Sealed for UnixListener {
    fn address(&self) -> Result<BoundAddress, Error> {
        let address = self.local_addr().map_err(|error| unknown_address(&error))?;
        // A socket without a name, or with an abstract one, has no path that clients could use.
        let Some(path) = address.as_pathname() else { return Ok(BoundAddress::Unknown) };
        let path = std::path::absolute(path).map_err(|error| unknown_address(&error))?;
        path.to_str().map(|path| BoundAddress::Unix(path.to_owned())).ok_or_else(|| {
            Error::invalid("listener", path.to_string_lossy(), "its path is not UTF-8, as a record in etcd must be")
        })
    }

    fn file(&self) -> Option<SocketFile> {
        SocketFile::of(self)
    }
}

#[cfg(unix)]
impl Listener for UnixListener {
    type Io = UnixStream;
    type Incoming = tokio_stream::wrappers::UnixListenerStream;

    fn incoming(self, _nodelay: bool) -> Self::Incoming {
        tokio_stream::wrappers::UnixListenerStream::new(self)
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::sealed::Sealed as _;
    use super::*;

    #[tokio::test]
    async fn what_is_accepted_has_the_option_that_was_asked_for() {
        for nodelay in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let BoundAddress::Tcp(address, _) = listener.address().unwrap() else { panic!("it is TCP") };
            let mut incoming = listener.incoming(nodelay);
            assert!(matches!(incoming.address().unwrap(), BoundAddress::Tcp(bound, _) if bound == address));
            let _client = TcpStream::connect(address).await.unwrap();
            let accepted = incoming.next().await.unwrap().unwrap();
            assert_eq!(accepted.nodelay().unwrap(), nodelay);
        }
    }

    /// F22: `[::]` takes IPv4 too, unless it is told not to.
    #[tokio::test]
    async fn the_families_of_a_listener_are_its_own() {
        let listen = |address: &str, only_v6: bool| {
            let address: SocketAddr = address.parse().unwrap();
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            if address.is_ipv6() {
                socket.set_only_v6(only_v6).unwrap();
            }
            socket.bind(&address.into()).and_then(|()| socket.listen(1)).ok()?;
            socket.set_nonblocking(true).unwrap();
            TcpListener::from_std(socket.into()).ok()
        };
        for (address, only_v6, expected) in [
            ("0.0.0.0:0", false, AddressFamily::V4),
            ("127.0.0.1:0", false, AddressFamily::V4),
            ("[::]:0", false, AddressFamily::Any),
            ("[::]:0", true, AddressFamily::V6),
            ("[::1]:0", false, AddressFamily::V6),
            ("[::ffff:0.0.0.0]:0", false, AddressFamily::V4),
        ] {
            // Where there is no IPv6 there is nothing to tell.
            let Some(listener) = listen(address, only_v6) else { continue };
            let family =
                |bound: BoundAddress| if let BoundAddress::Tcp(_, family) = bound { Some(family) } else { None };
            assert_eq!(family(listener.address().unwrap()), Some(expected), "{address}, {only_v6}");
            let incoming = TcpIncoming::from(listener);
            assert_eq!(family(incoming.address().unwrap()), Some(expected), "{address}, {only_v6}: tonic's");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_socket_is_known_by_its_whole_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(listener.address().unwrap(), BoundAddress::Unix(bound) if *bound == *path.to_str().unwrap()));
    }
}
