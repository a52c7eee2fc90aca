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
    /// Returns the value that is wanted for a key, by its index in [`RouteConfig::keys`]. `None`: servers without a
    /// value.
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

/// Finds what a call wants. For each key the route counts first, then the header; a call that neither says anything for
/// is drawn by the splits. Allocates nothing for a call without a route and a header.
///
/// `header` returns the first value of a header by its name in lower case. `random` is for the draw: from the whole
/// range, each number as likely as any other.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::route::split::Split;

    fn text(wanted: &Wanted) -> String {
        let key = |index: usize| config().keys().get(index).cloned().unwrap();
        let parts: Vec<_> = wanted.values().map(|(index, value)| format!("{}={value:?}", key(index))).collect();
        parts.join(", ")
    }

    /// `lane` and `version` by lenient headers, `tenant` by a strict one, `zone` by none; all calls without a route to v2.
    fn config() -> RouteConfig {
        let mut config = RouteConfig::default();
        for key in ["lane", "version", "tenant", "zone", "lane"] {
            config.add_key(key.into());
        }
        config.set_header("lane".into(), "x-old", false);
        config.set_header("lane".into(), "X-Lane", true);
        config.set_header("version".into(), "x-version", true);
        config.set_header("tenant".into(), "x-tenant", false);
        config.add_split(Split::new("version").to("v2", 100));
        config.check().unwrap();
        config
    }

    /// The values with their keys, and whether the default servers will do.
    fn resolved(route: Option<&Route>, headers: &[(&str, &[u8])]) -> Result<(String, bool), Misrouted> {
        let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let wanted = resolve(&config(), route, header, 7)?;
        assert_eq!(wanted.is_default(), text(&wanted).is_empty());
        Ok((text(&wanted), wanted.or_default()))
    }

    #[test]
    fn route_header_and_split_count_in_this_order() {
        let long = [b'a'; MAX_HEADER_VALUE];
        let longer = [b'a'; MAX_HEADER_VALUE + 1];
        #[expect(clippy::type_complexity, reason = "the columns of a table")]
        let table: Vec<(Option<Route>, Vec<(&str, &[u8])>, &str, bool)> = vec![
            (None, vec![], r#"version="v2""#, true),
            (None, vec![("x-lane", b"blue")], r#"lane="blue""#, true),
            (None, vec![("x-old", b"blue")], r#"version="v2""#, true),
            (None, vec![("x-lane", b"")], r#"version="v2""#, true),
            (None, vec![("x-lane", b"a\xff")], r#"version="v2""#, true),
            (None, vec![("x-lane", b"a\tb")], r#"version="v2""#, true),
            (None, vec![("x-lane", b"~ ~")], r#"lane="~ ~""#, true),
            (None, vec![("x-version", &longer)], r#"version="v2""#, true),
            (None, vec![("x-lane", b"blue"), ("x-version", b"v3")], r#"lane="blue", version="v3""#, true),
            (None, vec![("x-tenant", b"acme")], r#"tenant="acme""#, false),
            (None, vec![("x-tenant", b"")], r#"version="v2""#, true),
            (None, vec![("x-tenant", b"acme"), ("x-lane", b"blue")], r#"lane="blue", tenant="acme""#, false),
            (Some(Route::to("lane", "green")), vec![("x-lane", b"blue")], r#"lane="green""#, false),
            (Some(Route::to("lane", "green")), vec![("x-lane", b"\xff")], r#"lane="green""#, false),
            (Some(Route::to("zone", "eu")), vec![("x-lane", b"blue")], r#"zone="eu", lane="blue""#, false),
            (Some(Route::to("zone", "eu").or_default()), vec![("x-lane", b"blue")], r#"zone="eu", lane="blue""#, true),
            (Some(Route::to("zone", "eu").or_default()), vec![("x-tenant", b"a")], r#"zone="eu", tenant="a""#, false),
            // An empty value is one: of the default servers.
            (Some(Route::to("lane", "")), vec![("x-lane", b"blue")], "", false),
            (Some(Route::to("lane", "").and("tenant", "")), vec![("x-tenant", b"\xff")], "", false),
            // A key that is none, and a call that has a route is not drawn.
            (Some(Route::to("color", "red").or_default()), vec![], "", true),
            (Some(Route::to("color", "red").and("lane", "blue").or_default()), vec![], r#"lane="blue""#, true),
            (Some(Route::to("version", "ü \n")), vec![], "version=\"ü \\n\"", false),
        ];
        for (route, headers, text, or_default) in table {
            let expected = Ok((text.to_owned(), or_default));
            assert_eq!(resolved(route.as_ref(), &headers), expected, "{route:?} {headers:?}");
        }
        let text = format!("version={:?}", "a".repeat(MAX_HEADER_VALUE));
        assert_eq!(resolved(None, &[("x-version", &long)]), Ok((text, true)));
    }

    #[test]
    fn what_is_strict_and_has_no_place_is_told() {
        let unknown = resolved(Some(&Route::to("lane", "blue").and("color", "red")), &[]).unwrap_err();
        assert_eq!(unknown, Misrouted::UnknownKey("color".into()));
        assert!(unknown.to_string().contains("\"color\"") && unknown.to_string().contains("route_key"), "{unknown}");
        for value in [&b"\xff"[..], &[b'a'; MAX_HEADER_VALUE + 1]] {
            let unusable = resolved(None, &[("x-tenant", value)]).unwrap_err();
            assert_eq!(unusable, Misrouted::UnusableHeader("x-tenant".into()));
            assert!(unusable.to_string().contains("\"x-tenant\""), "{unusable}");
        }
    }

    /// A channel without route keys: calls want nothing, and a strict route is still a mistake.
    #[test]
    fn without_keys_there_is_nothing_to_want() {
        let config = RouteConfig::default();
        let resolve = |route: Option<Route>| resolve(&config, route.as_ref(), |_| Some(b"blue"), u64::MAX);
        assert!(resolve(None).unwrap().is_default());
        assert!(resolve(Some(Route::to("lane", "blue").or_default())).unwrap().is_default());
        assert_eq!(resolve(Some(Route::to("lane", "blue"))), Err(Misrouted::UnknownKey("lane".into())));
    }

    #[test]
    fn a_value_is_found_by_the_index_of_its_key() {
        let route = Route::to("zone", "eu").and("lane", "blue");
        let wanted = resolve(&config(), Some(&route), |_| None, 0).unwrap();
        let values: Vec<_> = (0..config().keys().len()).map(|key| wanted.value(key)).collect();
        assert_eq!(values, [Some("blue"), None, None, Some("eu")]);
    }
}
