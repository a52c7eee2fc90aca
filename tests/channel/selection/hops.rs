//! Route headers through three servers: a calls b over a balanced channel, and b calls c over tonic's.

use std::net::SocketAddr;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{Channel, HelloReply, HelloRequest};
use tokio::task::{JoinSet, yield_now};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_etcd::{RouteContext, RouteHeaders};
use tower::Layer;

use crate::support::{builder, over};

/// How a handler makes its own call.
const AWAITED: &str = "awaited";
const SPAWNED: &str = "spawned";
const CARRIED: &str = "carried";

/// A server that asks the next one.
struct Hop<C>(GreeterClient<C>);

#[tonic::async_trait]
impl<C: Channel> Greeter for Hop<C> {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let (mut next, request) = (self.0.clone(), request.into_inner());
        // Other calls get their turn on this thread.
        yield_now().await;
        let name = request.name.clone();
        let call = async move { next.say_hello(request).await };
        match name.as_str() {
            SPAWNED => tokio::spawn(call).await.unwrap(),
            CARRIED => tokio::spawn(RouteContext::current().scope(call)).await.unwrap(),
            _ => call.await,
        }
    }
}

/// The last server, which tells the lane that it was called with.
struct Last;

#[tonic::async_trait]
impl Greeter for Last {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let lanes = request.metadata().get_all("x-lane").iter();
        let lanes: Vec<_> = lanes.map(|lane| lane.to_str().unwrap_or("no text")).collect();
        Ok(Response::new(HelloReply { message: lanes.join(",") }))
    }
}

/// Starts a server with the layer.
fn serve(headers: &RouteHeaders, greeter: impl Greeter) -> SocketAddr {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder().layer(headers.server_layer()).add_service(GreeterServer::new(greeter));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

/// A client of a, whose calls end at c.
fn three_hops() -> GreeterClient<impl Channel> {
    let headers = RouteHeaders::new(["x-lane"]).unwrap();
    let c = serve(&headers, Last);
    let to_c = Endpoint::try_from(format!("http://{c}")).unwrap().connect_lazy();
    let b = serve(&headers, Hop(GreeterClient::new(headers.client_layer().layer(to_c))));
    let to_b = over(builder(), [&b]);
    let a = serve(&headers, Hop(GreeterClient::new(headers.client_layer().layer(to_b))));
    GreeterClient::new(over(builder(), [&a]))
}

/// What c was called with, if a was called with this lane.
async fn lane_at_c(mut a: GreeterClient<impl Channel>, how: &str, lane: Option<&str>) -> String {
    let mut request = Request::new(HelloRequest { name: how.into() });
    if let Some(lane) = lane {
        request.metadata_mut().insert("x-lane", lane.parse().unwrap());
    }
    a.say_hello(request).await.unwrap().into_inner().message
}

#[tokio::test]
async fn a_header_comes_through_three_servers_and_none_comes_from_nowhere() {
    let a = three_hops();
    let lane = async |how: &str, lane: Option<&str>| lane_at_c(a.clone(), how, lane).await;
    assert_eq!(lane(AWAITED, Some("blue")).await, "blue");
    assert_eq!(lane(AWAITED, None).await, "", "the call before has left nothing");
    assert_eq!(lane(SPAWNED, Some("blue")).await, "", "a spawned task has lost it");
    assert_eq!(lane(CARRIED, Some("blue")).await, "blue");
    assert_eq!(lane(CARRIED, None).await, "");
    let long = "a".repeat(256);
    assert_eq!(lane(AWAITED, Some(&long)).await, long);
    assert_eq!(lane(AWAITED, Some(&(long + "a"))).await, "", "it is too long to be passed on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_once_keep_their_own_headers() {
    let a = three_hops();
    let mut calls = JoinSet::new();
    for call in 0..300 {
        let a = a.clone();
        calls.spawn(async move {
            let lane = (call % 3 > 0).then(|| format!("lane-{call}"));
            let how = if call % 2 == 0 { AWAITED } else { CARRIED };
            (lane_at_c(a, how, lane.as_deref()).await, lane.unwrap_or_default())
        });
    }
    for (found, sent) in calls.join_all().await {
        assert_eq!(found, sent);
    }
}
