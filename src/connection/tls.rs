//! TLS settings, and what rustls makes of them.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::connect::Tls;

/// TLS towards servers that are written as `https`.
///
/// Servers are verified against the host that they are registered under, unless a name is set, and must choose HTTP/2
/// (ALPN). Trusted are the roots of the enabled features (`tls-native-roots`, `tls-webpki-roots`) unless others are given.
#[derive(Clone, Default)]
pub struct ClientTls {
    config: Option<Arc<ClientConfig>>,
    roots: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    name: Option<String>,
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
        Self { config: Some(config), ..Self::default() }
    }

    /// Trusts these root certificates (PEM) and no others.
    #[must_use]
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// Shows servers this certificate chain and key (PEM).
    #[must_use]
    pub fn identity(mut self, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificates.into(), key.into()));
        self
    }

    /// The name that every server's certificate must carry, in place of the host that it is registered under.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    pub(crate) fn build(self) -> Result<Tls, Invalid> {
        let name = self.name.clone().map(|name| {
            ServerName::try_from(name.clone()).map_err(|error| (format!("server name {name:?}"), error.to_string()))
        });
        let mut config = match &self.config {
            Some(config) => (**config).clone(),
            None => self.configure()?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Tls { config: Arc::new(config), name: name.transpose()? })
    }

    fn configure(&self) -> Result<ClientConfig, Invalid> {
        let roots = match &self.roots {
            Some(pem) => given(pem)?,
            None => trusted()?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| ("cryptography".to_owned(), error.to_string()))?
            .with_root_certificates(roots);
        let Some((certificates, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let wrong = |error: String| ("identity".to_owned(), error);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.map_err(|error| wrong(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong(error.to_string()))?;
        builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))
    }
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
