//! [`Route`]: what a call asks for in its extensions. PURE.

use std::sync::Arc;

/// The servers that one call goes to, by the values that they carry for the channel's route keys. It is put into the
/// request's extensions.
///
/// A server carries the metadata of its [`Instance`](crate::Instance); for the keys `version` and `zone` its own field
/// counts where the metadata have none. [`BalancedChannelBuilder::route_key`] says which keys a channel routes by, and
/// how its servers are partitioned.
///
/// ```
/// use tonic_etcd::Route;
///
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(Route::to("lane", "blue").or_default());
/// ```
///
/// A route is strict by default: while no server of it is ready, the call waits or fails as if no other server were
/// registered, and the text of the status (`UNAVAILABLE`) has the key and the value. So a test environment never calls
/// production by mistake. With [`Route::or_default`] the call then goes to the default servers.
///
/// A key that the route does not name is taken from the header of [`BalancedChannelBuilder::route_header`], if the
/// request has it. Otherwise the call goes to servers that carry no value for it.
///
/// A route holds for the calls of one channel. [`RouteHeaders`](crate::RouteHeaders) has what passes a route on through
/// several servers.
///
/// # Errors
///
/// A call whose strict route names a key that is no route key of the channel fails with `INTERNAL`: that is a mistake
/// in the code, and any server would be the wrong one. With [`Route::or_default`] such a key is ignored.
///
/// Cloning a route with one key allocates nothing.
///
/// [`BalancedChannelBuilder::route_key`]: crate::BalancedChannelBuilder::route_key
/// [`BalancedChannelBuilder::route_header`]: crate::BalancedChannelBuilder::route_header
#[derive(Clone, Debug)]
pub struct Route {
    first: Pair,
    more: Vec<Pair>,
    or_default: bool,
}

/// A key and the value that is asked for.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) key: Arc<str>,
    /// Empty for the servers that carry no value.
    pub(super) value: Arc<str>,
}

impl Route {
    /// A strict route to the servers that carry `value` for `key`. Both are compared as they are, case included.
    ///
    /// An empty value stands for the servers that carry none: such a call is sent nowhere else by a header or a
    /// [`Split`](crate::Split).
    #[must_use]
    pub fn to(key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        Self { first: Pair { key: key.into(), value: value.into() }, more: Vec::new(), or_default: false }
    }

    /// Asks for a value of one more key: the servers carry all of them. A later value of the same key replaces the
    /// earlier one.
    #[must_use]
    pub fn and(mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        let pair = Pair { key: key.into(), value: value.into() };
        let mut pairs = std::iter::once(&mut self.first).chain(&mut self.more);
        match pairs.find(|known| known.key == pair.key) {
            Some(known) => known.value = pair.value,
            None => self.more.push(pair),
        }
        self
    }

    /// Lets the call go to the default servers, which carry no value for any route key, while no server of the route is
    /// ready: there is none, or each is being connected, fails, is unhealthy, or is ejected. The same holds once each
    /// ready one has failed the call, or so many have refused it that it would have to pause ([transparent
    /// retries](crate::BalancedChannel#transparent-retries)), so a retry may go there too. A call that waits takes the
    /// first server of either that is ready. It does not leave a route whose servers are all at their limit of streams.
    #[must_use]
    pub fn or_default(mut self) -> Self {
        self.or_default = true;
        self
    }

    /// Returns the value that is asked for, if the route names the key.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.pairs().find(|pair| *pair.key == *key).map(|pair| &*pair.value)
    }

    /// Whether the call may go to the default servers ([`Route::or_default`]).
    pub fn is_or_default(&self) -> bool {
        self.or_default
    }

    /// All keys with their values, in the order in which they were named.
    pub(super) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_value_replaces_an_earlier_one() {
        let route = Route::to("lane", "blue").and("version", "v2").and("lane", "green").and("version", "v3");
        assert_eq!(
            (route.value("lane"), route.value("version"), route.value("zone")),
            (Some("green"), Some("v3"), None)
        );
        assert_eq!(route.pairs().count(), 2);
        assert!(!route.is_or_default() && route.or_default().is_or_default());
    }
}
