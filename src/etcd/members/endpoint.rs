//! Where a member of etcd is: an endpoint as people write it, as SRV records name it, or as etcd itself says. PURE.

use std::net::IpAddr;

use crate::address::Authority;
use crate::secret;

const ETCD_PORT: u16 = 2379;

/// Where one member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As it stands in errors and logs.
    pub(crate) text: String,
    /// Whether it speaks TLS.
    pub(crate) secure: bool,
    pub(crate) authority: Authority,
    /// That of its SRV record: the lowest is tried first.
    pub(crate) priority: u16,
    /// etcd itself has named it.
    pub(crate) is_learned: bool,
}

impl Endpoint {
    /// Reads one that the user wrote; without a scheme it is `https` where TLS settings are given.
    pub(crate) fn parse(text: &str, has_tls: bool) -> Result<Self, String> {
        if secret::may_have_user(text) {
            return Err("user and password are given by `EtcdOptions::user`".into());
        }
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        };
        let secure = match scheme.as_deref() {
            None => has_tls,
            Some("http") => false,
            Some("https") => true,
            Some("etcd") => return Err("etcd:// is for targets; an endpoint says http or https".into()),
            Some("etcd-srv") => {
                return Err("etcd-srv:// is for targets; `EtcdOptions::srv` finds members by SRV records".into());
            }
            Some(scheme) => return Err(format!("the scheme {scheme:?} is neither http nor https")),
        };
        let authority = Authority::parse(rest.strip_suffix('/').unwrap_or(rest), Some(ETCD_PORT))?;
        Ok(Self { text: text.to_owned(), secure, authority, priority: 0, is_learned: false })
    }

    #[cfg(feature = "srv")]
    pub(crate) fn of_record(authority: Authority, secure: bool, priority: u16) -> Self {
        let text = format!("{}://{}", if secure { "https" } else { "http" }, authority.as_str());
        Self { text, secure, authority, priority, is_learned: false }
    }

    /// Whether both are one member's address.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.secure == other.secure && self.authority == other.authority
    }
}

/// A member as etcd lists it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) is_learner: bool,
    pub(crate) client_urls: Vec<String>,
}

/// The addresses among those that etcd lists which can be used from here: http or https as `known` has them, no learner's, none
/// of every interface, and one of the loopback only where `from`, the member that has listed them, was reached by one.
pub(crate) fn usable(listed: &[Listed], from: &Endpoint, known: &[Endpoint]) -> Vec<Endpoint> {
    let mut usable: Vec<Endpoint> = Vec::new();
    for url in listed.iter().filter(|member| !member.is_learner).flat_map(|member| &member.client_urls) {
        // Neither a scheme of Unix sockets nor none at all.
        if !url.starts_with("http://") && !url.starts_with("https://") {
            continue;
        }
        let Ok(endpoint) = Endpoint::parse(url, false) else { continue };
        let host = endpoint.authority.host();
        let is_reachable = match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip.is_unspecified() => false,
            Ok(_) | Err(_) => !is_loopback(host) || is_loopback(from.authority.host()),
        };
        // Who is spoken to by TLS is not to be spoken to without it, nor the other way round.
        let is_spoken = known.iter().any(|known| known.secure == endpoint.secure);
        if is_reachable && is_spoken && !usable.iter().any(|other| other.is(&endpoint)) {
            // After all that SRV records name.
            usable.push(Endpoint { is_learned: true, priority: u16::MAX, ..endpoint });
        }
    }
    usable
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let is_named = host == "localhost" || host.ends_with(".localhost") || host.starts_with("localhost.");
    is_named || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(from: &str, known: &[&str], urls: &[&str]) -> Vec<String> {
        let parse = |text: &str| Endpoint::parse(text, false).unwrap();
        let known: Vec<_> = known.iter().map(|text| parse(text)).collect();
        let member = |url: &&str| Listed { is_learner: false, client_urls: vec![(*url).into()] };
        let listed: Vec<_> = urls.iter().map(member).collect();
        usable(&listed, &parse(from), &known).into_iter().map(|endpoint| endpoint.text).collect()
    }

    /// F20: what a member says of itself, and can be used.
    #[test]
    fn what_can_be_used_of_a_member_list() {
        let plain = "http://10.0.0.1:2379";
        for (url, is_usable) in [
            ("http://10.0.0.2:2379", true),
            ("http://etcd-2.example.org:2379", true),
            ("http://[2001:db8::2]:2379", true),
            ("http://10.0.0.2", true),
            ("https://10.0.0.2:2379", false),
            ("unix:///run/etcd.sock", false),
            ("unixs:///run/etcd.sock", false),
            ("10.0.0.2:2379", false),
            ("", false),
            ("http://", false),
            ("http://0.0.0.0:2379", false),
            ("http://[::]:2379", false),
            ("http://[::ffff:0.0.0.0]:2379", false),
            ("http://127.0.0.1:2379", false),
            ("http://[::1]:2379", false),
            ("http://[::ffff:127.0.0.1]:2379", false),
            ("http://localhost:2379", false),
            ("http://localhost.localdomain:2379", false),
            ("http://[fe80::1%25eth0]:2379", false),
            ("http://root:secret@10.0.0.2:2379", false),
            ("http://10.0.0.2:2379/v3", false),
        ] {
            assert_eq!(!of(plain, &[plain], &[url]).is_empty(), is_usable, "{url}");
        }
        // From this host itself, as in tests and behind a proxy beside the process.
        for from in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
            assert_eq!(of(from, &[from], &["http://127.0.0.1:2"]).len(), 1, "{from}");
        }
        assert_eq!(of("https://h:1", &["https://h:1"], &["http://h:2", "https://h:2"]), ["https://h:2"]);
        assert_eq!(of(plain, &[plain], &["http://h:2", "http://H:2/", "http://h:3"]), ["http://h:2", "http://h:3"]);
    }

    /// F20: a learner refuses most of what is asked of it.
    #[test]
    fn learners_are_left_out() {
        let from = Endpoint::parse("http://h:1", false).unwrap();
        let learner = Listed { is_learner: true, client_urls: vec!["http://h:2".into()] };
        assert!(usable(&[learner, Listed::default()], &from, std::slice::from_ref(&from)).is_empty());
    }
}
