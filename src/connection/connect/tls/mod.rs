//! TLS to servers and to etcd.
//!
//! [`ClientTls`] is what users set. Built once, it becomes [`Tls`], which gives each new connection
//! a [`TlsClient`]: the present configuration, from a [`source`] that may change. [`files`] reads
//! certificates again when they have changed, and [`config`] makes rustls' configuration from them.

pub(in crate::connection) mod config;
mod files;
mod source;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::connection::connect::connector::Io;
use crate::connection::connect::destination::PeerAddress;
use crate::connection::connect::panics::catch_panic;
use crate::connection::connect::tls::config::{InvalidTls, Pem};
use crate::connection::connect::tls::files::PemFiles;
use crate::connection::connect::tls::source::{ConfigFunction, ConfigSource};
use crate::connection::failure::BoxError;

/// TLS settings of a client: for servers
/// ([`BalancedChannelBuilder::tls`](crate::BalancedChannelBuilder::tls),
/// [`tls_for_https`](crate::BalancedChannelBuilder::tls_for_https)) and for etcd
/// ([`EtcdOptions::tls`](crate::EtcdOptions::tls)).
///
/// A server's certificate is verified against the host that the server is registered under, unless
/// [`ClientTls::server_name`] is set. The server must choose HTTP/2 (ALPN). The root certificates
/// are those of the enabled features (`tls-native-roots`, `tls-webpki-roots`), unless others are
/// given.
///
/// # Renewed certificates
/// Certificates that are given as text, and a `ClientConfig`, stay in use for the life of the
/// channel or the etcd client. For certificates that are renewed, give paths
/// ([`ClientTls::ca_certificates_file`], [`ClientTls::identity_files`]) or a function
/// ([`ClientTls::rustls_with`]). For each new connection, the files are checked or the function is
/// called. Open connections keep their certificates, also when those expire.
///
/// Files are read only when they have changed: on a thread for blocking work, and once for all
/// connections that are made at that time. Roots, certificate chain and key always come from the
/// same reading. While a key does not belong to its certificate, or a file is missing, empty or half
/// written, the last valid settings stay in use. One WARN is logged; the next one only after the
/// files were valid in between. A folder that is swapped as a whole, as Kubernetes does with secrets, needs nothing
/// else. If the files are invalid at the beginning, building the channel, the resolver or the
/// registrar fails with an error that names the file.
///
/// ```no_run
/// # fn tls() -> tonic_etcd::ClientTls {
/// use tonic_etcd::ClientTls;
///
/// ClientTls::new()
///     .ca_certificates_file("/etc/greeter/tls/ca.crt")
///     .identity_files("/etc/greeter/tls/tls.crt", "/etc/greeter/tls/tls.key")
/// # }
/// ```
#[derive(Clone, Default)]
pub struct ClientTls {
    /// In place of `roots` and `identity`.
    rustls: Option<RustlsConfig>,
    roots: Option<Pem>,
    identity: Option<(Pem, Pem)>,
    server_name: Option<String>,
}

/// A configuration that the user made with rustls.
#[derive(Clone)]
enum RustlsConfig {
    Fixed(Arc<ClientConfig>),
    Function(ConfigFunction),
}

impl ClientTls {
    /// Trusts the root certificates of the enabled features, and has no identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses a configuration that was made with rustls ([`tonic_etcd::rustls`](crate::rustls)). Only
    /// its ALPN is changed, to HTTP/2. Root certificates and an identity that are set by the methods
    /// of `ClientTls` have no effect on it.
    pub fn rustls(config: Arc<ClientConfig>) -> Self {
        Self { rustls: Some(RustlsConfig::Fixed(config)), ..Self::default() }
    }

    /// Calls a function for the configuration of each new connection: for certificates that are
    /// renewed and do not come from files.
    ///
    /// The function runs on a thread for blocking work, and should return soon: its time counts as
    /// a part of connecting. One call runs at a time. Connections that began to wait before the
    /// call share its result.
    ///
    /// | the function | if it has returned a configuration before | if not |
    /// |---|---|---|
    /// | returns an error, or panics | the last configuration stays in use, and one WARN is logged; the next one only after a success in between | the attempt to connect fails, and another follows |
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use tonic_etcd::{ClientTls, rustls::ClientConfig};
    ///
    /// # fn tls(current: Arc<dyn Fn() -> std::io::Result<Arc<ClientConfig>> + Send + Sync>) -> ClientTls {
    /// ClientTls::rustls_with(move || current())
    /// # }
    /// ```
    pub fn rustls_with<E: Into<BoxError>>(
        current: impl Fn() -> Result<Arc<ClientConfig>, E> + Send + Sync + 'static,
    ) -> Self {
        let function = move || current().map_err(|error| with_sources(&*error.into()));
        Self { rustls: Some(RustlsConfig::Function(Arc::new(function))), ..Self::default() }
    }

