//! Names below other names: keys of `shop/payments` are keys of `shop` too, as for etcd's Go
//! client. PURE.

use crate::address::Address;
use crate::instance::Instance;
use crate::target::Target;

/// The longer name that a key of the service seems to belong to: `shop/payments` for
/// `shop/payments/10.0.0.5:50051`. `None` if the key is the service's own.
///
/// If the key ends in an address of its value, the name ends before that address. Otherwise the
/// name ends before the last slash that is not part of an address.
pub(crate) fn nested_name<'k>(target: &Target, key: &'k str, instances: &[Instance]) -> Option<&'k str> {
    let rest = key.strip_prefix(target.name())?.strip_prefix('/')?;
    if !rest.contains('/') {
        return None;
    }
    if instances.iter().any(|instance| is_unique_key(rest, instance)) {
        return None;
    }
    let addresses = instances.iter().flat_map(Instance::addresses);
    let by_address = addresses.into_iter().find_map(|address| {
        let written = [address.to_string(), address.parsed_authority().as_str().to_owned()];
        let names = written.iter().filter_map(|written| rest.strip_suffix(written.as_str()));
        names.into_iter().find(|name| name.is_empty() || name.ends_with('/'))
    });
    let name = by_address.unwrap_or_else(|| &rest[..begin_of_last(rest)]).trim_end_matches('/');
    if name.is_empty() { None } else { Some(&key[..key.len() - rest.len() + name.len()]) }
}

/// Whether the rest of a key is one that [`Conflict::UniqueKey`](crate::Conflict::UniqueKey) made: an address of the instance,
/// or a name without a slash and the instance's id, with a slash between the two.
fn is_unique_key(rest: &str, instance: &Instance) -> bool {
    let begins_with = |written: &str| rest.strip_prefix(written).is_some_and(|id| id.starts_with('/'));
    let by_address =
        |address: &Address| begins_with(&address.to_string()) || begins_with(address.parsed_authority().as_str());
    let by_id = |id: &str| rest.split_once('/').is_some_and(|(_, last)| last == id);
    instance.addresses().iter().any(by_address) || instance.id().is_some_and(by_id)
}

/// Every shorter name that this one continues: `a/b` and `a` for `a/b/c`.
pub(crate) fn parent_names(name: &str) -> impl Iterator<Item = &str> {
    name.char_indices().rev().filter(|(at, c)| *c == '/' && *at > 0).map(|(at, _)| &name[..at])
}

/// Where the last part of a key starts, which may be a URL or the path of a Unix socket: slashes
/// within it end no name.
fn begin_of_last(rest: &str) -> usize {
    let address = rest.find("://").or_else(|| rest.find("unix:/"));
    let before = &rest[..address.unwrap_or(rest.len())];
    before.rfind('/').map_or(0, |slash| slash + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F67: whose a key is.
    #[test]
    fn tells_names_below_from_addresses() {
        let shop = Target::parse("shop").unwrap();
        for (key, address, expected) in [
            ("shop/10.0.0.5:1", Some("10.0.0.5:1"), None),
            ("shop/[::1]:1", Some("[::1]:1"), None),
            ("shop/unix:/run/shop.sock", Some("unix:/run/shop.sock"), None),
            ("shop/https://h:1", Some("https://h:1"), None),
            ("shop/7587869134094827012", Some("10.0.0.5:1"), None),
            ("shop/payments/10.0.0.5:1", Some("10.0.0.5:1"), Some("shop/payments")),
            ("shop/payments/unix:/run/shop.sock", Some("unix:/run/shop.sock"), Some("shop/payments")),
            ("shop/payments/7587869134094827012", Some("10.0.0.5:1"), Some("shop/payments")),
            ("shop/a/b/10.0.0.5:1", Some("10.0.0.5:1"), Some("shop/a/b")),
            ("shop/10.0.0.5:1", None, None),
            ("shop/unix:/run/shop.sock", None, None),
            ("shop/grpc://10.0.0.5:1", None, None),
            ("shop/providers/grpc://10.0.0.5:1", None, Some("shop/providers")),
            ("shop/payments/10.0.0.5:1", None, Some("shop/payments")),
            ("shop/payments/unix:/run/shop.sock", None, Some("shop/payments")),
            ("shop/", None, None),
            ("shop//", None, None),
            ("shopping/x/y", None, None),
            ("shop", None, None),
        ] {
            let instances: Vec<_> = address.map(|address| Instance::new(address).unwrap()).into_iter().collect();
            assert_eq!(nested_name(&shop, key, &instances), expected, "{key} {address:?}");
        }
    }

    /// What `Conflict::UniqueKey` writes beside a key that is taken belongs to the service itself.
    #[test]
    fn a_key_beside_one_that_is_taken_is_the_services_own() {
        let shop = Target::parse("shop").unwrap();
        let instances = [Instance::new("10.0.0.5:1").unwrap().with_id("pod-7")];
        for key in ["shop/10.0.0.5:1/pod-7", "shop/10.0.0.5:1/5f3a", "shop/primary/pod-7"] {
            assert_eq!(nested_name(&shop, key, &instances), None, "{key}");
        }
        assert_eq!(nested_name(&shop, "shop/payments/pod-8", &instances), Some("shop/payments"));
    }

    #[test]
    fn knows_the_names_above() {
        assert_eq!(parent_names("a/b/c").collect::<Vec<_>>(), ["a/b", "a"]);
        assert_eq!(parent_names("/web/x").collect::<Vec<_>>(), ["/web"]);
        assert_eq!(parent_names("/web").count() + parent_names("web").count(), 0);
    }
}
