//! How etcd is reached, each option with its reason.

mod check;

use std::fmt;
#[cfg(feature = "_tls")]
use std::sync::OnceLock;
use std::time::Duration;

#[cfg(feature = "srv")]
use crate::address::domain::Domain;
#[cfg(feature = "_tls")]
use crate::connection::{ClientTls, Invalid, Tls};
use crate::error::Error;
use crate::secret;
use crate::target::Target;

pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where etcd is and how to reach it. Made from endpoints: `["http://h1:2379", "h2:2379"]`, with or without a scheme.
///
/// Requests go to one member over one connection, and to the next member when that one cannot serve: it is down, has lost its
/// leader, or is a learner. A request that is late is also sent to one other member, and the first answer counts; every
/// request may be repeated. A connection is left on a transport error, a GOAWAY, a failed ping, or when something was asked
/// over it and nothing at all was heard for the request timeout. A leader is required, so that a member that is cut off from
/// its cluster says so instead of keeping silent.
///
/// The watches of a resolver or registrar share streams, which take at most half of what the connection admits.
///
/// With the feature `srv` the members are found by DNS: see `EtcdOptions::srv`. No text here may hold a user and a password
/// (`http://root:secret@h1`); such a text is refused, and the error does not show them.
#[derive(Clone)]
#[must_use]
pub struct EtcdOptions {
    endpoints: Vec<String>,
    #[cfg(feature = "srv")]
    pub(super) srv: Option<SrvOptions>,
    pub(super) learn_every: Option<Duration>,
    user: Option<(String, String)>,
    #[cfg(feature = "_tls")]
    tls: Option<ClientTls>,
    #[cfg(feature = "_tls")]
    built_tls: OnceLock<Result<Option<Tls>, Invalid>>,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) keep_alive: (Duration, Duration),
}

/// Whose SRV records name the members.
#[cfg(feature = "srv")]
#[derive(Clone, Debug)]
pub(super) struct SrvOptions {
    domain: String,
    pub(super) name: Option<String>,
    /// Who is asked, in place of the system's servers.
    pub(super) servers: Vec<std::net::SocketAddr>,
}

#[cfg(feature = "srv")]
impl SrvOptions {
    pub(super) fn domain(&self) -> Result<Domain, String> {
        Domain::parse(&self.domain)
    }
}

