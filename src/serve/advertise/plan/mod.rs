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
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is set, what the environment says, where is listened, and whether by TLS.
    type Case = (Vec<String>, Environment, BoundAddress, bool);

    fn cases() -> impl Strategy<Value = Case> {
        // Neither patterns, which are parsed anew for each input of a fuzzer, nor unions, of which it takes few.
        let host = || {
            prop::sample::select(
                &[
                    "10.0.0.5",
                    "0.0.0.0",
                    "::1",
                    "::",
                    "fd00::5",
                    "[fd00::6]",
                    "fe80::1",
                    "localhost",
                    "h.x",
                    "u:p@h",
                    "unix:/run/x",
                    "unix:",
                    "http://h",
                    "https://h",
                    "",
                    "10.0.0.5 fd00::5",
                ][..],
            )
        };
        let text = || {
            (host(), any::<bool>(), 0_u32..70_000)
                .prop_map(|(host, has_port, port)| if has_port { format!("{host}:{port}") } else { host.to_owned() })
        };
        let list = || {
            (any::<bool>(), proptest::collection::vec(text(), 0..4))
                .prop_map(|(is_set, list)| is_set.then(|| list.join(",")))
        };
        let ip = prop::sample::select(
            &[
                "0.0.0.0",
                "::",
                "127.0.0.1",
                "::1",
                "10.0.0.5",
                "fd00::5",
                "fe80::1",
                "169.254.1.1",
                "::ffff:10.0.0.5",
                "::ffff:0.0.0.0",
            ][..],
        );
        let bound = (0_u8..8, ip, 1_u16.., any::<bool>(), text()).prop_map(|(kind, ip, port, only_v6, path)| {
            let ip: IpAddr = ip.parse().unwrap();
            let family = match ip.to_canonical() {
                IpAddr::V4(_) => AddressFamily::V4,
                ip if ip.is_unspecified() && !only_v6 => AddressFamily::Any,
                IpAddr::V6(_) => AddressFamily::V6,
            };
            match kind {
                0 => BoundAddress::Unix(path),
                1 => BoundAddress::Unknown,
                _ => BoundAddress::Tcp(SocketAddr::new(ip, port), family),
            }
        });
        let environment = (list(), list()).prop_map(|(advertise, pod_ip)| Environment { advertise, pod_ip });
        (proptest::collection::vec(text(), 0..3), environment, bound, any::<bool>())
    }

    /// What is registered can be called, by TLS where that is asked for; what is refused says why.
    fn is_callable((configured, environment, bound, https): &Case) {
        let plan = match plan(configured, environment, bound, *https) {
            Ok(plan) => plan,
            Err(error) => return assert!(error.is_invalid_argument() && !error.to_string().is_empty()),
        };
        let can_be_called = |address: &Address| {
            assert_eq!(address.uncallable_reason(), None, "{address}");
            assert!(!https || (address.is_secure() && address.unix_path().is_none()), "{address} without TLS");
            assert_eq!(Address::parse(&address.to_string()).ok().as_ref(), Some(address));
        };
        match &plan {
            AddressPlan::Known(addresses) => {
                assert!(!addresses.is_empty());
                addresses.iter().for_each(can_be_called);
                let others = of_other_family(addresses, bound);
                assert!(others.iter().all(|other| addresses.contains(other)));
                if configured.is_empty()
                    && environment.advertise.as_ref().is_none_or(|list| split_list(Some(list)).is_empty())
                {
                    assert!(addresses.len() == 1 && others.is_empty(), "{addresses:?} at {bound:?}");
                }
            }
            AddressPlan::Local(address, _) => {
                can_be_called(address);
                let is_local = locality(address.parsed_authority()) == Locality::Local;
                assert!(address.unix_path().is_some() || is_local, "{address}");
            }
            AddressPlan::Route { port, https: by_tls, .. } => {
                let BoundAddress::Tcp(bound, _) = bound else { panic!("{bound:?} has no port") };
                assert!(bound.ip().to_canonical().is_unspecified() && bound.port() == *port && by_tls == https);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_registered_can_be_called(case in cases()) {
            is_callable(&case);
        }
    }

    /// The fuzz target: the same property; and any text as an address and as a list.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with(bytes, cases(), |case| {
            is_callable(&case);
            Ok(())
        });
        let text = String::from_utf8_lossy(bytes);
        for bound in [tcp("0.0.0.0:7"), tcp("[::]:7"), BoundAddress::Unix(text.to_string())] {
            let listed = environment(Some(&text), None);
            let pod = environment(None, Some(&text));
            for environment in [&listed, &pod] {
                is_callable(&(Vec::new(), environment.clone(), bound.clone(), bytes.len().is_multiple_of(2)));
            }
            is_callable(&(vec![text.to_string()], pod, bound, false));
        }
    }

    fn tcp(bound: &str) -> BoundAddress {
        let bound: SocketAddr = bound.parse().unwrap();
        let family = match bound.ip() {
            ip if ip.to_canonical().is_ipv4() => AddressFamily::V4,
            ip if ip.is_unspecified() => AddressFamily::Any,
            _ => AddressFamily::V6,
        };
        BoundAddress::Tcp(bound, family)
    }

    fn environment(advertise: Option<&str>, pod_ip: Option<&str>) -> Environment {
        Environment { advertise: advertise.map(Into::into), pod_ip: pod_ip.map(Into::into) }
    }

    fn planned(
        said: &[&str],
        environment: &Environment,
        bound: &BoundAddress,
        https: bool,
    ) -> Result<AddressPlan, String> {
        let said: Vec<String> = said.iter().map(|text| (*text).to_owned()).collect();
        plan(&said, environment, bound, https).map_err(|error| error.to_string())
    }

    fn known(addresses: &[&str]) -> AddressPlan {
        AddressPlan::Known(addresses.iter().map(|address| Address::parse(address).unwrap()).collect())
    }

    #[test]
    fn what_is_said_comes_first_then_the_environment_then_what_is_listened_on() {
        let (none, bound) = (Environment::default(), tcp("10.0.0.5:50051"));
        let listed = environment(Some(" 10.9.9.9:1, , greeter.local "), Some("10.1.1.1"));
        let given = ["10.0.0.7", "greeter.local:81", "2001:db8::1", "[2001:db8::2]", "https://x", "unix:/run/g"];
        let read = [
            "10.0.0.7:50051",
            "greeter.local:81",
            "[2001:db8::1]:50051",
            "[2001:db8::2]:50051",
            "https://x:443",
            "unix:/run/g",
        ];
        assert_eq!(planned(&given, &listed, &bound, false).unwrap(), known(&read));
        assert_eq!(planned(&["127.0.0.1"], &none, &bound, false).unwrap(), known(&["127.0.0.1:50051"]), "it is said");
        assert_eq!(planned(&[], &listed, &bound, false).unwrap(), known(&["10.9.9.9:1", "greeter.local:50051"]));
        assert_eq!(planned(&[], &environment(Some(" "), None), &bound, false).unwrap(), known(&["10.0.0.5:50051"]));
        assert_eq!(planned(&[], &none, &bound, true).unwrap(), known(&["https://10.0.0.5:50051"]));
        assert_eq!(planned(&["a:1"], &none, &bound, true).unwrap(), known(&["https://a:1"]));
        assert!(planned(&["unix:/run/g"], &none, &bound, true).unwrap_err().contains("without TLS"));
        assert_eq!(planned(&[], &none, &tcp("[2001:db8::1]:1"), false).unwrap(), known(&["[2001:db8::1]:1"]));
        assert_eq!(planned(&[], &none, &tcp("[::ffff:10.0.0.5]:1"), false).unwrap(), known(&["10.0.0.5:1"]));
    }

    #[test]
    fn every_interface_is_none() {
        let (none, pod) = (Environment::default(), environment(None, Some("10.1.1.1")));
        let pod6 = environment(Some(""), Some("2001:db8::9 "));
        assert_eq!(planned(&[], &pod, &tcp("0.0.0.0:7"), false).unwrap(), known(&["10.1.1.1:7"]));
        assert_eq!(planned(&[], &pod6, &tcp("[::]:7"), true).unwrap(), known(&["https://[2001:db8::9]:7"]));
        assert_eq!(planned(&[], &pod, &tcp("10.0.0.5:7"), false).unwrap(), known(&["10.0.0.5:7"]), "it is one already");
        let route = |family| Ok(AddressPlan::Route { port: 7, family, https: false });
        assert_eq!(planned(&[], &none, &tcp("0.0.0.0:7"), false), route(AddressFamily::V4));
        assert_eq!(planned(&[], &none, &tcp("[::ffff:0.0.0.0]:7"), false), route(AddressFamily::V4));
        assert_eq!(planned(&[], &none, &tcp("[::]:7"), false), route(AddressFamily::Any));
        let only_v6 = BoundAddress::Tcp("[::]:7".parse().unwrap(), AddressFamily::V6);
        assert_eq!(planned(&[], &none, &only_v6, false), route(AddressFamily::V6));
        assert!(
            !AddressFamily::V4.contains("::1".parse().unwrap())
                && AddressFamily::V4.contains("1.1.1.1".parse().unwrap())
        );
        assert!(
            !AddressFamily::V6.contains("::ffff:1.1.1.1".parse().unwrap())
                && AddressFamily::V6.contains("::1".parse().unwrap())
        );
    }

    /// F22: what `POD_IP` says is registered where the listener answers on it, and refused where it
    /// does not.
    #[test]
    fn a_pod_is_reached_by_the_family_that_is_listened_on() {
        let (v4, both) = (tcp("0.0.0.0:7"), tcp("[::]:7"));
        let v6 = BoundAddress::Tcp("[::]:7".parse().unwrap(), AddressFamily::V6);
        for (pod_ip, bound, expected) in [
            ("10.0.0.5,fd00::5", &v4, "10.0.0.5:7"),
            ("fd00::5, 10.0.0.5", &v4, "10.0.0.5:7"),
            ("fd00::5\t10.0.0.5\n", &v4, "10.0.0.5:7"),
            ("fd00::5,10.0.0.5", &both, "[fd00::5]:7"),
            ("10.0.0.5,FD00::5", &both, "10.0.0.5:7"),
            ("10.0.0.5,[fd00::5]", &v6, "[fd00::5]:7"),
            ("10.0.0.5,[fd00::5]:9", &v6, "[fd00::5]:9"),
            ("::ffff:10.0.0.5", &v4, "10.0.0.5:7"),
            (",,10.0.0.5,", &v4, "10.0.0.5:7"),
            ("fd00::5,pod.local", &v4, "pod.local:7"),
            (" , ", &tcp("10.0.0.9:7"), "10.0.0.9:7"),
            ("fd00::5", &tcp("10.0.0.9:7"), "10.0.0.9:7"),
        ] {
            assert_eq!(planned(&[], &environment(None, Some(pod_ip)), bound, false).unwrap(), known(&[expected]));
        }
        for (pod_ip, bound, family) in [
            ("fd00::5", &v4, "IPv4"),
            ("fd00::5,fd00::6", &v4, "IPv4"),
            ("[fd00::5]:7", &v4, "IPv4"),
            ("0x0a000005", &v6, "IPv6"),
            ("10.0.0.5", &v6, "IPv6"),
            ("::ffff:10.0.0.5", &v6, "IPv6"),
        ] {
            let error = planned(&[], &environment(None, Some(pod_ip)), bound, false).unwrap_err();
            let says = [POD_IP, family, ADVERTISE, pod_ip.split(',').next().unwrap()];
            assert!(says.iter().all(|text| error.contains(text)), "{error}");
        }
        // What is said of the address to advertise is believed: something may forward it.
        let listed = environment(Some("10.0.0.5,[fd00::5]:30001, fd00::5"), Some("10.9.9.9"));
        let plan = planned(&[], &listed, &v4, false).unwrap();
        assert_eq!(plan, known(&["10.0.0.5:7", "[fd00::5]:30001", "[fd00::5]:7"]));
        let AddressPlan::Known(addresses) = plan else { panic!("they are known") };
        assert_eq!(of_other_family(&addresses, &v4), [&addresses[2]]);
        assert!(
            of_other_family(&addresses, &both).is_empty()
                && of_other_family(&addresses, &BoundAddress::Unknown).is_empty()
        );
    }

    #[test]
    fn what_only_this_host_reaches_is_for_an_etcd_on_it() {
        let local_of = |address, what| Ok(AddressPlan::Local(Address::parse(address).unwrap(), what));
        let local = |address| local_of(address, WHAT);
        let none = Environment::default();
        for (pod_ip, address) in [
            ("127.0.0.1", "127.0.0.1:7"),
            ("::1,10.0.0.5", "[::1]:7"),
            ("::ffff:127.0.0.1", "127.0.0.1:7"),
            ("localhost", "localhost:7"),
            ("unix:/run/g", "unix:/run/g"),
        ] {
            assert_eq!(
                planned(&[], &environment(None, Some(pod_ip)), &tcp("[::]:7"), false),
                local_of(address, POD_IP)
            );
        }
        assert_eq!(planned(&[], &none, &tcp("127.0.0.1:7"), false), local("127.0.0.1:7"));
        assert_eq!(planned(&[], &none, &tcp("[::1]:7"), true), local("https://[::1]:7"));
        assert_eq!(planned(&[], &none, &BoundAddress::Unix("/run/g".into()), false), local("unix:/run/g"));
        assert!(planned(&[], &none, &BoundAddress::Unix("/run/g".into()), true).unwrap_err().contains("without TLS"));
        for (etcd, expected) in [
            ("localhost:2379", Locality::Local),
            ("etcd.localhost:2379", Locality::Local),
            ("127.0.0.9:1", Locality::Local),
            ("[::1]:1", Locality::Local),
            ("[::ffff:127.0.0.1]:1", Locality::Local),
            ("10.0.0.1:1", Locality::Remote),
            ("etcd.local:1", Locality::Unknown),
            ("notlocalhost:1", Locality::Unknown),
        ] {
            assert_eq!(locality(&Authority::parse(etcd, None).unwrap()), expected, "{etcd}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_says_what_to_do() {
        let none = Environment::default();
        for (said, environment, bound, reason) in [
            (&[][..], &none, BoundAddress::Unknown, "Serve::advertise"),
            (&[], &none, tcp("169.254.1.1:7"), "one link"),
            (&[], &none, tcp("[fe80::1]:7"), "one link"),
            (&["0.0.0.0"], &none, tcp("10.0.0.5:7"), "every interface"),
            (&["[::]:8"], &none, tcp("10.0.0.5:7"), "every interface"),
            (&["host"], &none, BoundAddress::Unknown, "no port"),
            (&["10.0.0.7"], &none, BoundAddress::Unix("/run/g".into()), "no port"),
            (&["host:0"], &none, tcp("10.0.0.5:7"), "not a number from 1"),
            (&["a,b"], &none, tcp("10.0.0.5:7"), "only one address"),
            (&[], &environment(Some("host:x"), None), tcp("10.0.0.5:7"), "TONIC_ETCD_ADVERTISE"),
            (&[], &environment(Some("0.0.0.0"), None), tcp("10.0.0.5:7"), "TONIC_ETCD_ADVERTISE"),
            (&[], &environment(None, Some("no ip")), tcp("0.0.0.0:7"), "POD_IP"),
            (&[], &environment(None, Some("0.0.0.0")), tcp("0.0.0.0:7"), "POD_IP \"0.0.0.0\""),
            (&[], &environment(None, Some("224.0.0.1")), tcp("0.0.0.0:7"), "POD_IP \"224.0.0.1\""),
            (&[], &environment(Some("a:1,255.255.255.255"), None), tcp("[::]:7"), "\"255.255.255.255\""),
            (&["[ff02::1]:7"], &none, tcp("10.0.0.5:7"), "multicast"),
            (&[], &environment(Some("10.0.0.\u{fffd}"), None), tcp("10.0.0.5:7"), "TONIC_ETCD_ADVERTISE"),
            (&[], &environment(None, Some("169.254.1.1")), tcp("0.0.0.0:7"), "POD_IP \"169.254.1.1:7\""),
            (&[], &environment(None, Some("fe80::1")), tcp("[::]:7"), "POD_IP \"[fe80::1]:7\""),
        ] {
            let error = planned(said, environment, &bound, false).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
