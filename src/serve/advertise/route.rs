//! The addresses that only the network tells: the interface that reaches etcd, and whether etcd is
//! on this host.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::address::{Address, Authority};
use crate::error::Error;
use crate::serve::advertise::plan::{
    ADVERTISE, AddressFamily, AddressPlan, Environment, Locality, POD_IP, is_routable, locality, refused, refused_of,
    socket_address,
};

/// How long a DNS lookup may take before it is repeated: resolvers usually give up after 5 s.
const LOOKUP: Duration = Duration::from_secs(5);

/// The reason while DNS SRV records have not named a member of etcd.
const NO_MEMBER: &str = "the address of etcd is not known yet";

/// Why there is no address.
pub(crate) enum RouteError {
    /// Another setting is needed.
    Refused(Error),
    /// DNS or the network may give one later.
    NotYet(Error),
}

impl From<Error> for RouteError {
    /// An address or a setting that is refused stays so.
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Reads the environment once, when serving begins. What is not UTF-8 is no address, and is refused as
/// such.
pub(crate) fn environment() -> Environment {
    let read = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    Environment { advertise: read(ADVERTISE), pod_ip: read(POD_IP) }
}

/// The addresses to register. `etcd` are the members of etcd, or `None` if only a client of the
/// user's knows them.
pub(crate) async fn addresses(plan: &AddressPlan, etcd: Option<&[Authority]>) -> Result<Vec<Address>, RouteError> {
    match plan {
        AddressPlan::Known(addresses) => Ok(addresses.clone()),
        AddressPlan::Local(address, what) => check_local(address, what, etcd).await.map(|()| vec![address.clone()]),
        AddressPlan::Route { port, family, https } => {
            let ip = interface(*port, *family, etcd).await?;
            Ok(vec![socket_address(SocketAddr::new(ip, *port), *https)?])
        }
    }
}

/// Accepts an address that only this host reaches if every member of etcd is on this host: then so
/// are the clients.
async fn check_local(address: &Address, what: &'static str, etcd: Option<&[Authority]>) -> Result<(), RouteError> {
    let refused = |reason: &str| refused_of(what, address.to_string(), reason);
    let refuse = |reason: String| Err(refused(&reason).into());
    let Some(etcd) = etcd else {
        return refuse("only this host reaches it, and the given client does not tell where etcd is".into());
    };
    if etcd.is_empty() {
        return Err(RouteError::NotYet(refused(NO_MEMBER)));
    }
    let mut unknown = None;
    for member in etcd {
        let is_local = match locality(member) {
            Locality::Local => true,
            Locality::Remote => false,
            Locality::Unknown => match lookup(member).await {
                Ok(addresses) => addresses.iter().all(|address| address.ip().to_canonical().is_loopback()),
                Err(reason) => {
                    unknown = Some(RouteError::NotYet(refused(&reason)));
                    continue;
                }
            },
        };
        if !is_local {
            return refuse(format!("only this host reaches it, and etcd ({}) is on another", member.as_str()));
        }
    }
    unknown.map_or(Ok(()), Err)
}

/// The address of the interface that reaches a member of etcd. A routable one of any member is
/// taken at once; a loopback one only if no member is left that could give another.
async fn interface(port: u16, family: AddressFamily, etcd: Option<&[Authority]>) -> Result<IpAddr, RouteError> {
    let (every, loopback): (IpAddr, IpAddr) = match family {
        AddressFamily::V4 => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        AddressFamily::V6 => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
        AddressFamily::Any => (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
    };
    let every = SocketAddr::new(every, port).to_string();
    let Some(etcd) = etcd else {
        let reason = "every interface is listened on, and the given client does not tell which of them reaches etcd";
        return Err(refused(every, reason).into());
    };
    if etcd.is_empty() {
        return Err(RouteError::NotYet(refused(every, NO_MEMBER)));
    }
    let (mut local, mut unreachable) = (None, None);
    for member in etcd {
        let is_name = member.host().parse::<IpAddr>().is_err();
        let known = match locality(member) {
            Locality::Local if is_name => Ok(vec![(loopback, member.port()).into()]),
            _ => lookup(member).await,
        };
        let known: Vec<SocketAddr> = known.unwrap_or_else(|reason| {
            unreachable = Some(reason);
            Vec::new()
        });
        for address in known.into_iter().filter(|address| family.contains(address.ip().to_canonical())) {
            match source(address) {
                Ok(ip) if is_routable(ip) => return Ok(ip.to_canonical()),
                Ok(ip) if ip.to_canonical().is_loopback() => local = Some(ip.to_canonical()),
                Ok(_) => {}
                Err(error) => unreachable = Some(format!("no route to {}: {error}", member.as_str())),
            }
        }
    }
    match (local, unreachable) {
        (Some(ip), None) => {
            tracing::warn!(%ip, "advertised address is loopback because etcd is on this host, other hosts cannot reach it");
            Ok(ip)
        }
        // A route to the other members may come.
        (_, Some(reason)) => {
            let reason = format!("every interface is listened on, and none reaches etcd yet ({reason})");
            Err(RouteError::NotYet(refused(every, reason)))
        }
        (None, None) => {
            let reason = "no interface reaches etcd by the address family that is listened on";
            Err(refused(every, reason).into())
        }
    }
}

/// The source address that the system chooses for a destination. Connecting a UDP socket sends
/// nothing.
fn source(destination: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip())
}

/// The addresses of a member, or why they are not known.
async fn lookup(member: &Authority) -> Result<Vec<SocketAddr>, String> {
    let lookup = async { lookup_host(member.as_str()).await.map(Iterator::collect::<Vec<_>>) };
    let reason = match timeout(LOOKUP, lookup).await {
        Ok(Ok(addresses)) if !addresses.is_empty() => return Ok(addresses),
        Ok(Ok(_)) => "DNS has no address of it".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("DNS did not answer within {} s", LOOKUP.as_secs()),
    };
    Err(format!("the address of etcd ({}) is not known: {reason}", member.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etcd(hosts: &[&str]) -> Vec<Authority> {
        hosts.iter().map(|host| Authority::parse(host, Some(2379)).unwrap()).collect()
    }

    async fn found(plan: &AddressPlan, hosts: Option<&[&str]>) -> Result<String, (bool, String)> {
        let hosts = hosts.map(etcd);
        match addresses(plan, hosts.as_deref()).await {
            Ok(addresses) => Ok(addresses[0].to_string()),
            Err(RouteError::Refused(error)) => Err((true, error.to_string())),
            Err(RouteError::NotYet(error)) => Err((false, error.to_string())),
        }
    }

    #[tokio::test]
    async fn a_local_address_is_for_a_local_etcd() {
        let of = |what| AddressPlan::Local(Address::parse("127.0.0.1:7").unwrap(), what);
        let (refused, error) = found(&of(POD_IP), Some(&["10.0.0.1"])).await.unwrap_err();
        assert!(refused && error.contains("POD_IP \"127.0.0.1:7\""), "{error}");
        let plan = of("address to advertise");
        assert_eq!(found(&plan, Some(&["localhost", "[::1]"])).await.unwrap(), "127.0.0.1:7");
        for hosts in [Some(&["localhost", "10.0.0.1"][..]), None] {
            let (refused, error) = found(&plan, hosts).await.unwrap_err();
            assert!(refused && error.contains("127.0.0.1:7") && error.contains("Serve::advertise"), "{error}");
        }
        let (refused, error) = found(&plan, Some(&["no-such-host.invalid"])).await.unwrap_err();
        assert!(!refused && error.contains("no-such-host.invalid"), "{error}");
    }

    /// What is found where there is IPv6; without, it may come.
    fn local_v6() -> Result<String, bool> {
        if UdpSocket::bind("[::1]:0").is_ok() { Ok("[::1]:7".to_owned()) } else { Err(false) }
    }

    #[tokio::test]
    async fn every_interface_becomes_the_one_that_reaches_etcd() {
        let route = |family| AddressPlan::Route { port: 7, family, https: false };
        assert_eq!(found(&route(AddressFamily::V4), Some(&["127.0.0.1"])).await.unwrap(), "127.0.0.1:7");
        assert_eq!(found(&route(AddressFamily::Any), Some(&["localhost"])).await.unwrap(), "127.0.0.1:7");
        assert_eq!(
            found(&route(AddressFamily::V6), Some(&["localhost"])).await.map_err(|(refused, _)| refused),
            local_v6()
        );
        let (refused, error) = found(&route(AddressFamily::V6), Some(&["127.0.0.1"])).await.unwrap_err();
        assert!(refused && error.contains("family"), "{error}");
        let (refused, error) = found(&route(AddressFamily::V4), Some(&["[::1]"])).await.unwrap_err();
        assert!(refused && error.contains("family"), "{error}");
        assert!(found(&route(AddressFamily::Any), None).await.unwrap_err().0);
        let (refused, error) = found(&route(AddressFamily::Any), Some(&["no-such-host.invalid"])).await.unwrap_err();
        assert!(!refused && error.contains("not known"), "{error}");
        // One that can be found is enough, wherever it stands.
        for hosts in [["127.0.0.1", "no-such-host.invalid"], ["no-such-host.invalid", "127.0.0.1"]] {
            assert!(!found(&route(AddressFamily::V4), Some(&hosts)).await.unwrap_err().0, "the other may be elsewhere");
        }
        // Nothing is sent: any address that there is a way to will do.
        if let Ok(address) = found(&route(AddressFamily::V4), Some(&["192.0.2.1"])).await {
            for hosts in [["192.0.2.1", "no-such-host.invalid"], ["no-such-host.invalid", "192.0.2.1"]] {
                assert_eq!(found(&route(AddressFamily::V4), Some(&hosts)).await.unwrap(), address);
            }
        }
    }
}
