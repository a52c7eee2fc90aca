//! Settings that a request's extensions carry for one call, and the time limits of a channel.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Extensions;

/// The maximum time of one call, put into the request's extensions. `None` is no limit.
///
/// It replaces [`BalancedChannelBuilder::timeout`] and [`BalancedChannelBuilder::method_timeout`] for this call. The time that the
/// call asks for itself ([`tonic::Request::set_timeout`]) still counts: the earlier of the two ends the call, with
/// `DEADLINE_EXCEEDED`.
///
/// ```
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(tonic_etcd::CallTimeout(None)); // a long watch
/// ```
///
/// [`BalancedChannelBuilder::timeout`]: crate::BalancedChannelBuilder::timeout
/// [`BalancedChannelBuilder::method_timeout`]: crate::BalancedChannelBuilder::method_timeout
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

/// The time limits that a channel gives to calls. `None` is no limit.
#[derive(Clone, Default)]
pub(crate) struct Timeouts {
    /// For methods that `methods` does not have.
    pub(crate) channel: Option<Duration>,
    /// By path: `/package.Service/Method`, or `/package.Service/` for all methods of a service.
    pub(crate) methods: BTreeMap<String, Option<Duration>>,
}

impl Timeouts {
    /// Returns the limit of a call. The most specific setting holds: the call's own, the method's, the service's, the channel's.
    #[inline]
    pub(crate) fn of_call(&self, extensions: Option<&Extensions>, path: &str) -> Option<Duration> {
        if let Some(CallTimeout(timeout)) = extensions.and_then(Extensions::get) {
            return *timeout;
        }
        if self.methods.is_empty() {
            return self.channel;
        }
        let service = || path.rfind('/').and_then(|end| self.methods.get(&path[..=end]));
        *self.methods.get(path).or_else(service).unwrap_or(&self.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_limit_holds() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let timeouts = Timeouts {
            channel: seconds(5),
            methods: [("/a.B/".to_owned(), seconds(1)), ("/a.B/Watch".to_owned(), None)].into(),
        };
        let none = Extensions::new();
        for (path, timeout) in
            [("/a.B/Watch", None), ("/a.B/Get", seconds(1)), ("/a.C/Get", seconds(5)), ("", seconds(5))]
        {
            assert_eq!(timeouts.of_call(Some(&none), path), timeout, "{path}");
        }
        let mut own = Extensions::new();
        own.insert(CallTimeout(None));
        assert_eq!(timeouts.of_call(Some(&own), "/a.C/Get"), None);
        own.insert(CallTimeout(seconds(9)));
        assert_eq!(timeouts.of_call(Some(&own), "/a.B/Watch"), seconds(9));
        assert_eq!(Timeouts::default().of_call(None, "/a.B/Get"), None);
    }
}
