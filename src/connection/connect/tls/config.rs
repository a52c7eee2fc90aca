//! Makes rustls' `ClientConfig` from root certificates and an identity.
//!
//! The cryptography is that of the enabled feature: ring if both are enabled. Protocol versions are
//! rustls' safe defaults, TLS 1.2 and 1.3.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A TLS setting that cannot be used.
#[derive(Clone, Debug)]
pub(crate) struct InvalidTls {
    /// The setting, or the file of it.
    pub(crate) setting: String,
    /// Why, in the words of rustls or the system.
    pub(crate) reason: String,
}

impl InvalidTls {
    /// `setting` is a name of a setting, or a path.
    pub(super) fn new(setting: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { setting: setting.into(), reason: reason.to_string() }
    }
}

impl fmt::Display for InvalidTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.reason)
    }
}

/// Certificates or a key in PEM format.
#[derive(Clone)]
pub(super) enum Pem {
    Text(Vec<u8>),
    File(PathBuf),
}

/// The names of settings in errors.
pub(super) const ROOTS: &str = "root certificates";
pub(super) const IDENTITY: &str = "identity";

/// Makes the configuration from root certificates (`None`: those of the enabled features) and an
/// identity (certificate chain and key), all in PEM format.
pub(super) fn client_config(
    roots: Option<&[u8]>,
    identity: Option<(&[u8], &[u8])>,
) -> Result<ClientConfig, InvalidTls> {
    let roots = match roots {
        Some(pem) => roots_of(pem)?,
        None => default_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| InvalidTls::new("cryptography", error))?
        .with_root_certificates(roots);
    let Some((certificates, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let invalid = |error| InvalidTls::new(IDENTITY, error);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
    let chain = chain.map_err(invalid)?;
    if chain.is_empty() {
        return Err(InvalidTls::new(IDENTITY, "there is no certificate in the text"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(invalid)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| InvalidTls::new(IDENTITY, error))
}

/// A copy of the configuration that offers HTTP/2, and nothing else, by ALPN.
pub(super) fn with_http2_alpn(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// The root certificates in a text.
fn roots_of(pem: &[u8]) -> Result<RootCertStore, InvalidTls> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| InvalidTls::new(ROOTS, error))?;
        roots.add(certificate).map_err(|error| InvalidTls::new(ROOTS, error))?;
    }
    if roots.is_empty() { Err(InvalidTls::new(ROOTS, "there is none in the text")) } else { Ok(roots) }
}

/// The root certificates of the enabled features.
#[cfg_attr(not(any(feature = "tls-native-roots", feature = "tls-webpki-roots")), expect(unused_mut))]
fn default_roots() -> Result<RootCertStore, InvalidTls> {
    let mut roots = RootCertStore::empty();
    #[cfg(feature = "tls-native-roots")]
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    #[cfg(feature = "tls-webpki-roots")]
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if roots.is_empty() {
        let reason = "none is known: give some, or enable the feature \"tls-native-roots\" or \"tls-webpki-roots\"";
        return Err(InvalidTls::new(ROOTS, reason));
    }
    Ok(roots)
}

/// Named, because rustls panics if two providers are built in and none was chosen for the
/// process.
fn crypto_provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "tls-ring")]
    return Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    #[cfg(not(feature = "tls-ring"))]
    return Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
}
