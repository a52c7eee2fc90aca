//! Which IP address a host is, as the system's resolver reads it. PURE.
//!
//! `getaddrinfo` takes more spellings than Rust's parser. A record such as `0x7f.1` must not slip
//! past the checks of addresses that nobody may call.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The IP address that a host is without DNS: dotted, IPv6, or an older spelling that `getaddrinfo`
/// takes through `inet_aton`. An IPv4-mapped IPv6 address is the IPv4 address. `None` for a name.
pub(crate) fn parse_ip(host: &str) -> Option<IpAddr> {
    if let Ok(ip) = host.parse::<Ipv6Addr>() {
        return Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4));
    }
    inet_aton(host).map(IpAddr::V4)
}

/// An IPv4 address of one to four parts, each decimal, octal (`0…`) or hexadecimal (`0x…`). The
/// last part fills the remaining bits: `10.65793` is `10.1.1.1`.
fn inet_aton(host: &str) -> Option<Ipv4Addr> {
    let (mut left, mut bits, mut shift) = (host, 0, 24_u32);
    // Up to three parts of one byte each.
    while let Some((byte, rest)) = left.split_once('.') {
        let byte = parse_part(byte).filter(|byte| *byte <= 0xff)?;
        bits |= byte << shift;
        shift = shift.checked_sub(8)?;
        left = rest;
    }
    let last = parse_part(left)?;
    // The bits that the parts before it have left: 32, 24, 16 or 8.
    let fits = shift == 24 || last < 1 << (shift + 8);
    fits.then(|| Ipv4Addr::from_bits(bits | last))
}

/// One part: `0x` and hexadecimal digits, `0` and octal digits, or decimal digits. `from_str_radix`
/// alone would take a sign.
fn parse_part(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // `from_str_radix` takes a sign.
    if digits.starts_with(['+', '-']) { None } else { u32::from_str_radix(digits, radix).ok() }
}

/// Why nobody can call a server at this IP address, if so. Connecting to `0.0.0.0` reaches the
/// caller's own host on Linux, which is never what the record means. Loopback addresses are
/// allowed: servers and clients on one host use them.
pub(crate) fn uncallable_reason(ip: IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        Some("it means every interface, which nobody can call")
    } else if ip.is_multicast() {
        Some("it is a multicast address, which nobody can call")
    } else if ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("it is the broadcast address, which nobody can call")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F21: every spelling of an address that the system's resolver takes.
    #[test]
    fn reads_every_spelling() {
        for (host, expected) in [
            ("0.0.0.0", "0.0.0.0"),
            ("0", "0.0.0.0"),
            ("00", "0.0.0.0"),
            ("0x0", "0.0.0.0"),
            ("0X0", "0.0.0.0"),
            ("0.0", "0.0.0.0"),
            ("0x0.0", "0.0.0.0"),
            ("000.0.0.0", "0.0.0.0"),
            ("0x00000000", "0.0.0.0"),
            ("127.1", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f000001", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("10.1.258", "10.1.1.2"),
            ("10.65793", "10.1.1.1"),
            ("0xe0.1", "224.0.0.1"),
            ("0340.0.0.1", "224.0.0.1"),
            ("4294967295", "255.255.255.255"),
            ("::", "::"),
            ("::ffff:0.0.0.0", "0.0.0.0"),
            ("::ffff:0:0", "0.0.0.0"),
            ("0:0:0:0:0:0:0:0", "::"),
            ("::ffff:224.0.0.1", "224.0.0.1"),
            ("ff02::1", "ff02::1"),
        ] {
            assert_eq!(parse_ip(host), Some(expected.parse().unwrap()), "{host}");
        }
        for host in [
            "",
            ".",
            "0.",
            ".0",
            "0x",
            "0x0.",
            "0..0",
            "256.0.0.1",
            "1.2.3.4.5",
            "4294967296",
            "09",
            "0xg",
            "0.16777216",
            "+1",
            "1.-2",
            "0x+1",
            "greeter",
            "0.greeter",
            "0xgreeter",
            "localhost",
        ] {
            assert_eq!(parse_ip(host), None, "{host:?}");
        }
    }

    /// F21: what is read here is what the system reads.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn agrees_with_the_system() {
        use std::net::ToSocketAddrs;
        for host in
            ["0", "00", "0x0", "0.0", "000.0.0.0", "127.1", "0x7f.1", "0177.0.0.1", "10.65793", "0xe0.1", "4294967295"]
        {
            let system: Vec<_> = (host, 1).to_socket_addrs().unwrap().map(|address| address.ip()).collect();
            assert_eq!(parse_ip(host), system.first().copied(), "{host}");
        }
    }

    #[test]
    fn says_who_cannot_be_called() {
        for (host, said) in [
            ("0", Some("every interface")),
            ("::", Some("every interface")),
            ("::ffff:0.0.0.0", Some("every interface")),
            ("224.0.0.1", Some("multicast")),
            ("239.255.255.250", Some("multicast")),
            ("ff02::1", Some("multicast")),
            ("255.255.255.255", Some("broadcast")),
            ("127.0.0.1", None),
            ("::1", None),
            ("10.0.0.5", None),
            ("fe80::1", None),
        ] {
            let reason = uncallable_reason(parse_ip(host).unwrap());
            assert_eq!(reason.is_some(), said.is_some(), "{host}");
            assert!(reason.unwrap_or_default().contains(said.unwrap_or_default()), "{host}: {reason:?}");
        }
    }
}
