//! What callers read of calls that a server, or this side, has ended.

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;

use super::frozen::{PANIC, Stock};
use crate::raw::goaway_at_first_call;
use crate::support::{builder, greet, over, ready};

/// F62: a handler's panic resets its stream with CANCEL, which nobody here has asked for.
#[tokio::test]
async fn a_call_that_the_server_cancelled_says_so() {
    let server = Stock::start();
    let channel = over(builder(), [&server.address]);
    ready(&channel, 1).await;
    let status = GreeterClient::new(channel).say_hello(HelloRequest { name: PANIC.into() }).await.unwrap_err();
    assert!(status.message().contains("the server cancelled the call"), "{status}");
    assert!(status.message().contains("panics"), "{status}");
}

/// F31: the end of a connection says less than the GOAWAY before it.
#[tokio::test]
async fn a_call_that_is_lost_after_a_goaway_names_it() {
    let (address, _) = goaway_at_first_call(1).await;
    let channel = over(builder(), [&address]);
    ready(&channel, 1).await;
    let status = greet(&channel).await.unwrap_err();
    assert!(status.message().contains("connection lost"), "{status}");
    assert!(status.message().contains("after a GOAWAY"), "{status}");
}
