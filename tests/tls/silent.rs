//! Servers that are written as `https`, accept and say nothing.

use std::convert::Infallible;
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::net::TcpListener;
use tonic_etcd::{BalancedChannel, Instance};
use tower::discover::Change;

use super::Authority;

/// What a call to this port fails with.
async fn failure(authority: &Authority, port: u16) -> String {
    let address = format!("https://localhost:{port}");
    let change = Ok::<_, Infallible>(Change::Insert((), Instance::new(address.as_str()).unwrap()));
    let builder = BalancedChannel::builder().tls(authority.trusted()).connect_timeout(Duration::from_secs(1));
    let channel = builder.build_with_discovery("greeter", tokio_stream::iter([change])).unwrap();
    let status = GreeterClient::new(channel).say_hello(HelloRequest::default()).await.unwrap_err();
    status.message().to_owned()
}

/// F54: over TLS the error says too that the server accepted, and what it did not send.
#[tokio::test(flavor = "multi_thread")]
async fn the_error_says_that_a_server_accepted_and_sent_nothing() {
    let authority = Authority::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let behind_tls = failure(&authority, authority.guard_at(address, &[b"h2"]).await).await;
    assert!(behind_tls.contains("accepted, but no HTTP/2 SETTINGS within"), "{behind_tls}");
    let without_tls = failure(&authority, address.port()).await;
    assert!(without_tls.contains("accepted, but no TLS handshake within 1000 ms"), "{without_tls}");
}
