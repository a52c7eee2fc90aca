//! TLS to etcd and to servers, through a proxy that ends it in front of them: `cargo xtask test` runs it with `tls-ring`.

mod channel;
mod guard;
mod rotation;
mod serve;
mod silent;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use test_support::Etcd;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tonic_etcd::{ClientTls, EtcdOptions, Instance, Registrar, Resolution, ResolutionState, Resolver};

const PATIENCE: Duration = Duration::from_secs(30);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn trusted(&self) -> ClientTls {
        ClientTls::new().ca_certificates(self.0.pem())
    }

    /// An address where TLS for `localhost` ends, with etcd behind it.
    async fn guard(&self, etcd: &Etcd) -> String {
        format!("https://localhost:{}", self.guard_at(etcd.address(), &[b"h2"]).await)
    }

    /// The port where TLS for `localhost` ends, with another address behind it.
    async fn guard_at(&self, to: SocketAddr, protocols: &[&[u8]]) -> u16 {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(forward(listener, TlsAcceptor::from(Arc::new(config)), to));
        port
    }
}

async fn forward(listener: TcpListener, acceptor: TlsAcceptor, to: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut outside = acceptor.accept(stream).await?;
            let mut inside = TcpStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut outside, &mut inside).await
        });
    }
}

/// Waits until something went wrong, and tells what.
async fn what_is_wrong(resolution: &mut Resolution) -> String {
    let wait = async {
        loop {
            if let Some(error) = resolution.last_error() {
                return error.to_string();
            }
            resolution.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, wait).await.expect("something is wrong")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_of_a_trusted_authority_is_used() {
    let etcd = Etcd::start();
    let authority = Authority::new();
    let options = EtcdOptions::from([authority.guard(&etcd).await]).tls(authority.trusted());
    let registrar = Registrar::builder(options.clone()).connect_lazy().unwrap();
    let registration = registrar.register("s", Instance::new("h:1").unwrap()).unwrap();
    registration.ready(PATIENCE).await.unwrap();
    let resolution = Resolver::builder(options).connect_lazy().unwrap().resolve("s").unwrap();
    assert_eq!(resolution.ready(PATIENCE).await.unwrap().len(), 1);
    registration.deregister().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_hold_is_said() {
    let etcd = Etcd::start();
    let endpoint = Authority::new().guard(&etcd).await;
    for options in [
        EtcdOptions::from([endpoint.clone()]).tls(Authority::new().trusted()),
        // Without settings of its own, https means the enabled root certificates.
        EtcdOptions::from([endpoint.clone()]),
    ] {
        let mut resolution = Resolver::builder(options).connect_lazy().unwrap().resolve("s").unwrap();
        let wrong = what_is_wrong(&mut resolution).await;
        assert!(wrong.contains("certificate") && wrong.contains(&endpoint), "{wrong}");
        assert_eq!(resolution.state(), ResolutionState::Unresolved);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_whose_certificate_does_not_hold_is_nobodys_trouble() {
    let etcd = Etcd::start();
    let authority = Authority::new();
    let endpoints = [Authority::new().guard(&etcd).await, authority.guard(&etcd).await];
    for port in 1..=6 {
        let options = EtcdOptions::from(endpoints.clone()).tls(authority.trusted());
        let registrar = Registrar::builder(options.clone()).connect_lazy().unwrap();
        let registration = registrar.register("s", Instance::new(format!("h:{port}")).unwrap()).unwrap();
        registration.ready(PATIENCE).await.unwrap();
        let resolution = Resolver::builder(options).connect_lazy().unwrap().resolve("s").unwrap();
        assert_eq!(resolution.ready(PATIENCE).await.unwrap().len(), 1);
        registration.deregister().await.unwrap();
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let options = EtcdOptions::from(["http://localhost:2379"]).tls(ClientTls::new());
    assert!(Resolver::builder(options).connect_lazy().unwrap_err().is_invalid_argument());
}
