//! How an etcd is to be started.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;

use super::{Etcd, Launch, launch};
use crate::{Error, Result, ports};

/// A port can be taken between the choice and the start; five times in a row it is something else.
const ATTEMPTS: usize = 5;

/// Options of an [`Etcd`] to start.
#[derive(Debug, Clone)]
pub struct Builder {
    binary: Option<PathBuf>,
    port: Option<u16>,
    pace: Option<(u32, u32)>,
    tls: Option<(PathBuf, PathBuf, PathBuf)>,
    extra: Vec<OsString>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { binary: None, port: None, pace: Some((10, 50)), tls: None, extra: Vec::new() }
    }
}

impl Builder {
    /// `false`: etcd's own pace (heartbeat 100 ms, election 1000 ms: a start takes up to a second, and lease
    /// TTLs begin at 2 s). `true`, the default: 10 ms and 50 ms.
    #[must_use]
    pub fn fast(self, fast: bool) -> Self {
        Self { pace: fast.then_some((10, 50)), ..self }
    }

    /// Heartbeat interval and election timeout in milliseconds.
    #[must_use]
    pub fn pace(self, heartbeat_ms: u32, election_ms: u32) -> Self {
        Self { pace: Some((heartbeat_ms, election_ms)), ..self }
    }

    /// One more argument of etcd, as `--auto-compaction-retention=1s`; it wins over those set by default.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.extra.push(arg.into());
        self
    }

    /// More arguments: see [`Builder::arg`].
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.extra.extend(args.into_iter().map(Into::into));
        self
    }

    /// Listens at [`Etcd::tls_endpoint`] too, by TLS and for clients with a certificate alone: these are the files of etcd's own
    /// certificate and key, which it reads for each handshake, and of the roots that it trusts, which it reads at each start.
    #[must_use]
    pub fn tls(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>, trusted: impl Into<PathBuf>) -> Self {
        Self { tls: Some((certificate.into(), key.into(), trusted.into())), ..self }
    }

    /// The binary to run, instead of `ETCD_BIN` or the one on `PATH`.
    #[must_use]
    pub fn binary(self, path: impl Into<PathBuf>) -> Self {
        Self { binary: Some(path.into()), ..self }
    }

    /// This client port, instead of a free one.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    /// Starts it and waits until it is healthy.
    ///
    /// # Panics
    /// Where there is no etcd, or it does not become healthy.
    pub fn start(self) -> Etcd {
        self.try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Builder::start`], with the failure as an error.
    ///
    /// # Errors
    /// Where there is no etcd, or it does not become healthy; with the end of its log.
    pub fn try_start(self) -> Result<Etcd> {
        self.try_start_members(1)?.pop().ok_or_else(|| Error::new("no etcd was started"))
    }

    /// Starts a further member of a cluster that runs, and waits until it is healthy. `announce` is given its peer URL, adds it to
    /// the cluster, and gives the cluster's members, itself among them, as `name=peer URL,…`.
    ///
    /// # Panics
    /// Where there is no etcd, or it does not become healthy.
    pub fn join(&self, name: &str, announce: impl FnOnce(&str) -> String) -> Etcd {
        let started = self.clone().arg("--initial-cluster-state=existing").members(1).and_then(|mut members| {
            let mut member = members.pop().ok_or_else(|| Error::new("no etcd was made"))?;
            name.clone_into(&mut member.launch.name);
            // Its ports are held until it starts: to be added to a cluster takes its time.
            let held = [ports::hold()?, ports::hold()?];
            (member.launch.client, member.launch.peer) = (ports::of(&held[0])?, ports::of(&held[1])?);
            member.launch.members = announce(&format!("http://{}", member.launch.peer));
            drop(held);
            member.spawn()?;
            member.wait_healthy()?;
            Ok(member)
        });
        started.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts the members of one cluster and waits until all of them are healthy.
    pub(crate) fn try_start_members(&self, count: usize) -> Result<Vec<Etcd>> {
        let mut attempt = 1;
        loop {
            let members = self.members(count)?;
            let started = members.iter().try_for_each(Etcd::spawn);
            match started.and_then(|()| members.iter().try_for_each(Etcd::wait_healthy)) {
                Ok(()) => return Ok(members),
                Err(_) if attempt < ATTEMPTS && self.port.is_none() && lost_its_port(&members) => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn members(&self, count: usize) -> Result<Vec<Etcd>> {
        let binary = self.binary.clone().map_or_else(launch::binary, Ok)?;
        let peers: Vec<SocketAddr> = (0..count).map(|_| ports::free()).collect();
        let members: Vec<String> = peers.iter().enumerate().map(|(i, peer)| format!("m{i}=http://{peer}")).collect();
        let member = |(i, peer): (usize, &SocketAddr)| {
            let launch = Launch {
                binary: binary.clone(),
                name: format!("m{i}"),
                client: self.port.map_or_else(ports::free, |port| (Ipv4Addr::LOCALHOST, port).into()),
                peer: *peer,
                members: members.join(","),
                pace: self.pace,
                tls: self.tls.clone().map(|(certificate, key, trusted)| launch::Tls {
                    client: ports::free(),
                    certificate,
                    key,
                    trusted,
                }),
                extra: self.extra.clone(),
            };
            let dir = tempfile::Builder::new().prefix("etcd-").tempdir();
            let dir = dir.map_err(|error| Error::new(format!("making a temporary folder for etcd: {error}")))?;
            Ok(Etcd { launch, child: Mutex::new(None), dir })
        };
        peers.iter().enumerate().map(member).collect()
    }
}

fn lost_its_port(members: &[Etcd]) -> bool {
    members.iter().any(|member| member.log().contains("address already in use"))
}
