//! A channel over servers on loopback: tonic's, and scripted ones that speak bare HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response};
use tower::discover::Change;

use super::*;
use crate::instance::Instance;

struct Me;

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(GreeterServer::new(Me));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn fixed(builder: BalancedChannelBuilder, addresses: &[SocketAddr]) -> BalancedChannel {
    let insert = |address: &SocketAddr| Ok::<_, Infallible>(Change::Insert(*address, Instance::new(*address).unwrap()));
    builder.discover("greeter", tokio_stream::iter(addresses.iter().map(insert).collect::<Vec<_>>())).unwrap()
}

fn hello(name: &str) -> HelloRequest {
    HelloRequest { name: name.into() }
}

#[tokio::test]
async fn calls_spread_over_all_servers() {
    let servers = [greeter().await, greeter().await, greeter().await];
    let channel = fixed(BalancedChannel::builder(), &servers);
    let mut client = GreeterClient::new(channel.clone());
    while channel.servers().iter().filter(|server| server.state() == ServerState::Ready).count() < 3 {
        client.say_hello(hello("x")).await.unwrap();
    }
    for _ in 0..300 {
        let reply = client.say_hello(hello("world")).await.unwrap();
        let by = reply.extensions().get::<ServedBy>().unwrap().address().to_string();
        assert!(servers.iter().any(|server| server.to_string() == by));
        assert_eq!(reply.into_inner().message, "Hello world");
    }
    for server in channel.servers() {
        assert!(server.calls() > 30, "{server:?}");
        assert_eq!(server.in_flight(), 0);
    }
}