    /// Trusts these root certificates (PEM) and no others.
    #[must_use]
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(Pem::Text(pem.into()));
        self
    }

    /// Trusts the root certificates in this file (PEM) and no others. The file is read again when
    /// it has changed.
    #[must_use]
    pub fn ca_certificates_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots = Some(Pem::File(path.into()));
        self
    }

    /// Presents this certificate chain and key (PEM) to servers.
    #[must_use]
    pub fn identity(mut self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((Pem::Text(certificates.into()), Pem::Text(key.into())));
        self
    }

    /// Presents the certificate chain and the key in these files (PEM) to servers. They are read
    /// again when one of them has changed.
    #[must_use]
    pub fn identity_files(mut self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((Pem::File(certificates.into()), Pem::File(key.into())));
        self
    }

    /// Verifies the certificate of every server against this name, in place of the host that the
    /// server is registered under.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Checks the settings, and reads files for the first time. Blocks for as long as that takes: a
    /// few milliseconds, and up to 20 ms more if files are invalid.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub(crate) fn build(self) -> Result<Tls, InvalidTls> {
        let parse = |name: String| {
            ServerName::try_from(name.clone()).map_err(|error| InvalidTls::new(format!("server name {name:?}"), error))
        };
        let server_name = self.server_name.map(parse).transpose()?;
        let source = match self.rustls {
            Some(RustlsConfig::Fixed(config)) => ConfigSource::of_config(&config),
            Some(RustlsConfig::Function(function)) => ConfigSource::of_function(function),
            None => ConfigSource::of_files(PemFiles { roots: self.roots, identity: self.identity })?,
        };
        Ok(Tls { source, server_name })
    }
}

/// The error and its sources in one line.
fn with_sources(error: &(dyn Error + 'static)) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl fmt::Debug for ClientTls {
    /// Without certificates and keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("own_roots", &self.roots.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// Settings that were checked, for all connections of a channel or of an etcd client. Cheap to
/// clone.
#[derive(Clone)]
pub(crate) struct Tls {
    source: ConfigSource,
    /// The name to verify in place of the host.
    server_name: Option<ServerName<'static>>,
}

/// The TLS settings of one connection.
pub(super) struct TlsClient {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// Whether the next connection may have another configuration than the last: an error may then
    /// pass by itself.
    pub(crate) fn changes(&self) -> bool {
        self.source.changes()
    }

    /// The settings for a connection that is made now. May read files or call the user's function.
    pub(super) async fn client(&self) -> Result<TlsClient, String> {
        let config = self.source.current().await.map_err(|error| format!("TLS settings: {error}"))?;
        Ok(TlsClient { connector: TlsConnector::from(config), server_name: self.server_name.clone() })
    }
}

impl TlsClient {
    /// Does the handshake with the server at `address`.
    ///
    /// # Errors
    /// When the certificate does not match the host or is not trusted, and when the server does not
    /// choose HTTP/2: it would take the preface of HTTP/2 for a broken HTTP/1 request.
    pub(super) async fn handshake(
        &self,
        io: Box<dyn Io>,
        address: &PeerAddress,
    ) -> Result<TlsStream<Box<dyn Io>>, String> {
        let name = match (&self.server_name, address) {
            (Some(name), _) => name.clone(),
            (None, PeerAddress::Tcp(host, _)) => {
                ServerName::try_from(host.clone()).map_err(|error| format!("TLS: {error}"))?
            }
            (None, PeerAddress::Unix(_)) => return Err("TLS: a Unix socket has no name to verify: set one".into()),
        };
        // A verifier or a certificate resolver may be the user's code.
        let stream = catch_panic(self.connector.connect(name, io)).await;
        let stream =
            stream.map_err(|panic| format!("TLS panicked: {panic}"))?.map_err(|error| format!("TLS: {error}"))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("TLS: the server did not choose HTTP/2 (ALPN)".into());
        }
        Ok(stream)
    }
}
