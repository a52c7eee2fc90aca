//! [`RouteConfig`]: the keys, headers and splits of a channel, and their check. PURE.

use std::sync::Arc;

use crate::balance::route::split::{Share, Split};
use crate::error::Error;

/// The route keys of a channel at most: each multiplies the partitions.
pub(crate) const MAX_KEYS: usize = 8;

/// The length of a name at most, in bytes.
const MAX_NAME: usize = 256;

/// Headers that say how a request is sent, of one connection (RFC 9110, 7.6.1; RFC 9113, 8.2.2) or of gRPC's own protocol.
const OF_PROTOCOL: [&str; 10] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// What the builder has collected of routes, in the order of its calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteConfig {
    /// Without repetition.
    keys: Vec<Arc<str>>,
    /// At most one of each key.
    headers: Vec<RouteHeader>,
    splits: Vec<Split>,
}

/// The header that a key's value is read from.
#[derive(Clone, Debug)]
pub(super) struct RouteHeader {
    pub(super) key: Arc<str>,
    /// In lower case.
    pub(super) name: Box<str>,
    pub(super) or_default: bool,
}

impl RouteConfig {
    /// Adds a key, unless it is there.
    pub(crate) fn add_key(&mut self, key: Arc<str>) {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }

    /// Sets the header of a key, in place of an earlier one.
    pub(crate) fn set_header(&mut self, key: Arc<str>, header: &str, or_default: bool) {
        self.headers.retain(|known| known.key != key);
        self.headers.push(RouteHeader { key, name: header.to_ascii_lowercase().into(), or_default });
    }

    /// Adds a split.
    pub(crate) fn add_split(&mut self, split: Split) {
        self.splits.push(split);
    }

    /// The route keys, in the order in which they were named. The values of a partition are in the same order.
    pub(crate) fn keys(&self) -> &[Arc<str>] {
        &self.keys
    }

    /// The headers that values are read from.
    pub(super) fn headers(&self) -> &[RouteHeader] {
        &self.headers
    }

    /// The splits, whose shares are laid end to end.
    pub(crate) fn splits(&self) -> &[Split] {
        &self.splits
    }

    /// Returns where a key stands among the route keys.
    pub(super) fn index_of(&self, key: &str) -> Option<usize> {
        self.keys.iter().position(|known| **known == *key)
    }

    /// Refuses settings outside of their ranges.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for key in &self.keys {
            let reason = if key.is_empty() {
                "it is empty".to_owned()
            } else if key.len() > MAX_NAME {
                format!("it has {} bytes, more than {MAX_NAME}", key.len())
            } else if key.chars().any(char::is_control) {
                "it has control characters".to_owned()
            } else {
                continue;
            };
            return Err(Error::invalid("route key", &**key, reason));
        }
        if let Some(key) = self.keys.get(MAX_KEYS) {
            return Err(Error::invalid("route key", &**key, format!("a channel has at most {MAX_KEYS} route keys")));
        }
        for RouteHeader { key, name, .. } in &self.headers {
            if self.index_of(key).is_none() {
                return Err(Error::invalid("route header of a key", &**key, not_a_key(key)));
            }
            if let Some(reason) = unusable_header(name) {
                return Err(Error::invalid("route header", &**name, reason));
            }
        }
        self.check_splits()
    }

    /// Refuses splits by unknown keys, and shares that are no shares.
    fn check_splits(&self) -> Result<(), Error> {
        if let Some(split) = self.splits.iter().find(|split| self.index_of(&split.key).is_none()) {
            return Err(Error::invalid("split by a key", &*split.key, not_a_key(&split.key)));
        }
        let mut sum = 0.0;
        for (key, Share { value, percent }) in
            self.splits.iter().flat_map(|split| split.shares.iter().map(move |share| (&split.key, share)))
        {
            let share = || format!("{key}={value}: {percent} %");
            if value.is_empty() {
                return Err(Error::invalid(
                    "split",
                    share(),
                    "the value is empty; the rest of the calls goes to such servers",
                ));
            }
            if !(0.0..=100.0).contains(percent) {
                return Err(Error::invalid("split", share(), "a share is from 0 to 100 %"));
            }
            sum += percent;
            // Sums such as 33.3 + 33.3 + 33.4 need not be exact.
            if sum > 100.0 + 1e-9 {
                return Err(Error::invalid("split", share(), "all shares of a channel together are at most 100 %"));
            }
        }
        Ok(())
    }
}

