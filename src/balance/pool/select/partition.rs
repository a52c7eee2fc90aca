//! [`RouteValues`]: which calls a server is for. PURE.

use crate::instance::Instance;

/// A value, or none, for each key that calls are routed by, in the order of the keys. Servers with the same
/// values are one partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteValues(Box<[Option<Box<str>>]>);

impl RouteValues {
    /// No value for any of so many keys: of the calls without a route, and of the servers for them.
    pub(crate) fn none(keys: usize) -> Self {
        Self(vec![None; keys].into())
    }

    /// The values of a server.
    pub(crate) fn of(keys: &[Box<str>], instance: &Instance) -> Self {
        Self(keys.iter().map(|key| route_value(key, instance).map(Into::into)).collect())
    }

    /// The values, in the order of the keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(Option::as_deref)
    }
}

/// The value of a server for a key that calls are routed by: its metadata of that name; without it, for the
/// key `version` its version and for `zone` its zone. An empty text is no value.
pub(crate) fn route_value<'a>(key: &str, instance: &'a Instance) -> Option<&'a str> {
    let said = instance.metadata().get(key).map(String::as_str).filter(|value| !value.is_empty());
    said.or_else(|| match key {
        "version" => instance.version(),
        "zone" => instance.zone(),
        _ => None,
    })
}
