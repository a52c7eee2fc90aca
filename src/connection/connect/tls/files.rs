//! Certificates and keys in files, which are read again when they have changed.
//!
//! Nothing watches the files. For each new connection their stamps (length, times, inode) are
//! compared with those of the last read. This works on every file system, costs one `stat` for each
//! file, and needs no thread. Files are read, and the configuration is made anew, if a stamp has
//! changed or is too young to tell. If the contents are the same all the same, the configuration
//! stays the same one, and TLS sessions are resumed.

use std::collections::hash_map::RandomState;
use std::fs::{self, Metadata};
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::ClientConfig;

use crate::connection::connect::tls::config::{IDENTITY, InvalidTls, Pem, ROOTS, client_config, with_http2_alpn};

/// A file that was written within this time may be written again and keep its stamp: file systems
/// store times as coarsely as 2 s (FAT), and rewriting a file in place changes neither its length
/// nor its inode.
const STAMP_RESOLUTION: Duration = Duration::from_secs(2);
/// Files that are replaced one after the other do not match for a moment. So invalid files are read
/// again soon, so often.
const MAX_READS: usize = 3;
const PAUSE_BETWEEN_READS: Duration = Duration::from_millis(10);

/// The root certificates and the identity, as the user gave them. Some or all of them are files.
pub(super) struct PemFiles {
    pub(super) roots: Option<Pem>,
    /// Certificate chain and key.
    pub(super) identity: Option<(Pem, Pem)>,
}

impl PemFiles {
    /// Whether any of them is a file.
    pub(super) fn has_any(&self) -> bool {
        self.paths().next().is_some()
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().chain(self.identity_pems()).filter_map(path)
    }

    fn identity_pems(&self) -> impl Iterator<Item = &Pem> {
        self.identity.iter().flat_map(|(certificates, key)| [certificates, key])
    }

    /// The stamps of the files that the paths lead to, through all symbolic links.
    fn stamps(&self) -> Result<Vec<FileStamp>, InvalidTls> {
        let stamp = |path: &Path| fs::metadata(path).map(|data| FileStamp::of(&data)).map_err(|error| at(path, &error));
        self.paths().map(stamp).collect()
    }

    /// Adds the files of a setting to an error about it.
    fn with_paths(&self, invalid: InvalidTls) -> InvalidTls {
        let pems: Vec<&Pem> = match invalid.setting.as_str() {
            ROOTS => self.roots.iter().collect(),
            IDENTITY => self.identity_pems().collect(),
            _ => return invalid,
        };
        let paths: Vec<_> = pems.into_iter().filter_map(path).map(|path| path.display().to_string()).collect();
        if paths.is_empty() {
            return invalid;
        }
        InvalidTls { setting: format!("{} in {}", invalid.setting, paths.join(" and ")), ..invalid }
    }
}

/// The path, if it is a file.
fn path(pem: &Pem) -> Option<&Path> {
    match pem {
        Pem::File(path) => Some(path),
        Pem::Text(_) => None,
    }
}

/// The text, or the contents of the file.
fn contents(pem: &Pem) -> Result<Vec<u8>, InvalidTls> {
    match pem {
        Pem::Text(text) => Ok(text.clone()),
        Pem::File(path) => fs::read(path).map_err(|error| at(path, &error)),
    }
}

/// An error about one file.
fn at(path: &Path, error: &std::io::Error) -> InvalidTls {
    InvalidTls::new(path.display().to_string(), error)
}

/// Tells one state of a file from the next without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileStamp {
    length: u64,
    modified: Option<SystemTime>,
    /// Device, inode, and the time of the last change of the inode, in seconds and nanoseconds.
    inode: (u64, u64, i64, i64),
}

impl FileStamp {
    /// From the metadata of the file behind all links.
    fn of(data: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = {
            use std::os::unix::fs::MetadataExt;
            (data.dev(), data.ino(), data.ctime(), data.ctime_nsec())
        };
        #[cfg(not(unix))]
        let inode = (0, 0, 0, 0);
        Self { length: data.len(), modified: data.modified().ok(), inode }
    }

    /// Whether every later change of the file changes its stamp.
    fn is_settled(&self, now: SystemTime) -> bool {
        self.modified.is_some_and(|modified| now.duration_since(modified).is_ok_and(|age| age > STAMP_RESOLUTION))
    }
}

/// Makes the configuration from files, and makes it anew when they have changed.
pub(super) struct FileReader {
    files: PemFiles,
    hasher: RandomState,
    last: Option<LastRead>,
}

/// The last files that were read, and the result.
struct LastRead {
    stamps: Vec<FileStamp>,
    /// Whether equal stamps mean equal files.
    is_settled: bool,
    /// Of the contents, which are not kept.
    hash: u64,
    result: Result<Arc<ClientConfig>, InvalidTls>,
}

impl FileReader {
    /// Reads nothing yet.
    pub(super) fn new(files: PemFiles) -> Self {
        Self { files, hasher: RandomState::new(), last: None }
    }

    /// The configuration that the files now give. Blocks.
    pub(super) fn read(&mut self) -> Result<Arc<ClientConfig>, InvalidTls> {
        let mut reads = 1;
        loop {
            let result = self.read_once();
            if result.is_ok() || !self.files.has_any() || reads == MAX_READS || self.is_settled_error() {
                return result;
            }
            reads += 1;
            thread::sleep(PAUSE_BETWEEN_READS);
        }
    }

    /// Whether the files have been invalid for longer than a replacement takes: reading them again
    /// soon is of no use.
    fn is_settled_error(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.is_settled && last.result.is_err())
    }

    /// Reads the files if they may have changed.
    fn read_once(&mut self) -> Result<Arc<ClientConfig>, InvalidTls> {
        let before = self.files.stamps().inspect_err(|_| {
            // A file is gone. An older error must not count as settled when the file is back.
            self.last = self.last.take().filter(|last| last.result.is_ok());
        })?;
        if let Some(last) = &self.last
            && last.is_settled
            && last.stamps == before
        {
            return last.result.clone();
        }
        // The time and the stamps before the contents: a write from now on leaves the result
        // unsettled.
        let now = SystemTime::now();
        let roots = self.files.roots.as_ref().map(contents).transpose()?;
        let identity = match &self.files.identity {
            Some((certificates, key)) => Some((contents(certificates)?, contents(key)?)),
            None => None,
        };
        let is_settled = before.iter().all(|stamp| stamp.is_settled(now)) && self.files.stamps()? == before;
        let hash = self.hasher.hash_one((&roots, &identity));
        if let Some(last) = &mut self.last
            && last.hash == hash
        {
            // The same configuration: TLS sessions can be resumed only with the one that made them.
            (last.stamps, last.is_settled) = (before, is_settled);
            return last.result.clone();
        }
        let identity = identity.as_ref().map(|(certificates, key)| (certificates.as_slice(), key.as_slice()));
        let result = client_config(roots.as_deref(), identity).map(with_http2_alpn);
        let result = result.map_err(|invalid| self.files.with_paths(invalid));
        self.last = Some(LastRead { stamps: before, is_settled, hash, result: result.clone() });
        result
    }
}
