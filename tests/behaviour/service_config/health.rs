//! Documents that say whose health decides.

use std::time::Duration;

use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::time::Instant;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::Resolver;

use super::{channel, put, with_role};
use crate::channel::greet;
use crate::support::{World, naming};

struct Unhealthy;

#[tonic::async_trait]
impl Greeter for Unhealthy {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: "from a server that does not serve".into() }))
    }
}

/// The address of a server whose health is `NOT_SERVING`.
async fn unhealthy_server() -> String {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap().to_string();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("greeter", tonic_health::ServingStatus::NotServing).await;
    let server = tonic::transport::Server::builder().add_service(health).add_service(GreeterServer::new(Unhealthy));
    tokio::spawn(server.serve_with_incoming(incoming));
    address
}

/// Calls wait for the first word, and it says that health decides: they are woken before anybody has been asked for it, and go to
/// servers that were connected meanwhile. The role reads its own document alone, so that etcd's word takes a little longer.
#[tokio::test(flavor = "multi_thread")]
async fn the_calls_that_waited_for_the_first_word_go_to_no_unhealthy_server() {
    let world = World::start().await;
    let (root, options) = with_role(&world, &[("tonic-etcd/config/s", false)]).await;
    put(&root, "s/one", naming(&unhealthy_server().await)).await;
    put(&root, "tonic-etcd/config/s", r#"{"healthCheckConfig": {"serviceName": "greeter"}}"#).await;
    let mut in_time = 0;
    for number in 0..150 {
        let began = Instant::now();
        let channel = channel(&Resolver::connect_lazy(options.clone()).unwrap(), "s");
        let result = greet(&channel).await;
        // On a busy machine the word may come too late: then the call has gone on without it.
        if began.elapsed() < Duration::from_secs(1) {
            assert!(channel.service_config().text().is_some(), "the call has waited for it");
            assert!(result.is_err(), "start {number}: a call was sent to a server that is NOT_SERVING");
            in_time += 1;
        }
        if in_time == 5 {
            return;
        }
    }
    panic!("the word came in time for {in_time} of 150 calls");
}

/// The same without rights, where a resolver knows the servers already: a second channel of a service. How often it happens is a
/// matter of microseconds, so that there are many starts.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_calls_of_a_channel_go_to_no_unhealthy_server() {
    let world = World::start().await;
    world.put("s/one", &naming(&unhealthy_server().await)).await;
    world.put("tonic-etcd/config/s", r#"{"healthCheckConfig": {"serviceName": "greeter"}}"#).await;
    let mut sent = 0;
    for _ in 0..60 {
        let resolver = world.resolver();
        greet(&resolver.channel("s").unwrap()).await.unwrap();
        let channel = channel(&resolver, "s");
        sent += usize::from(greet(&channel).await.is_ok());
        assert!(channel.service_config().text().is_some(), "the call has waited for it");
    }
    assert_eq!(sent, 0, "of 60 first calls, {sent} were sent to a server that is NOT_SERVING");
}