impl EtcdOptions {
    /// The members' endpoints, such as `http://10.0.0.1:2379`, `https://etcd.local:2379` or `10.0.0.1` (2379 is the
    /// default port, and http the default scheme, https where TLS settings are given). They are checked where the
    /// options are used.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            #[cfg(feature = "srv")]
            srv: None,
            learn_every: None,
            user: None,
            #[cfg(feature = "_tls")]
            tls: None,
            #[cfg(feature = "_tls")]
            built_tls: OnceLock::new(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            keep_alive: (KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT),
        }
    }

    /// The etcd that a target names: its hosts, or the members that SRV records name (`etcd-srv://example.org/greeter`).
    ///
    /// # Errors
    /// When the target names none, as `greeter` and `etcd:///greeter` do.
    pub fn from_target(target: &Target) -> Result<Self, Error> {
        #[cfg(feature = "srv")]
        if let Some(domain) = target.srv_domain() {
            return Ok(Self::srv(domain));
        }
        if target.hosts().len() == 0 {
            return Err(Error::invalid("target", target.to_string(), "it does not say where etcd is"));
        }
        Ok(Self::new(target.hosts()))
    }

    /// The members that DNS knows: the SRV records `_etcd-client-ssl._tcp.DOMAIN` (members that speak `https`) and
    /// `_etcd-client._tcp.DOMAIN` (`http`), as `etcdctl --discovery-srv=DOMAIN` finds them. A domain without a dot at its end is also
    /// looked for in the system's search domains, as its `resolv.conf` says.
    ///
    /// Where TLS settings are given, `https` members alone are looked for: an answer of DNS, which nothing protects, then does not
    /// lead to a member without TLS. Without settings both are, and `https` members are verified by the roots of the enabled
    /// features. Certificates must hold the name that a record has; `ClientTls::server_name` with the domain asks for that of the
    /// domain in its place, as `etcdctl --insecure-discovery=false` does.
    ///
    /// A member with a lower priority is tried first, and members with the same priority in a random order by their weights (RFC
    /// 2782). The records are read again every 10 s, whatever their TTL: a set that was replaced is not kept for a day. While no
    /// member can be connected they are read again after their TTL, but at least once in 10 s and at most once a second. Where that
    /// fails, or gives no member, the last members are kept, which is logged once at WARN. Names in records are resolved by the
    /// system, as those of endpoints are.
    #[cfg(feature = "srv")]
    #[cfg_attr(docsrs, doc(cfg(feature = "srv")))]
    pub fn srv(domain: impl Into<String>) -> Self {
        let srv = SrvOptions { domain: domain.into(), name: None, servers: Vec::new() };
        Self { srv: Some(srv), ..Self::new([""; 0]) }
    }

    /// The name of one of several etcds in a domain, as `etcdctl --discovery-srv-name`: with `blue` the records are
    /// `_etcd-client-ssl-blue._tcp.DOMAIN` and `_etcd-client-blue._tcp.DOMAIN`. None by default. It does nothing without
    /// [`EtcdOptions::srv`].
    #[cfg(feature = "srv")]
    #[cfg_attr(docsrs, doc(cfg(feature = "srv")))]
    pub fn srv_name(mut self, name: impl Into<String>) -> Self {
        if let Some(srv) = &mut self.srv {
            srv.name = Some(name.into());
        }
        self
    }

    /// The DNS servers that are asked for SRV records, in place of the system's; the system's by default. A name without a dot at
    /// its end is then not looked for in search domains. It does nothing without [`EtcdOptions::srv`].
    #[cfg(feature = "srv")]
    #[cfg_attr(docsrs, doc(cfg(feature = "srv")))]
    pub fn srv_servers(mut self, servers: impl IntoIterator<Item = std::net::SocketAddr>) -> Self {
        if let Some(srv) = &mut self.srv {
            srv.servers = servers.into_iter().collect();
        }
        self
    }

    /// Asks etcd for its members, now and then and after each new connection, and uses those that it names beside the endpoints
    /// given here; off by default. For clusters whose members are replaced by others with new addresses while this process lives: as
    /// `AutoSyncInterval` of etcd's Go client, of which 30 s is a usual value.
    ///
    /// The endpoints given here (or found by SRV records) are never forgotten. Of what etcd names (`--advertise-client-urls`) these
    /// are left out: learners, members with another scheme than the endpoints given here have, `0.0.0.0` and `[::]`, and addresses
    /// of the loopback unless etcd was reached by one. With TLS a member's certificate must hold the host that it is named by, unless
    /// a name is set.
    ///
    /// From 1 s to an hour. Each request costs etcd a linearizable read. Where etcd refuses it, because the user may not list
    /// members or a proxy does not know the request, that is logged once at WARN, and the endpoints given here are used alone. Behind
    /// a proxy for etcd leave it off: etcd names its members, and the proxy would be bypassed.
    pub fn learn_members(mut self, every: Duration) -> Self {
        self.learn_every = Some(every);
        self
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
    /// are used. [`ClientTls`] says how certificates are given that are renewed.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        (self.tls, self.built_tls) = (Some(tls), OnceLock::new());
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
    /// 300 ms without any sign of liveness over its connection it is sent to another member as well. A page of a list may take
    /// three times as long where etcd answers other reads; what a registrar asks takes no longer than a sixth of its lease's
    /// liveness.
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

    pub(super) fn user_and_password(&self) -> Option<&(String, String)> {
        self.user.as_ref()
    }
}

impl fmt::Debug for EtcdOptions {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        let endpoints: Vec<_> = self.endpoints.iter().map(|endpoint| secret::without_user(endpoint)).collect();
        let mut shown = f.debug_struct("EtcdOptions");
        shown.field("endpoints", &endpoints);
        #[cfg(feature = "srv")]
        shown.field("srv", &self.srv.as_ref().map(|srv| secret::without_user(&srv.domain)));
        shown.field("user", &user).finish_non_exhaustive()
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
