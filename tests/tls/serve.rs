//! A server with TLS of its own is served and found like any other.

use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use rcgen::{CertificateParams, KeyPair};
use test_support::Etcd;
use tokio::net::TcpListener;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_etcd::{BalancedChannel, ClientTls, Registrar, Resolver};

use super::{Authority, PATIENCE};

/// Says where calls come from; never, where that is asked for.
struct Me;

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<greeter_proto::HelloReply>, Status> {
        let from = request.remote_addr();
        if request.into_inner().name == "never" {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(greeter_proto::HelloReply { message: format!("{from:?}") }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_called_by_tls_and_ends_with_all_its_connections() {
    let (etcd, authority) = (Etcd::start(), Authority::new());
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority.0).unwrap();
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate.pem(), key.serialize_pem()));
    let router = Server::builder().tls_config(tls).unwrap().add_service(GreeterServer::new(Me));
    let registrar = Registrar::connect([etcd.endpoint()]).await.unwrap();
    let service = registrar.service("s").https().advertise("localhost");
    let service = service.propagation(Duration::ZERO).drain(Duration::from_millis(200));
    let control = service.control();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let task = tokio::spawn(service.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    assert!(control.instance().unwrap().addresses()[0].to_string().starts_with("https://localhost:"));

    let resolution = Resolver::connect([etcd.endpoint()]).await.unwrap().resolve("s").await.unwrap();
    let tls = ClientTls::new().ca_certificates(authority.0.pem());
    let mut client = GreeterClient::new(BalancedChannel::builder().tls(tls).build(&resolution).unwrap());
    let answer = client.say_hello(HelloRequest { name: "from".into() }).await.unwrap();
    assert!(answer.into_inner().message.starts_with("Some(127.0.0.1:"));
    let never = tokio::spawn(async move { client.say_hello(HelloRequest { name: "never".into() }).await });
    // On its way as far as the channel can tell; whether it arrives or not, it ends.
    control.stop();
    task.await.unwrap().unwrap();
    tokio::time::timeout(PATIENCE, never).await.expect("its connection was closed").unwrap().unwrap_err();
}
