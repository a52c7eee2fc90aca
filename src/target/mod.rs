//! Targets: the name of a service, and optionally the etcd that it is in, as users write it.

pub(crate) mod control;
pub(crate) mod nested;

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::address::Authority;
use crate::address::domain::Domain;
use crate::error::Error;
use crate::secret;

/// The port of an etcd host that names none: etcd's default for clients.
const ETCD_PORT: u16 = 2379;

/// The name of a service: `greeter` or `etcd:///greeter`.
///
/// A target may also name the etcd that it is meant for: by its hosts,
/// `etcd://h1:2379,h2:2379/greeter`, or with the feature `srv` by the domain whose SRV records name
/// them, `etcd-srv://example.org/greeter`. A resolver or registrar of another etcd then refuses the
/// target. The hosts of a target are only compared: the connection is always that of the resolver
/// or registrar. [`EtcdOptions::from_target`](crate::EtcdOptions::from_target) gives the options of
/// the etcd that a target names.
///
/// The name is read as etcd's Go resolver reads it, so that one text works in every language:
///
/// | written | name | prefix in etcd |
/// |---|---|---|
/// | `greeter`, `etcd:///greeter` | `greeter` | `greeter/` |
/// | `team/greeter`, `etcd:///team/greeter` | `team/greeter` | `team/greeter/` |
/// | `/web`, `etcd:////web` | `/web` | `/web/` |
///
/// The prefix always ends in `/`, so that `/web` does not include `/website/1`. In the URL form
/// percent escapes are decoded and hosts without a port get 2379. The bare form is taken as it is.
///
/// **Names below other names.** Keys of `shop/payments` are keys of `shop` too, as for etcd's Go
/// client, so clients of `shop` also call the servers of `shop/payments`. Do not name one service
/// `shop` and another one `shop/…`. A resolver of the shorter name warns once when it sees keys of
/// both. A registrar warns too: for each service that it registers, it looks once for shorter and
/// longer names, at up to a hundred keys of each, if its role may read them.
///
/// **Refused** are:
///
/// - empty names and empty segments (`team//greeter`, `greeter/`), except for one slash at the
///   start of a name (`/web`);
/// - control characters;
/// - schemes other than `etcd` and `etcd-srv`, and in the URL form queries and fragments;
/// - IPv6 hosts without brackets;
/// - everything that may be a user and a password: an `@` in a target that names hosts, and
///   `user:password@` at the start of a name. Write an `@` in a name of the URL form as `%40`.
///   Errors never show what may be a password.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The name, without a slash at its end.
    name: String,
    /// The hosts of the etcd, if it is named by them.
    hosts: Vec<Authority>,
    /// The domain of the etcd, if it is named by one.
    srv: Option<Domain>,
    /// Whether the key that is the name itself is read.
    name_key: bool,
}

impl Target {
    /// The target of a name that is known to be valid.
    pub(crate) fn of_name(name: String) -> Self {
        Self { name, hosts: Vec::new(), srv: None, name_key: false }
    }

    /// Parses a target.
    ///
    /// # Errors
    /// When the text is not a valid target ([`Error::is_invalid_argument`]). The error shows the
    /// text without a user or password, and the reason.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::invalid("target", secret::without_user(text), reason);
        // Checked first, so that no other reason shows a part of a password.
        if has_user(text) {
            return Err(refuse("a target holds no user and password: set them in the resolver's options".into()));
        }
        let mut srv = None;
        let (hosts, name) = match text.split_once("://") {
            None if text.to_ascii_lowercase().starts_with("etcd:") => {
                let rest = text[5..].trim_start_matches('/');
                return Err(refuse(format!("the URL form has three slashes: write \"etcd:///{rest}\"")));
            }
            None => (Vec::new(), text.to_owned()),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("etcd") => {
                let (authority, path) = rest.split_once('/').ok_or_else(|| {
                    refuse(format!("two slashes name a host: write \"etcd:///{rest}\" for the service {rest:?}"))
                })?;
                (parse_hosts(authority).map_err(refuse)?, decode(path).map_err(refuse)?)
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("etcd-srv") => {
                if cfg!(not(feature = "srv")) {
                    return Err(refuse("\"etcd-srv\" needs tonic-etcd's feature \"srv\"".into()));
                }
                let (domain, path) = rest
                    .split_once('/')
                    .filter(|(domain, _)| !domain.is_empty())
                    .ok_or_else(|| refuse("a domain and a name are needed: write \"etcd-srv://DOMAIN/NAME\"".into()))?;
                srv = Some(Domain::parse(domain).map_err(|reason| refuse(format!("domain {domain:?}: {reason}")))?);
                (Vec::new(), decode(path).map_err(refuse)?)
            }
            Some((scheme, _)) => {
                let reason = "only \"etcd\" is served here; the endpoint of etcd is given to the resolver, and the target is a name";
                return Err(refuse(format!("the scheme is {scheme:?}: {reason}")));
            }
        };
        check_name(&name).map_err(refuse)?;
        Ok(Self { name, hosts, srv, name_key: false })
    }

