//! The channel under test, to the servers of a fleet.

use std::time::Duration;

use tonic_etcd::{BalancedChannel, BalancedChannelBuilder};

use crate::cases::fixed;
use crate::server::Fleet;

fn built(builder: BalancedChannelBuilder, fleet: &Fleet) -> BalancedChannel {
    builder.build_with_discovery("grpc.testing", fixed(fleet.addresses())).unwrap()
}

/// As it is by default.
pub(crate) fn balanced(fleet: &Fleet) -> BalancedChannel {
    built(BalancedChannel::builder().served_by(true), fleet)
}

pub(crate) fn with_windows(fleet: &Fleet, stream: u32, connection: u32) -> BalancedChannel {
    built(BalancedChannel::builder().stream_window(stream).connection_window(connection), fleet)
}

pub(crate) fn with_timeout(fleet: &Fleet, timeout: Duration) -> BalancedChannel {
    built(BalancedChannel::builder().timeout(timeout), fleet)
}
