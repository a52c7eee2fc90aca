//! PURE: takes the addresses out of a text.
//!
//! Statuses travel: a handler passes the status of an inner call on to its own caller. Their texts must not tell where the
//! inner server is.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What stands where an address stood.
const MARK: &str = "[address]";

/// The text without addresses: without IP addresses, `host:port` in any form, `unix:` paths, the names that a certificate is
/// valid for, and the names in `own`. An address that begins a text or a part of it (`ADDRESS: reason`) goes with its colon;
/// any other one becomes `[address]`.
pub(crate) fn without_addresses(text: &str, own: &[&str]) -> String {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let (before, from) = rest.split_at(start);
        let (token, after) = from.split_at(from.find(|c| !is_part(c)).unwrap_or(from.len()));
        // What ends a sentence or a part of it belongs to no address.
        let (word, end) = token.split_at(token.trim_end_matches([':', '.']).len());
        told.push_str(before);
        rest = after;
        let of_certificate = told.ends_with("DnsName(\"");
        if word.is_empty() || !(of_certificate || own.contains(&word) || is_address(word)) {
            told.push_str(token);
        } else if end == ":" && rest.starts_with(' ') && begins_a_part(&told) {
            rest = &rest[1..];
        } else {
            told.push_str(MARK);
            told.push_str(end);
        }
    }
    told.push_str(rest);
    told
}

/// Whether the character can stand in an address.
fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._:-[]/%@".contains(c)
}

fn begins_a_part(before: &str) -> bool {
    before.is_empty() || before.ends_with(": ") || before.ends_with("; ") || before.ends_with(", ")
}

fn is_address(word: &str) -> bool {
    if word.starts_with("unix:") {
        return true;
    }
    // A URL's scheme before it, a path or an index after it, or one address after another: `a/b`.
    word.split('/').any(|part| {
        let part = part.rsplit('@').next().unwrap_or(part);
        let bare = part.trim_start_matches('[');
        let bare = bare.split_once(']').map_or(bare, |(bare, _)| bare);
        let bare = bare.split_once('%').map_or(bare, |(bare, _)| bare); // an interface
        bare.parse::<Ipv4Addr>().is_ok() || is_ipv6(bare) || has_port(part)
    })
}

fn is_ipv6(text: &str) -> bool {
    text.len() > 2 && text.parse::<Ipv6Addr>().is_ok()
}

fn has_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_port = (1..=5).contains(&port.len()) && port.bytes().all(|digit| digit.is_ascii_digit());
    is_port && host.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_leave_a_text_and_nothing_else_does() {
        for (text, told) in [
            ("", ""),
            ("10.0.0.5:50051: connection lost: broken pipe", "connection lost: broken pipe"),
            ("https://greeter.local:8443: no answer within 5 ms", "no answer within 5 ms"),
            ("unix:/run/a b", "[address] b"),
            ("unix:/run/greeter.sock: No such file (os error 2)", "No such file (os error 2)"),
            ("[::1]:50051: refused", "refused"),
            ("last error: 10.0.0.5:50051: 10.0.0.6:50051: refused", "last error: refused"),
            ("no route to fe80::1%eth0, nor to 10.0.0.5.", "no route to [address], nor to [address]."),
            ("asked http://10.0.0.5/x and (greeter:80)", "asked [address] and ([address])"),
            (
                "certificate is only valid for DnsName(\"a.example\")",
                "certificate is only valid for DnsName(\"[address]\")",
            ),
            ("the name is greeter", "the name is [address]"),
            ("user@db:5432/x", "[address]"),
            ("HTTP 503 Service Unavailable: h2 said 1.2.3: ::", "HTTP 503 Service Unavailable: h2 said 1.2.3: ::"),
            ("(prefix \"web/\", revision 17): 3 known, 0 ready", "(prefix \"web/\", revision 17): 3 known, 0 ready"),
            ("/helloworld.Greeter/SayHello: ähm", "/helloworld.Greeter/SayHello: ähm"),
        ] {
            assert_eq!(without_addresses(text, &["greeter"]), told, "{text}");
        }
    }
}
