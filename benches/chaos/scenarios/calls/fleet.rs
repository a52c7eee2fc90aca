//! Peers in this process, whose calls are noted in one list.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder};

use super::channel;
use crate::peer::conduct::Conduct;
use crate::peer::log::Arrivals;
use crate::peer::{Peer, Settings};
use crate::world::Result;

/// Between two looks at the calls that have arrived.
const LOOK: Duration = Duration::from_millis(2);

pub(super) struct Fleet {
    pub(super) peers: Vec<Peer>,
    pub(super) arrivals: Arc<Arrivals>,
}

impl Fleet {
    pub(super) fn start(count: u8, conduct: Conduct) -> Result<Self> {
        Self::start_as(count, conduct, Settings::default())
    }

    pub(super) fn start_as(count: u8, conduct: Conduct, settings: Settings) -> Result<Self> {
        let arrivals = Arc::<Arrivals>::default();
        let peers = (0..count).map(|number| Peer::start(number, conduct, arrivals.clone(), settings));
        Ok(Self { peers: peers.collect::<Result<_>>()?, arrivals })
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.peers.iter().map(|peer| peer.address).collect()
    }

    /// Our channel, connected to all of them.
    pub(super) async fn ours(&self, builder: BalancedChannelBuilder) -> Result<BalancedChannel> {
        let channel = channel::ours(builder, self.addresses())?;
        channel::connected(&channel, self.peers.len()).await?;
        Ok(channel)
    }

    pub(super) fn all(&self, conduct: Conduct) {
        self.peers.iter().for_each(|peer| peer.switch.set(conduct));
    }

    pub(super) fn accepted(&self) -> usize {
        self.peers.iter().map(Peer::accepted).sum()
    }

    /// The next calls: at least so many, for at least so long.
    pub(super) async fn next(&self, calls: usize, least: Duration, most: Duration) -> Result<Range<usize>> {
        let (first, began) = (self.arrivals.count(), Instant::now());
        loop {
            sleep(LOOK).await;
            let (now, elapsed) = (self.arrivals.count(), began.elapsed());
            if now - first >= calls && elapsed >= least {
                return Ok(first..now);
            }
            if elapsed > most {
                return Err(format!("{} of {calls} calls have arrived within {most:?}", now - first).into());
            }
        }
    }

    /// The first peer's part of these calls, in percent.
    pub(super) fn share_of_first(&self, calls: Range<usize>) -> f64 {
        self.arrivals.share(0, calls)
    }
}
