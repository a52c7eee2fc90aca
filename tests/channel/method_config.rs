//! Settings of calls by method: which calls are retried, and how large their messages may be. Timeouts are in
//! `field/timeouts.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, MethodConfig, RetryPolicy};

use crate::peer::{Peer, Script};
use crate::support::{Lowest, SAY_HELLO, builder, greet, greeted_by, over, ready, server_of, told};

/// Two servers, of which the first gets all first attempts and answers UNAVAILABLE.
pub(crate) async fn failing_first(builder: BalancedChannelBuilder) -> (Peer, Peer, BalancedChannel) {
    let failing = Script::Status(Code::Unavailable as i32, vec![]);
    let (mut one, mut other) = (Peer::start(failing.clone()).await, Peer::start(Script::Greet).await);
    while one.address > other.address {
        (one, other) = (Peer::start(failing.clone()).await, Peer::start(Script::Greet).await);
    }
    let channel = over(builder.policy(Lowest), [&one.address, &other.address]);
    ready(&channel, 2).await;
    (one, other, channel)
}

#[tokio::test]
async fn a_method_is_retried_by_its_own_policy() {
    let config = MethodConfig::new().retry(RetryPolicy::new());
    let (failing, good, channel) = failing_first(builder().method_config(SAY_HELLO, config)).await;
    assert_eq!(greeted_by(&channel).await, good.address.to_string());
    assert_eq!(failing.seen.calls(), 1);

    let one_attempt = MethodConfig::new().retry(RetryPolicy::new().max_attempts(1));
    let channel_wide = builder().retry(RetryPolicy::new().repeatable("/helloworld.Greeter/"));
    let (_failing, good, channel) = failing_first(channel_wide.method_config(SAY_HELLO, one_attempt)).await;
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(good.seen.calls(), 0, "the method's own policy holds, and not its service's");
}

#[tokio::test]
async fn what_is_never_repeated_is_not_whatever_declares_it() {
    let retry = RetryPolicy::new().repeatable(SAY_HELLO).never_repeat("/helloworld.Greeter/");
    let config = MethodConfig::new().retry(RetryPolicy::new());
    let (_failing, good, channel) = failing_first(builder().retry(retry).method_config(SAY_HELLO, config)).await;
    assert_eq!(greet(&channel).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(good.seen.calls(), 0);
}

pub(crate) async fn greet_by_name(channel: &BalancedChannel, length: usize) -> Result<Response<HelloReply>, Status> {
    GreeterClient::new(channel.clone()).say_hello(HelloRequest { name: "x".repeat(length) }).await
}

/// A name of 100 letters is a message of 102 bytes.
#[tokio::test]
async fn a_request_that_is_too_large_fails_alone() {
    let peer = Peer::start(Script::Greet).await;
    let retry = RetryPolicy::new().retryable_codes([Code::ResourceExhausted]);
    let config = MethodConfig::new().max_request_message_bytes(102).retry(retry);
    let channel = over(builder().method_config("/helloworld.Greeter/", config), [&peer.address]);
    greet_by_name(&channel, 100).await.unwrap();
    let status = greet_by_name(&channel, 101).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let text = "a request message of 103 bytes is larger than max_request_message_bytes (102)";
    assert!(status.message().contains(text), "{status}");
    assert!(peer.seen.calls() <= 2, "it is not retried");
    let before = channel.servers()[0].failures();
    greet_by_name(&channel, 100).await.unwrap();
    assert_eq!((before, channel.servers()[0].connections()), (0, 1), "it is no fault of the server's");
}

/// A real greeter, and how many calls it has seen.
#[derive(Clone, Default)]
struct RealGreeter(Arc<AtomicUsize>);

#[tonic::async_trait]
impl Greeter for RealGreeter {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

/// `Hello ` and 100 letters are a message of 108 bytes.
#[tokio::test]
async fn a_response_that_is_too_large_fails_alone() {
    for config in
        [MethodConfig::new(), MethodConfig::new().retry(RetryPolicy::new().retryable_codes([Code::ResourceExhausted]))]
    {
        let greeter = RealGreeter::default();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let server = Server::builder().add_service(GreeterServer::new(greeter.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        let config = config.max_response_message_bytes(108);
        let channel = over(builder().method_config(SAY_HELLO, config), [&address]);
        greet_by_name(&channel, 100).await.unwrap();
        let status = greet_by_name(&channel, 101).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let text = "a response message of 109 bytes is larger than max_response_message_bytes (108)";
        assert!(told(&status).contains(text), "{status}");
        assert_eq!(server_of(&status), address.to_string());
        assert_eq!(greeter.0.load(Ordering::SeqCst), 2, "it is not retried");
        greet_by_name(&channel, 100).await.unwrap();
        assert_eq!((channel.servers()[0].failures(), channel.servers()[0].connections()), (0, 1));
    }
}
