//! [`EtcdOptions`]: how etcd is reached. `check.rs` validates them.

mod check;

use std::fmt;
#[cfg(feature = "_tls")]
use std::sync::OnceLock;
use std::time::Duration;

#[cfg(feature = "srv")]
use crate::address::domain::Domain;
#[cfg(feature = "_tls")]
use crate::connection::{ClientTls, InvalidTls, Tls};
use crate::error::Error;
use crate::secret;
use crate::target::Target;

/// See [`EtcdOptions::request_timeout`].
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// See [`EtcdOptions::connect_timeout`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// See [`EtcdOptions::keep_alive`].
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// See [`EtcdOptions::keep_alive`].
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where etcd is and how it is reached. Made from endpoints, with or without a scheme:
/// `["http://h1:2379", "h2:2379"]`.
///
/// Requests go to one member over one connection. The next member is used when this one cannot
/// serve: it is down, has lost its leader, or is a learner. If the connection shows no sign of life
/// for 300 ms, its request is also sent to one other member, and the first response counts.
/// Requests are made such that sending one twice does no harm.
///
/// A connection is closed after a transport error, GOAWAY or a failed PING, and when a request was
/// sent and nothing at all was received for the request timeout. Requests require a leader, so a
/// member that is cut off from its cluster refuses them instead of staying silent.
///
/// The watches of a resolver or a registrar share streams. They take at most half of the streams
/// that a connection admits.
///
/// With the feature `srv`, the members can be found by DNS: see `EtcdOptions::srv`.
///
/// An endpoint must not hold a user and a password (`http://root:secret@h1`): use
/// [`EtcdOptions::user`]. Such an endpoint is refused, and the error does not show user and
/// password.
///
/// Options are validated by the `connect` or `connect_lazy` that takes them. Its error names the
/// option, the value and the bound.
#[derive(Clone)]
#[must_use]
pub struct EtcdOptions {
    endpoints: Vec<String>,
    #[cfg(feature = "srv")]
    pub(super) srv: Option<SrvOptions>,
    pub(super) learn_every: Option<Duration>,
    pub(super) user: Option<(String, String)>,
    #[cfg(feature = "_tls")]
    tls: Option<ClientTls>,
    #[cfg(feature = "_tls")]
    built_tls: OnceLock<Result<Option<Tls>, InvalidTls>>,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) keep_alive: (Duration, Duration),
}

/// The SRV records that name the members.
#[cfg(feature = "srv")]
#[derive(Clone, Debug, Default)]
pub(super) struct SrvOptions {
    /// The domain, as the user wrote it.
    domain: String,
    /// The suffix of one of several clusters in the domain.
    pub(super) name: Option<String>,
    /// The DNS servers to ask; the system's if it is empty.
    pub(super) servers: Vec<std::net::SocketAddr>,
}

#[cfg(feature = "srv")]
impl SrvOptions {
    /// The parsed domain, or why it is no domain.
    pub(super) fn domain(&self) -> Result<Domain, String> {
        if self.domain.is_empty() {
            return Err("it is empty: give the domain to `EtcdOptions::srv`".into());
        }
        Domain::parse(&self.domain)
    }
}

impl EtcdOptions {
    /// The endpoints of the members, such as `http://10.0.0.1:2379`, `https://etcd.local:2379` or
    /// `10.0.0.1`.
    ///
    /// The default port is 2379. The default scheme is `http`, or `https` if TLS settings are
    /// given. Endpoints are tried in a random order, so a fleet spreads over the members. At least
    /// one endpoint is needed.
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

    /// The etcd that a target names: its hosts, or the members that SRV records name
    /// (`etcd-srv://example.org/greeter`).
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

    /// Finds the members by DNS SRV records: `_etcd-client-ssl._tcp.DOMAIN` for members with
    /// `https` and `_etcd-client._tcp.DOMAIN` for members with `http`, as `etcdctl
    /// --discovery-srv=DOMAIN` does. A domain without a dot at its end is also searched in the
    /// search domains of the system's `resolv.conf`.
    ///
    /// **TLS.** With TLS settings, only `https` members are looked up: DNS is not protected and
    /// must not lead to a member without TLS. Without TLS settings, `http` members are looked up,
    /// and `https` members too if a feature gives root certificates to verify them
    /// (`tls-native-roots`, `tls-webpki-roots`). A certificate must hold the host name of the
    /// record. If `ClientTls::server_name` is set to the domain, it must hold the domain instead,
    /// as with `etcdctl --insecure-discovery=false`.
    ///
    /// **Order.** A member with a lower priority is tried first. Members of one priority are tried
    /// in a random order by their weights (RFC 2782).
    ///
    /// **Changes.** The records are read again every 10 s, whatever their TTL, so that a set that
    /// was replaced is not kept for a day. While no member can be connected, the records are read
    /// again when their TTL ends, but not sooner than after 1 s and not later than after 10 s. If a
    /// lookup fails or gives no member, the last members stay, and that is logged once at WARN.
    /// Host names in records are resolved by the system, as those of endpoints are.
    #[cfg(feature = "srv")]
    #[cfg_attr(docsrs, doc(cfg(feature = "srv")))]
    pub fn srv(domain: impl Into<String>) -> Self {
        let srv = SrvOptions { domain: domain.into(), name: None, servers: Vec::new() };
        Self { srv: Some(srv), ..Self::new([""; 0]) }
    }

