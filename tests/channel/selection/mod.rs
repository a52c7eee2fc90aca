//! Which servers a channel connects to, and which of them a call gets.

mod fallback;
mod filter;
mod hops;
mod leaving;
mod routes;
mod sticky;
mod subset;
mod warming;
mod zones;

use std::sync::atomic::Ordering;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tonic::{Request, Status};
use tonic_etcd::{BalancedChannel, Instance, ServedBy, ServerStatus};

use crate::peer::{Peer, Script};
use crate::support::Set;

/// Servers that greet.
async fn greeters(count: usize) -> Vec<Peer> {
    let mut peers = Vec::new();
    for _ in 0..count {
        peers.push(Peer::start(Script::Greet).await);
    }
    peers
}

/// Registers a peer with what `describe` makes of its instance.
fn put(set: &Set, peer: &Peer, describe: impl FnOnce(Instance) -> Instance) {
    set.put(&peer.address.to_string(), describe(Instance::new(peer.address).unwrap()));
}

/// Makes a call, with this among its extensions. Returns who has answered.
async fn call_with<T: Clone + Send + Sync + 'static>(
    channel: &BalancedChannel,
    extension: T,
) -> Result<String, Status> {
    let mut request = Request::new(HelloRequest { name: "world".into() });
    request.extensions_mut().insert(extension);
    let response = GreeterClient::new(channel.clone()).say_hello(request).await?;
    Ok(response.extensions().get::<ServedBy>().unwrap().address().to_string())
}

/// How many calls each of them has got.
fn calls(peers: &[Peer]) -> Vec<usize> {
    peers.iter().map(|peer| peer.seen.calls.load(Ordering::SeqCst)).collect()
}

fn status_of(channel: &BalancedChannel, peer: &Peer) -> ServerStatus {
    let address = peer.address.to_string();
    let servers = channel.servers();
    let found = servers.iter().find(|server| server.address().to_string() == address);
    found.unwrap_or_else(|| panic!("{address} is not among {servers:?}")).clone()
}
