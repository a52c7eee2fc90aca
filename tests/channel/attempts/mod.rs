//! Several attempts of one call: hedges, and attempts that are given up after their time.
//!
//! Times are of two kinds: those that must pass are short, and those that must not are as long as a test may last.

mod beside;
mod declared;
mod hedge;
mod hedged_requests;
mod quantile;
mod timeout;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tonic::Code;
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, RetryPolicy};

use crate::peer::{Peer, Script};
use crate::support::{Lowest, SAY_HELLO, builder, over, ready};

/// Passes in each test.
pub(crate) const SOON: Duration = Duration::from_millis(30);
/// Never passes.
pub(crate) const NEVER: Duration = Duration::from_secs(600);

/// Servers in the order in which calls go to them, and what each does.
pub(crate) struct Servers {
    peers: Vec<Peer>,
    scripts: Vec<Arc<Mutex<Script>>>,
}

impl Servers {
    pub(crate) async fn start<const N: usize>(scripts: [Script; N]) -> Self {
        Self::limited(scripts, None).await
    }

    async fn limited<const N: usize>(scripts: [Script; N], limit: Option<u32>) -> Self {
        let mut all = Vec::new();
        for _ in 0..N {
            let script = Arc::new(Mutex::new(Script::Greet));
            all.push((Peer::limited(Script::Now(script.clone()), limit).await, script));
        }
        all.sort_by_key(|(peer, _)| peer.address.to_string());
        let (peers, switches): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let servers = Self { peers, scripts: switches };
        scripts.into_iter().enumerate().for_each(|(server, script)| servers.set(server, script));
        servers
    }

    fn set(&self, server: usize, script: Script) {
        *self.scripts[server].lock().unwrap() = script;
    }

    /// How many calls each has seen.
    pub(crate) fn calls(&self) -> Vec<usize> {
        self.peers.iter().map(|peer| peer.seen.calls()).collect()
    }

    pub(crate) fn name(&self, server: usize) -> String {
        self.peers[server].address.to_string()
    }

    fn previous_attempts(&self, server: usize) -> Option<String> {
        let header = self.peers[server].seen.header(0, "grpc-previous-rpc-attempts")?;
        Some(header.to_str().unwrap().to_owned())
    }

    /// A channel that calls the first of them that it may.
    pub(crate) async fn channel_of(&self, builder: BalancedChannelBuilder) -> BalancedChannel {
        let channel = over(builder.policy(Lowest), self.peers.iter().map(|peer| &peer.address));
        ready(&channel, self.peers.len()).await;
        channel
    }

    pub(crate) async fn channel(&self, policy: RetryPolicy) -> BalancedChannel {
        self.channel_of(builder().retry(policy)).await
    }
}

/// Retries without a pause, so that only what is tested takes time.
pub(crate) fn repeating() -> RetryPolicy {
    RetryPolicy::new().repeatable(SAY_HELLO).backoff(Duration::ZERO, Duration::ZERO)
}

pub(crate) fn unavailable() -> Script {
    Script::Status(Code::Unavailable as i32, vec![])
}

/// The hedges that were sent to each server, and the attempts that were given up at each.
fn costs(channel: &BalancedChannel) -> (Vec<u64>, Vec<u64>) {
    channel.servers().iter().map(|server| (server.hedges(), server.attempt_timeouts())).unzip()
}
