//! What may be listened on.

use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::GreeterServer;
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::{UnixListener, UnixStream};
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};
use tonic_etcd::Resolver;

use super::{Me, Served, gone, greet, registrar};
use crate::support::{PATIENCE, World, until};

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
    let serve = registrar(&world).service("s").propagation_delay(Duration::ZERO);
    let control = serve.control();
    let router = Server::builder().add_service(GreeterServer::new(Me::default()));
    let task = tokio::spawn(serve.serve(router, listener, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    assert_eq!(world.contents("").await.len(), 1);
    let resolver = Resolver::builder([world.etcd.endpoint()]).unix_sockets(true).connect_lazy().unwrap();
    let mut client = GreeterClient::new(resolver.channel("s").unwrap());
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
    let serve = registrar(&world).service("s").propagation_delay(Duration::ZERO);
    let control = serve.control();
    let task = tokio::spawn(serve.serve(router, incoming, std::future::pending()));
    control.ready(PATIENCE).await.unwrap();
    let mut client = GreeterClient::new(world.resolver().channel("s").unwrap());
    let mut request = Request::new(HelloRequest { name: "you".into() });
    request.metadata_mut().insert("let-me-in", "please".parse().unwrap());
    assert_eq!(client.say_hello(request).await.unwrap().into_inner().message, "Hello you");
    let refused = client.say_hello(HelloRequest { name: "you".into() }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    control.stop();
    task.await.unwrap().unwrap();
}

/// F72: a server that stops leaves its path to the next one, also while it answers what it has.
#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_socket_goes_with_its_server() {
    let world = World::start().await;
    let registrar = registrar(&world);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("greeter.sock");
    let serve = || {
        let (me, serve) = (Me::default(), registrar.service("s").propagation_delay(Duration::ZERO));
        let control = serve.control();
        let router = Server::builder().add_service(GreeterServer::new(me.clone()));
        let task = tokio::spawn(serve.serve(router, UnixListener::bind(&path).unwrap(), std::future::pending()));
        (me, control, task)
    };
    let (me, control, task) = serve();
    control.ready(PATIENCE).await.unwrap();
    let resolver = Resolver::builder([world.etcd.endpoint()]).unix_sockets(true).connect_lazy().unwrap();
    let mut client = GreeterClient::new(resolver.channel("s").unwrap());
    let call = tokio::spawn(async move { client.say_hello(HelloRequest { name: "wait".into() }).await });
    until("the call", async || (me.begun() == 1).then_some(())).await;
    control.stop();
    until("the file to go", async || (!path.exists()).then_some(())).await;
    let (_, next, served) = serve();
    next.ready(PATIENCE).await.unwrap();
    me.answers.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap().into_inner().message, "at last");
    task.await.unwrap().unwrap();
    assert!(UnixStream::connect(&path).await.is_ok(), "the next one has it");

    // A file that was bound at its path meanwhile is another's.
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    next.stop();
    served.await.unwrap().unwrap();
    assert!(UnixStream::connect(&path).await.is_ok());
    drop(other);
    std::fs::remove_file(&path).unwrap();

    // What is refused ends in order, too; what is dropped does not.
    let refused = registrar.service("s").advertise("0.0.0.0");
    let router = Server::builder().add_service(GreeterServer::new(Me::default()));
    let listener = UnixListener::bind(&path).unwrap();
    assert!(refused.serve(router, listener, std::future::pending()).await.unwrap_err().is_invalid_argument());
    assert!(!path.exists());
    let (_, control, task) = serve();
    control.ready(PATIENCE).await.unwrap();
    task.abort();
    gone(&world, &format!("s/unix:{}", path.display())).await;
    assert!(path.exists());
}
