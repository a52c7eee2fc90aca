//! Connectors of the user's that panic.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic_etcd::CallError;

use crate::peer::{Peer, Script};
use crate::support::{PATIENCE, builder, changing, greet};

/// Where it panics.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Clone,
    Ready,
    Call,
    Future,
    /// What it says of why it failed.
    Error,
    /// The future, dropped when the connect timeout is over.
    Drop,
    /// The stream, while the server is greeted.
    Write,
    Read,
}

/// Panics there once; the next attempt succeeds.
struct Panicking {
    at: Place,
    to: std::net::SocketAddr,
    panics: Arc<AtomicUsize>,
}

impl Panicking {
    fn comes_to(&self, place: Place) -> bool {
        self.at == place && self.panics.fetch_add(1, SeqCst) == 0
    }

    fn again(&self) -> Self {
        Self { panics: self.panics.clone(), ..*self }
    }
}

impl Clone for Panicking {
    fn clone(&self) -> Self {
        assert!(!self.comes_to(Place::Clone), "a bug of the user's");
        self.again()
    }
}

struct Why(Panicking);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(!self.0.comes_to(Place::Error), "a bug of the user's");
        f.write_str("no")
    }
}

impl fmt::Debug for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Why")
    }
}

impl std::error::Error for Why {}

struct Guard(Panicking);

impl Drop for Guard {
    fn drop(&mut self) {
        assert!(!self.0.comes_to(Place::Drop), "a bug of the user's");
    }
}

struct Stream(TcpStream, Panicking);

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        assert!(!self.1.comes_to(Place::Read), "a bug of the user's");
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.1.comes_to(Place::Write), "a bug of the user's");
        Pin::new(&mut self.0).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl tower::Service<Uri> for Panicking {
    type Response = Stream;
    type Error = Why;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Why>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Why>> {
        assert!(!self.comes_to(Place::Ready), "a bug of the user's");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        assert!(!self.comes_to(Place::Call), "a bug of the user's");
        let this = self.again();
        Box::pin(async move {
            assert!(!this.comes_to(Place::Future), "a bug of the user's");
            let first = this.panics.load(SeqCst) == 0;
            if this.at == Place::Error && first {
                return Err(Why(this));
            }
            if this.at == Place::Drop && first {
                let _guard = Guard(this);
                return std::future::pending().await;
            }
            Ok(Stream(TcpStream::connect(this.to).await.map_err(|_| Why(this.again()))?, this))
        })
    }
}

/// Whatever panics: the attempt has failed, and the next one succeeds.
#[tokio::test]
async fn a_connector_that_panics_once_does_not_cost_the_server_for_ever() {
    for at in
        [Place::Clone, Place::Ready, Place::Call, Place::Future, Place::Error, Place::Drop, Place::Write, Place::Read]
    {
        let (peer, panics) = (Peer::start(Script::Greet).await, Arc::new(AtomicUsize::new(0)));
        let connector = Panicking { at, to: peer.address, panics: panics.clone() };
        let builder = builder().connector(connector).connect_timeout(Duration::from_secs(1)).wait_for_ready(true);
        let (channel, set) = changing(builder);
        set.add(peer.address);
        let answered = timeout(PATIENCE, greet(&channel)).await;
        assert!(answered.is_ok_and(|answered| answered.is_ok()), "{at:?}: {:?}", channel.servers());
        assert!(panics.load(SeqCst) > 0, "{at:?}: it has panicked");
    }
}

/// The error tells it, without an address.
#[tokio::test]
async fn the_panic_of_a_connector_is_told() {
    let connector = tower::service_fn(|uri: Uri| async move {
        assert!(uri.port().is_none(), "a bug at {uri}");
        Ok::<_, io::Error>(tokio::io::duplex(1).0)
    });
    let (channel, set) = changing(builder().connector(connector));
    set.add("127.0.0.1:4711".parse().unwrap());
    let status = greet(&channel).await.unwrap_err();
    assert!(status.message().ends_with("last error: the connector panicked: a bug at [address]"), "{status:?}");
    assert!(CallError::find(&status).unwrap().to_string().contains("127.0.0.1:4711"));
}
