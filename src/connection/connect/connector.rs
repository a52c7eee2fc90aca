//! Connectors that users write, in place of TCP and Unix sockets: for proxies, for sockets with
//! options of their own, for tests.
//!
//! A connector is a `tower::Service` from a URI to IO. There are two families of IO traits, hyper's
//! and tokio's, and connectors for both: those made for tonic return hyper's. [`ConnectorIo`]
//! accepts both in one builder's method. A trait with one implementation for each family would
//! overlap, so it has a parameter that tells them apart, which the compiler infers.

use http::Uri;
use hyper::rt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use crate::connection::connect::panics::catch_panic;
use crate::connection::failure::BoxError;

/// A stream of bytes in both directions, as h2 takes it. Boxed once for each connection, so that h2
/// and the driver are compiled once for sockets, TLS and connectors.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// The IO that a [`connector`](crate::BalancedChannelBuilder::connector) returns: a type with
/// hyper's IO traits, as connectors for tonic's `Endpoint::connect_with_connector` return, or one
/// with tokio's.
///
/// The parameter `Traits` tells the two apart: it is `dyn hyper::rt::Read` or
/// `dyn tokio::io::AsyncRead`. The compiler infers it, except for a type that has both families of
/// traits. For such a type, write it: `builder.connector::<_, dyn tokio::io::AsyncRead>(connector)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no IO that a connector can return",
    label = "has neither hyper's nor tokio's IO traits",
    note = "return a type that is `Send + Unpin + 'static`, with `hyper::rt::Read + Write` (such as `hyper_util::rt::TokioIo`) or \
            with `tokio::io::AsyncRead + AsyncWrite`"
)]
pub trait ConnectorIo<Traits: ?Sized> {
    /// The same IO with tokio's traits.
    #[doc(hidden)]
    fn into_tokio(self) -> impl AsyncRead + AsyncWrite + Send + Unpin + 'static;
}

impl<T: rt::Read + rt::Write + Send + Unpin + 'static> ConnectorIo<dyn rt::Read> for T {
    fn into_tokio(self) -> impl AsyncRead + AsyncWrite + Send + Unpin + 'static {
        TokioIo::new(self)
    }
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ConnectorIo<dyn AsyncRead> for T {
    fn into_tokio(self) -> impl AsyncRead + AsyncWrite + Send + Unpin + 'static {
        self
    }
}

/// A connector of the user's. Cheap to clone, as the service in it is.
#[derive(Clone)]
pub(crate) struct Connector(BoxCloneSyncService<Uri, Box<dyn Io>, BoxError>);

impl Connector {
    /// Boxes the user's service. Not called before the first connection.
    pub(crate) fn new<C, Traits: ?Sized>(connector: C) -> Self
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: ConnectorIo<Traits>,
        C::Error: Into<BoxError>,
        C::Future: Send,
    {
        let boxed = |io: C::Response| Box::new(io.into_tokio()) as Box<dyn Io>;
        Self(BoxCloneSyncService::new(connector.map_response(boxed).map_err(Into::into)))
    }

    /// Calls the connector. A panic of it is an error.
    pub(super) async fn connect(&self, uri: Uri) -> Result<Box<dyn Io>, String> {
        // In an async block: the clone of the service and the call itself may panic too.
        let connected = catch_panic(async { self.0.clone().oneshot(uri).await }).await;
        let connected = connected.map_err(|panic| format!("the connector panicked: {panic}"))?;
        connected.map_err(|error| error.to_string())
    }
}
