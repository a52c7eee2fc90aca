//! A connection has ids for 2^30 calls. Here it has ids for a few, against tonic's own server.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tower::discover::Change;

use crate::{BalancedChannel, Instance};

struct Polite;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        tokio::task::yield_now().await;
        Ok(Response::new(HelloReply { message: request.into_inner().name }))
    }
}

/// Where it is, and how often it was connected to.
async fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let accepted = TcpListenerStream::new(listener).map(move |tcp| {
        counted.fetch_add(1, Ordering::SeqCst);
        tcp
    });
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Polite));
    tokio::spawn(server.serve_with_incoming(accepted));
    (address, connections)
}

/// F31: ids that are used up cost no call anything, although none is declared repeatable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_are_used_up_cost_no_call_anything() {
    let (address, connections) = server().await;
    let insert = Ok::<_, Infallible>(Change::Insert(address, Instance::new(address).unwrap()));
    let builder = BalancedChannel::builder().max_exchanges(500);
    let channel = builder.build_with_discovery("greeter", tokio_stream::iter([insert])).unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut greeter = GreeterClient::new(channel.clone());
        callers.spawn(async move {
            for _ in 0..100 {
                greeter.say_hello(HelloRequest::default()).await.unwrap();
            }
        });
    }
    while let Some(called) = callers.join_next().await {
        called.unwrap();
    }
    let connections = connections.load(Ordering::SeqCst);
    assert!((4..=5).contains(&connections), "2000 calls, 500 and a few more on each of {connections} connections");
}
