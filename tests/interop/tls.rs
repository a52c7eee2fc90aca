//! The same cases over TLS, with a certificate of the test's own in place of the one that comes with grpc-go.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_etcd::{BalancedChannel, ClientTls};

use crate::cases::{Client, Transport, fixed, transport};
use crate::go::{InteropServer, PATIENCE};
use crate::suite::passes_every_case;
use greeter_proto::testing::Empty;

/// A server on `localhost`, and the certificate of the authority that signed its own.
async fn server() -> (InteropServer, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let name = format!("interop-{:x}", fastrand::u64(..));
    let files = [folder.join(format!("{name}.pem")), folder.join(format!("{name}.key"))];
    std::fs::write(&files[0], certificate.pem()).unwrap();
    std::fs::write(&files[1], key.serialize_pem()).unwrap();
    let flags = [("-tls_cert_file", &files[0]), ("-tls_key_file", &files[1])];
    let flags = flags.map(|(flag, file)| format!("{flag}={}", file.display()));
    let server = InteropServer::start(&["-use_tls", &flags[0], &flags[1]]).await;
    files.iter().for_each(|file| drop(std::fs::remove_file(file))); // read before it listens
    (server, authority.pem())
}

fn channel(server: &InteropServer, trusted: String) -> Transport {
    let address = format!("https://localhost:{}", server.address.port());
    let builder = BalancedChannel::builder().tls(ClientTls::new().ca_certificates(trusted));
    transport(builder.build_with_discovery("interop", fixed([address])).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_passes_against_go_over_tls() {
    let (server, trusted) = server().await;
    passes_every_case(&channel(&server, trusted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_is_not_called() {
    let (one, trusted_there) = server().await;
    let (other, _) = server().await;
    Client::new(channel(&one, trusted_there.clone())).empty_call(Empty {}).await.unwrap();
    let mut client = Client::new(channel(&other, trusted_there));
    let refused: Status = timeout(PATIENCE, client.empty_call(Empty {})).await.expect("it ends").unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("certificate"), "{refused:?}");
}
