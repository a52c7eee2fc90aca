//! What is listened on.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpIncoming};

use super::advertise::Bound;
use crate::error::Error;

/// What [`Serve::serve`](super::Serve::serve) listens on: tokio's `TcpListener` and `UnixListener`, and tonic's
/// `TcpIncoming`. Any other stream of connections goes to
/// [`Serve::serve_with_incoming`](super::Serve::serve_with_incoming).
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
    }
}

fn tcp(bound: io::Result<SocketAddr>) -> Result<Bound, Error> {
    bound.map(Bound::Tcp).map_err(|error| unknown(&error))
}

fn unknown(error: &io::Error) -> Error {
    Error::invalid("listener", "", format!("it does not say where it listens: {error}"))
}

impl sealed::Sealed for TcpListener {
    fn bound(&self) -> Result<Bound, Error> {
        tcp(self.local_addr())
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
        tcp(self.local_addr())
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
            let Bound::Tcp(address) = listener.bound().unwrap() else { panic!("it is TCP") };
            let mut incoming = listener.incoming(nodelay);
            assert!(matches!(incoming.bound().unwrap(), Bound::Tcp(bound) if bound == address));
            let _client = TcpStream::connect(address).await.unwrap();
            let accepted = incoming.next().await.unwrap().unwrap();
            assert_eq!(accepted.nodelay().unwrap(), nodelay);
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
