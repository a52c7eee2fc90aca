//! A connection that nobody calls over, with the watch of its server's health and without it: PINGs are counted on the way to the
//! server.

use std::net::SocketAddr;
use std::time::Duration;

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use test_support::Bar;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, KeepAlive, ServerState};
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use self::tap::Tap;
use super::DOCUMENT;
use crate::findings::Findings;
use crate::scenarios::calls::channel::{connected, ours};
use crate::scenarios::config::until;
use crate::world::Result;

#[path = "../../../../../tests/channel/health/tap.rs"]
mod tap;

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);
/// After a call and before the connection counts as idle: an interval with a call has a PING. With the half of another one, no
/// PING is due at either end of the time in which they are counted.
const BEFORE: Duration = Duration::from_millis(7_500);
const IDLE: Duration = Duration::from_secs(30);

pub(super) async fn run(findings: &mut Findings) -> Result<()> {
    let server = Healthy::start().await?;
    let plain = BalancedChannel::builder();
    let (often, always) = (KeepAlive::new(INTERVAL, TIMEOUT), KeepAlive::new(INTERVAL, TIMEOUT).unthrottled());
    let (off, few, many) = tokio::try_join!(
        Pair::idle(&server, plain.clone().keep_alive(often)),
        Pair::idle(&server, plain.clone().keep_alive(often).keep_alive_while_idle(true)),
        Pair::idle(&server, plain.keep_alive(always).keep_alive_while_idle(true)),
    )?;
    let pairs = [
        ("keep-alive of 5 s", off, Bar::Equal(0.0)),
        ("the same while idle", few, Bar::AtLeast(1.0)),
        ("the same while idle, unthrottled", many, Bar::AtLeast(5.0)),
    ];
    server.reporter.set_service_status("helloworld.Greeter", ServingStatus::NotServing).await;
    for (setting, pair, sent) in pairs {
        let is_told = || pair.watching.servers().iter().all(|server| server.state() == ServerState::Unhealthy);
        until("word of NOT_SERVING over the watch", is_told).await?;
        let name = format!("idle for 30 s, {setting}: pings");
        findings.ours(&format!("{name} without the watch of health"), pair.without as f64, "", sent);
        let more = pair.with as f64 - pair.without as f64;
        findings.ours(&format!("{name} with it beyond those"), more, "", Bar::Equal(0.0));
    }
    Ok(())
}

/// Two connections in the same seconds.
struct Pair {
    /// Its connection has the watch open.
    watching: BalancedChannel,
    /// PINGs while it was idle.
    with: usize,
    /// Those of the other one.
    without: usize,
}

impl Pair {
    async fn idle(server: &Healthy, builder: BalancedChannelBuilder) -> Result<Self> {
        let with = pings(server, builder.clone().service_config(DOCUMENT));
        let ((watching, with), (_, without)) = tokio::try_join!(with, pings(server, builder))?;
        Ok(Self { watching, with, without })
    }
}

/// Calls once, and counts the PINGs of the time in which nobody calls.
async fn pings(server: &Healthy, builder: BalancedChannelBuilder) -> Result<(BalancedChannel, usize)> {
    let tap = Tap::to(server.address).await;
    let channel = ours(builder, [tap.address])?;
    connected(&channel, 1).await?;
    GreeterClient::new(channel.clone()).say_hello(HelloRequest::default()).await?;
    sleep(BEFORE).await;
    let before = tap.pings();
    sleep(IDLE).await;
    Ok((channel, tap.pings() - before))
}

/// tonic's own server with its own health service; ends with its owner.
struct Healthy {
    address: SocketAddr,
    reporter: HealthReporter,
    task: AbortHandle,
}

impl Healthy {
    async fn start() -> Result<Self> {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
        let (address, (reporter, health)) = (incoming.local_addr()?, health_reporter());
        reporter.set_service_status("helloworld.Greeter", ServingStatus::Serving).await;
        let server = Server::builder().add_service(health).add_service(GreeterServer::new(Hello));
        let task = tokio::spawn(server.serve_with_incoming(incoming)).abort_handle();
        Ok(Self { address, reporter, task })
    }
}

impl Drop for Healthy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Hello;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, _: Request<HelloRequest>) -> std::result::Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: "Hello".into() }))
    }
}
