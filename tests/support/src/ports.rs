//! Ports for children that must be told their port before they start.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::{Error, Result};

/// What this process gave out already: two tests of one binary never get the same port.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// The lowest port the system itself hands out to outgoing connections.
static EPHEMERAL_FROM: LazyLock<u16> = LazyLock::new(|| {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32768)
});

/// A free port of 127.0.0.1. Another process can still take it first: who uses it must be ready to ask again.
///
/// It lies below the system's ephemeral range where that leaves room: a client that keeps dialling the
/// port of an etcd that is down could otherwise be given that very port as its own, connect to itself and
/// keep etcd from coming back.
pub(crate) fn free() -> SocketAddr {
    const LOWEST: u16 = 10_000;
    let room = EPHEMERAL_FROM.saturating_sub(LOWEST);
    for attempt in 0..200_u16 {
        if room < 1000 {
            break;
        }
        let random = RandomState::new().hash_one(attempt) % u64::from(room);
        if let Some(address) = claim(LOWEST + random as u16) {
            return address;
        }
    }
    std::iter::repeat_with(|| claim(0)).flatten().next().expect("an endless iterator")
}

/// The same, held until it is dropped.
pub(crate) fn hold() -> Result<TcpListener> {
    let held = (0..10).find_map(|_| TcpListener::bind(free()).ok());
    held.ok_or_else(|| Error::new("no free port could be held"))
}

pub(crate) fn of(held: &TcpListener) -> Result<SocketAddr> {
    held.local_addr().map_err(|error| Error::new(format!("asking for a port's number: {error}")))
}

fn claim(port: u16) -> Option<SocketAddr> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?.local_addr().ok()?;
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    given.insert(address.port()).then_some(address)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ports_differ_and_are_free() {
        let ports: std::collections::HashSet<_> = (0..50).map(|_| super::free()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            assert!(port.port() < *super::EPHEMERAL_FROM || *super::EPHEMERAL_FROM < 11_000);
            std::net::TcpListener::bind(port).unwrap();
        }
    }
}
