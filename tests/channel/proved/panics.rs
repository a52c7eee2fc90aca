//! A connector of the user's that panics once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::Uri;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::peer::{Peer, Script};
use crate::support::{builder, changing, greet};

/// The next attempt would succeed.
#[tokio::test]
async fn a_connector_that_panics_once_does_not_cost_the_server_for_ever() {
    let peer = Peer::start(Script::Greet).await;
    let (tries, address) = (Arc::new(AtomicUsize::new(0)), peer.address);
    let counted = tries.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let tries = counted.clone();
        async move {
            assert!(tries.fetch_add(1, SeqCst) > 0, "a bug of the user's");
            TcpStream::connect(address).await
        }
    });
    let (channel, set) = changing(builder().connector(connector).wait_for_ready(true));
    set.add(peer.address);
    let answered = timeout(Duration::from_secs(5), greet(&channel)).await;
    let state: Vec<_> =
        channel.servers().iter().map(|server| (server.state(), server.last_error().map(str::to_owned))).collect();
    assert!(answered.is_ok(), "after 5 s and {} tries: {state:?}", tries.load(SeqCst));
}
