//! A balanced channel fed by etcd.

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use test_support::SeriesRecorder;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_etcd::{BalancedChannel, CallError, MethodStats, ReportServer, Resolver, ServedBy, WaitForReady};

use crate::support::{World, naming, until};

struct Me;

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

/// The address of a server that serves for as long as the test runs.
pub(crate) fn server() -> String {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Me));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

pub(crate) async fn greet(channel: &BalancedChannel) -> Result<String, Status> {
    let mut request = Request::new(HelloRequest { name: "world".into() });
    request.extensions_mut().insert(ReportServer(true));
    let answer = GreeterClient::new(channel.clone()).say_hello(request).await?;
    Ok(answer.extensions().get::<ServedBy>().unwrap().address().to_string())
}

/// The name of the service is the target of its metrics, whatever the text was that it was resolved by.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_target_as_a_uri() {
    let world = World::start().await;
    world.put("team/greeter/one", &naming(&server())).await;
    for text in ["team/greeter", "etcd:///team/greeter"] {
        let recorder = SeriesRecorder::default();
        let resolution = world.resolver().resolve(text).unwrap();
        let channel = BalancedChannel::builder().metrics(recorder.clone()).build(&resolution).unwrap();
        until("a call", async || greet(&channel).await.ok()).await;
        assert_eq!(channel.stats().target(), "etcd:///team/greeter");
        let method = channel.stats().method("helloworld.Greeter/SayHello").map(MethodStats::attempts_started);
        let labels = [("grpc.target", "etcd:///team/greeter"), ("grpc.method", "helloworld.Greeter/SayHello")];
        assert_eq!(Some(recorder.values("grpc.client.attempt.started", &labels).value as u64), method);
        assert!(recorder.count("grpc.client.call.duration", &[labels[0], labels[1], ("grpc.status", "OK")]) > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_where_etcd_says() {
    let world = World::start().await;
    let channel = world.resolver().channel("greeter").unwrap();
    let status = until("word of an empty set", async || greet(&channel).await.err()).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().starts_with("no server of \"greeter\": none is registered (prefix \"greeter/\", revision ")
    );

    world.put("greeter/zero", "not an address").await;
    let unreadable = async || {
        greet(&channel).await.err().filter(|status| status.message().contains("none of its records can be read"))
    };
    let status = until("word of an unreadable record", unreadable).await;
    assert!(status.message().contains("1 unreadable"), "{status}");
    // The key is mostly an address, and stands in the source.
    let told = CallError::find(&status).map(ToString::to_string).unwrap_or_default();
    assert!(told.contains("1 unreadable, greeter/zero: "), "{told}");

    let (one, two) = (server(), server());
    world.put("greeter/one", &naming(&one)).await;
    until("a call at the first", async || greet(&channel).await.ok().filter(|by| *by == one)).await;
    world.put("greeter/two", &naming(&two)).await;
    until("a call at the second", async || greet(&channel).await.ok().filter(|by| *by == two)).await;
    world.delete("greeter/one").await;
    until("the first to go", async || (channel.servers().len() == 1).then_some(())).await;
    for _ in 0..20 {
        assert_eq!(greet(&channel).await.unwrap(), two);
    }
    world.delete("greeter/two").await;
    until("calls to fail", async || greet(&channel).await.err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_ready_gets_the_first_server() {
    let world = World::start().await;
    let channel = world.resolver().channel("greeter").unwrap();
    until("word of an empty set", async || greet(&channel).await.err()).await;
    let mut request = Request::new(HelloRequest { name: "world".into() });
    request.extensions_mut().insert(WaitForReady(true));
    let mut client = GreeterClient::new(channel);
    let call = tokio::spawn(async move { client.say_hello(request).await });
    world.put("greeter/one", &naming(&server())).await;
    assert_eq!(call.await.unwrap().unwrap().into_inner().message, "Hello world");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_while_etcd_is_away_and_say_so_where_they_cannot() {
    let world = World::start().await;
    let address = server();
    world.put("greeter/one", &naming(&address)).await;
    let channel = world.resolver().channel("greeter").unwrap();
    assert_eq!(greet(&channel).await.unwrap(), address);
    let endpoint = world.etcd.endpoint();
    world.etcd.kill();
    for _ in 0..20 {
        assert_eq!(greet(&channel).await.unwrap(), address);
    }
    let resolution = Resolver::connect_lazy([endpoint.clone()]).unwrap().resolve("greeter").unwrap();
    until("etcd to be missed", async || resolution.last_error()).await;
    let limit = std::time::Duration::from_millis(100);
    let channel = BalancedChannel::builder().wait_limit(limit).build(&resolution).unwrap();
    let status = greet(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("not resolved yet (prefix \"greeter/\")"), "{status}");
    assert!(status.message().contains("the directory: "), "{status}");
}