    /// The name of one of several clusters in a domain, as `etcdctl --discovery-srv-name`: with
    /// `blue` the records are `_etcd-client-ssl-blue._tcp.DOMAIN` and
    /// `_etcd-client-blue._tcp.DOMAIN`. 1 to 46 letters, digits, `-` or `_`. None by default.
    /// Refused without [`EtcdOptions::srv`].
    #[cfg(feature = "srv")]
    #[cfg_attr(docsrs, doc(cfg(feature = "srv")))]
    pub fn srv_name(mut self, name: impl Into<String>) -> Self {
        self.srv.get_or_insert_default().name = Some(name.into());
        self
    }

    /// The DNS servers that are asked for SRV records; the system's by default. With servers of
    /// your own, search domains are not used. Refused without [`EtcdOptions::srv`].
    #[cfg(feature = "srv")]
    #[cfg_attr(docsrs, doc(cfg(feature = "srv")))]
    pub fn srv_servers(mut self, servers: impl IntoIterator<Item = std::net::SocketAddr>) -> Self {
        self.srv.get_or_insert_default().servers = servers.into_iter().collect();
        self
    }

    /// Asks etcd for its members at this interval and after each new connection, and uses them in
    /// addition to the given endpoints. Off by default. For clusters whose members are replaced by
    /// others with new addresses while this process lives. Like `AutoSyncInterval` of etcd's Go
    /// client, except that the given endpoints are kept. 30 s is usual.
    ///
    /// From 1 s to 1 h; other values are refused. Each request costs etcd a linearizable read.
    ///
    /// Endpoints that were given, or found by SRV records, are never forgotten. Of the members that
    /// etcd names (`--advertise-client-urls`), these are not used: learners, members with another
    /// scheme than the given endpoints, `0.0.0.0` and `[::]`, and loopback addresses unless etcd
    /// was reached by one. With TLS, a member's certificate must hold the host that etcd names,
    /// unless a server name is set.
    ///
    /// If etcd refuses the request, because the role may not list members or a proxy does not know
    /// the request, that is logged once at WARN, and only the given endpoints are used. Leave this
    /// off behind a proxy: etcd names its own members, and the proxy would be bypassed.
    pub fn learn_members(mut self, every: Duration) -> Self {
        self.learn_every = Some(every);
        self
    }

    /// Authenticates as this user; none by default. If authentication is off in etcd, the user is
    /// ignored, as by etcd's Go client.
    ///
    /// Each resolver and each registrar fetches one token on each runtime and uses it for all
    /// connections and members until etcd refuses it. After a wrong password the next try is made
    /// after 5 s, because each check costs etcd a bcrypt computation.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Sets the TLS settings of `https` endpoints; the same type as for servers. With settings,
    /// endpoints without a scheme are `https`, and `http` endpoints are refused. Without settings,
    /// `https` endpoints are verified by the root certificates of the enabled features.
    /// [`ClientTls`] says how certificates are renewed.
    #[cfg(feature = "_tls")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))))]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        (self.tls, self.built_tls) = (Some(tls), OnceLock::new());
        self
    }

    /// The same endpoints in a random order.
    pub(super) fn shuffled(mut self) -> Self {
        fastrand::shuffle(&mut self.endpoints);
        self
    }

    /// The maximum time to connect to a member by TCP and TLS; 2 s by default. A live member takes
    /// milliseconds, and nothing else limits the wait for a member whose packets are lost. More
    /// than 0 and at most 1 h; other values are refused.
    ///
    /// The wait for HTTP/2's SETTINGS, which follows, has the request timeout. After 300 ms without
    /// a connection the next member is tried as well.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The maximum time of a request, without the time to connect; 5 s by default, which is longer
    /// than an election. A registrar's requests take at most a sixth of the lease's time to live if
    /// that is less: 2.5 s by default. More than 0 and at most 1 h; other values are refused.
    ///
    /// After 300 ms without any sign of life of its connection, a request is also sent to another
    /// member. Reading a page of a large list may take three times this limit while etcd responds
    /// to other reads.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sets HTTP/2 keep-alive: while a watch or the stream that renews a lease is open, a PING is
    /// sent every `interval` (10 s by default), and must be acknowledged within `timeout` (5 s by
    /// default). At most 1 h each. etcd closes connections that are pinged more often than every 5
    /// s, so an interval below 6 s is refused.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keep_alive = (interval, timeout);
        self
    }
}

impl fmt::Debug for EtcdOptions {
    /// Does not show the password.
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
