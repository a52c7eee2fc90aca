//! What people put beside it: routes of their own, browsers, several listeners, systemd.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::GreeterServer;
use test_support::{Process, Signal, example_bin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tonic::service::Routes;
use tonic::transport::{Endpoint, Server};
use tonic_etcd::Resolver;
use tonic_web::GrpcWebLayer;

use super::{Me, greet, registrar};
use crate::support::{PATIENCE, World, until};

/// What a server answers to a request of HTTP/1.1.
async fn answer(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_axum_router_of_ones_own() {
    let world = World::start().await;
    let serve = registrar(&world).service("s").propagation_delay(Duration::ZERO).drain_timeout(PATIENCE * 2);
    let control = serve.control();
    let ready = control.clone();
    let probe = axum::routing::get(move || {
        let status =
            if ready.is_ready() { axum::http::StatusCode::OK } else { axum::http::StatusCode::SERVICE_UNAVAILABLE };
        std::future::ready(status)
    });
    let services = Routes::new(GreeterServer::new(Me::default())).into_axum_router();
    let all = Routes::from(services.route("/ready", probe));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Server::builder().accept_http1(true).add_routes(all);
    let task = tokio::spawn(serve.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    let request = b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(answer(address, request).await.starts_with("HTTP/1.1 200"));
    control.pause();
    let unready = async || answer(address, request).await.starts_with("HTTP/1.1 503").then_some(());
    until("not ready", unready).await;
    control.resume();
    control.ready(PATIENCE).await.unwrap();
    let channel = world.resolver().channel("s").unwrap();
    assert_eq!(GreeterClient::new(channel).say_hello(hello()).await.unwrap().into_inner().message, "Hello you");
    control.stop();
    task.await.unwrap().unwrap();
}

fn hello() -> greeter_proto::HelloRequest {
    greeter_proto::HelloRequest { name: "you".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_by_tonic_web() {
    let world = World::start().await;
    let serve = registrar(&world).service("s").propagation_delay(Duration::ZERO).drain_timeout(PATIENCE * 2);
    let control = serve.control();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::builder().accept_http1(true).layer(GrpcWebLayer::new());
    let router = server.add_service(GreeterServer::new(Me::default()));
    let task = tokio::spawn(serve.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    let mut request = b"POST /helloworld.Greeter/SayHello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        content-type: application/grpc-web\r\ncontent-length: 10\r\n\r\n"
        .to_vec();
    request.extend(b"\x00\x00\x00\x00\x05\x0a\x03you");
    let answer = answer(address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Hello you"), "{answer}");
    assert!(answer.contains("grpc-status:0"), "{answer}");
    // gRPC's own clients call the same server.
    let channel = world.resolver().channel("s").unwrap();
    assert_eq!(GreeterClient::new(channel).say_hello(hello()).await.unwrap().into_inner().message, "Hello you");
    control.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_services_and_listeners_share_a_registrar() {
    let world = World::start().await;
    let (registrar, folder) = (registrar(&world), tempfile::tempdir().unwrap());
    let path = folder.path().join("greeter.sock");
    let serve = || registrar.service("s").service("team/other").propagation_delay(Duration::ZERO);
    let (tcp, unix) = (serve(), serve());
    let controls = [tcp.control(), unix.control()];
    let router = || Server::builder().add_service(GreeterServer::new(Me::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tcp = tokio::spawn(tcp.serve(router(), listener, std::future::pending()));
    let unix = tokio::spawn(unix.serve(router(), UnixListener::bind(&path).unwrap(), std::future::pending()));
    for control in &controls {
        control.ready(PATIENCE).await.unwrap();
    }
    let keys = |address: &str| [format!("s/{address}"), format!("team/other/{address}")];
    let (by_tcp, by_unix) = (keys(&address.to_string()), keys(&format!("unix:{}", path.display())));
    let mut all = [&by_tcp[..], &by_unix[..]].concat();
    all.sort();
    assert_eq!(world.contents("").await.into_keys().collect::<Vec<_>>(), all);
    assert_eq!(world.leases().await.len(), 1);
    // A client calls both.
    let resolver = Resolver::builder([world.etcd.endpoint()]).unix_sockets(true).connect_lazy().unwrap();
    let channel = resolver.channel("team/other").unwrap();
    until("both", async || (channel.servers().len() == 2).then_some(())).await;
    // One leaves, and the other stays under the lease that they shared.
    let lease = registrar.lease_id();
    controls[0].stop();
    tcp.await.unwrap().unwrap();
    assert_eq!(world.contents("").await.into_keys().collect::<Vec<_>>(), by_unix);
    assert_eq!(world.lease_of(&by_unix[0]).await, lease);
    assert_eq!(GreeterClient::new(channel).say_hello(hello()).await.unwrap().into_inner().message, "Hello you");
    controls[1].stop();
    unix.await.unwrap().unwrap();
    assert!(world.leases().await.is_empty() && !path.exists());
}

/// The example `systemd`, with this listener passed as systemd does it: as descriptor 3.
fn activated(world: &World, listener: impl Into<OwnedFd>) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 </dev/null"#, "sh"]);
    command.arg(example_bin("systemd")).args(["--service", "s", "--etcd", &world.etcd.endpoint()]);
    command.env_remove("TONIC_ETCD_ADVERTISE").env_remove("POD_IP");
    Process::spawn_with(&mut command, Stdio::from(listener.into())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_listens_and_the_second_signal_ends_at_once() {
    let world = World::start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = activated(&world, listener.try_clone().unwrap());
    server.wait_line(|line| line == "registered 1", PATIENCE).unwrap();
    assert!(world.lease_of(&format!("s/{address}")).await.is_some());
    let mut client = GreeterClient::connect(format!("http://{address}")).await.unwrap();
    assert_eq!(greet(&mut client, "you").await.unwrap(), "Hello you");
    let call = tokio::spawn(async move { greet(&mut client, "patience").await });
    server.wait_line(|line| line == "waiting", PATIENCE).unwrap();
    // The first one drains: it is out of etcd, and its call goes on.
    server.signal(Signal::TERM);
    server.wait_line(|line| line == "draining", PATIENCE).unwrap();
    until("the key to go", async || world.contents("").await.is_empty().then_some(())).await;
    assert!(!call.is_finished() && server.status().is_none());
    server.signal(Signal::TERM);
    assert_eq!(server.wait(PATIENCE).unwrap().code(), Some(1));
    call.await.unwrap().unwrap_err();
    // systemd's listener outlives the server: whoever calls meanwhile waits for the next one.
    let early = tokio::spawn(async move { GreeterClient::connect(format!("http://{address}")).await });
    let next = activated(&world, listener);
    next.wait_line(|line| line == "registered 1", PATIENCE).unwrap();
    assert_eq!(greet(&mut early.await.unwrap().unwrap(), "you").await.unwrap(), "Hello you");
    next.signal(Signal::TERM);
    assert!(next.wait(PATIENCE).unwrap().success());
}

/// F72: the file of a socket that systemd has bound stays, and the next server is called by it.
#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_systemds_socket_stays() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("greeter.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        let server = activated(&world, listener.try_clone().unwrap());
        server.wait_line(|line| line == "registered 1", PATIENCE).unwrap();
        let uri = format!("unix:{}", path.display());
        let mut client = GreeterClient::new(Endpoint::try_from(uri).unwrap().connect().await.unwrap());
        assert_eq!(greet(&mut client, "you").await.unwrap(), "Hello you");
        server.signal(Signal::TERM);
        assert!(server.wait(PATIENCE).unwrap().success());
        assert!(world.contents("").await.is_empty());
        assert!(UnixStream::connect(&path).await.is_ok(), "it is listened on still");
    }
}
