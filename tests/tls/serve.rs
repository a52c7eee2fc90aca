//! A server with TLS of its own is served and found like any other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use rcgen::{CertificateParams, KeyPair};
use test_support::{Etcd, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_etcd::{BalancedChannel, ClientTls, Error, Registrar, Resolver, ServeControl};

use super::{Authority, PATIENCE};

/// A few times the second that connections without a call are given after GOAWAY, for busy machines.
const SOON: Duration = Duration::from_secs(6);

/// Says where calls come from, and by whose certificate; never, where that is asked for.
#[derive(Clone, Default)]
struct Me {
    never: Arc<Notify>,
}

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<greeter_proto::HelloReply>, Status> {
        let (from, certificates) = (request.remote_addr(), request.peer_certs().map_or(0, |certs| certs.len()));
        if request.into_inner().name == "never" {
            self.never.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(Response::new(greeter_proto::HelloReply { message: format!("{from:?}, {certificates}") }))
    }
}

impl Authority {
    /// A certificate for `localhost`, and its key.
    fn identity(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self) -> ServerTlsConfig {
        let (certificate, key) = self.identity();
        ServerTlsConfig::new().identity(Identity::from_pem(certificate, key))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_called_by_tls_and_ends_with_all_its_connections() {
    let (etcd, authority) = (Etcd::start(), Authority::new());
    let router =
        Server::builder().tls_config(authority.server()).unwrap().add_service(GreeterServer::new(Me::default()));
    let registrar = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
    let service = registrar.service("s").https().advertise("localhost");
    let service = service.propagation_delay(Duration::ZERO).drain_timeout(Duration::from_millis(200));
    let control = service.control();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let task = tokio::spawn(service.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    assert!(control.instance().unwrap().addresses()[0].to_string().starts_with("https://localhost:"));

    let resolution = Resolver::connect_lazy([etcd.endpoint()]).unwrap().resolve("s").unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_their_certificates() {
    let (etcd, authority, clients) = (Etcd::start(), Authority::new(), Authority::new());
    let tls = authority.server().client_ca_root(Certificate::from_pem(clients.0.pem()));
    let router = Server::builder().tls_config(tls).unwrap().add_service(GreeterServer::new(Me::default()));
    let registrar = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
    let serve = registrar.service("s").https().advertise("localhost").propagation_delay(Duration::ZERO);
    let (control, listener) = (serve.control(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let task = tokio::spawn(serve.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    let resolution = Resolver::connect_lazy([etcd.endpoint()]).unwrap().resolve("s").unwrap();
    let (certificate, key) = clients.identity();
    let tls = authority.trusted().identity(certificate, key);
    let channel = BalancedChannel::builder().tls(tls).build(&resolution).unwrap();
    let answer = GreeterClient::new(channel).say_hello(HelloRequest::default()).await.unwrap();
    assert!(answer.into_inner().message.ends_with(", 1"), "the handler sees it");
    let (certificate, key) = authority.identity();
    for tls in [authority.trusted(), authority.trusted().identity(certificate, key)] {
        let channel = BalancedChannel::builder().tls(tls).build(&resolution).unwrap();
        channel.wait_until_ready(Duration::from_millis(500)).await.unwrap_err();
    }
    control.stop();
    task.await.unwrap().unwrap();
}

/// A server with TLS of tonic's, and what speaks to it.
struct Served {
    authority: Authority,
    me: Me,
    address: SocketAddr,
    control: ServeControl,
    task: JoinHandle<Result<(), Error>>,
}

impl Served {
    async fn start(registrar: &Registrar, counted: bool, drain: Duration) -> Self {
        let (authority, me) = (Authority::new(), Me::default());
        let serve = registrar.service("s").https().propagation_delay(Duration::ZERO).drain_timeout(drain);
        let server = Server::builder().tls_config(authority.server()).unwrap();
        let (control, listener) = (serve.control(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (address, greeter) = (listener.local_addr().unwrap(), GreeterServer::new(me.clone()));
        let never = std::future::pending();
        let task = if counted {
            let router = { server.layer(serve.count_calls()) }.add_service(greeter);
            tokio::spawn(serve.serve(router, listener, never))
        } else {
            tokio::spawn(serve.serve({ server }.add_service(greeter), listener, never))
        };
        control.ready(PATIENCE).await.unwrap();
        Self { authority, me, address, control, task }
    }

    /// A client by whom a call was answered.
    async fn client(&self, address: SocketAddr) -> GreeterClient<Channel> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.0.pem()));
        let endpoint = Endpoint::try_from(format!("https://localhost:{}", address.port())).unwrap();
        let mut client = GreeterClient::new(endpoint.tls_config(tls).unwrap().connect().await.unwrap());
        client.say_hello(HelloRequest::default()).await.unwrap();
        client
    }

    /// The same behind a network.
    async fn proxied(&self) -> (Proxy, GreeterClient<Channel>) {
        let proxy = Proxy::to(self.address);
        let client = self.client(proxy.address()).await;
        (proxy, client)
    }

    /// A call on its way.
    async fn busy(
        &self,
        mut client: GreeterClient<Channel>,
    ) -> JoinHandle<Result<Response<greeter_proto::HelloReply>, Status>> {
        let call = tokio::spawn(async move { client.say_hello(HelloRequest { name: "never".into() }).await });
        timeout(PATIENCE, self.me.never.notified()).await.expect("the call arrives");
        call
    }

    /// A connection through its handshake, on which this is said.
    async fn said(&self, bytes: &[u8]) -> TlsStream<TcpStream> {
        use tokio_rustls::rustls::pki_types::pem::PemObject as _;
        let mut roots = RootCertStore::empty();
        let pem = self.authority.0.pem();
        roots.add(tokio_rustls::rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    /// How long it takes to its end.
    async fn ends(self) -> Duration {
        let began = Instant::now();
        self.control.stop();
        timeout(PATIENCE, self.task).await.expect("an end").unwrap().unwrap();
        began.elapsed()
    }
}

/// F23: who is in the handshake, or through it and has said nothing or half of something, is not waited for; nor who has gone,
/// where calls are counted.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_call_in_flight_is_not_waited_for() {
    let etcd = Etcd::start();
    let registrar = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
    for counted in [false, true] {
        let served = Served::start(&registrar, counted, PATIENCE * 2).await;
        let mut streams = Vec::new();
        for bytes in [&[][..], &[22], &[22, 3, 1, 2, 0, 1, 0]] {
            let mut stream = TcpStream::connect(served.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            streams.push(stream);
        }
        let handshaken = [served.said(b"").await, served.said(b"PRI * HT").await];
        let gone = if counted { Some(served.proxied().await) } else { None };
        gone.iter().for_each(|(proxy, _)| proxy.stall());
        let _alive = served.client(served.address).await;
        let took = served.ends().await;
        assert!(took < SOON, "{took:?}, counted: {counted}");
        for mut stream in streams {
            drop(timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("closed"));
        }
        for mut stream in handshaken {
            drop(timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("closed"));
        }
    }
}

/// F23: a call in flight keeps the whole drain, counted or not; and without the count, so does a client that has gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_keeps_the_whole_drain() {
    let etcd = Etcd::start();
    let registrar = Registrar::connect_lazy([etcd.endpoint()]).unwrap();
    let drain = Duration::from_secs(2);
    for (counted, busy) in [(true, true), (false, true), (false, false)] {
        let served = Served::start(&registrar, counted, drain).await;
        let (proxy, client) = served.proxied().await;
        let call = if busy { Some(served.busy(client.clone()).await) } else { None };
        proxy.stall();
        let took = served.ends().await;
        assert!(took >= drain, "{took:?}, counted: {counted}, busy: {busy}");
        drop(client);
        call.iter().for_each(JoinHandle::abort);
    }
}
