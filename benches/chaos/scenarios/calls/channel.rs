//! The channels that call peers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tonic::transport::Endpoint;
use tonic_etcd::policy::{LeastRequest, PeakEwma};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, Instance, ServerState};
use tower::discover::Change;

use crate::world::Result;

/// Longer than connecting should ever take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The policies with a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    LeastRequest,
    PeakEwma,
}

impl Loaded {
    pub(super) const ALL: [Self; 2] = [Self::LeastRequest, Self::PeakEwma];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LeastRequest => "least request",
            Self::PeakEwma => "peak EWMA",
        }
    }

    pub(super) fn builder(self) -> BalancedChannelBuilder {
        let builder = BalancedChannel::builder();
        match self {
            Self::LeastRequest => builder.policy(LeastRequest::new()),
            Self::PeakEwma => builder.policy(PeakEwma::new()),
        }
    }
}

/// Our channel over these addresses, in this order.
pub(in crate::scenarios) fn ours<A: ToString>(
    builder: BalancedChannelBuilder,
    addresses: impl IntoIterator<Item = A>,
) -> Result<BalancedChannel> {
    weighted(builder, addresses.into_iter().map(|address| (address, None)))
}

/// The same with their weights.
pub(super) fn weighted<A: ToString>(
    builder: BalancedChannelBuilder,
    servers: impl IntoIterator<Item = (A, Option<u32>)>,
) -> Result<BalancedChannel> {
    let insert = |(number, (address, weight)): (usize, (A, Option<u32>))| {
        let instance = Instance::new(address.to_string())?;
        let instance = weight.into_iter().try_fold(instance, Instance::with_weight)?;
        Ok::<_, tonic_etcd::Error>(Ok::<_, Infallible>(Change::Insert(number, instance)))
    };
    let changes: Vec<_> = servers.into_iter().enumerate().map(insert).collect::<std::result::Result<_, _>>()?;
    Ok(builder.build_with_discovery("peers", tokio_stream::iter(changes))?)
}

/// tonic's own channel over these addresses.
pub(super) fn tonic(addresses: &[SocketAddr]) -> Result<tonic::transport::Channel> {
    let endpoints = addresses.iter().map(|address| Endpoint::from_shared(format!("http://{address}")));
    let endpoints: Vec<_> = endpoints.collect::<std::result::Result<_, _>>()?;
    Ok(tonic::transport::Channel::balance_list(endpoints.into_iter()))
}

/// Waits until so many servers are connected.
pub(in crate::scenarios) async fn connected(channel: &BalancedChannel, wanted: usize) -> Result<()> {
    let began = Instant::now();
    while channel.servers().iter().filter(|server| server.state() == ServerState::Ready).count() < wanted {
        if began.elapsed() > PATIENCE {
            return Err(format!("not all of {wanted} servers are connected: {:?}", channel.servers()).into());
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
