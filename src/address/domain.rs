//! A DNS domain whose SRV records name the members of etcd. PURE.
//!
//! Used by targets (`etcd-srv://example.org/greeter`) and by `EtcdOptions::srv`, which must agree
//! on what is the same domain.

use std::fmt;

use crate::address::Authority;
use crate::secret;

/// A checked domain name in lower case. With a dot at its end it is absolute: it is not searched in
/// the search domains of the system.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Domain(Box<str>);

impl Domain {
    /// Parses a domain.
    ///
    /// # Errors
    /// When the text has a scheme, a port or a user, is an IP address, or has a label that is not 1
    /// to 63 characters long (RFC 1035).
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if secret::may_have_user(text) {
            return Err(secret::REASON.into());
        }
        if text.contains([':', '[', ']']) {
            return Err("a domain of SRV records has no scheme and no port".into());
        }
        let host = Authority::parse(text, Some(1))?;
        if host.host().parse::<std::net::IpAddr>().is_ok() {
            return Err("an IP address has no SRV records".into());
        }
        if host.host().trim_end_matches('.').split('.').any(|label| label.is_empty() || label.len() > 63) {
            return Err("a label of a DNS name has 1 to 63 characters".into());
        }
        Ok(Self(host.host().into()))
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both are the same domain, with or without the dot at the end.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.trim_end_matches('.') == other.0.trim_end_matches('.')
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_names() {
        assert_eq!(Domain::parse("Example.ORG").unwrap().as_str(), "example.org");
        assert!(Domain::parse("example.org.").unwrap().is_same(&Domain::parse("example.org").unwrap()));
        for text in ["", ".", "a..b", "10.0.0.1", "[::1]", "h:53", "http://h", "u:p@h", "a b", &"a".repeat(64)] {
            assert!(Domain::parse(text).is_err(), "{text}");
        }
    }
}
