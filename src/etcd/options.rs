//! How etcd is reached, each option with its reason.

use std::fmt;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};

use super::failure::{Class, Failure};
use crate::address::Authority;
use crate::error::Error;

pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Every wait is bounded, whatever is asked.
const LONGEST: Duration = Duration::from_secs(3600);
/// etcd ends connections that are pinged more often than every 5 s.
const KEEP_ALIVE_LEAST: Duration = Duration::from_secs(6);
const ETCD_PORT: u16 = 2379;

/// Where etcd is and how to reach it. Made from endpoints: `["http://h1:2379", "h2:2379"]`, with or without a scheme.
///
/// Every request goes to one member, and to the next when that one fails; a leader is required, so that a member that
/// is cut off from its cluster says so instead of keeping silent.
#[derive(Clone)]
#[must_use]
pub struct EtcdOptions {
    endpoints: Vec<String>,
    user: Option<(String, String)>,
    #[cfg(feature = "_tls")]
    tls: Option<tonic::transport::ClientTlsConfig>,
    connect_timeout: Duration,
    pub(super) request_timeout: Duration,
    keep_alive: (Duration, Duration),
}

impl EtcdOptions {
    /// The members' endpoints, such as `http://10.0.0.1:2379`, `https://etcd.local:2379` or `10.0.0.1` (2379 is the
    /// default port, and http the default scheme, https where TLS settings are given). They are checked where the
    /// options are used.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            user: None,
            #[cfg(feature = "_tls")]
            tls: None,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            keep_alive: (KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT),
        }
    }

    /// Authenticates as this user; none by default. Where etcd's authentication is off, the user is not needed and not
    /// an error, as with etcd's Go client.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// The TLS settings of `https` endpoints; by default those of the enabled root certificates.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    pub fn tls(mut self, tls: tonic::transport::ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The same members in an order of their own, so that a fleet spreads over them, and over those that are left when one
    /// dies.
    pub(super) fn shuffled(mut self) -> Self {
        fastrand::shuffle(&mut self.endpoints);
        self
    }

    /// How long connecting to one member may take before the next is tried; 2 s by default: a live member answers in
    /// milliseconds, and nothing but this bounds a member whose packets are dropped.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one request may take, connecting included, before the next member is tried; 5 s by default: longer than an
    /// election. A page of a list may take three times as long; what a registrar asks takes no longer than a sixth of its
    /// lease's life.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// HTTP/2 pings while a watch or a keep-alive is open: how often, and how long an answer may take; 10 s and 5 s by
    /// default. etcd ends connections that are pinged more often than every 5 s, so less than 6 s is refused.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keep_alive = (interval, timeout);
        self
    }

    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(super) fn hosts(&self) -> Vec<Authority> {
        self.endpoints.iter().filter_map(|endpoint| split(endpoint).ok()).map(|(_, authority)| authority).collect()
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.endpoints.is_empty() {
            return Err(Error::invalid("endpoints", "", "at least one is needed"));
        }
        for endpoint in &self.endpoints {
            if endpoint.contains('@') {
                // Never shown: it may hold a password.
                return Err(Error::invalid("endpoint", "…@…", "user and password are given by `EtcdOptions::user`"));
            }
            let (secure, _) = split(endpoint).map_err(|reason| Error::invalid("endpoint", endpoint, reason))?;
            if let Err(reason) = self.check_scheme(endpoint, secure) {
                return Err(Error::invalid("endpoint", endpoint, reason));
            }
        }
        if self.keep_alive.0 < KEEP_ALIVE_LEAST {
            let reason = "etcd ends connections that are pinged more often than every 5 s: 6 s is the least";
            return Err(Error::invalid("keep-alive interval", format!("{:?}", self.keep_alive.0), reason));
        }
        for (what, timeout) in [
            ("connect timeout", self.connect_timeout),
            ("request timeout", self.request_timeout),
            ("keep-alive interval", self.keep_alive.0),
            ("keep-alive timeout", self.keep_alive.1),
        ] {
            let refuse = |reason| Err(Error::invalid(what, format!("{timeout:?}"), reason));
            if timeout.is_zero() {
                return refuse("nothing can be done in no time");
            }
            if timeout > LONGEST {
                return refuse("a member that hangs would never be left: an hour is the most");
            }
        }
        Ok(())
    }

    #[cfg(feature = "_tls")]
    fn check_scheme(&self, endpoint: &str, secure: bool) -> Result<(), &'static str> {
        if self.tls.is_some() && !secure && endpoint.contains("://") {
            return Err("TLS settings are given, and the endpoint says http");
        }
        Ok(())
    }

    #[cfg(not(feature = "_tls"))]
    #[expect(clippy::unused_self)]
    fn check_scheme(&self, _endpoint: &str, secure: bool) -> Result<(), &'static str> {
        if secure { Err("https needs tonic-etcd's feature \"tls-ring\" or \"tls-aws-lc\"") } else { Ok(()) }
    }

    /// The endpoint in full: etcd-client would take a missing port for the scheme's.
    #[cfg_attr(not(feature = "_tls"), expect(clippy::unused_self))]
    fn url(&self, endpoint: &str) -> Result<String, String> {
        let (secure, authority) = split(endpoint)?;
        #[cfg(feature = "_tls")]
        let secure = secure || (self.tls.is_some() && !endpoint.contains("://"));
        Ok(format!("{}://{}", if secure { "https" } else { "http" }, authority.as_str()))
    }

    /// A client that talks to this one member, and whether it does so without the user, because authentication is off.
    pub(super) async fn connect(&self, member: usize) -> Result<(Client, bool), Failure> {
        match self.connect_as(member, self.user.clone()).await {
            Err(failure) if failure.class == Class::AuthenticationIsOff => {
                self.connect_as(member, None).await.map(|client| (client, true))
            }
            result => result.map(|client| (client, false)),
        }
    }

    async fn connect_as(&self, member: usize, user: Option<(String, String)>) -> Result<Client, Failure> {
        // Every option by name: etcd-client's `default()` and `new()` differ.
        let mut options = ConnectOptions::new()
            .with_keep_alive(self.keep_alive.0, self.keep_alive.1)
            .with_keep_alive_while_idle(false) // etcd ends idle connections that ping
            .with_connect_timeout(self.connect_timeout)
            .with_require_leader(true)
            .with_auto_token_refresh(false); // `Etcd::call` does it, by message as well as by code
        if let Some((name, password)) = user {
            options = options.with_user(name, password);
        }
        let url = self.url(&self.endpoints[member]).map_err(|reason| Failure::new(Class::Permanent, reason))?;
        #[cfg(feature = "_tls")]
        if url.starts_with("https") {
            let tls = self.tls.clone().unwrap_or_else(|| tonic::transport::ClientTlsConfig::new().with_enabled_roots());
            options = options.with_tls(tls.timeout(self.connect_timeout));
        }
        // With a user it authenticates, which the caller's deadline bounds.
        Client::connect([url], Some(options)).await.map_err(Failure::from)
    }
}

