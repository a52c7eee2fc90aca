//! How the addresses to register are found: from the settings, the environment, and what is
//! listened on. PURE.
//!
//! A wrong address is worse than none: clients would call another server, or wait for one that is
//! not there. So an address that other hosts cannot reach is refused, unless it was set by hand or
//! etcd is on the same host, where the clients of a developer are.

use std::net::{IpAddr, SocketAddr};

use crate::address::{Address, Authority};
use crate::error::Error;
use crate::secret;

/// The environment variable with the addresses that clients reach, separated by commas:
/// `10.0.0.5:30001`, or a host alone, which gets the port that is listened on.
pub(super) const ADVERTISE: &str = "TONIC_ETCD_ADVERTISE";
/// The environment variable with the pod's address, as the examples in Kubernetes' documentation of
/// the downward API name it; or with all of them (`status.podIPs`).
pub(super) const POD_IP: &str = "POD_IP";

/// What errors call an address that was set with `Serve::advertise`.
const WHAT: &str = "address to advertise";
/// Why a link-local address is refused.
const ONE_LINK: &str = "it is an address of one link, which other hosts do not reach";

/// Where a listener accepts.
#[derive(Clone, Debug)]
pub enum BoundAddress {
    /// A TCP address. The family says which clients reach it if it is `0.0.0.0` or `[::]`.
    Tcp(SocketAddr, AddressFamily),
    /// The path of a Unix socket.
    Unix(String),
    /// Not known, as for a stream of connections.
    Unknown,
}

/// The environment variables that matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    /// The value of [`ADVERTISE`].
    pub(super) advertise: Option<String>,
    /// The value of [`POD_IP`].
    pub(super) pod_ip: Option<String>,
}

/// How the addresses to register are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressPlan {
    /// These are registered.
    Known(Vec<Address>),
    /// Only this host reaches it, so it is registered only if etcd is on this host. The text is where
    /// it is set, for the error.
    Local(Address, &'static str),
    /// The address of the interface that reaches etcd, with this port.
    Route { port: u16, family: AddressFamily, https: bool },
}

/// The address families of the clients that a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamily {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both, as `[::]` does unless `IPV6_V6ONLY` is set.
    Any,
}

impl AddressFamily {
    /// Whether the address is of this family. An IPv4-mapped IPv6 address is IPv4.
    pub(super) fn contains(self, ip: IpAddr) -> bool {
        match self {
            Self::V4 => ip.to_canonical().is_ipv4(),
            Self::V6 => ip.to_canonical().is_ipv6(),
            Self::Any => true,
        }
    }

    /// The name in errors.
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Any => "IPv4 and IPv6",
        }
    }
}

/// Whether an etcd member is on this host, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locality {
    /// It is a loopback address or a name of this host.
    Local,
    /// It is an address that is not loopback.
    Remote,
    /// Only DNS can tell.
    Unknown,
}

/// Whether the member is on this host. `localhost` and the names below it are, by RFC 6761.
pub(super) fn locality(etcd: &Authority) -> Locality {
    let host = etcd.host();
    if host == "localhost" || host.ends_with(".localhost") {
        return Locality::Local;
    }
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.to_canonical().is_loopback() => Locality::Local,
        Ok(_) => Locality::Remote,
        Err(_) => Locality::Unknown,
    }
}

/// Whether other hosts may reach the address. A link-local address does not say which link it is
/// of.
pub(super) fn is_routable(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_unspecified() && !ip.is_loopback() && !is_link_local
}

/// The error for an address that cannot be registered. It says what to set instead.
pub(super) fn refused(shown: impl Into<String>, reason: impl Into<String>) -> Error {
    refused_of(WHAT, shown, reason)
}

/// The same for an address that is set in `what`.
pub(super) fn refused_of(what: &'static str, shown: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::invalid(what, shown, format!("{}: {}", reason.into(), hint()))
}

/// What to do about an address that cannot be registered.
fn hint() -> String {
    format!("set the address that clients reach with `Serve::advertise` or {ADVERTISE}")
}

