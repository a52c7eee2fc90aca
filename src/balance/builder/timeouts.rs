//! How much time calls have at most: by the channel, by method, by call.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Extensions;

/// In a request's extensions: the most time that this call has, in place of [`BalancedChannelBuilder::timeout`] and
/// [`BalancedChannelBuilder::method_timeout`]. `None` is no limit. What the call asks for itself
/// ([`tonic::Request::set_timeout`]) holds beside it: the earlier of the two ends the call, with `DEADLINE_EXCEEDED`.
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

#[derive(Clone, Default)]
pub(crate) struct Timeouts {
    pub(crate) channel: Option<Duration>,
    /// By path; that of a service ends with its slash.
    pub(crate) methods: BTreeMap<String, Option<Duration>>,
}

impl Timeouts {
    #[inline]
    pub(crate) fn of(&self, extensions: Option<&Extensions>, path: &str) -> Option<Duration> {
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
    fn the_nearest_word_holds() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let timeouts = Timeouts {
            channel: seconds(5),
            methods: [("/a.B/".to_owned(), seconds(1)), ("/a.B/Watch".to_owned(), None)].into(),
        };
        let none = Extensions::new();
        for (path, timeout) in
            [("/a.B/Watch", None), ("/a.B/Get", seconds(1)), ("/a.C/Get", seconds(5)), ("", seconds(5))]
        {
            assert_eq!(timeouts.of(Some(&none), path), timeout, "{path}");
        }
        let mut own = Extensions::new();
        own.insert(CallTimeout(None));
        assert_eq!(timeouts.of(Some(&own), "/a.C/Get"), None);
        own.insert(CallTimeout(seconds(9)));
        assert_eq!(timeouts.of(Some(&own), "/a.B/Watch"), seconds(9));
        assert_eq!(Timeouts::default().of(None, "/a.B/Get"), None);
    }
}
