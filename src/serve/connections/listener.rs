//! What is listened on.

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
use crate::serve::advertise::{Bound, Family};
#[cfg(unix)]
use crate::serve::connections::socket_file::SocketFile;

/// What [`Serve::serve`](crate::serve::Serve::serve) listens on: tokio's `TcpListener` and `UnixListener`, and tonic's
/// `TcpIncoming`. Any other stream of connections goes to
/// [`Serve::serve_with_incoming`](crate::serve::Serve::serve_with_incoming).
///
/// # The file of a Unix socket
///
/// [`Serve::serve`](crate::serve::Serve::serve) removes it before it stops to listen, so that a server that stops and starts again can bind the
/// same path; also where it fails. The file of another socket stays: one that was bound at this path meanwhile, or whose
/// listener this process was given, as systemd does it (who listens is what Linux says; elsewhere, whether `LISTEN_FDS` is set).
/// What stands at the path when serving begins is taken for the listener's own. A server that is killed, or whose future is dropped,
/// leaves its file: remove it before you bind.
///
/// # A listener on `[::]`
///
/// It takes IPv4 too unless `IPV6_V6ONLY` is set, which a `TcpListener` is asked for. A `TcpIncoming` cannot be asked: it is taken for one
/// that takes both where the same port cannot be had for IPv4. Where another listener has that port, hand over a `TcpListener`.
pub trait Listener: sealed::Sealed {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static;
    /// The connections as they come.
    type Incoming: Stream<Item = io::Result<Self::Io>>;

    #[doc(hidden)]
    fn incoming(self, nodelay: bool) -> Self::Incoming;
}

mod sealed {
    use super::{Bound, Error};

    pub trait Sealed {
        /// Where it listens.
        fn bound(&self) -> Result<Bound, Error>;

        /// The file that goes with it.
        #[cfg(unix)]
        fn file(&self) -> Option<super::SocketFile> {
            None
        }
    }
}

fn tcp(bound: io::Result<SocketAddr>, only_v6: impl FnOnce(SocketAddr) -> bool) -> Result<Bound, Error> {
    let address = bound.map_err(|error| unknown(&error))?;
    let family = match address {
        _ if address.ip().to_canonical().is_ipv4() => Family::V4,
        _ if address.ip().is_unspecified() && !only_v6(address) => Family::Any,
        _ => Family::V6,
    };
    Ok(Bound::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()), family))
}

/// Whether a listener on `[::]` that cannot be asked leaves IPv4 to others: then another socket can have the same port there.
/// Nothing listens on that one.
fn leaves_v4(address: SocketAddr) -> bool {
    let bind = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())).into())
    };
    bind().is_ok()
}

fn unknown(error: &io::Error) -> Error {
    Error::invalid("listener", "", format!("it does not say where it listens: {error}"))
}

impl sealed::Sealed for TcpListener {
    fn bound(&self) -> Result<Bound, Error> {
        tcp(self.local_addr(), |_| SockRef::from(self).only_v6().unwrap_or(false))
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
    fn bound(&self) -> Result<Bound, Error> {
        tcp(self.local_addr(), leaves_v4)
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
    fn bound(&self) -> Result<Bound, Error> {
        let address = self.local_addr().map_err(|error| unknown(&error))?;
        // A socket without a name, or with an abstract one, is known to nobody.
        let Some(path) = address.as_pathname() else { return Ok(Bound::Unknown) };
        let path = std::path::absolute(path).map_err(|error| unknown(&error))?;
        path.to_str().map(|path| Bound::Unix(path.to_owned())).ok_or_else(|| {
            Error::invalid("listener", path.to_string_lossy(), "its path is no UTF-8, which a record in etcd is")
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
            let Bound::Tcp(address, _) = listener.bound().unwrap() else { panic!("it is TCP") };
            let mut incoming = listener.incoming(nodelay);
            assert!(matches!(incoming.bound().unwrap(), Bound::Tcp(bound, _) if bound == address));
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
            ("0.0.0.0:0", false, Family::V4),
            ("127.0.0.1:0", false, Family::V4),
            ("[::]:0", false, Family::Any),
            ("[::]:0", true, Family::V6),
            ("[::1]:0", false, Family::V6),
            ("[::ffff:0.0.0.0]:0", false, Family::V4),
        ] {
            // Where there is no IPv6 there is nothing to tell.
            let Some(listener) = listen(address, only_v6) else { continue };
            let family = |bound: Bound| if let Bound::Tcp(_, family) = bound { Some(family) } else { None };
            assert_eq!(family(listener.bound().unwrap()), Some(expected), "{address}, {only_v6}");
            let incoming = TcpIncoming::from(listener);
            assert_eq!(family(incoming.bound().unwrap()), Some(expected), "{address}, {only_v6}: tonic's");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_socket_is_known_by_its_whole_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(listener.bound().unwrap(), Bound::Unix(bound) if *bound == *path.to_str().unwrap()));
    }
}
