//! TLS settings, and what rustls makes of them.

#[cfg(feature = "_tls")]
pub(super) mod files;
#[cfg(feature = "_tls")]
pub(super) mod settings;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::connection::connect::Tls;
use crate::connection::connect::tls::files::Files;
use crate::connection::connect::tls::settings::{Function, Settings};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// TLS towards servers that are written as `https`, and towards etcd.
///
/// Servers are verified against the host that they are registered under, unless a name is set, and must choose HTTP/2
/// (ALPN). Trusted are the roots of the enabled features (`tls-native-roots`, `tls-webpki-roots`) unless others are given.
///
/// # Certificates that are renewed
/// Settings that are given as text or as a `ClientConfig` stay as they are for the life of the process. Where certificates are
/// renewed, give paths ([`ClientTls::ca_certificates_file`], [`ClientTls::identity_files`]) or a function
/// ([`ClientTls::rustls_with`]): they are asked again for each new connection. A connection that is open stays as it was made; that
/// a certificate has expired does not end it.
///
/// Files are looked at for each new connection and read when they have changed, on a thread for blocking work and once for all
/// connections that are made at that time. They are taken together: a key that does not belong to its certificate, a file that is
/// gone, empty or half written leaves the last settings that were good in use, which is logged once at WARN until they are good
/// again. A folder that is swapped as a whole, as Kubernetes does with secrets, needs nothing else. Files that cannot be used when the
/// channel or the options are first used are an error there, which names the file.
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
    given: Given,
    roots: Option<Pem>,
    identity: Option<(Pem, Pem)>,
    name: Option<String>,
}

/// What rustls itself is to be told.
#[derive(Clone, Default)]
enum Given {
    #[default]
    Nothing,
    Config(Arc<ClientConfig>),
    Function(Function),
}

/// A text in PEM's form, or where it stands.
#[derive(Clone)]
pub(crate) enum Pem {
    Text(Vec<u8>),
    File(PathBuf),
}

/// What cannot be used, and why.
pub(crate) type Invalid = (String, String);

impl ClientTls {
    /// Trusts the roots of the enabled features.
    pub fn new() -> Self {
        Self::default()
    }

    /// Settings made with rustls itself; only ALPN is set to HTTP/2, and roots and identity given here are not regarded.
    pub fn rustls(config: Arc<ClientConfig>) -> Self {
        Self { given: Given::Config(config), ..Self::default() }
    }

    /// The same, given by a function that is called for each new connection: for certificates that are renewed, and come from
    /// elsewhere than files. While it is called, other connections wait, and those that began to wait before the call share what it
    /// gives. It runs on a thread for blocking work, and should return soon: it counts as a part of connecting.
    ///
    /// Where it fails, the last settings that it gave are used, which is logged once at WARN; where it has given none yet, or panics,
    /// the attempt to connect fails and another one follows.
    ///
    /// ```no_run
    /// # fn tls(current: std::sync::Arc<dyn Fn() -> std::io::Result<std::sync::Arc<tokio_rustls::rustls::ClientConfig>> + Send + Sync>) -> tonic_etcd::ClientTls {
    /// tonic_etcd::ClientTls::rustls_with(move || current())
    /// # }
    /// ```
    pub fn rustls_with<E: Into<BoxError>>(
        current: impl Fn() -> Result<Arc<ClientConfig>, E> + Send + Sync + 'static,
    ) -> Self {
        Self { given: Given::Function(Arc::new(move || current().map_err(|e| said(&*e.into())))), ..Self::default() }
    }

    /// Trusts these root certificates (PEM) and no others.
    #[must_use]
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(Pem::Text(pem.into()));
        self
    }

    /// Trusts the root certificates in this file (PEM) and no others. The file is read again when it has changed.
    #[must_use]
    pub fn ca_certificates_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots = Some(Pem::File(path.into()));
        self
    }

    /// Shows servers this certificate chain and key (PEM).
    #[must_use]
    pub fn identity(mut self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((Pem::Text(certificates.into()), Pem::Text(key.into())));
        self
    }

    /// Shows servers the certificate chain and the key in these files (PEM). They are read again when one of them has changed.
    #[must_use]
    pub fn identity_files(mut self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((Pem::File(certificates.into()), Pem::File(key.into())));
        self
    }

    /// The name that every server's certificate must carry, in place of the host that it is registered under.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Reads files for the first time.
    pub(crate) fn build(self) -> Result<Tls, Invalid> {
        let name = self.name.map(|name| {
            ServerName::try_from(name.clone()).map_err(|error| (format!("server name {name:?}"), error.to_string()))
        });
        let name = name.transpose()?;
        let settings = match self.given {
            Given::Config(config) => Settings::fixed(&config),
            Given::Function(function) => Settings::of_function(function),
            Given::Nothing => Settings::of_files(Files { roots: self.roots, identity: self.identity })?,
        };
        Ok(Tls { settings, name })
    }
}

/// An error of the user's, with its sources.
fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// What rustls makes of roots, or those of the enabled features, and of an identity.
pub(crate) fn configure(roots: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<ClientConfig, Invalid> {
    let roots = match roots {
        Some(pem) => given(pem)?,
        None => trusted()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| ("cryptography".to_owned(), error.to_string()))?
        .with_root_certificates(roots);
    let Some((certificates, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let wrong = |error: String| ("identity".to_owned(), error);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
    let chain = chain.map_err(|error| wrong(error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("there is no certificate in the text".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong(error.to_string()))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))
}

fn given(pem: &[u8]) -> Result<RootCertStore, Invalid> {
    let wrong = |error: String| ("root certificates".to_owned(), error);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("there is none in the text".into())) } else { Ok(roots) }
}

#[cfg_attr(not(any(feature = "tls-native-roots", feature = "tls-webpki-roots")), expect(unused_mut))]
fn trusted() -> Result<RootCertStore, Invalid> {
    let mut roots = RootCertStore::empty();
    #[cfg(feature = "tls-native-roots")]
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    #[cfg(feature = "tls-webpki-roots")]
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if roots.is_empty() {
        let reason = "none is known: give some, or enable the feature \"tls-native-roots\" or \"tls-webpki-roots\"";
        return Err(("root certificates".into(), reason.into()));
    }
    Ok(roots)
}

/// Named, because rustls refuses to choose where two are built in.
fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "tls-ring")]
    return Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    #[cfg(not(feature = "tls-ring"))]
    return Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
}

impl fmt::Debug for ClientTls {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("own_roots", &self.roots.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.name)
            .finish_non_exhaustive()
    }
}
