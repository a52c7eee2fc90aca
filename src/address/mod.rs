//! Addresses: where a server or a member of etcd listens.
//!
//! - `mod.rs`: [`Address`], which users write and records hold.
//! - `authority.rs` (pure): its `host:port`, or the path of a Unix socket.
//! - `ip.rs` (pure): which IP address a host is, in every spelling that `getaddrinfo` takes.
//! - `domain.rs` (pure): a DNS domain with SRV records.

mod authority;
pub(crate) mod domain;
pub(crate) mod ip;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

pub(crate) use self::authority::Authority;
use crate::error::Error;
use crate::secret;

/// Where one server listens, and whether it uses TLS.
///
/// Parsed from `10.0.0.5:50051`, `greeter.local:50051`, `[::1]:50051`, `http://10.0.0.5:8080` (the
/// same as without the scheme) or `https://10.0.0.5:8443`. A URL without a port has the port of its
/// scheme (80, 443). `unix:/run/greeter.sock` is a socket on the client's own host. A resolver
/// accepts records with such an address only if
/// [`ResolverBuilder::unix_sockets`](crate::ResolverBuilder::unix_sockets) allows that.
///
/// Hosts are stored in lower case and IPv6 addresses in canonical form, so equal addresses are
/// equal values.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The host and the port, or the path of a socket.
    authority: Authority,
    /// Whether the server uses TLS.
    secure: bool,
}

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// When the text is not a valid address ([`Error::is_invalid_argument`]). The error shows the
    /// text without a user or password, and the reason.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::read(text).map_err(|reason| Error::invalid("address", secret::without_user(text), reason))
    }

    /// As [`Address::parse`], with the bare reason as the error: codecs name the record themselves.
    /// Unix sockets are read too: whether they may be called is the resolver's choice.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self { authority: Authority::unix(path)?, secure: false });
        }
        if secret::may_have_user(text) {
            return Err(secret::REASON.into());
        }
        let (secure, default_port, rest) = match text.split_once("://") {
            None => (false, None, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, Some(80), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, Some(443), rest),
            Some((scheme, _)) => return Err(format!("the scheme {scheme:?} is neither http nor https")),
        };
        let rest = if default_port.is_some() { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
        Ok(Self { authority: Authority::parse(rest, default_port)?, secure })
    }

    /// The address of parts that were parsed. No check is needed: every authority goes with either
    /// scheme.
    pub(crate) fn from_parts(authority: Authority, secure: bool) -> Self {
        Self { authority, secure }
    }

    /// The host and the port, or the path of a socket. Equal for `http` and `https`.
    pub(crate) fn parsed_authority(&self) -> &Authority {
        &self.authority
    }

    /// `host:port`, with an IPv6 address in brackets: the value of `:authority`. `localhost` for a
    /// Unix socket.
    pub fn authority(&self) -> &str {
        if self.unix_path().is_some() { "localhost" } else { self.authority.as_str() }
    }

    /// The path of a Unix socket; `None` for other addresses.
    pub fn unix_path(&self) -> Option<&str> {
        self.authority.as_str().strip_prefix("unix:")
    }

    /// The host, with an IPv6 address without brackets. `localhost` for a Unix socket.
    pub fn host(&self) -> &str {
        if self.unix_path().is_some() { "localhost" } else { self.authority.host() }
    }

    /// The port; 0 for a Unix socket, and for nothing else.
    pub fn port(&self) -> u16 {
        if self.unix_path().is_some() { 0 } else { self.authority.port() }
    }

    /// Whether the server uses TLS: the address was written as `https://`.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Why nobody can call a server at this address, if so: it means every interface, or is a
    /// multicast or broadcast address. The resolver refuses records with such addresses, the
    /// registrar refuses to register them.
    pub(crate) fn uncallable_reason(&self) -> Option<&'static str> {
        ip::uncallable_reason(self.ip()?)
    }

    /// The IP address that the host is, in every spelling that the system's resolver takes; `None`
    /// for a name and for a Unix socket.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        if self.unix_path().is_some() { None } else { ip::parse_ip(self.host()) }
    }
}

impl fmt::Display for Address {
    /// `host:port`, with `https://` before it if the server uses TLS; or `unix:/path`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https://" } else { "" };
        write!(f, "{scheme}{}", self.authority.as_str())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl TryFrom<SocketAddr> for Address {
    type Error = Error;

    fn try_from(address: SocketAddr) -> Result<Self, Error> {
        // Without the scope of a link-local IPv6 address, which has a meaning on this host only.
        let text = match address {
            SocketAddr::V4(address) => address.to_string(),
            SocketAddr::V6(address) => format!("[{}]:{}", address.ip(), address.port()),
        };
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_into_one_form() {
        for (text, shown, secure) in [
            ("10.0.0.5:50051", "10.0.0.5:50051", false),
            ("http://10.0.0.5:8080", "10.0.0.5:8080", false),
            ("http://10.0.0.5:8080/", "10.0.0.5:8080", false),
            ("HTTPS://Greeter.Local:8443", "https://greeter.local:8443", true),
            ("http://greeter", "greeter:80", false),
            ("https://greeter", "https://greeter:443", true),
            ("[::1]:50051", "[::1]:50051", false),
            ("[0:0::1]:50051", "[::1]:50051", false),
            ("https://[2001:DB8::1]", "https://[2001:db8::1]:443", true),
            ("my_host-1:1", "my_host-1:1", false),
            ("unix:/run/my app.sock", "unix:/run/my app.sock", false),
            ("unix:///run/a:1", "unix:/run/a:1", false),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.is_secure()), (shown, secure), "{text}");
            assert_eq!(Address::parse(&address.to_string()).unwrap(), address, "{text}");
        }
        let address = Address::parse("https://[::1]:8443").unwrap();
        assert_eq!((address.host(), address.port(), address.authority()), ("::1", 8443, "[::1]:8443"));
        let address = Address::parse("unix:/run/x:1").unwrap();
        assert_eq!((address.host(), address.port(), address.authority()), ("localhost", 0, "localhost"));
        assert_eq!(address.unix_path(), Some("/run/x:1"));
    }

    #[test]
    fn refuses_what_nobody_can_call() {
        for text in [
            "",
            ":1",
            "host",
            "host:",
            "host:0",
            "host:x",
            "host:+1",
            "host:65536",
            "host:1/path",
            "ho st:1",
            "::1:8888",
            "[::1",
            "[::1]",
            "[::1]x:1",
            "[::g]:1",
            "1.2.3:4",
            "ftp://host:1",
            "http://host:1/path",
            "http://",
            "unix:",
            "unix:run/x",
            "unix://host/x",
            "unix:////run/x",
            "unix://///run/x",
            "unix:/",
            "unix:/a\0b",
            "ho\0st:1",
            "[fe80::1%eth0]:1",
            "ä:1",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    /// F18: a user and a password are refused, and not shown.
    #[test]
    fn users_are_refused_and_not_shown() {
        for text in [
            "http://u:secret@host:1",
            "u:secret@host:1",
            "https://u:secret%40host:1",
            "http://secret@host",
            "[u:secret@::1]:1",
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(secret::REASON) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn knows_every_interface_when_it_sees_it() {
        for (text, is_every) in [
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("[::ffff:0.0.0.0]:1", true),
            ("0x0:1", true),
            ("0x0.0:1", true),
            ("127.0.0.1:1", false),
            ("a:1", false),
        ] {
            let reason = Address::parse(text).unwrap().uncallable_reason();
            assert_eq!(reason.is_some_and(|reason| reason.contains("every interface")), is_every, "{text}");
        }
    }
}
