//! A call that is begun on one runtime and read on another.

use std::pin::Pin;
use std::time::Duration;

use http::Request;
use http_body::Body;
use tokio::runtime::Builder;
use tower::Service;

use crate::peer::{Peer, Script};
use crate::support::{builder, over, ready};

/// The runtime that a call was begun on ends; its answer is read on the channel's.
#[test]
fn an_answer_with_a_deadline_outlives_the_runtime_that_it_began_on() {
    let own = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_peer, mut channel) = own.block_on(async {
        let peer = Peer::start(Script::Flood).await;
        let channel = over(builder().timeout(Duration::from_secs(20)), [&peer.address]);
        ready(&channel, 1).await;
        (peer, channel)
    });
    let other = Builder::new_current_thread().enable_all().build().unwrap();
    let mut body = other.block_on(async {
        let request = Request::post("http://x/helloworld.Greeter/Stream").body(tonic::body::Body::empty()).unwrap();
        channel.call(request).await.unwrap().into_body()
    });
    drop(other);
    own.block_on(async {
        for _ in 0..20_000 {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            frame.expect("it has no end").expect("no error");
        }
    });
}
