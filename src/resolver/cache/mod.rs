//! Cache files: the last known instances of each service, for a start while etcd is down.
//!
//! - `service.rs`: the cache of one service, as its task uses it; and that of its service config, as its channels do.
//! - `writer.rs`: the thread of a resolver that reads and writes.
//! - `queue.rs` (pure): which file is written next, and when.
//! - `store.rs`: files and folders.
//! - `file/` (pure): the format of a file.
//! - `name.rs` (pure): the name of a file. `checksum.rs` (pure): what both use.
//!
//! ```text
//! task ──Read──▶ writer.rs ──▶ store.rs ──▶ file/ ──▶ Found ──▶ task: shown while etcd has not answered
//! task ──Save──▶ writer.rs: the latest of each file, ten a second ──▶ store.rs: new head, or new file
//! ```
//!
//! A file holds keys and values as etcd holds them, so that they are read as those of etcd: by the
//! resolver's codec, and with its rules for addresses.

mod checksum;
pub(crate) mod file;
mod name;
mod queue;
mod service;
mod store;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(super) use crate::resolver::cache::service::{Found, ServiceCache};

use self::writer::Writer;
use crate::codec::Codec;
use crate::error::Error;

/// See [`ResolverBuilder::cache_max_age`](crate::ResolverBuilder::cache_max_age).
const MAX_AGE: Duration = Duration::from_secs(3_600);
/// The longest name of a codec, in bytes.
const MAX_CODEC_NAME: usize = 255;

/// What users set.
#[derive(Default)]
pub(super) struct CacheOptions {
    pub(super) directory: Option<PathBuf>,
    pub(super) max_age: Option<Duration>,
}

/// The cache of a resolver.
pub(super) struct Cache {
    writer: Writer,
    /// The name of the codec, as files hold it.
    codec: String,
    /// Older files are not used.
    max_age: Duration,
}

impl CacheOptions {
    /// The cache for records of this codec, if a folder is given.
    ///
    /// # Errors
    /// When an option, or the name of the codec, is invalid.
    pub(super) fn build(self, codec: &dyn Codec) -> Result<Option<Arc<Cache>>, Error> {
        let max_age = self.max_age.unwrap_or(MAX_AGE);
        if max_age.is_zero() {
            return Err(Error::invalid(
                "cache_max_age",
                "0 s",
                "it must be more than 0: without `cache` no file is used",
            ));
        }
        let Some(directory) = self.directory else {
            return match self.max_age {
                Some(age) => Err(Error::invalid(
                    "cache_max_age",
                    format!("{age:?}"),
                    "it needs a folder for the files: give it to `ResolverBuilder::cache`",
                )),
                None => Ok(None),
            };
        };
        if directory.as_os_str().is_empty() {
            return Err(Error::invalid("cache", "", "the path of the folder is empty"));
        }
        // A service that changes its working folder later still has one folder for its files.
        let directory = std::path::absolute(&directory)
            .map_err(|error| Error::invalid("cache", directory.display().to_string(), error.to_string()))?;
        let codec = codec.name().to_owned();
        if codec.is_empty() || codec.len() > MAX_CODEC_NAME {
            return Err(Error::invalid("codec name", codec, "with a cache, `Codec::name` must give 1 to 255 bytes"));
        }
        Ok(Some(Arc::new(Cache { writer: Writer::new(directory), codec, max_age })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{DecodeError, Detect, EncodeError, Record};
    use crate::instance::Instance;
    use crate::target::Target;

    #[derive(Debug)]
    struct Named(String);

    impl Codec for Named {
        fn decode(&self, _: &[u8], _: &[u8]) -> Result<Vec<Instance>, DecodeError> {
            Ok(Vec::new())
        }

        fn encode(&self, _: &Target, _: &Instance) -> Result<Vec<Record>, EncodeError> {
            Ok(Vec::new())
        }

        fn name(&self) -> &str {
            &self.0
        }
    }

    #[test]
    fn options_are_checked() {
        let build = |directory: Option<&str>, max_age: Option<u64>, codec: &dyn Codec| {
            let options =
                CacheOptions { directory: directory.map(Into::into), max_age: max_age.map(Duration::from_secs) };
            options.build(codec).map(|cache| cache.map(|cache| (cache.codec.clone(), cache.max_age)))
        };
        assert_eq!(build(None, None, &Detect).unwrap(), None);
        assert_eq!(build(Some("/c"), None, &Detect).unwrap(), Some(("detect".into(), MAX_AGE)));
        let refused = |directory, max_age, codec: &dyn Codec| {
            let error = build(directory, max_age, codec).unwrap_err();
            assert!(error.is_invalid_argument());
            error.to_string()
        };
        assert!(refused(Some("/c"), Some(0), &Detect).contains("more than 0"));
        assert!(refused(None, Some(5), &Detect).contains("needs a folder"));
        assert!(refused(Some(""), None, &Detect).contains("is empty"));
        assert!(refused(Some("/c"), None, &Named(String::new())).contains("1 to 255 bytes"));
        assert!(refused(Some("/c"), None, &Named("x".repeat(256))).contains("1 to 255 bytes"));
        assert!(build(None, None, &Named(String::new())).is_ok(), "without a cache the name does not matter");
    }

    #[test]
    fn a_relative_folder_does_not_move_with_the_process() {
        let options = CacheOptions { directory: Some("cache".into()), max_age: None };
        let path = options.build(&Detect).unwrap().unwrap().writer.path("s.cache");
        assert_eq!(path, std::env::current_dir().unwrap().join("cache/s.cache"));
    }
}