fn not_a_key(key: &str) -> String {
    format!("it is no route key of the channel: call `route_key({key:?})` too")
}

/// Returns why a header, in lower case, cannot carry text of users in gRPC. `None`: it can.
pub(super) fn unusable_header(name: &str) -> Option<&'static str> {
    // RFC 9110, 5.6.2: a token.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_token) {
        return Some("it is no name of a header");
    }
    if name.starts_with("grpc-") {
        return Some("names that begin with `grpc-` are gRPC's own");
    }
    if OF_PROTOCOL.contains(&name) {
        return Some("it belongs to HTTP or to gRPC itself");
    }
    if name.ends_with("-bin") {
        return Some("the values of headers whose names end with `-bin` are no text");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(set: impl FnOnce(&mut RouteConfig)) -> String {
        let mut config = RouteConfig::default();
        config.add_key("lane".into());
        set(&mut config);
        config.check().map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn a_refused_setting_is_named() {
        let split = |key: &'static str, value: &'static str, percent: f64| {
            move |config: &mut RouteConfig| config.add_split(Split::new(key).to("v1", 50).to(value, percent))
        };
        let table = [
            (refused(|_| {}), "accepted"),
            (refused(|config| (0..7).for_each(|at| config.add_key(at.to_string().into()))), "accepted"),
            (refused(|config| (0..8).for_each(|at| config.add_key(at.to_string().into()))), "at most 8 route keys"),
            (refused(|config| config.add_key("".into())), "it is empty"),
            (refused(|config| config.add_key("a\nb".into())), "control characters"),
            (refused(|config| config.add_key("a".repeat(256).into())), "accepted"),
            (refused(|config| config.add_key("a".repeat(257).into())), "257 bytes"),
            (refused(|config| config.set_header("lane".into(), "X-Lane", true)), "accepted"),
            (refused(|config| config.set_header("lan".into(), "x-lane", true)), "route_key(\"lan\")"),
            (refused(|config| config.set_header("lane".into(), "", true)), "no name of a header"),
            (refused(|config| config.set_header("lane".into(), "x lane", true)), "no name of a header"),
            (refused(|config| config.set_header("lane".into(), "GRPC-Lane", true)), "gRPC's own"),
            (refused(|config| config.set_header("lane".into(), "lane-bin", true)), "no text"),
            (refused(|config| config.set_header("lane".into(), "Connection", true)), "belongs to HTTP"),
            (refused(|config| config.set_header("lane".into(), "user-agent", false)), "belongs to HTTP"),
            (refused(split("lane", "v2", 50.0)), "accepted"),
            (refused(split("lane", "v2", 50.1)), "at most 100 %"),
            (refused(split("lan", "v2", 5.0)), "route_key(\"lan\")"),
            (refused(split("lane", "", 5.0)), "the value is empty"),
            (refused(split("lane", "v2", -1.0)), "from 0 to 100 %"),
            (refused(split("lane", "v2", f64::NAN)), "from 0 to 100 %"),
            (refused(split("lane", "v2", f64::INFINITY)), "from 0 to 100 %"),
            (
                refused(|config| config.add_split(Split::new("lane").to("a", 33.3).to("b", 33.3).to("c", 33.4))),
                "accepted",
            ),
        ];
        for (row, (found, expected)) in table.iter().enumerate() {
            assert!(found.contains(expected), "row {row}: {found:?} does not have {expected:?}");
        }
    }
}
