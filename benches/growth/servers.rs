//! Stock tonic servers of one process, each with a port of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use test_support::Process;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::PATIENCE;
use crate::job::block_on;

/// Who is greeted by an error.
pub(crate) const FAIL: &str = "fail";
/// Whose call lasts until it is ended: see [`serve_slots`].
pub(crate) const HOLD: &str = "hold";

/// Says which server answers.
struct Named {
    address: SocketAddr,
    /// One for each call that is ended.
    ends: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Greeter for Named {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        match request.get_ref().name.as_str() {
            FAIL => return Err(Status::internal("as told")),
            HOLD => self.ends.acquire().await.expect("it is not closed").forget(),
            _ => {}
        }
        Ok(Response::new(HelloReply { message: self.address.to_string() }))
    }
}

/// So many servers, until the process is killed. Their addresses are said on stdout.
pub(crate) fn serve(count: usize) {
    block_on(async {
        let (mut servers, addresses) = start(count, None, &Arc::new(Semaphore::new(0)));
        say(&addresses);
        while servers.join_next().await.is_some() {}
    });
}

/// The same with one stream each. Behind their addresses is that where each byte ends a call of [`HOLD`]: the first of
/// all that is in flight.
pub(crate) fn serve_slots(count: usize) {
    block_on(async {
        let ends = Arc::new(Semaphore::new(0));
        let (_servers, mut addresses) = start(count, Some(1), &ends);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        addresses.push(listener.local_addr().expect("its address").to_string());
        say(&addresses);
        let (mut told, _) = listener.accept().await.expect("whoever ends calls");
        let mut bytes = [0; 64];
        while let Ok(count) = told.read(&mut bytes).await
            && count > 0
        {
            ends.add_permits(count);
        }
        std::future::pending::<()>().await;
    });
}

fn start(count: usize, streams: Option<u32>, ends: &Arc<Semaphore>) -> (JoinSet<()>, Vec<String>) {
    let (mut servers, mut addresses) = (JoinSet::new(), Vec::new());
    for _ in 0..count {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port").with_nodelay(Some(true));
        let address = incoming.local_addr().expect("its address");
        addresses.push(address.to_string());
        let greeter = GreeterServer::new(Named { address, ends: ends.clone() });
        let server = Server::builder().max_concurrent_streams(streams).add_service(greeter);
        servers.spawn(async { server.serve_with_incoming(incoming).await.expect("it serves") });
    }
    (servers, addresses)
}

fn say(addresses: &[String]) {
    println!("{}", serde_json::to_string(addresses).expect("addresses are JSON"));
}

/// The addresses that such a process says.
pub(crate) fn addresses(process: &Process) -> Vec<String> {
    let line = process.wait_line(|_| true, PATIENCE).expect("the servers' addresses");
    serde_json::from_str(&line).expect("a list of addresses")
}
