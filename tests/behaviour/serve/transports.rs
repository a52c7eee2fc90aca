//! What may be listened on.

use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::GreeterServer;
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::UnixListener;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};
use tonic_etcd::Resolver;

use super::{Me, Served, greet, registrar};
use crate::support::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_knows_where_it_comes_from() {
    let world = World::start().await;
    let served = Served::ready(&registrar(&world), |serve| serve).await;
    let from = greet(&mut served.client().await, "from").await.unwrap();
    assert!(from.starts_with("Some(127.0.0.1:"), "{from}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_found_on_its_host() {
    let world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("greeter.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let serve = registrar(&world).service("s").propagation(Duration::ZERO);
    let control = serve.control();
    let router = Server::builder().add_service(GreeterServer::new(Me::default()));
    let task = tokio::spawn(serve.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    assert_eq!(world.contents("").await.len(), 1);
    let resolver = Resolver::builder([world.etcd.endpoint()]).unix_sockets(true).build().unwrap();
    let mut client = GreeterClient::new(resolver.channel("s").await.unwrap());
    let HelloReply { message } = client.say_hello(HelloRequest { name: "you".into() }).await.unwrap().into_inner();
    assert_eq!(message, "Hello you");
    control.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn any_router_with_any_layers_on_tonics_own_listener() {
    let world = World::start().await;
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refuse = |request: Request<()>| match request.metadata().get("let-me-in") {
        Some(_) => Ok(request),
        None => Err(Status::unauthenticated("say please")),
    };
    let layers = tower::ServiceBuilder::new().layer(InterceptorLayer::new(refuse)).into_inner();
    let router = Server::builder().layer(layers).add_service(GreeterServer::new(Me::default()));
    let serve = registrar(&world).service("s").propagation(Duration::ZERO);
    let control = serve.control();
    let task = tokio::spawn(serve.serve(router, incoming, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    let mut client = GreeterClient::new(world.resolver().await.channel("s").await.unwrap());
    let mut request = Request::new(HelloRequest { name: "you".into() });
    request.metadata_mut().insert("let-me-in", "please".parse().unwrap());
    assert_eq!(client.say_hello(request).await.unwrap().into_inner().message, "Hello you");
    let refused = client.say_hello(HelloRequest { name: "you".into() }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    control.stop();
    task.await.unwrap().unwrap();
}
