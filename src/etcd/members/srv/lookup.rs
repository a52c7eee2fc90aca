//! One SRV lookup in DNS, by hickory-resolver.
//!
//! The system's own resolver (`getaddrinfo`) cannot be asked for SRV records. hickory-resolver
//! reads the same `resolv.conf`, tries several servers, and falls back to TCP where an answer is
//! truncated. Its configuration is read for each lookup, because a laptop or a container may get
//! another one while the process lives.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{Resolver, ResolverBuilder, TokioResolver};

use crate::etcd::members::srv::records::Record;

/// The time limit of one try at one DNS server. The default of hickory-resolver, 5 s, is longer
/// than a request waits.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a lookup.
pub(crate) enum SrvAnswer {
    /// The records and the shortest TTL among them.
    Records { records: Vec<Record>, ttl: Duration },
    /// The name exists without SRV records, or does not exist; with the reason.
    None(String),
    /// There was no answer; with the reason.
    Failed(String),
    /// No lookup was made.
    NotAsked,
}

impl SrvAnswer {
    /// The TTL of an answer with records.
    pub(crate) fn ttl(&self) -> Option<Duration> {
        match self {
            Self::Records { ttl, .. } => Some(*ttl),
            _ => None,
        }
    }
}

/// Looks up the SRV records of a name at these servers. Without servers the system's configuration
/// is used. Without a name nothing is asked.
///
/// Never fails: what went wrong is part of the answer, because a failed lookup keeps the last
/// members and an empty one does not.
pub(crate) async fn look_up(name: Option<&str>, servers: &[SocketAddr]) -> SrvAnswer {
    let Some(name) = name else { return SrvAnswer::NotAsked };
    let name = match Name::from_ascii(name) {
        Ok(name) => name,
        Err(error) => return SrvAnswer::Failed(error.to_string()),
    };
    let resolver = match resolver(servers).await {
        Ok(resolver) => resolver,
        Err(error) => return SrvAnswer::Failed(format!("the system's DNS configuration: {error}")),
    };
    let found = match resolver.srv_lookup(name).await {
        Ok(found) => found,
        Err(error) if error.is_nx_domain() => return SrvAnswer::None("there is no such name (NXDOMAIN)".into()),
        Err(error) if error.is_no_records_found() => return SrvAnswer::None("it has no SRV records".into()),
        Err(error) => return SrvAnswer::Failed(error.to_string()),
    };
    let (mut records, mut ttl) = (Vec::new(), u32::MAX);
    for answer in found.answers() {
        // An alias (CNAME) in front of the records may expire sooner.
        ttl = ttl.min(answer.ttl);
        if let RData::SRV(srv) = &answer.data {
            let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
            records.push(Record { priority, weight, port, target: srv.target.to_ascii() });
        }
    }
    if records.is_empty() {
        return SrvAnswer::None("it has no SRV records".into());
    }
    SrvAnswer::Records { records, ttl: Duration::from_secs(ttl.into()) }
}

/// The DNS client of these servers, or of the system's configuration. Two tries for each server.
///
/// # Errors
/// When the system's configuration cannot be read.
async fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let mut builder = if servers.is_empty() {
        // Reading the configuration reads files.
        let reading = tokio::task::spawn_blocking(TokioResolver::builder_tokio);
        reading.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?
    } else {
        builder_for(servers)
    };
    let options = builder.options_mut();
    // No cache: a lookup must see what has changed.
    options.cache_size = 0;
    options.timeout = options.timeout.min(TRY_TIMEOUT);
    options.attempts = options.attempts.min(2);
    builder.build().map_err(|error| error.to_string())
}

/// The configuration of a DNS client that asks these servers, by UDP and then by TCP, without
/// search domains.
fn builder_for(servers: &[SocketAddr]) -> ResolverBuilder<TokioRuntimeProvider> {
    let at = |mut connection: ConnectionConfig, port: u16| {
        connection.port = port;
        connection
    };
    let server = |server: &SocketAddr| {
        let connections = vec![at(ConnectionConfig::udp(), server.port()), at(ConnectionConfig::tcp(), server.port())];
        NameServerConfig::new(server.ip(), true, connections)
    };
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
    Resolver::builder_with_config(config, TokioRuntimeProvider::default())
}