/// Whether the endpoint says https, and its host and port.
fn split(endpoint: &str) -> Result<(bool, Authority), String> {
    let (secure, rest) = match endpoint.split_once("://") {
        None => (false, endpoint),
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        Some(("etcd", _)) => return Err("etcd:// is for targets; an endpoint says http or https".into()),
        Some((scheme, _)) => return Err(format!("the scheme {scheme:?} is neither http nor https")),
    };
    Ok((secure, Authority::parse(rest.strip_suffix('/').unwrap_or(rest), Some(ETCD_PORT))?))
}

impl fmt::Debug for EtcdOptions {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        let endpoints: Vec<_> = self.endpoints.iter().filter(|endpoint| !endpoint.contains('@')).collect();
        f.debug_struct("EtcdOptions").field("endpoints", &endpoints).field("user", &user).finish_non_exhaustive()
    }
}

impl<E: Into<String>, const N: usize> From<[E; N]> for EtcdOptions {
    fn from(endpoints: [E; N]) -> Self {
        Self::new(endpoints)
    }
}

impl<E: Into<String>> From<Vec<E>> for EtcdOptions {
    fn from(endpoints: Vec<E>) -> Self {
        Self::new(endpoints)
    }
}

impl<E: Clone + Into<String>> From<&[E]> for EtcdOptions {
    fn from(endpoints: &[E]) -> Self {
        Self::new(endpoints.iter().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(options: &EtcdOptions) -> String {
        options.check().unwrap_err().to_string()
    }

    #[test]
    fn takes_endpoints_as_people_write_them() {
        let options = EtcdOptions::from(["http://h1:2379", "H2", "[::1]:1/"]);
        options.check().unwrap();
        let urls = ["http://h1:2379", "http://h2:2379", "http://[::1]:1"];
        assert!(options.endpoints().iter().zip(urls).all(|(endpoint, url)| options.url(endpoint).unwrap() == url));
        assert_eq!(
            options.hosts().iter().map(Authority::as_str).collect::<Vec<_>>(),
            ["h1:2379", "h2:2379", "[::1]:1"]
        );
    }

    #[test]
    fn refuses_what_cannot_work_and_says_why() {
        assert!(refusal(&EtcdOptions::new([""; 0])).contains("at least one"));
        assert!(refusal(&EtcdOptions::from(["ftp://h1"])).contains("ftp"));
        assert!(refusal(&EtcdOptions::from(["h1:x"])).contains("h1:x"));
        assert!(refusal(&EtcdOptions::from(["http://h1:1,http://h2:2"])).contains("several"));
        assert!(refusal(&EtcdOptions::from(["h1:2379/v3"])).contains("path"));
        let user = refusal(&EtcdOptions::from(["http://root:secret@h1"]));
        assert!(user.contains("EtcdOptions::user") && !user.contains("secret"), "{user}");
        let options = EtcdOptions::from(["h1"]);
        assert!(refusal(&options.clone().keep_alive(Duration::from_secs(1), Duration::from_secs(1))).contains("6 s"));
        assert!(refusal(&options.request_timeout(Duration::ZERO)).contains("request timeout"));
    }

    #[test]
    fn never_shows_the_password() {
        let shown = format!("{:?}", EtcdOptions::from(["h1"]).user("root", "secret"));
        assert!(shown.contains("root") && !shown.contains("secret"));
    }
}
