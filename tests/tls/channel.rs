//! TLS to the servers of a balanced channel.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_etcd::{BalancedChannel, ClientTls, Instance};
use tower::discover::Change;

use super::Authority;

struct Me;

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

pub(super) fn server() -> SocketAddr {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Me));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

async fn greet(tls: ClientTls, address: &str) -> Result<String, Status> {
    let change = Ok::<_, Infallible>(Change::Insert((), Instance::new(address).unwrap()));
    let channel =
        BalancedChannel::builder().tls(tls).build_with_discovery("greeter", tokio_stream::iter([change])).unwrap();
    let answer = GreeterClient::new(channel).say_hello(HelloRequest { name: "world".into() }).await?;
    Ok(answer.into_inner().message)
}

fn trusting(authority: &Authority) -> ClientTls {
    ClientTls::new().ca_certificates(authority.0.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_verified_by_host_or_by_the_name_that_is_set() {
    let authority = Authority::new();
    let port = authority.guard_at(server(), &[b"h2"]).await;
    let by_host = greet(trusting(&authority), &format!("https://localhost:{port}")).await;
    assert_eq!(by_host.unwrap(), "Hello world");
    let by_address = format!("https://127.0.0.1:{port}");
    let status = greet(trusting(&authority), &by_address).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("TLS: invalid peer certificate"), "{status}");
    let named = greet(trusting(&authority).server_name("localhost"), &by_address).await;
    assert_eq!(named.unwrap(), "Hello world");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_servers_without_http2_are_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let port = authority.guard_at(server(), &[b"h2"]).await;
    let status = greet(trusting(&stranger), &format!("https://localhost:{port}")).await.unwrap_err();
    assert!(status.message().contains("TLS: invalid peer certificate"), "{status}");
    let silent = authority.guard_at(server(), &[]).await;
    let status = greet(trusting(&authority), &format!("https://localhost:{silent}")).await.unwrap_err();
    assert!(status.message().contains("ALPN"), "{status}");
    // The roots of the enabled features are trusted where none are given, and this authority is none of them.
    let status = greet(ClientTls::new(), &format!("https://localhost:{port}")).await.unwrap_err();
    assert!(status.message().contains("TLS: invalid peer certificate"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_rustls_itself_are_taken() {
    let authority = Authority::new();
    let port = authority.guard_at(server(), &[b"h2"]).await;
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let answer = greet(ClientTls::rustls(Arc::new(config)), &format!("https://localhost:{port}")).await;
    assert_eq!(answer.unwrap(), "Hello world");
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused() {
    let none = || tokio_stream::iter(Vec::<Result<Change<(), Instance>, Infallible>>::new());
    for (tls, what) in [
        (ClientTls::new().ca_certificates("no certificate"), "root certificates"),
        (ClientTls::new().identity("no certificate", "no key"), "identity"),
        (ClientTls::new().server_name("not a name"), "not a name"),
    ] {
        let error = BalancedChannel::builder().tls(tls).build_with_discovery("greeter", none()).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains(what), "{error}");
    }
}

/// A verifier of the user's, which panics at first.
#[derive(Debug, Default)]
struct Panics(AtomicUsize);

impl ServerCertVerifier for Panics {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, tokio_rustls::rustls::Error> {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "a bug of the user's");
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, tokio_rustls::rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ED25519]
    }
}

/// A record without a scheme does not make a channel with TLS call in plain text, unless the channel leaves that to the records.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_with_tls_calls_nobody_in_plain_text() {
    let authority = Authority::new();
    let plain = server();
    let port = authority.guard_at(plain, &[b"h2"]).await;
    // As Go's servers register, and ours without `Serve::https`.
    assert_eq!(greet(trusting(&authority), &format!("localhost:{port}")).await.unwrap(), "Hello world");
    let status = greet(trusting(&authority), &plain.to_string()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("TLS: "), "{status}");

    let builder = BalancedChannel::builder().tls_for_https(trusting(&authority));
    for address in [plain.to_string(), format!("https://localhost:{port}")] {
        let change = Ok::<_, Infallible>(Change::Insert((), Instance::new(address).unwrap()));
        let channel = builder.clone().build_with_discovery("greeter", tokio_stream::iter([change])).unwrap();
        GreeterClient::new(channel).say_hello(HelloRequest { name: "world".into() }).await.unwrap();
    }
}

/// F14: a verifier that panics costs one attempt to connect.
#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_that_panics_costs_one_attempt() {
    let authority = Authority::new();
    let port = authority.guard_at(server(), &[b"h2"]).await;
    let verifier = Arc::new(Panics::default());
    let config = ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    let tls = ClientTls::rustls(Arc::new(config));
    let address = format!("https://localhost:{port}");
    let change = Ok::<_, Infallible>(Change::Insert((), Instance::new(address).unwrap()));
    let channel =
        BalancedChannel::builder().tls(tls).build_with_discovery("greeter", tokio_stream::iter([change])).unwrap();
    let mut greeter = GreeterClient::new(channel);
    let status = greeter.say_hello(HelloRequest { name: "world".into() }).await.unwrap_err();
    assert!(status.message().contains("TLS panicked: a bug of the user's"), "{status}");
    let answer = tokio::time::timeout(super::PATIENCE, async {
        loop {
            if let Ok(answer) = greeter.say_hello(HelloRequest { name: "world".into() }).await {
                return answer.into_inner().message;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    assert_eq!(answer.await.expect("the next attempt succeeds"), "Hello world");
}