    /// Whether the key that equals the name, without a slash after it, is read too: `/web` =
    /// `192.168.1.51:8000`, as in many tutorials. False by default.
    ///
    /// One watch from `/web` to `/web0` then serves both. Keys between them that belong to others
    /// (`/web-2`, `/web.old`) are left out. The role must be allowed to read that whole range.
    #[must_use]
    pub fn with_name_key(mut self, read: bool) -> Self {
        self.name_key = read;
        self
    }

    /// The name of the service, without a slash at its end.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The prefix of the service's keys: its name and a slash.
    pub fn prefix(&self) -> String {
        format!("{}/", self.name)
    }

    /// The etcd hosts that the target names, as `host:port`. None in the bare form and in
    /// `etcd:///`.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = &str> {
        self.hosts.iter().map(Authority::as_str)
    }

    /// The domain whose SRV records name the members; only of `etcd-srv://`.
    pub fn srv_domain(&self) -> Option<&str> {
        self.srv.as_ref().map(Domain::as_str)
    }

    /// The same, parsed.
    pub(crate) fn domain(&self) -> Option<&Domain> {
        self.srv.as_ref()
    }

    /// Only the service, in whatever etcd. Targets of one service are then equal.
    pub(crate) fn without_hosts(self) -> Self {
        Self { hosts: Vec::new(), srv: None, ..self }
    }

    /// The range of keys to read: the first key, and the first key after the range.
    pub(crate) fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let start = if self.name_key { self.name.clone() } else { self.prefix() };
        // '0' is the byte after '/'.
        (start.into_bytes(), format!("{}0", self.name).into_bytes())
    }

    /// Whether a key of that range is the service's own.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        match key.strip_prefix(self.name.as_bytes()) {
            Some([]) => self.name_key,
            Some(rest) => rest[0] == b'/',
            None => false,
        }
    }
}

/// Whether the text may hold a user and a password. An `@` in a bare name is allowed, unless a `:`
/// comes before it.
fn has_user(text: &str) -> bool {
    let (names_hosts, rest) = match text.split_once("://") {
        Some((scheme, _)) if secret::may_have_user(scheme) => return true,
        Some((_, rest)) => (!rest.starts_with('/'), rest.trim_start_matches('/')),
        None => (false, text),
    };
    if names_hosts {
        let authority = rest.split('/').next().unwrap_or_default();
        return rest.contains('@') || secret::may_have_user(authority);
    }
    if text.contains("://") {
        // In a name of the URL form an `@` that is escaped is meant.
        return rest.rfind('@').is_some_and(|at| rest[..at].contains(':'));
    }
    secret::has_password(rest)
}

/// The hosts between commas; none in `etcd:///`.
fn parse_hosts(authority: &str) -> Result<Vec<Authority>, String> {
    if authority.is_empty() {
        return Ok(Vec::new());
    }
    let host = |host: &str| match host {
        "" => Err("an empty host between commas".to_owned()),
        _ => Authority::parse(host, Some(ETCD_PORT)).map_err(|reason| format!("host {host:?}: {reason}")),
    };
    authority.split(',').map(host).collect()
}

