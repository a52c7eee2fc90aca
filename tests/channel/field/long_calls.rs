//! Calls that last for long and end well, beside short ones of which some fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::support::{builder, changing, greet, ready, until};

/// 10 s for who is called so; `NOT_FOUND` at once for 30 % of the others, and OK after 5 ms for the rest.
#[derive(Clone, Default)]
struct Mixed {
    long: Arc<AtomicUsize>,
    short: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Greeter for Mixed {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        if request.get_ref().name == "long" {
            self.long.fetch_add(1, SeqCst);
            sleep(Duration::from_secs(10)).await;
        } else if self.short.fetch_add(1, SeqCst) % 10 < 3 {
            return Err(Status::not_found("no such thing"));
        } else {
            sleep(Duration::from_millis(5)).await;
        }
        Ok(Response::new(HelloReply { message: "Hello".into() }))
    }
}

async fn start() -> (Mixed, SocketAddr) {
    let (mixed, listener) = (Mixed::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(GreeterServer::new(mixed.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (mixed, address)
}

/// F36: both servers give the same code for 30 % of their calls. Twenty long calls at the first of them end well.
#[tokio::test]
async fn long_calls_that_end_well_do_not_make_the_other_server_look_busy() {
    let servers = [start().await, start().await];
    let (channel, set) = changing(builder());
    set.add(servers[0].1);
    ready(&channel, 1).await;
    let mut long = JoinSet::new();
    for _ in 0..20 {
        let mut greeter = GreeterClient::new(channel.clone());
        long.spawn(async move { greeter.say_hello(HelloRequest { name: "long".into() }).await });
    }
    until("the long calls", || servers[0].0.long.load(SeqCst) == 20).await;
    set.add(servers[1].1);
    ready(&channel, 2).await;
    assert!(long.join_all().await.iter().all(Result::is_ok));
    let shares = async |time: Duration| {
        let count = || [0, 1].map(|server: usize| servers[server].0.short.load(SeqCst));
        let (before, end) = (count(), Instant::now() + time);
        let mut workers = JoinSet::new();
        for _ in 0..2 {
            let channel = channel.clone();
            workers.spawn(async move {
                while Instant::now() < end {
                    let _ = greet(&channel).await; // some fail
                }
            });
        }
        workers.join_all().await;
        let calls = [0, 1].map(|server: usize| count()[server] - before[server]);
        calls.map(|own| own * 100 / calls.iter().sum::<usize>())
    };
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(shares(Duration::from_secs(1)).await);
    }
    let well = |shares: &[usize; 2]| shares.iter().all(|share| (25..=75).contains(share));
    assert!(seen.iter().all(well), "shares in %, second by second: {seen:?}");
}
