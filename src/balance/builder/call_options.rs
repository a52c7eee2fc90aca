//! Settings that a request's extensions carry for one call.

use std::time::Duration;

/// The maximum time of one call, put into the request's extensions. `None` is no limit.
///
/// It replaces [`BalancedChannelBuilder::timeout`] and [`MethodConfig::timeout`](crate::MethodConfig::timeout) for this call. The time that the
/// call asks for itself ([`tonic::Request::set_timeout`]) still counts, and so does the `timeout` of a
/// [service config](crate::BalancedChannelBuilder::service_config): the earliest of the three ends the call, with
/// `DEADLINE_EXCEEDED`. Nothing in the code lifts that of the service config.
///
/// ```
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(tonic_etcd::CallTimeout(None)); // a long watch
/// ```
///
/// [`BalancedChannelBuilder::timeout`]: crate::BalancedChannelBuilder::timeout
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTimeout(pub Option<Duration>);

/// Whether one call waits for ready (gRPC's term), put into the request's extensions.
///
/// It replaces [`BalancedChannelBuilder::wait_for_ready`] for this call. A call that waits for ready waits until its deadline,
/// also while no server is registered or none can be connected; without a deadline it waits for ever. Any other call fails at
/// once while no server is registered, all drain, or none can be connected. The table of
/// [`BalancedChannel`](crate::BalancedChannel#waiting-and-failing-at-once) says when it waits.
///
/// ```
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(tonic_etcd::WaitForReady(true));
/// ```
///
/// [`BalancedChannelBuilder::wait_for_ready`]: crate::BalancedChannelBuilder::wait_for_ready
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitForReady(pub bool);

/// Whether the response of one call names its server, put into the request's extensions.
///
/// It replaces [`BalancedChannelBuilder::served_by`] for this call. The response then has [`ServedBy`](crate::ServedBy) in its
/// extensions.
///
/// ```
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(tonic_etcd::ReportServer(true));
/// ```
///
/// [`BalancedChannelBuilder::served_by`]: crate::BalancedChannelBuilder::served_by
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportServer(pub bool);
