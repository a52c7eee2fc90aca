//! The endpoint of a member of etcd: as users write it, as SRV records name it, or as etcd itself
//! names it. PURE.
//!
//! Two endpoints are the same member if scheme, host and port are equal. The text is kept as it was
//! written, because users look for it in errors and logs.

use std::net::IpAddr;

use crate::address::Authority;
use crate::secret;

/// The port of an endpoint that names none: etcd's default for clients.
const ETCD_PORT: u16 = 2379;

/// The endpoint of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The text that errors and logs show.
    pub(crate) text: String,
    /// Whether the member is reached by TLS.
    pub(crate) secure: bool,
    /// Its host and port.
    pub(crate) authority: Authority,
    /// The priority of its SRV record: the lowest is tried first. 0 for others.
    pub(crate) priority: u16,
    /// Whether etcd itself has named it.
    pub(crate) is_learned: bool,
}

impl Endpoint {
    /// Parses what a user wrote. Without a scheme it is `https` where TLS settings are given,
    /// `http` otherwise.
    ///
    /// # Errors
    /// The reason, which does not show a user or a password.
    pub(crate) fn parse(text: &str, has_tls: bool) -> Result<Self, String> {
        if secret::may_have_user(text) {
            return Err("give the user and password to `EtcdOptions::user`".into());
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

    /// The endpoint of an SRV record.
    #[cfg(feature = "srv")]
    pub(crate) fn of_record(authority: Authority, secure: bool, priority: u16) -> Self {
        let text = format!("{}://{}", if secure { "https" } else { "http" }, authority.as_str());
        Self { text, secure, authority, priority, is_learned: false }
    }

    /// Whether both are the same address, however they are written.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.secure == other.secure && self.authority == other.authority
    }
}

/// A member as etcd's `MemberList` describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListedMember {
    /// Whether it is a learner, which refuses most requests.
    pub(crate) is_learner: bool,
    /// Its `--advertise-client-urls`.
    pub(crate) client_urls: Vec<String>,
}

/// The endpoints in a member list that can be used from this host.
///
/// Left out are learners, schemes other than those of the `known` endpoints, unspecified addresses,
/// and loopback addresses unless `from`, the member that answered, was reached by one.
pub(crate) fn usable(listed: &[ListedMember], from: &Endpoint, known: &[Endpoint]) -> Vec<Endpoint> {
    let mut usable: Vec<Endpoint> = Vec::new();
    for url in listed.iter().filter(|member| !member.is_learner).flat_map(|member| &member.client_urls) {
        // Leaves out Unix sockets and URLs without a scheme.
        if !url.starts_with("http://") && !url.starts_with("https://") {
            continue;
        }
        let Ok(endpoint) = Endpoint::parse(url, false) else { continue };
        let host = endpoint.authority.host();
        let is_reachable = match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip.is_unspecified() => false,
            Ok(_) | Err(_) => !is_loopback(host) || is_loopback(from.authority.host()),
        };
        // A cluster that is reached by TLS must not be reached without it, nor the other way round.
        let is_spoken = known.iter().any(|known| known.secure == endpoint.secure);
        if is_reachable && is_spoken && !usable.iter().any(|other| other.is_same(&endpoint)) {
            // The highest number: learned members come after all SRV records.
            usable.push(Endpoint { is_learned: true, priority: u16::MAX, ..endpoint });
        }
    }
    usable
}

/// Whether a host is this host: `localhost`, a name below it, or a loopback address.
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
        let member = |url: &&str| ListedMember { is_learner: false, client_urls: vec![(*url).into()] };
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
        let learner = ListedMember { is_learner: true, client_urls: vec!["http://h:2".into()] };
        assert!(usable(&[learner, ListedMember::default()], &from, std::slice::from_ref(&from)).is_empty());
    }
}
