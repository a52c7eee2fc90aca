//! Connectors, discoveries and policies of the user's that panic.

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
use tonic_etcd::policy::{AttemptEnd, AttemptResult, Call, Pick, Picker, ReadySet};
use tonic_etcd::{CallError, Instance, Policy};
use tower::discover::Change;

use crate::peer::{Peer, Script};
use crate::support::{PATIENCE, builder, changing, greet, greeted_by, over, ready, until};

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

/// What a discovery says of a failure.
struct Failure {
    speechless: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(!self.speechless, "a bug of the user's");
        f.write_str("no")
    }
}

/// F14: a discovery that panics leaves the servers that are known; where none is, calls say why.
#[tokio::test]
async fn a_discovery_that_panics_leaves_what_is_known() {
    for (known, speechless) in [(true, false), (true, true), (false, false), (false, true)] {
        let peer = Peer::start(Script::Greet).await;
        let mut left = if known { vec![Instance::new(peer.address).unwrap()] } else { vec![] };
        let discovery = tokio_stream::iter(std::iter::from_fn(move || match left.pop() {
            Some(instance) => Some(Ok(Change::Insert(1, instance))),
            None if speechless => Some(Err(Failure { speechless })),
            None => panic!("a bug of the user's"),
        }));
        let channel = builder().build_with_discovery("greeter", discovery).unwrap();
        if known {
            ready(&channel, 1).await;
            assert_eq!(greeted_by(&channel).await, peer.address.to_string());
        } else {
            let status = timeout(PATIENCE, greet(&channel)).await.unwrap().unwrap_err();
            assert!(status.message().contains("the discovery panicked: a bug of the user's"), "{status:?}");
        }
    }
}

/// Panics for calls that ask for it, and at the ends of those that have failed.
#[derive(Clone, Debug)]
struct Moody;

impl Policy for Moody {
    fn picker(&self, _: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(self.clone())
    }
}

impl Picker for Moody {
    fn pick(&self, call: &Call<'_>) -> Pick {
        assert!(!call.headers().contains_key("x-panic"), "a bug of the user's");
        Pick::Server(0)
    }

    fn ended(&self, end: &AttemptEnd<'_>) {
        assert_eq!(end.result(), AttemptResult::Status(tonic::Code::Ok), "a bug of the user's");
    }
}

/// F14: a panic at the end of an attempt costs that call alone, also where the call is dropped by another panic.
#[tokio::test]
async fn a_policy_that_panics_at_an_end_costs_one_call() {
    let peer = Peer::start(Script::Silence).await;
    let channel = over(builder().policy(Moody), [&peer.address]);
    ready(&channel, 1).await;
    for panics_before in [false, true] {
        let calling = tokio::spawn({
            let channel = channel.clone();
            async move {
                let mut call = std::pin::pin!(greet(&channel));
                assert!(timeout(Duration::from_millis(50), call.as_mut()).await.is_err());
                assert!(!panics_before, "a bug of the user's");
            }
        });
        assert!(calling.await.unwrap_err().is_panic());
    }
    until("the calls to be over", || channel.servers().iter().all(|server| server.in_flight() == 0)).await;
}

/// Panics for each set.
#[derive(Debug)]
struct Hopeless;

impl Policy for Hopeless {
    fn picker(&self, _: &ReadySet) -> Arc<dyn Picker> {
        panic!("a bug of the user's")
    }
}

/// F14: a policy that can build no picker leaves the channel with another.
#[tokio::test]
async fn a_policy_that_panics_for_a_set_is_done_without() {
    let peers = [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await];
    let channel = over(builder().policy(Hopeless), peers.iter().map(|peer| &peer.address));
    ready(&channel, 2).await;
    for _ in 0..20 {
        greet(&channel).await.unwrap();
    }
}

/// F14: a policy that panics for one call costs that call alone.
#[tokio::test]
async fn a_policy_that_panics_costs_one_call() {
    let peers = [Peer::start(Script::Greet).await, Peer::start(Script::Greet).await];
    let channel = over(builder().policy(Moody), peers.iter().map(|peer| &peer.address));
    ready(&channel, 2).await;
    for _ in 0..20 {
        let panicking = tokio::spawn({
            let channel = channel.clone();
            async move {
                let mut request = tonic::Request::new(greeter_proto::HelloRequest { name: "world".into() });
                request.metadata_mut().insert("x-panic", "1".parse().unwrap());
                greeter_proto::greeter_client::GreeterClient::new(channel).say_hello(request).await
            }
        });
        greet(&channel).await.unwrap();
        assert!(panicking.await.unwrap_err().is_panic());
        assert!(channel.servers().iter().all(|server| server.in_flight() == 0));
    }
    greet(&channel).await.unwrap();
}
