//! Which address is registered: decided from what is said, from the environment, and from what is listened on. PURE.

pub(super) mod route;

use std::net::{IpAddr, SocketAddr};

use crate::address::{Address, Authority};
use crate::error::Error;
use crate::secret;

/// The addresses that clients reach, separated by commas: `10.0.0.5:30001`, or a host alone, which gets the port that is
/// listened on.
pub(super) const ADVERTISE: &str = "TONIC_ETCD_ADVERTISE";
/// The pod's own address, as Kubernetes' documentation names it where it shows the downward API; or all of them
/// (`status.podIPs`). One is taken that the listener answers on.
pub(super) const POD_IP: &str = "POD_IP";

const WHAT: &str = "address to advertise";

/// What is listened on.
#[derive(Clone, Debug)]
pub enum Bound {
    /// With what can reach it, where every interface is listened on.
    Tcp(SocketAddr, Family),
    Unix(String),
    /// Connections come from somewhere.
    Unknown,
}

/// What the environment says.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub(super) advertise: Option<String>,
    pub(super) pod_ip: Option<String>,
}

/// How the addresses are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Known(Vec<Address>),
    /// Only this host reaches it: it will do where etcd is on this host, and nowhere else.
    Local(Address),
    /// The address of the interface that reaches etcd, with this port.
    Route {
        port: u16,
        family: Family,
        https: bool,
    },
}

/// Of which family the address must be, for what is listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    /// `[::]` takes both, as systems have it by default.
    Any,
}

impl Family {
    pub(super) fn has(self, ip: IpAddr) -> bool {
        match self {
            Self::V4 => ip.to_canonical().is_ipv4(),
            Self::V6 => ip.to_canonical().is_ipv6(),
            Self::Any => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Any => "IPv4 and IPv6",
        }
    }
}

/// Where an etcd is, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locality {
    Here,
    Elsewhere,
    /// DNS knows.
    Unknown,
}

pub(super) fn locality(etcd: &Authority) -> Locality {
    let host = etcd.host();
    if host == "localhost" || host.ends_with(".localhost") {
        return Locality::Here;
    }
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.to_canonical().is_loopback() => Locality::Here,
        Ok(_) => Locality::Elsewhere,
        Err(_) => Locality::Unknown,
    }
}

/// Whether other hosts reach it. An address of a link belongs to one, and says not to which.
pub(super) fn is_routable(ip: IpAddr) -> bool {
    let of_a_link = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let ip = ip.to_canonical();
    !ip.is_unspecified() && !ip.is_loopback() && !of_a_link
}

pub(super) fn refused(shown: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::invalid(WHAT, shown, format!("{}: {}", reason.into(), say()))
}

fn say() -> String {
    format!("`Serve::advertise` or {ADVERTISE} says what clients reach")
}

/// What is said comes first, then the environment, then what is listened on.
pub(super) fn plan(said: &[String], environment: &Environment, bound: &Bound, https: bool) -> Result<Plan, Error> {
    let port = match bound {
        Bound::Tcp(address, _) => Some(address.port()),
        Bound::Unix(_) | Bound::Unknown => None,
    };
    let listed = list(environment.advertise.as_deref());
    let read = |(what, text): (&'static str, &str)| read(what, text, port, https);
    if !said.is_empty() {
        return said.iter().map(|text| read((WHAT, text))).collect::<Result<_, _>>().map(Plan::Known);
    }
    if !listed.is_empty() {
        return listed.into_iter().map(|text| read((ADVERTISE, text))).collect::<Result<_, _>>().map(Plan::Known);
    }
    let (bound, family) = match bound {
        Bound::Tcp(bound, family) => (SocketAddr::new(bound.ip().to_canonical(), bound.port()), *family),
        Bound::Unix(path) => {
            return secured(Address::parse(&format!("unix:{path}"))?, https)
                .map(Plan::Local)
                .map_err(|reason| refused(path, reason));
        }
        Bound::Unknown => return Err(refused("", "of these connections nobody knows where they are accepted")),
    };
    match bound.ip() {
        ip if ip.is_unspecified() => {
            let pod_ips = list(environment.pod_ip.as_deref());
            if pod_ips.is_empty() {
                return Ok(Plan::Route { port: bound.port(), family, https });
            }
            let addresses = pod_ips.iter().map(|text| read((POD_IP, *text))).collect::<Result<Vec<_>, _>>()?;
            // A name may stand for either.
            let of_it = |address: &Address| address.ip().is_none_or(|ip| family.has(ip));
            addresses.into_iter().find(of_it).map(|address| Plan::Known(vec![address])).ok_or_else(|| {
                let reason =
                    format!("{bound} takes {} alone, and that is none: listen on both families", family.name());
                Error::invalid(POD_IP, pod_ips.join(","), format!("{reason}, or {}", say()))
            })
        }
        ip if ip.is_loopback() => Ok(Plan::Local(at(bound, https)?)),
        ip if is_routable(ip) => Ok(Plan::Known(vec![at(bound, https)?])),
        ip => Err(refused(ip.to_string(), "it is an address of one link, which other hosts do not reach")),
    }
}

/// What an environment variable lists, separated by commas; IP addresses also by blanks, as `hostname -I` has them.
fn list(text: Option<&str>) -> Vec<&str> {
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

/// Those that nothing answers on unless something forwards them: their port is the one that is listened on, and their family is not.
pub(super) fn forwarded<'a>(addresses: &'a [Address], bound: &Bound) -> Vec<&'a Address> {
    let Bound::Tcp(bound, family) = bound else { return Vec::new() };
    let is_ours = |address: &Address| address.parsed_authority().port() == bound.port();
    let other = |address: &&Address| is_ours(address) && address.ip().is_some_and(|ip| !family.has(ip));
    addresses.iter().filter(other).collect()
}

