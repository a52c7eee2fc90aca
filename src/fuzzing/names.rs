//! The parsers of what users write: addresses, targets, endpoints of etcd.

use std::net::{IpAddr, SocketAddr};

use crate::address::domain::Domain;
use crate::address::{Address, Authority};
use crate::etcd::members::endpoint::{Endpoint, ListedMember, usable};
use crate::instance::Instance;
use crate::target::Target;
use crate::target::nested::{nested_name, parent_names};

/// What is shown is read as the same address; and an IP address is known as one.
pub(super) fn address(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let address = match Address::parse(&text) {
        Ok(address) => address,
        Err(error) => return assert!(error.is_invalid_argument() && !error.to_string().is_empty()),
    };
    assert_eq!(Address::parse(&address.to_string()).ok().as_ref(), Some(&address), "{text:?}");
    assert_eq!(address.unix_path().is_some(), address.port() == 0, "{text:?}");
    if address.unix_path().is_some() {
        return assert!(!address.is_secure() && address.ip().is_none());
    }
    let host = address.host();
    assert!(!host.is_empty() && !host.contains(char::is_whitespace), "{text:?}");
    if let Ok(ip) = host.parse::<IpAddr>() {
        assert_eq!(address.ip().map(|ip| ip.to_canonical()), Some(ip.to_canonical()), "{text:?}");
        let of_socket = Address::try_from(SocketAddr::new(ip, address.port())).unwrap();
        assert_eq!(of_socket.parsed_authority(), address.parsed_authority(), "{text:?}");
    }
    if address.ip().is_some_and(|ip| ip.is_unspecified()) {
        assert!(address.uncallable_reason().is_some(), "{text:?}");
    }
}

/// What is shown is read as the same target, whose range holds exactly the keys that it owns among those below its name.
pub(super) fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (text, rest) = text.split_once('\n').unwrap_or((&text, "x/10.0.0.5:1"));
    let target = match Target::parse(text) {
        Ok(target) => target,
        Err(error) => return assert!(error.is_invalid_argument() && !error.to_string().is_empty()),
    };
    let shown = target.to_string();
    assert_eq!(Target::parse(&shown).ok().as_ref(), Some(&target), "{text:?} is shown as {shown:?}");
    for target in [target.clone(), target.with_name_key(true)] {
        let (start, end) = target.range();
        for key in [format!("{}{rest}", target.prefix()), format!("{}{rest}", target.name())] {
            let is_below = *start <= *key.as_bytes() && *key.as_bytes() < *end;
            assert!(!target.owns(key.as_bytes()) || is_below, "{key:?} of {target:?}");
            let instances: Vec<_> = Instance::new(rest.rsplit('/').next().unwrap_or_default()).into_iter().collect();
            if let Some(name) = nested_name(&target, &key, &instances) {
                assert!(key.starts_with(name) && name.starts_with(&target.prefix()), "{name:?} of {key:?}");
            }
        }
        for parent in parent_names(target.name()) {
            assert!(target.name().starts_with(&format!("{parent}/")) && !parent.is_empty(), "{target:?}");
        }
    }
    if let Ok(domain) = Domain::parse(text) {
        assert!(
            Domain::parse(domain.as_str()).is_ok_and(|again| again == domain && again.is_same(&domain)),
            "{text:?}"
        );
    }
}

/// An endpoint is the same member when it is written as scheme, host and port; and of a list of members those are taken that can
/// be used.
pub(super) fn endpoint(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let listed: Vec<_> = text.lines().map(str::to_owned).collect();
    for line in &listed {
        for has_tls in [false, true] {
            let Ok(endpoint) = Endpoint::parse(line, has_tls) else { continue };
            let scheme = if endpoint.secure { "https" } else { "http" };
            let again = Endpoint::parse(&format!("{scheme}://{}", endpoint.authority.as_str()), !has_tls);
            assert!(again.is_ok_and(|again| again.is_same(&endpoint)), "{line:?}");
            assert_eq!(endpoint.text, *line);
        }
    }
    for from in ["http://127.0.0.1:2379", "https://etcd.example:2379"] {
        let from = Endpoint::parse(from, false).unwrap();
        let member = ListedMember { is_learner: false, client_urls: listed.clone() };
        let usable = usable(&[member], &from, std::slice::from_ref(&from));
        for (place, endpoint) in usable.iter().enumerate() {
            assert!(endpoint.is_learned && endpoint.secure == from.secure, "{endpoint:?}");
            assert!(!usable[..place].iter().any(|other| other.is_same(endpoint)), "{endpoint:?} twice");
        }
    }
    let _ = Authority::parse(&text, None);
}
