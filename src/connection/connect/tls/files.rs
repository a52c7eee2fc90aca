//! Certificates and keys in files, which are read again when they have changed.

use std::collections::hash_map::RandomState;
use std::fs::{self, Metadata};
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::ClientConfig;

use crate::connection::connect::tls::settings::over_http2;
use crate::connection::connect::tls::{Invalid, Pem, configure};

/// A file that was written less than so long ago may be written again without another time, length or number: clocks of file systems
/// are that coarse.
const FRESH: Duration = Duration::from_secs(2);
/// While files are replaced one after the other, or their folder is swapped, they are read again soon, so often.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_millis(10);

/// Where trust and identity stand.
pub(crate) struct Files {
    pub(crate) roots: Option<Pem>,
    pub(crate) identity: Option<(Pem, Pem)>,
}

impl Files {
    /// Whether there is no file among them.
    pub(crate) fn is_fixed(&self) -> bool {
        !self.all().any(|pem| matches!(pem, Pem::File(_)))
    }

    fn all(&self) -> impl Iterator<Item = &Pem> {
        let identity = self.identity.iter().flat_map(|(certificates, key)| [certificates, key]);
        self.roots.iter().chain(identity)
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        self.all().filter_map(|pem| match pem {
            Pem::File(path) => Some(path.as_path()),
            Pem::Text(_) => None,
        })
    }

    /// Which files they are now, behind all symbolic links.
    fn stamps(&self) -> Result<Vec<Stamp>, Invalid> {
        self.paths()
            .map(|path| fs::metadata(path).map(|data| Stamp::of(&data)).map_err(|error| at(path, &error)))
            .collect()
    }

    fn contents(&self) -> Result<Contents, Invalid> {
        let read = |pem: &Pem| match pem {
            Pem::Text(text) => Ok(text.clone()),
            Pem::File(path) => fs::read(path).map_err(|error| at(path, &error)),
        };
        let roots = self.roots.as_ref().map(read).transpose()?;
        let identity = match &self.identity {
            Some((certificates, key)) => Some((read(certificates)?, read(key)?)),
            None => None,
        };
        Ok((roots, identity))
    }

    /// What of the settings it is, with the files that were given for it.
    fn name(&self, what: &str) -> String {
        let of = match what {
            "root certificates" => self.roots.as_ref().into_iter().collect::<Vec<_>>(),
            "identity" => self.identity.iter().flat_map(|(certificates, key)| [certificates, key]).collect(),
            _ => Vec::new(),
        };
        let paths = of.into_iter().filter_map(|pem| match pem {
            Pem::File(path) => Some(path.display().to_string()),
            Pem::Text(_) => None,
        });
        let paths = paths.collect::<Vec<_>>().join(" and ");
        if paths.is_empty() { what.to_owned() } else { format!("{what} in {paths}") }
    }
}

type Contents = (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>);

fn at(path: &Path, error: &std::io::Error) -> Invalid {
    (path.display().to_string(), error.to_string())
}

/// What tells one state of a file from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// Device and number, and when anything of it was last changed.
    id: (u64, u64, i64, i64),
}

impl Stamp {
    fn of(data: &Metadata) -> Self {
        #[cfg(unix)]
        let id = {
            use std::os::unix::fs::MetadataExt;
            (data.dev(), data.ino(), data.ctime(), data.ctime_nsec())
        };
        #[cfg(not(unix))]
        let id = (0, 0, 0, 0);
        Self { length: data.len(), modified: data.modified().ok(), id }
    }

    /// Whether any further change shows in another stamp.
    fn is_old(&self, now: SystemTime) -> bool {
        self.modified.is_some_and(|modified| now.duration_since(modified).is_ok_and(|age| age > FRESH))
    }
}

/// Reads files when they have changed. It blocks.
pub(crate) struct Reader {
    files: Files,
    hasher: RandomState,
    known: Option<Known>,
}

/// What was read last, and what came of it.
struct Known {
    stamps: Vec<Stamp>,
    /// Whether equal stamps mean equal files.
    is_settled: bool,
    hash: u64,
    outcome: Result<Arc<ClientConfig>, Invalid>,
}

impl Reader {
    pub(crate) fn new(files: Files) -> Self {
        Self { files, hasher: RandomState::new(), known: None }
    }

    /// The settings that the files now hold.
    pub(crate) fn read(&mut self) -> Result<Arc<ClientConfig>, Invalid> {
        let mut tries = 1;
        loop {
            let result = self.read_once();
            if result.is_ok() || self.files.is_fixed() || tries == TRIES || self.is_known_bad() {
                return result;
            }
            tries += 1;
            thread::sleep(PAUSE);
        }
    }

    /// Whether the files are as bad as they were long enough ago.
    fn is_known_bad(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.is_settled && known.outcome.is_err())
    }

    fn read_once(&mut self) -> Result<Arc<ClientConfig>, Invalid> {
        let before = self.files.stamps();
        let before = match before {
            Ok(stamps) => stamps,
            Err(invalid) => {
                self.known = self.known.take().filter(|known| known.outcome.is_ok());
                return Err(invalid);
            }
        };
        if let Some(known) = &self.known
            && known.is_settled
            && known.stamps == before
        {
            return known.outcome.clone();
        }
        // Before the contents: what is written from now on is not settled.
        let now = SystemTime::now();
        let (roots, identity) = self.files.contents()?;
        let is_settled = before.iter().all(|stamp| stamp.is_old(now)) && self.files.stamps()? == before;
        let hash = self.hasher.hash_one((&roots, &identity));
        if let Some(known) = &mut self.known
            && known.hash == hash
        {
            // Sessions can then be resumed.
            (known.stamps, known.is_settled) = (before, is_settled);
            return known.outcome.clone();
        }
        let identity = identity.as_ref().map(|(certificates, key)| (certificates.as_slice(), key.as_slice()));
        let outcome = configure(roots.as_deref(), identity).map(over_http2);
        let outcome = outcome.map_err(|(what, why)| (self.files.name(&what), why));
        self.known = Some(Known { stamps: before, is_settled, hash, outcome: outcome.clone() });
        outcome
    }
}