/// Decides how the addresses are found. The first that applies:
///
/// | source | addresses |
/// |---|---|
/// | `Serve::advertise` (`configured`) | these, with the port of the listener if they have none |
/// | `TONIC_ETCD_ADVERTISE` | these, likewise |
/// | a Unix socket | its path, if etcd is on this host |
/// | every interface, `POD_IP` set | the first of an address family that is listened on; refused if it is link-local, and a loopback address or a Unix socket only if etcd is on this host |
/// | every interface | that of the interface that reaches etcd |
/// | a loopback address | itself, if etcd is on this host |
/// | a link-local address, or none | refused |
/// | any other address | itself |
pub(crate) fn plan(
    configured: &[String],
    environment: &Environment,
    bound: &BoundAddress,
    https: bool,
) -> Result<AddressPlan, Error> {
    let port = match bound {
        BoundAddress::Tcp(address, _) => Some(address.port()),
        BoundAddress::Unix(_) | BoundAddress::Unknown => None,
    };
    let parse = |(what, text): (&'static str, &str)| parse(what, text, port, https);
    if !configured.is_empty() {
        return configured.iter().map(|text| parse((WHAT, text))).collect::<Result<_, _>>().map(AddressPlan::Known);
    }
    let listed = split_list(environment.advertise.as_deref());
    if !listed.is_empty() {
        let addresses = listed.into_iter().map(|text| parse((ADVERTISE, text)));
        return addresses.collect::<Result<_, _>>().map(AddressPlan::Known);
    }
    let (bound, family) = match bound {
        BoundAddress::Tcp(bound, family) => (SocketAddr::new(bound.ip().to_canonical(), bound.port()), *family),
        BoundAddress::Unix(path) => {
            return with_scheme(Address::parse(&format!("unix:{path}"))?, https)
                .map(|address| AddressPlan::Local(address, WHAT))
                .map_err(|reason| refused(path, reason));
        }
        BoundAddress::Unknown => return Err(refused("", "nothing tells where these connections are accepted")),
    };
    match bound.ip() {
        ip if ip.is_unspecified() => {
            let pod_ips = split_list(environment.pod_ip.as_deref());
            if pod_ips.is_empty() {
                return Ok(AddressPlan::Route { port: bound.port(), family, https });
            }
            let addresses = pod_ips.iter().map(|text| parse((POD_IP, *text))).collect::<Result<Vec<_>, _>>()?;
            // A host name may have addresses of either family.
            let is_served = |address: &Address| address.ip().is_none_or(|ip| family.contains(ip));
            let address = addresses.into_iter().find(is_served).ok_or_else(|| {
                let reason = format!("{bound} accepts {} only: listen on both families, or {}", family.name(), hint());
                Error::invalid(POD_IP, pod_ips.join(","), reason)
            })?;
            match address.ip() {
                _ if address.unix_path().is_some() || locality(address.parsed_authority()) == Locality::Local => {
                    Ok(AddressPlan::Local(address, POD_IP))
                }
                Some(ip) if !is_routable(ip) => Err(refused_of(POD_IP, address.to_string(), ONE_LINK)),
                _ => Ok(AddressPlan::Known(vec![address])),
            }
        }
        ip if ip.is_loopback() => Ok(AddressPlan::Local(socket_address(bound, https)?, WHAT)),
        ip if is_routable(ip) => Ok(AddressPlan::Known(vec![socket_address(bound, https)?])),
        ip => Err(refused(ip.to_string(), ONE_LINK)),
    }
}

/// The elements of an environment variable, separated by commas; IP addresses also by blanks, as
/// `hostname -I` prints them.
fn split_list(text: Option<&str>) -> Vec<&str> {
    let pieces = text.into_iter().flat_map(|text| text.split(',')).map(str::trim).filter(|piece| !piece.is_empty());
    let are_ips = |piece: &str| piece.split_whitespace().all(|word| word.parse::<IpAddr>().is_ok());
    let mut list = Vec::new();
    for piece in pieces {
        if are_ips(piece) {
            list.extend(piece.split_whitespace());
        } else {
            list.push(piece);
        }
    }
    list
}

/// The addresses that reach the listener only if something forwards them: its port, but another
/// address family.
pub(crate) fn of_other_family<'a>(addresses: &'a [Address], bound: &BoundAddress) -> Vec<&'a Address> {
    let BoundAddress::Tcp(bound, family) = bound else { return Vec::new() };
    let has_port = |address: &Address| address.parsed_authority().port() == bound.port();
    let is_other = |address: &&Address| has_port(address) && address.ip().is_some_and(|ip| !family.contains(ip));
    addresses.iter().filter(is_other).collect()
}

/// The address of a socket.
pub(super) fn socket_address(address: SocketAddr, https: bool) -> Result<Address, Error> {
    let named = Address::try_from(address)?;
    let callable = named.uncallable_reason().map_or(Ok(named), Err);
    callable.and_then(|named| with_scheme(named, https)).map_err(|reason| refused(address.to_string(), reason))
}

/// Parses an address, which may lack the port that is listened on. `what` is where it is set, for
/// the error.
fn parse(what: &'static str, text: &str, port: Option<u16>, https: bool) -> Result<Address, Error> {
    let refuse = |reason: String| Error::invalid(what, secret::without_user(text), reason);
    let address = match (text.parse::<IpAddr>(), port) {
        (Ok(ip), Some(port)) => {
            Address::try_from(SocketAddr::new(ip.to_canonical(), port)).map_err(|error| refuse(error.to_string()))?
        }
        (Ok(_), None) => return Err(refuse("it has no port, and none is listened on".into())),
        (Err(_), _) => match (Address::read(text), port) {
            (Ok(address), _) => address,
            (Err(reason), Some(port)) => Address::read(&format!("{text}:{port}")).map_err(|_| refuse(reason))?,
            (Err(reason), None) => return Err(refuse(reason)),
        },
    };
    if let Some(reason) = address.uncallable_reason() {
        return Err(refuse(format!("{reason}: set the address that clients reach")));
    }
    with_scheme(address, https).map_err(|reason| refuse(reason.into()))
}

/// The address with the scheme that [`Serve::https`](crate::Serve::https) asks for.
fn with_scheme(address: Address, https: bool) -> Result<Address, &'static str> {
    match (https, address.unix_path()) {
        (false, _) => Ok(address),
        (true, None) => Ok(Address::from_parts(address.parsed_authority().clone(), true)),
        (true, Some(_)) => Err("a Unix socket is called without TLS, and `Serve::https` asks for it"),
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
