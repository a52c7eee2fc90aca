//! Stock tonic servers of one process, each with a port of its own.

use std::net::SocketAddr;

use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use test_support::Process;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::PATIENCE;
use crate::job::block_on;

/// Says which server answers.
struct Named(SocketAddr);

#[tonic::async_trait]
impl Greeter for Named {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: self.0.to_string() }))
    }
}

/// So many servers, until the process is killed. Their addresses are said on stdout.
pub(crate) fn serve(count: usize) {
    block_on(async {
        let (mut servers, mut addresses) = (JoinSet::new(), Vec::new());
        for _ in 0..count {
            let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port").with_nodelay(Some(true));
            let address = incoming.local_addr().expect("its address");
            addresses.push(address.to_string());
            servers
                .spawn(Server::builder().add_service(GreeterServer::new(Named(address))).serve_with_incoming(incoming));
        }
        println!("{}", serde_json::to_string(&addresses).expect("addresses are JSON"));
        servers.join_all().await;
    });
}

/// The addresses that such a process says.
pub(crate) fn addresses(process: &Process) -> Vec<String> {
    let line = process.wait_line(|_| true, PATIENCE).expect("the servers' addresses");
    serde_json::from_str(&line).expect("a list of addresses")
}
