//! PURE: takes the addresses out of a text.
//!
//! A handler may pass the status of an inner call on to its own caller. Its text must not tell where the inner server is. The texts
//! come from the system, from h2, from proxies and from servers, so that addresses are found by their form. Times, versions,
//! ratios, paths of files and paths of Rust must stay.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Replaces an address.
const MARK: &str = "[address]";

/// Returns the text without addresses: IP addresses, `host:port` in any form, `unix:` paths, the names in a certificate error, and
/// the words in `own`.
///
/// An address that begins the text or a part of it (`ADDRESS: reason`) is removed with its colon. Any other one becomes
/// `[address]`.
pub(crate) fn without_addresses(text: &str, own: &[&str]) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c| is_part(c) || c == '\\') {
        let (before, from) = rest.split_at(start);
        redacted.push_str(before);
        if let Some(length) = escape_len(from) {
            let (escape, after) = from.split_at(length);
            redacted.push_str(escape);
            rest = after;
            continue;
        }
        let (token, after) = from.split_at(from.find(|c| !is_part(c)).unwrap_or(from.len()));
        rest = after;
        // The end of a sentence or of a part does not belong to the address, nor does an arrow (`a->b`) or a dash.
        let (word, end) = token.split_at(token.trim_end_matches([':', '.', '-']).len());
        let is_certificate_name = redacted.ends_with("DnsName(\"");
        if word.is_empty() || !(is_certificate_name || own.contains(&word) || is_address(word)) {
            redacted.push_str(token);
        } else if end == ":" && rest.starts_with(' ') && begins_part(&redacted) {
            rest = &rest[1..];
        } else {
            redacted.push_str(MARK);
            redacted.push_str(end);
        }
    }
    redacted.push_str(rest);
    redacted
}

/// Whether a character can be part of an address.
fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._:-[]/%@".contains(c)
}

/// Returns the length of the escape at the start of the text. `Debug` of bytes writes `\n` before an address that follows a line.
fn escape_len(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('\\')?;
    Some(match rest.as_bytes() {
        [b'n' | b'r' | b't' | b'0' | b'\\', ..] => 2,
        [b'x', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => 4,
        _ => 1,
    })
}

/// Whether a new part of the text begins after `before`.
fn begins_part(before: &str) -> bool {
    before.is_empty() || before.ends_with(": ") || before.ends_with("; ") || before.ends_with(", ")
}

fn is_address(word: &str) -> bool {
    if word.starts_with("unix:") {
        return true;
    }
    // An address can have a scheme before it, a path or an index after it, or another address after it: `a/b`.
    word.split('/').any(|part| {
        let part = part.rsplit('@').next().unwrap_or(part);
        let bare = part.trim_start_matches('[');
        let bare = bare.split_once(']').map_or(bare, |(bare, _)| bare);
        let bare = bare.split_once('%').map_or(bare, |(bare, _)| bare); // an interface: `fe80::1%eth0`
        has_ipv4(part) || bare.split('-').any(has_ipv6) || has_port(part)
    })
}

/// Whether there is an IPv4 address, alone or between other text: `client:10.0.0.5`, `10.0.0.5-10.0.0.9`.
fn has_ipv4(text: &str) -> bool {
    let parts = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    parts.map(|part| part.trim_matches('.')).any(|part| part.parse::<Ipv4Addr>().is_ok())
}

/// Whether there is an IPv6 address, alone or after a word: `client:fe80::1`. `::` alone is a path of Rust.
fn has_ipv6(text: &str) -> bool {
    let is = |text: &str| text.len() > 2 && text.parse::<Ipv6Addr>().is_ok();
    is(text) || text.split_once(':').is_some_and(|(word, rest)| !word.is_empty() && is(rest))
}

/// Whether there is a host with a port. A host has a letter; times (`06:38:19`) and ratios (`3:4`) have none.
fn has_port(text: &str) -> bool {
    let Some((before, port)) = text.rsplit_once(':') else { return false };
    let host = before.rsplit(':').next().unwrap_or(before);
    let is_port = (1..=5).contains(&port.len()) && port.bytes().all(|digit| digit.is_ascii_digit());
    let is_bracketed = host.ends_with(']');
    is_port && (is_bracketed || host.bytes().any(|byte| byte.is_ascii_alphabetic())) && !ends_in_date(host)
}

/// Whether it is a date with hours, such as `2026-11-28T06`: its minutes look like a port.
fn ends_in_date(text: &str) -> bool {
    let is = |text: &str, of: &str| text.chars().all(|c| c.is_ascii_digit() || of.contains(c));
    text.split_once('T').is_some_and(|(date, hours)| is(date, "-") && hours.len() == 2 && is(hours, ""))
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn addresses_leave_a_text_and_nothing_else_does() {
        for (text, redacted) in [
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
            ("read tcp 10.244.1.5:43210->10.96.0.1:443: read", "read tcp [address]->[address]: read"),
            ("[fe80::1]:43210->greeter: i/o timeout", "[address]->[address]: i/o timeout"),
            (
                "(b\"\\n10.0.0.5\\r\\tdb:80\\x00greeter\\\\fe80::1\")",
                "(b\"\\n[address]\\r\\t[address]\\x00[address]\\\\[address]\")",
            ),
            ("client:10.0.0.5, addr:fe80::ab, 10.0.0.5-10.0.0.9", "[address], [address], [address]"),
            ("fe80::1-fe80::2 and db-7:3", "[address] and [address]"),
            ("over \\\\10.0.0.5\\share \\", "over \\\\[address]\\share \\"),
            ("at 2026-11-28T06:38:19Z from db:5432", "at 2026-11-28T06:38:19Z from [address]"),
        ] {
            assert_eq!(without_addresses(text, &["greeter"]), redacted, "{text}");
        }
    }

    #[test]
    fn honest_texts_stay() {
        for text in [
            "at 06:38:19, 06:38:19.250, 6:38 and 23:59:59",
            "2026-11-28T06:38, 2026-11-28T06:38:19, 2026-11-28T06:38:19.123+01:00",
            "2026/11/28 06:38:19 [error] 31#31: *1",
            "nginx/1.25.3, v1.2.3, 1.2.3-rc.4, HTTP/1.1, 1.2.3.4.5, 10.0",
            "a ratio of 3:4, 16:9:1, 10:1",
            "/var/lib/x-1/y.sock:/etc/a.b:rw, C:\\new\\table\\x, src/main.rs, ../..",
            "std::fmt::Display, Foo::Bar, Code::Ok, ::, a:: and ::b::c",
            "0xdeadbeef, deadbeef, de:ad:be:ef, sha256:e3b0c44298fc, 550e8400-e29b-41d4-a716-446655440000",
            "a -> b, a->b, --flag, x - y, ...",
            "\\n\\r\\t\\x1b[0m\\u{1b}\\\"",
        ] {
            assert_eq!(without_addresses(text, &["greeter"]), text);
        }
    }

    fn no_address_is_left(text: &str) {
        let once = without_addresses(text, &["greeter"]);
        assert!(!once.split([' ', '>', ',']).any(|word| word.parse::<Ipv4Addr>().is_ok()), "{text:?}: {once:?}");
    }

    /// The fuzz target: the same property.
    pub(crate) fn fuzz(bytes: &[u8]) {
        no_address_is_left(&String::from_utf8_lossy(bytes));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in ".{0,60}|[\\\\nx0-9a-f:.\\[\\]/%@ >-]{0,40}") {
            no_address_is_left(&text);
        }
    }
}