/// The name of the URL form, whose first slash was removed as etcd's Go resolver does.
///
/// # Errors
/// When it has a query, a fragment or an invalid escape.
fn decode(path: &str) -> Result<String, String> {
    if let Some(mark) = path.find(['?', '#']) {
        let mark = &path[mark..=mark];
        return Err(format!("{mark:?} is not allowed here: in a name write it as %{:02X}", mark.as_bytes()[0]));
    }
    let escapes_hold =
        path.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit));
    if !escapes_hold {
        return Err("a % must be followed by two hexadecimal digits: write a plain % as %25".into());
    }
    let name = percent_decode_str(path).decode_utf8().map_err(|_| "the escapes are not UTF-8".to_owned())?;
    Ok(name.into_owned())
}

/// Checks a name.
///
/// # Errors
/// When it is empty, has an empty segment or ends in a slash, or holds a control character.
fn check_name(name: &str) -> Result<(), String> {
    // One slash at the start is part of many names. Any other empty segment is a mistake.
    let segments = name.strip_prefix('/').unwrap_or(name);
    if segments.is_empty() {
        return Err("the name is empty".into());
    }
    if segments.ends_with('/') {
        return Err("the name ends in a slash: leave it out, the prefix adds it".into());
    }
    if segments.split('/').any(str::is_empty) {
        return Err("the name has an empty segment (two slashes in a row)".into());
    }
    match name.chars().find(|c| c.is_control()) {
        Some(control) => Err(format!("the name has the control character {control:?}")),
        None => Ok(()),
    }
}

impl fmt::Display for Target {
    /// The bare name; or the URL form if the target names hosts or a domain, or if the bare name
    /// would be read in another way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bare = self.hosts.is_empty() && self.srv.is_none();
        // A bare name that starts like a URL would be parsed as one.
        if is_bare && Self::parse(&self.name).is_ok_and(|bare| bare.name == self.name) {
            return f.write_str(&self.name);
        }
        f.write_str(&self.uri())
    }
}

