//! From an address to a connection: DNS, TCP or a Unix socket or the user's connector, TLS, greeting.

pub(super) mod handshake;
pub(super) mod panics;
pub(super) mod socket;
#[cfg(feature = "_tls")]
pub(super) mod tls;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::connection::capacity::CapacityListener;
use crate::connection::connect::panics::caught;
use crate::connection::connect::socket::{tcp, unix};
use crate::connection::failure::{Failure, Kind};
use crate::connection::options::Options;

/// Where a server is, and whether it speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) place: Place,
    pub(crate) secure: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A name, or an IP address without brackets; and a port.
    Host(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

/// A stream of bytes, however it was come by.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// The user's own way to a server.
pub(crate) type Connector =
    Arc<dyn Fn(Uri) -> Pin<Box<dyn Future<Output = Result<Box<dyn Io>, String>> + Send>> + Send + Sync>;

/// How bytes get there.
#[derive(Clone, Default)]
pub(crate) struct Transport {
    pub(crate) connector: Option<Connector>,
    #[cfg(feature = "_tls")]
    pub(crate) tls: Option<Tls>,
}

/// TLS for `https` destinations.
#[cfg(feature = "_tls")]
#[derive(Clone)]
pub(crate) struct Tls {
    pub(super) settings: crate::connection::connect::tls::settings::Settings,
    /// The name to verify in place of the host.
    pub(super) name: Option<tokio_rustls::rustls::pki_types::ServerName<'static>>,
}

impl Transport {
    /// Connects and greets, all within the connect timeout, and that for SETTINGS where there is one. Names are resolved
    /// each time, and their addresses tried in order. What took too long says how far it had come: a server that accepts and
    /// says nothing is another fault than one that cannot be reached.
    pub(crate) async fn connect(
        &self,
        to: &Destination,
        options: &Options,
        room: Arc<dyn CapacityListener>,
    ) -> Result<Connection, Failure> {
        // Before anyone is reached: what stands as https is never called in plain text.
        #[cfg(feature = "_tls")]
        let refused = to.secure && self.tls.is_none();
        #[cfg(not(feature = "_tls"))]
        let refused = to.secure;
        if refused {
            return Err(refuse(NO_TLS));
        }
        let time = options.connect_timeout + options.settings_timeout.unwrap_or_default();
        let limits = Limits { deadline: Instant::now() + time, time };
        // Also before: nobody is to wait for a handshake while files are read.
        #[cfg(feature = "_tls")]
        let tls = match &self.tls {
            Some(tls) if to.secure => Some(limits.of("no TLS settings", tls.present()).await?),
            _ => None,
        };
        #[cfg(not(feature = "_tls"))]
        let tls = None;
        if let Some(connector) = &self.connector {
            let connected = async {
                let uri = to.uri()?;
                // Also where it is called, or cloned for that.
                match caught(async { connector(uri).await }).await {
                    Ok(result) => result.map_err(refuse),
                    Err(panic) => Err(refuse(format!("the connector panicked: {panic}"))),
                }
            };
            let io = limits.of("no connection", connected).await?;
            return greet(io, to, tls, options, limits, room).await;
        }
        match &to.place {
            Place::Host(host, port) => {
                let tcp = async { tcp(host, *port, options).await.map_err(|error| refuse(error.to_string())) };
                greet(limits.of("no connection", tcp).await?, to, tls, options, limits, room).await
            }
            Place::Unix(path) => {
                let say = |error: io::Error| refuse(format!("{}: {error}", path.display()));
                let stream = limits.of("no connection", async { unix(path).await.map_err(say) }).await?;
                greet(stream, to, tls, options, limits, room).await
            }
        }
    }
}

/// The TLS settings of one connection.
#[cfg(feature = "_tls")]
type Secured = (Tls, Arc<tokio_rustls::rustls::ClientConfig>);
#[cfg(not(feature = "_tls"))]
type Secured = std::convert::Infallible;

#[cfg_attr(not(feature = "_tls"), expect(unused_variables, reason = "with TLS the place has a name to verify"))]
async fn greet<T: Io>(
    io: T,
    to: &Destination,
    tls: Option<Secured>,
    options: &Options,
    limits: Limits,
    room: Arc<dyn CapacityListener>,
) -> Result<Connection, Failure> {
    #[cfg(feature = "_tls")]
    if let Some((tls, config)) = tls {
        // A verifier or a resolver of certificates may be the user's.
        let secured = async {
            let secured = caught(tls.secure(config, io, &to.place)).await;
            secured.unwrap_or_else(|panic| Err(refuse(format!("TLS panicked: {panic}"))))
        };
        let secured = limits.of("accepted, but no TLS handshake", secured).await?;
        return Connection::greet(secured, options, limits.settings(options), room).await;
    }
    Connection::greet(io, options, limits.settings(options), room).await
}

/// How long all of it may take.
#[derive(Clone, Copy)]
struct Limits {
    deadline: Instant,
    time: Duration,
}

impl Limits {
    /// One step; `missing` is what there is not when it takes too long.
    async fn of<V>(&self, missing: &str, step: impl Future<Output = Result<V, Failure>>) -> Result<V, Failure> {
        match timeout_at(self.deadline, step).await {
            Ok(result) => result,
            Err(_) => Err(refuse(format!("{missing} within {} ms", self.time.as_millis()))),
        }
    }

    /// What remains for the server's SETTINGS.
    fn settings(&self, options: &Options) -> Duration {
        let rest = self.deadline.saturating_duration_since(Instant::now());
        options.settings_timeout.map_or(rest, |timeout| timeout.min(rest))
    }
}

const NO_TLS: &str = "the server is written as https, and this channel has no TLS settings, so it is not called: \
                      set BalancedChannelBuilder::tls (feature \"tls-ring\" or \"tls-aws-lc\")";

#[cfg(feature = "_tls")]
impl Tls {
    /// Whether the settings of the next connection may be others than those of the last.
    pub(crate) fn changes(&self) -> bool {
        self.settings.change()
    }

    async fn present(&self) -> Result<Secured, Failure> {
        let present = self.settings.present().await;
        Ok((self.clone(), present.map_err(|why| refuse(format!("TLS settings: {why}")))?))
    }

    async fn secure<T: Io>(
        &self,
        config: Arc<tokio_rustls::rustls::ClientConfig>,
        io: T,
        place: &Place,
    ) -> Result<tokio_rustls::client::TlsStream<T>, Failure> {
        use tokio_rustls::TlsConnector;
        use tokio_rustls::rustls::pki_types::ServerName;

        let fail = |why: String| refuse(format!("TLS: {why}"));
        let name = match (&self.name, place) {
            (Some(name), _) => name.clone(),
            (None, Place::Host(host, _)) => {
                ServerName::try_from(host.clone()).map_err(|error| fail(error.to_string()))?
            }
            (None, Place::Unix(_)) => return Err(fail("a Unix socket has no name to verify: set one".into())),
        };
        let connector = TlsConnector::from(config);
        let stream = connector.connect(name, io).await.map_err(|error| fail(error.to_string()))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(fail("the server did not choose HTTP/2 (ALPN)".into()));
        }
        Ok(stream)
    }
}

impl Destination {
    fn uri(&self) -> Result<Uri, Failure> {
        let scheme = if self.secure { "https" } else { "http" };
        let text = match &self.place {
            Place::Host(host, port) if host.contains(':') => format!("{scheme}://[{host}]:{port}/"),
            Place::Host(host, port) => format!("{scheme}://{host}:{port}/"),
            Place::Unix(path) => format!("unix://localhost{}", escaped(path)),
        };
        text.parse().map_err(|error: http::uri::InvalidUri| refuse(error.to_string()))
    }
}

/// A path as URIs write it.
fn escaped(path: &std::path::Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    path.as_os_str().as_encoded_bytes().iter().copied().map(escape).collect()
}

fn refuse(why: impl Into<String>) -> Failure {
    Failure::new(Kind::NotSent, why)
}
