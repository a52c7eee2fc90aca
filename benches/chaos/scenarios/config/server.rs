//! A greeter that notes which time limit each call came with.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::task::AbortHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::world::Result;

/// Ends with its owner.
pub(super) struct Noting {
    pub(super) address: SocketAddr,
    arrivals: Arrivals,
    task: AbortHandle,
}

/// When each call arrived, and its `grpc-timeout`.
type Arrivals = Arc<Mutex<Vec<(Instant, Option<Duration>)>>>;

impl Noting {
    pub(super) fn start() -> Result<Self> {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
        let (address, arrivals) = (incoming.local_addr()?, Arrivals::default());
        let server = Server::builder().add_service(GreeterServer::new(Notes(arrivals.clone())));
        let task = tokio::spawn(server.serve_with_incoming(incoming)).abort_handle();
        Ok(Self { address, arrivals, task })
    }

    /// The calls that have arrived since this was last asked.
    pub(super) fn take(&self) -> Vec<(Instant, Option<Duration>)> {
        std::mem::take(&mut *self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Notes(Arrivals);

#[tonic::async_trait]
impl Greeter for Notes {
    async fn say_hello(&self, request: Request<HelloRequest>) -> std::result::Result<Response<HelloReply>, Status> {
        let timeout = request.metadata().get("grpc-timeout").and_then(|value| read(value.to_str().ok()?));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), timeout));
        Ok(Response::new(HelloReply { message: "Hello".into() }))
    }
}

/// A text of digits and a unit.
fn read(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}
