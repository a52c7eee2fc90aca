//! Extension, header and split → the values that a call wants. PURE.

use std::fmt;
use std::sync::Arc;

use crate::balance::route::config::RouteConfig;
use crate::balance::route::request::Route;
use crate::balance::route::split;

/// The value of a header at most, in bytes. A longer one is none.
pub(crate) const MAX_HEADER_VALUE: usize = 256;

/// What one call wants of the servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The first value, with the index of its key. Most calls have one or none.
    first: Option<(usize, Arc<str>)>,
    /// Those of other keys.
    more: Vec<(usize, Arc<str>)>,
    or_default: bool,
}

/// Why no server is the right one for a call: a mistake in the code of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Misrouted {
    /// A strict route names a key that is no route key.
    UnknownKey(Arc<str>),
    /// The value of a strict header is too long, or no text.
    UnusableHeader(Box<str>),
}

impl Wanted {
    /// Returns the value that is wanted for a key, by its index in [`RouteConfig::keys`]. `None`: servers without a value.
    pub(crate) fn value(&self, key: usize) -> Option<&str> {
        self.values().find(|(index, _)| *index == key).map(|(_, value)| value)
    }

    /// Whether the default servers are wanted, and no others.
    pub(crate) fn is_default(&self) -> bool {
        self.first.is_none()
    }

    /// Whether the default servers will do while no server with the wanted values is ready.
    pub(crate) fn or_default(&self) -> bool {
        self.or_default
    }

    /// Shows the values with their keys, for statuses and logs.
    pub(crate) fn text(&self, config: &RouteConfig) -> String {
        let key = |index: usize| config.keys().get(index).map_or("", |key| key);
        let parts: Vec<_> = self.values().map(|(index, value)| format!("{}={value:?}", key(index))).collect();
        parts.join(", ")
    }

    /// The indexes of the keys and their values.
    fn values(&self) -> impl Iterator<Item = (usize, &str)> {
        self.first.iter().chain(&self.more).map(|(index, value)| (*index, &**value))
    }

    fn want(&mut self, key: usize, value: Arc<str>) {
        match self.first {
            None => self.first = Some((key, value)),
            Some(_) => self.more.push((key, value)),
        }
    }
}

impl fmt::Display for Misrouted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey(key) => write!(
                f,
                "the call has a route by {key:?}, which is no route key of the channel \
                 (`BalancedChannelBuilder::route_key` names them)"
            ),
            Self::UnusableHeader(name) => write!(
                f,
                "the route header {name:?} of the call is longer than {MAX_HEADER_VALUE} bytes or has other than printable \
                 ASCII characters"
            ),
        }
    }
}

/// Finds what a call wants. For each key the route counts first, then the header; a call that neither says anything for is drawn by
/// the splits. Allocates nothing for a call without a route and a header.
///
/// `header` returns the first value of a header by its name in lower case. `random` is for the draw: from the whole range, each
/// number as likely as any other.
pub(crate) fn resolve<'a>(
    config: &RouteConfig,
    route: Option<&Route>,
    header: impl Fn(&str) -> Option<&'a [u8]>,
    random: u64,
) -> Result<Wanted, Misrouted> {
    let mut wanted = Wanted { or_default: true, ..Wanted::default() };
    let mut is_routed = route.is_some();
    for pair in route.into_iter().flat_map(Route::pairs) {
        match config.index_of(&pair.key) {
            Some(key) => {
                wanted.or_default &= route.is_some_and(Route::is_or_default);
                if !pair.value.is_empty() {
                    wanted.want(key, pair.value.clone());
                }
            }
            None if route.is_some_and(Route::is_or_default) => {}
            None => return Err(Misrouted::UnknownKey(pair.key.clone())),
        }
    }
    for route_header in config.headers() {
        if route.is_some_and(|route| route.value(&route_header.key).is_some()) {
            continue;
        }
        let Some(value) = header(&route_header.name).filter(|value| !value.is_empty()) else { continue };
        let Some(value) = text_of(value) else {
            if route_header.or_default {
                continue;
            }
            return Err(Misrouted::UnusableHeader(route_header.name.clone()));
        };
        // `RouteConfig::check` has refused headers of other keys.
        let Some(key) = config.index_of(&route_header.key) else { continue };
        is_routed = true;
        wanted.or_default &= route_header.or_default;
        wanted.want(key, value.into());
    }
    if !is_routed && let Some((key, value)) = split::draw(config.splits(), random) {
        // As above.
        if let Some(key) = config.index_of(key) {
            wanted.want(key, value.clone());
        }
    }
    Ok(wanted)
}

/// Returns the value of a header as text, if it is printable ASCII and not too long.
fn text_of(value: &[u8]) -> Option<&str> {
    let is_printable = |byte: &u8| (b' '..=b'~').contains(byte);
    if value.len() > MAX_HEADER_VALUE || !value.iter().all(is_printable) {
        return None;
    }
    std::str::from_utf8(value).ok()
}