/// The address of a socket.
pub(super) fn at(address: SocketAddr, https: bool) -> Result<Address, Error> {
    secured(Address::try_from(address)?, https).map_err(|reason| refused(address.to_string(), reason))
}

/// An address as people write it, perhaps without the port that is listened on.
fn read(what: &'static str, text: &str, port: Option<u16>, https: bool) -> Result<Address, Error> {
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
    if address.is_unspecified() {
        return Err(refuse("nobody can call every interface: say the one that clients reach".into()));
    }
    secured(address, https).map_err(|reason| refuse(reason.into()))
}

fn secured(address: Address, https: bool) -> Result<Address, &'static str> {
    match (https, address.unix_path()) {
        (false, _) => Ok(address),
        (true, None) => Ok(Address::from_parts(address.parsed_authority().clone(), true)),
        (true, Some(_)) => Err("a Unix socket is called without TLS, and `Serve::https` asks for it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(bound: &str) -> Bound {
        let bound: SocketAddr = bound.parse().unwrap();
        let family = match bound.ip() {
            ip if ip.to_canonical().is_ipv4() => Family::V4,
            ip if ip.is_unspecified() => Family::Any,
            _ => Family::V6,
        };
        Bound::Tcp(bound, family)
    }

    fn environment(advertise: Option<&str>, pod_ip: Option<&str>) -> Environment {
        Environment { advertise: advertise.map(Into::into), pod_ip: pod_ip.map(Into::into) }
    }

    fn planned(said: &[&str], environment: &Environment, bound: &Bound, https: bool) -> Result<Plan, String> {
        let said: Vec<String> = said.iter().map(|text| (*text).to_owned()).collect();
        plan(&said, environment, bound, https).map_err(|error| error.to_string())
    }

    fn known(addresses: &[&str]) -> Plan {
        Plan::Known(addresses.iter().map(|address| Address::parse(address).unwrap()).collect())
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
        let route = |family| Ok(Plan::Route { port: 7, family, https: false });
        assert_eq!(planned(&[], &none, &tcp("0.0.0.0:7"), false), route(Family::V4));
        assert_eq!(planned(&[], &none, &tcp("[::ffff:0.0.0.0]:7"), false), route(Family::V4));
        assert_eq!(planned(&[], &none, &tcp("[::]:7"), false), route(Family::Any));
        let only_v6 = Bound::Tcp("[::]:7".parse().unwrap(), Family::V6);
        assert_eq!(planned(&[], &none, &only_v6, false), route(Family::V6));
        assert!(!Family::V4.has("::1".parse().unwrap()) && Family::V4.has("1.1.1.1".parse().unwrap()));
        assert!(!Family::V6.has("::ffff:1.1.1.1".parse().unwrap()) && Family::V6.has("::1".parse().unwrap()));
    }

    /// F22: what `POD_IP` says is registered where the listener answers on it, and refused where it does not.
    #[test]
    fn a_pod_is_reached_by_the_family_that_is_listened_on() {
        let (v4, both) = (tcp("0.0.0.0:7"), tcp("[::]:7"));
        let v6 = Bound::Tcp("[::]:7".parse().unwrap(), Family::V6);
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
        let Plan::Known(addresses) = plan else { panic!("they are known") };
        assert_eq!(forwarded(&addresses, &v4), [&addresses[2]]);
        assert!(forwarded(&addresses, &both).is_empty() && forwarded(&addresses, &Bound::Unknown).is_empty());
    }

    #[test]
    fn what_only_this_host_reaches_is_for_an_etcd_on_it() {
        let local = |address| Ok(Plan::Local(Address::parse(address).unwrap()));
        let none = Environment::default();
        assert_eq!(planned(&[], &none, &tcp("127.0.0.1:7"), false), local("127.0.0.1:7"));
        assert_eq!(planned(&[], &none, &tcp("[::1]:7"), true), local("https://[::1]:7"));
        assert_eq!(planned(&[], &none, &Bound::Unix("/run/g".into()), false), local("unix:/run/g"));
        assert!(planned(&[], &none, &Bound::Unix("/run/g".into()), true).unwrap_err().contains("without TLS"));
        for (etcd, expected) in [
            ("localhost:2379", Locality::Here),
            ("etcd.localhost:2379", Locality::Here),
            ("127.0.0.9:1", Locality::Here),
            ("[::1]:1", Locality::Here),
            ("[::ffff:127.0.0.1]:1", Locality::Here),
            ("10.0.0.1:1", Locality::Elsewhere),
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
            (&[][..], &none, Bound::Unknown, "Serve::advertise"),
            (&[], &none, tcp("169.254.1.1:7"), "one link"),
            (&[], &none, tcp("[fe80::1]:7"), "one link"),
            (&["0.0.0.0"], &none, tcp("10.0.0.5:7"), "every interface"),
            (&["[::]:8"], &none, tcp("10.0.0.5:7"), "every interface"),
            (&["host"], &none, Bound::Unknown, "no port"),
            (&["10.0.0.7"], &none, Bound::Unix("/run/g".into()), "no port"),
            (&["host:0"], &none, tcp("10.0.0.5:7"), "not a number from 1"),
            (&["a,b"], &none, tcp("10.0.0.5:7"), "one address at a time"),
            (&[], &environment(Some("host:x"), None), tcp("10.0.0.5:7"), "TONIC_ETCD_ADVERTISE"),
            (&[], &environment(Some("0.0.0.0"), None), tcp("10.0.0.5:7"), "TONIC_ETCD_ADVERTISE"),
            (&[], &environment(None, Some("no ip")), tcp("0.0.0.0:7"), "POD_IP"),
        ] {
            let error = planned(said, environment, &bound, false).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
