//! The `host:port` of an address, or the path of a Unix socket. PURE.
//!
//! Both are one type, because both identify a server: maps of servers are keyed by it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::secret;

/// A checked `host:port` in lower case, with an IPv6 address in brackets and in canonical form; or
/// `unix:/path`.
///
/// It is the identity of a server within a service: two addresses with one authority are one
/// server, whether they say `http` or `https`. A clone shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Authority(Arc<str>);

impl Authority {
    /// Parses a `host:port`. Without a port it gets the default port, if there is one.
    ///
    /// Refused are several addresses, paths, IPv6 addresses without brackets, hosts that are
    /// neither DNS names nor IP addresses, and ports outside of 1 to 65535.
    ///
    /// # Errors
    /// The reason, which does not show a user or password.
    pub(crate) fn parse(text: &str, default_port: Option<u16>) -> Result<Self, String> {
        // Checked first, so that no other reason shows a part of a password.
        if secret::may_have_user(text) {
            return Err(secret::REASON.into());
        }
        for (mark, reason) in [(',', "only one address is allowed here"), ('/', "a path is not allowed here")] {
            if text.contains(mark) {
                return Err(reason.into());
            }
        }
        let (host, port) = if text.starts_with('[') {
            let end = text.find(']').ok_or("the bracket is not closed")?;
            let address: Ipv6Addr =
                text[1..end].parse().map_err(|_| format!("{:?} is no IPv6 address", &text[1..end]))?;
            let rest = &text[end + 1..];
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return Err(format!("{rest:?} after the bracket is no port"));
            }
            (format!("[{address}]"), port)
        } else {
            let (host, port) = match text.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return Err("an IPv6 address stands in brackets: [::1]:50051".into());
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            (check_host(host)?, port)
        };
        let port = match (port, default_port) {
            (Some(port), _) => parse_port(port)?,
            (None, Some(port)) => port,
            (None, None) => return Err(format!("no port: write \"{host}:PORT\"")),
        };
        Ok(Self(format!("{host}:{port}").into()))
    }

    /// The text: what is compared, shown, and used as the last part of a key.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A Unix socket of this host, by its absolute path. Written `unix:/path`, which no `host:port`
    /// can be. A path has at most 107 bytes: `sockaddr_un` has 108 with the zero at the end.
    ///
    /// # Errors
    /// When the path is relative, too long, or has control characters.
    pub(super) fn unix(path: &str) -> Result<Self, String> {
        // `unix:/path` or `unix:///path`, as in gRPC.
        let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
        if !path.starts_with('/') || path.starts_with("//") || path.len() < 2 || path.ends_with('/') {
            return Err("a Unix socket is an absolute path: unix:/run/greeter.sock".into());
        }
        if path.len() > 107 {
            return Err("the path is longer than the 107 bytes of a socket's name".into());
        }
        if let Some(strange) = path.chars().find(|c| c.is_control()) {
            return Err(format!("the character {strange:?} is not allowed in a path"));
        }
        Ok(Self(format!("unix:{path}").into()))
    }

    /// The host, with an IPv6 address without brackets. Not called for a Unix socket, which has
    /// none.
    pub(crate) fn host(&self) -> &str {
        self.parts().0.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port. Not called for a Unix socket, which has none.
    pub(crate) fn port(&self) -> u16 {
        self.parts().1.parse().unwrap_or_default() // always a number: `parse` has checked it
    }

    /// The text before and after the last colon. There is always one: `parse` writes it.
    fn parts(&self) -> (&str, &str) {
        self.0.rsplit_once(':').unwrap_or((&self.0, "")) // always there: `parse` writes it
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host in lower case. A DNS name has at most 253 characters. Underscores are allowed, because
/// container networks use them.
///
/// # Errors
/// When it is neither a DNS name nor an IPv4 address. A host of digits and dots must be an IPv4
/// address: the system's resolver would read `1.2` as `1.0.0.2`.
fn check_host(host: &str) -> Result<String, String> {
    if host.is_empty() {
        return Err("no host".into());
    }
    if host.len() > 253 {
        return Err("the host is longer than the 253 characters of a DNS name".into());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(strange) = host.chars().find(|c| !allowed(*c)) {
        return Err(format!("the character {strange:?} is not allowed in a host"));
    }
    if host.chars().all(|c| c.is_ascii_digit() || c == '.') && host.parse::<Ipv4Addr>().is_err() {
        return Err(format!("{host:?} is no IPv4 address"));
    }
    Ok(host.to_ascii_lowercase())
}

/// A port from 1 to 65535, in digits only: `u16::from_str` would take a sign.
fn parse_port(port: &str) -> Result<u16, String> {
    let number = if port.bytes().all(|b| b.is_ascii_digit()) { port.parse().ok() } else { None };
    match number {
        Some(0) | None => Err(format!("the port {port:?} is not a number from 1 to 65535")),
        Some(number) => Ok(number),
    }
}