impl Target {
    /// The URL form, which names every target: `etcd:///greeter`.
    pub(crate) fn uri(&self) -> String {
        let mut name = String::new();
        for c in self.name.chars() {
            match c {
                '%' => name.push_str("%25"),
                '?' => name.push_str("%3F"),
                '#' => name.push_str("%23"),
                '@' => name.push_str("%40"),
                other => name.push(other),
            }
        }
        match &self.srv {
            Some(domain) => format!("etcd-srv://{}/{name}", domain.as_str()),
            None => format!("etcd://{}/{name}", self.hosts().collect::<Vec<_>>().join(",")),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for Target {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Target {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl TryFrom<&String> for Target {
    type Error = Error;

    fn try_from(text: &String) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Self {
        target.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Vec<String>) {
        let target = Target::parse(text).unwrap();
        (target.name().to_owned(), target.hosts().map(str::to_owned).collect())
    }

    #[test]
    fn reads_names_as_etcds_go_resolver_does() {
        for (text, name) in [
            ("greeter", "greeter"),
            ("etcd:///greeter", "greeter"),
            ("ETCD:///greeter", "greeter"),
            ("etcd:///team/greeter", "team/greeter"),
            ("team/greeter", "team/greeter"),
            ("/web", "/web"),
            ("etcd:////web", "/web"),
            ("etcd:///a%20b%2Fc", "a b/c"),
            ("50%", "50%"),
            ("grpc:srv1:v1:prod", "grpc:srv1:v1:prod"),
            (" trpc/registry", " trpc/registry"),
        ] {
            assert_eq!(parsed(text), (name.to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn reads_hosts() {
        let hosts = |hosts: &[&str]| hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>();
        assert_eq!(parsed("etcd://h1:2379,h2:2380/greeter").1, hosts(&["h1:2379", "h2:2380"]));
        assert_eq!(parsed("etcd://H1/greeter").1, hosts(&["h1:2379"]));
        assert_eq!(parsed("etcd://[::1]:1,10.0.0.1/greeter").1, hosts(&["[::1]:1", "10.0.0.1:2379"]));
        assert_eq!(parsed("etcd://[2001:DB8:0::1]/greeter").1, hosts(&["[2001:db8::1]:2379"]));
    }

    #[test]
    fn refuses_what_it_cannot_mean_and_says_why() {
        for (text, reason) in [
            ("", "empty"),
            ("/", "empty"),
            ("etcd:///", "empty"),
            ("etcd://h1:2379", "two slashes"),
            ("etcd:greeter", "etcd:///greeter"),
            ("etcd:/greeter", "etcd:///greeter"),
            ("dns:///greeter", "scheme"),
            ("http://h1:2379/greeter", "scheme"),
            ("greeter/", "ends in a slash"),
            ("team//greeter", "empty segment"),
            ("//web", "empty segment"),
            ("etcd://///web", "empty segment"),
            ("etcd:///greeter?x=1", "%3F"),
            ("etcd:///greeter#x", "%23"),
            ("etcd:///a%2", "hexadecimal"),
            ("etcd:///a%zz", "hexadecimal"),
            ("etcd:///a%ff", "UTF-8"),
            ("etcd:///a%00", "control"),
            ("a\nb", "control"),
            ("etcd://h1,,h2/greeter", "empty host"),
            ("etcd://::1:2379/greeter", "bracket"),
            ("etcd://h1:0/greeter", "port"),
            ("etcd://h1:99999/greeter", "port"),
            ("etcd://h 1/greeter", "character"),
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.is_invalid_argument());
            assert!(error.to_string().contains(reason), "{text}: {error}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{text}: {error}");
        }
    }

    /// F18: a user and a password are refused in whatever way they are written, and not shown.
    #[test]
    fn users_and_passwords_are_refused_and_not_shown() {
        for text in [
            "etcd://root:secret@h:2379/greeter",
            "etcd://h1,root:secret@h2/greeter",
            "etcd://root:secret%40h:2379/greeter",
            "etcd://root%3Asecret@h/greeter",
            "etcd://root:1/secret@h/greeter",
            "etcd://root:se/cret:secret@h:2379/greeter",
            "etcd-srv://root:secret@example.org/greeter",
            "etcd:///root:secret@h:2379/greeter",
            "etcd:root:secret@h/greeter",
            "http://root:secret@h:2379/greeter",
            "root:secret@h://greeter",
            "root:secret@h:2379/greeter",
            "root:secret@h",
            "root%3Asecret%40h",
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.to_string().contains("options"), "{text}: {error}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{text}: {error}");
        }
        for text in ["team@home", "etcd:///team@home", "etcd:///a:b%40c", "etcd://h/team%40home"] {
            let target = Target::parse(text).unwrap();
            assert_eq!(Target::parse(&target.to_string()).unwrap(), target, "{target}");
        }
    }

    #[test]
    fn reads_domains_with_the_feature_alone() {
        let target = Target::parse("etcd-srv://Example.org/team/greeter");
        if cfg!(not(feature = "srv")) {
            assert!(target.unwrap_err().to_string().contains("feature \"srv\""));
            return;
        }
        let target = target.unwrap();
        assert_eq!((target.srv_domain(), target.name()), (Some("example.org"), "team/greeter"));
        assert_eq!(Target::parse(&target.to_string()).unwrap(), target);
        for text in ["etcd-srv:///greeter", "etcd-srv://h", "etcd-srv://h:53/greeter", "etcd-srv://10.0.0.1/greeter"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn owns_its_prefix_and_nothing_beside_it() {
        let web = Target::parse("/web").unwrap();
        let with_name = web.clone().with_name_key(true);
        for (key, plain, named) in [
            ("/web/1", true, true),
            ("/web/", true, true),
            ("/web", false, true),
            ("/web-2", false, false),
            ("/web.old", false, false),
            ("/website/1", false, false),
            ("/we", false, false),
        ] {
            assert_eq!(web.owns(key.as_bytes()), plain, "{key}");
            assert_eq!(with_name.owns(key.as_bytes()), named, "{key}");
            for target in [&web, &with_name] {
                let (start, end) = target.range();
                let inside = start.as_slice() <= key.as_bytes() && key.as_bytes() < end.as_slice();
                assert!(inside || !target.owns(key.as_bytes()), "{key} is owned but never read");
            }
        }
    }

    #[test]
    fn shows_itself_as_it_parses() {
        for text in ["greeter", "/web", "etcd:///etcd:x", "etcd://h1:2379,[::1]:1//web", "etcd://h1:1/a b%25%3F"] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.to_string(), text);
            assert_eq!(Target::parse(&target.to_string()).unwrap(), target);
        }
    }
}
