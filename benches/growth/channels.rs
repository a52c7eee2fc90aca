//! A channel over servers, and the wait for what it does by itself.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, Instance, ServerState};
use tower::discover::Change;

use crate::PATIENCE;

/// A channel to these servers.
pub(crate) fn channel(builder: BalancedChannelBuilder, addresses: &[String]) -> BalancedChannel {
    let insert = |address: &String| {
        let instance = Instance::new(address.as_str()).expect("an address");
        Ok::<_, Infallible>(Change::Insert(address.clone(), instance))
    };
    let changes: Vec<_> = addresses.iter().map(insert).collect();
    builder.build_with_discovery("greeter", tokio_stream::iter(changes)).expect("a runtime")
}

/// Waits until all servers are connected.
pub(crate) async fn connected(channel: &BalancedChannel, servers: usize) {
    until(|| channel.stats().servers(ServerState::Ready) == servers).await;
}

pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("what is waited for");
}
