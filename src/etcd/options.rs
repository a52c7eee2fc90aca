//! How etcd is reached, each option with its reason.

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "_tls")]
use std::sync::OnceLock;
use std::time::Duration;

use http::uri::Scheme;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::failure::{Class, Failure};
use super::link::{Link, Wire};
use super::token::Token;
use crate::address::Authority;
use crate::connection::{self, Destination, KeepAlive, Place, Transport};
#[cfg(feature = "_tls")]
use crate::connection::{ClientTls, Invalid, Tls};
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
/// Of a connection: each stream has a window of its own, and none of them holds up the others.
const WINDOW: u32 = i32::MAX as u32;

/// Where etcd is and how to reach it. Made from endpoints: `["http://h1:2379", "h2:2379"]`, with or without a scheme.
///
/// Requests go to one member over one connection, and to the next member when that one cannot serve: it is down, has lost its
/// leader, or is a learner. A request that is late is also sent to one other member, and the first answer counts; every
/// request may be repeated. A connection is left on a transport error, a GOAWAY, a failed ping, or when something was asked
/// over it and nothing at all was heard for the request timeout. A leader is required, so that a member that is cut off from
/// its cluster says so instead of keeping silent.
///
/// The watches of a resolver or registrar share streams, which take at most half of what the connection admits.
#[derive(Clone)]
#[must_use]
pub struct EtcdOptions {
    endpoints: Vec<String>,
    user: Option<(String, String)>,
    #[cfg(feature = "_tls")]
    tls: Option<ClientTls>,
    #[cfg(feature = "_tls")]
    built: OnceLock<Result<Option<Tls>, Invalid>>,
    pub(super) connect_timeout: Duration,
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
            #[cfg(feature = "_tls")]
            built: OnceLock::new(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            keep_alive: (KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT),
        }
    }

    /// Authenticates as this user; none by default. Where etcd's authentication is off, the user is not needed and not
    /// an error, as with etcd's Go client.
    ///
    /// Each resolver and each registrar fetches one token, and uses it for all its connections and members until etcd refuses
    /// it. A password that is wrong is checked once in 5 s, because each check costs etcd a bcrypt.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// The TLS settings of `https` endpoints, the same as for servers; by default the root certificates of the enabled
    /// features. Endpoints without a scheme are then `https`. Settings that cannot be used are refused where the options
    /// are used.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        (self.tls, self.built) = (Some(tls), OnceLock::new());
        self
    }

    /// The same members in an order of their own, so that a fleet spreads over them, and over those that are left when one
    /// dies.
    pub(super) fn shuffled(mut self) -> Self {
        fastrand::shuffle(&mut self.endpoints);
        self
    }

    /// How long connecting to a member may take, by TCP and TLS; 2 s by default: a live member answers in milliseconds, and
    /// nothing but this bounds a member whose packets are dropped. The HTTP/2 SETTINGS that follow have the request timeout
    /// beside it. After 300 ms without a connection the next member is tried as well.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one request may take, beside connecting, before it has failed; 5 s by default: longer than an election. After
    /// 300 ms without any sign of life over its connection it is sent to another member as well. A page of a list may take
    /// three times as long where etcd answers other reads; what a registrar asks takes no longer than a sixth of its lease's
    /// life.
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
        #[cfg(feature = "_tls")]
        if let Err((what, why)) = self.built() {
            return Err(Error::invalid("TLS settings", what, why));
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

    pub(super) fn user_and_password(&self) -> Option<&(String, String)> {
        self.user.as_ref()
    }

    /// A connection to this one member, over which requests carry the token.
    pub(super) async fn connect(&self, member: usize, token: Token) -> Result<Link, Failure> {
        let endpoint = &self.endpoints[member];
        let connected = self.reach(member, token).await;
        connected.map_err(|failure| failure.at(endpoint).while_doing("connecting to etcd"))
    }

    async fn reach(&self, member: usize, token: Token) -> Result<Link, Failure> {
        let invalid = |reason: String| Failure::new(Class::Permanent, reason);
        let (secure, authority) = self.split(&self.endpoints[member]).map_err(invalid)?;
        let transport = self.transport(secure)?;
        let place = Place::Host(authority.host().to_owned(), authority.port());
        let options = connection::Options {
            connect_timeout: self.connect_timeout,
            settings_timeout: Some(self.request_timeout),
            connection_window: WINDOW,
            keep_alive: Some(KeepAlive::new(self.keep_alive.0, self.keep_alive.1).unthrottled()),
            ..connection::Options::default()
        };
        let (room, began) = (Arc::<Notify>::default(), Instant::now());
        let connection = transport.connect(&Destination { place, secure }, &options, room.clone()).await;
        let connection = connection.map_err(|failure| Failure::unconnected(failure.to_string()))?;
        // The packets that connect went to the member and back, then those that greet it.
        let round_trip = began.elapsed() / 2;
        let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
        let authority = authority.as_str().parse().map_err(|error| invalid(format!("{error}")))?;
        let wire = Wire { connection, room, scheme, authority, token };
        Link::over(member, self.endpoints[member].clone(), wire, round_trip).await.map_err(Failure::from)
    }

    /// TLS, where any endpoint is spoken to by it. Made once: roots may be read from the system.
    #[cfg(feature = "_tls")]
    fn built(&self) -> &Result<Option<Tls>, Invalid> {
        self.built.get_or_init(|| {
            let is_secure = |endpoint: &String| self.split(endpoint).is_ok_and(|(secure, _)| secure);
            if !self.endpoints.iter().any(is_secure) && self.tls.is_none() {
                return Ok(None);
            }
            self.tls.clone().unwrap_or_default().build().map(Some)
        })
    }

    #[cfg(feature = "_tls")]
    fn transport(&self, secure: bool) -> Result<Transport, Failure> {
        match self.built() {
            Ok(tls) => Ok(Transport { connector: None, tls: tls.clone().filter(|_| secure) }),
            Err((what, why)) => Err(Failure::new(Class::Permanent, format!("{what}: {why}"))),
        }
    }

    #[cfg(not(feature = "_tls"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "with TLS there are settings, and they may be wrong"
    )]
    fn transport(&self, _secure: bool) -> Result<Transport, Failure> {
        Ok(Transport::default())
    }

    /// Whether the member speaks TLS, and its host and port.
    #[cfg_attr(not(feature = "_tls"), expect(clippy::unused_self))]
    fn split(&self, endpoint: &str) -> Result<(bool, Authority), String> {
        let (secure, authority) = split(endpoint)?;
        #[cfg(feature = "_tls")]
        let secure = secure || (self.tls.is_some() && !endpoint.contains("://"));
        Ok((secure, authority))
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
        assert!(options.endpoints().iter().all(|endpoint| !options.split(endpoint).unwrap().0));
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
