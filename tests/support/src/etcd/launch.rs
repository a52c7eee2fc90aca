//! One etcd's command line: what a start and every start again have in common.

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Error, Result};

const NO_ETCD: &str = "no etcd: run `cargo xtask test`, which fetches one, or set ETCD_BIN";

#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) binary: PathBuf,
    pub(crate) name: String,
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// `name=http://peer,…` of all members.
    pub(crate) members: String,
    /// Milliseconds of heartbeat and election; `None` leaves etcd's defaults of 100 and 1000.
    pub(crate) pace: Option<(u32, u32)>,
    /// A further address for clients, which speaks TLS alone.
    pub(crate) tls: Option<Tls>,
    /// Stand last, so that they win over what is set here.
    pub(crate) extra: Vec<OsString>,
}

/// TLS with client certificates; etcd reads the certificate and the key for each handshake, and the trusted roots at its start.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) client: SocketAddr,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) trusted: PathBuf,
}

pub(crate) fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

pub(crate) fn saved_dir(dir: &Path) -> PathBuf {
    dir.join("saved")
}

pub(crate) fn log_file(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// The etcd to run: `ETCD_BIN`, else the one on `PATH`.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("ETCD_BIN").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(Error::new(format!("{NO_ETCD} (ETCD_BIN={} is not a file)", path.display())))
        };
    }
    env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("etcd"))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::new(NO_ETCD))
}

impl Launch {
    pub(crate) fn spawn(&self, dir: &Path) -> Result<Child> {
        let log_path = log_file(dir);
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.and_then(|log| Ok((log.try_clone()?, log)));
        let (stdout, stderr) = log.map_err(|error| Error::new(format!("opening {}: {error}", log_path.display())))?;
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let mut command = Command::new(&self.binary);
        command.args(["--name", &self.name]);
        command.arg("--data-dir").arg(data_dir(dir));
        let mut listened = client.clone();
        if let Some(tls) = &self.tls {
            listened = format!("{client},https://{}", tls.client);
            command.arg("--client-cert-auth").arg("--cert-file").arg(&tls.certificate);
            command.arg("--key-file").arg(&tls.key).arg("--trusted-ca-file").arg(&tls.trusted);
        }
        command.args(["--listen-client-urls", &listened, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &self.members, "--initial-cluster-token", "tests"]);
        command.args(["--unsafe-no-fsync", "--log-level=warn"]);
        if let Some((heartbeat, election)) = self.pace {
            command.arg(format!("--heartbeat-interval={heartbeat}"));
            command.arg(format!("--election-timeout={election}"));
        }
        command.args(&self.extra);
        clean_env(&mut command);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        command.spawn().map_err(|error| Error::new(format!("starting {}: {error}", self.binary.display())))
    }
}

/// For any command of the binary.
pub(crate) fn clean_env(command: &mut Command) {
    // etcd takes every ETCD_… variable for one of its flags.
    for (key, _) in env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("ETCD_")) {
        command.env_remove(key);
    }
    if cfg!(target_arch = "aarch64") {
        command.env("ETCD_UNSUPPORTED_ARCH", "arm64"); // etcd 3.4 refuses to run there without it
    }
}
