//! The format of a cache file. PURE: bytes in, bytes out.
//!
//! ```text
//! head      "tonic-etcd-cache"             16 bytes
//!           version                        u32, little endian as all numbers
//!           time of the last confirmation  u64, milliseconds since 1970
//!           revision of etcd               i64
//!           checksum of the contents       u64
//!           checksum of the head so far    u64
//! contents  name of the codec              u32 length, UTF-8
//!           prefix                         u32 length, bytes
//!           number of records              u32
//!           records in the order of keys   u32 length, key, u32 length, value
//! ```
//!
//! Keys and values are as etcd holds them. A confirmation replaces the head alone, in place, so that
//! the time and the checksum of what it confirms are written together.
//!
//! What is decoded is exactly what was encoded: encoded again, it gives the same bytes. Nothing is
//! allocated by a number that the file names.

use std::fmt;
use std::time::Duration;

use crate::resolver::cache::checksum::sum64;
use crate::secret::shown_key;

/// The first bytes of each file.
const MAGIC: &[u8; 16] = b"tonic-etcd-cache";
/// The version of the format.
const VERSION: u32 = 1;
/// The length of the head in bytes.
pub(super) const HEAD: usize = 16 + 4 + 8 + 8 + 8 + 8;
/// How far a clock may be set back without making a file useless.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// When and at which revision etcd has held the contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Milliseconds since 1970.
    pub(super) confirmed_ms: u64,
    /// The revision of etcd.
    pub(super) revision: i64,
}

/// What etcd held of a prefix, and how it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents<'a> {
    /// The name of the codec.
    pub(super) codec: &'a str,
    /// What all keys begin with.
    pub(super) prefix: &'a [u8],
    /// Keys and values, in the order of the keys.
    pub(super) records: Vec<(&'a [u8], &'a [u8])>,
}

/// Why a file is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileError {
    /// It does not begin as a cache file does.
    Unknown,
    /// It has another version of the format.
    Version(u32),
    /// It ends too early.
    Short,
    /// A checksum differs.
    Checksum(&'static str),
    /// A part of it does not follow the format.
    Malformed(&'static str),
    /// It was written with another codec.
    Codec { found: String, wanted: String },
    /// It is of another service.
    Prefix { found: String, wanted: String },
    /// It was confirmed too long ago.
    Old { age: Duration, limit: Duration },
    /// It was confirmed in the future.
    Future { ahead: Duration },
}

/// The head of a file with contents of this checksum.
pub(super) fn head(stamp: Stamp, contents: u64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..16].copy_from_slice(MAGIC);
    head[16..20].copy_from_slice(&VERSION.to_le_bytes());
    head[20..28].copy_from_slice(&stamp.confirmed_ms.to_le_bytes());
    head[28..36].copy_from_slice(&stamp.revision.to_le_bytes());
    head[36..44].copy_from_slice(&contents.to_le_bytes());
    let sum = sum64(&head[..44]);
    head[44..].copy_from_slice(&sum.to_le_bytes());
    head
}

/// A whole file.
///
/// # Errors
/// When a part is longer than 4 GiB, or the keys are not in order.
pub(super) fn encode(stamp: Stamp, contents: &Contents<'_>) -> Result<Vec<u8>, FileError> {
    if !contents.records.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(FileError::Malformed(ORDER));
    }
    let size: usize = contents.records.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
    let mut bytes = Vec::with_capacity(HEAD + 12 + contents.codec.len() + contents.prefix.len() + size);
    bytes.resize(HEAD, 0);
    push(&mut bytes, contents.codec.as_bytes())?;
    push(&mut bytes, contents.prefix)?;
    bytes.extend(length(contents.records.len())?);
    for (key, value) in &contents.records {
        push(&mut bytes, key)?;
        push(&mut bytes, value)?;
    }
    let sum = sum64(&bytes[HEAD..]);
    bytes[..HEAD].copy_from_slice(&head(stamp, sum));
    Ok(bytes)
}

const ORDER: &str = "its keys are not in order";

/// A length as it is stored.
fn length(length: usize) -> Result<[u8; 4], FileError> {
    let length = u32::try_from(length).map_err(|_| FileError::Malformed("a part is longer than 4 GiB"))?;
    Ok(length.to_le_bytes())
}

/// Adds a length and as many bytes.
fn push(to: &mut Vec<u8>, bytes: &[u8]) -> Result<(), FileError> {
    to.extend(length(bytes.len())?);
    to.extend(bytes);
    Ok(())
}

/// The stamp of a head and the checksum of the contents that belong to it.
///
/// # Errors
/// What is wrong with the head.
pub(super) fn decode_head(bytes: &[u8]) -> Result<(Stamp, u64), FileError> {
    let mut rest = Reader(bytes);
    // A file that is cut within its first bytes is short; any other start is none of ours.
    if !bytes.starts_with(&MAGIC[..bytes.len().min(16)]) {
        return Err(FileError::Unknown);
    }
    rest.take(16)?;
    let version = rest.u32()?;
    if version != VERSION {
        return Err(FileError::Version(version));
    }
    let stamp = Stamp { confirmed_ms: rest.u64()?, revision: rest.u64()?.cast_signed() };
    let contents = rest.u64()?;
    if rest.u64()? != sum64(&bytes[..44]) {
        return Err(FileError::Checksum("head"));
    }
    Ok((stamp, contents))
}

/// A whole file.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<(Stamp, Contents<'_>), FileError> {
    let (stamp, sum) = decode_head(bytes)?;
    let contents = &bytes[HEAD..];
    if sum64(contents) != sum {
        return Err(FileError::Checksum("contents"));
    }
    let mut rest = Reader(contents);
    let codec = std::str::from_utf8(rest.part()?).map_err(|_| FileError::Malformed("its codec's name is not UTF-8"))?;
    let prefix = rest.part()?;
    let count = rest.u32()?;
    let mut records: Vec<(&[u8], &[u8])> = Vec::new();
    for _ in 0..count {
        let record = (rest.part()?, rest.part()?);
        if records.last().is_some_and(|(before, _)| *before >= record.0) {
            return Err(FileError::Malformed(ORDER));
        }
        records.push(record);
    }
    if !rest.0.is_empty() {
        return Err(FileError::Malformed("it goes on after its last record"));
    }
    Ok((stamp, Contents { codec, prefix, records }))
}

impl Contents<'_> {
    /// Checks that the contents are of this prefix, and to be read by this codec.
    ///
    /// # Errors
    /// [`FileError::Prefix`] and [`FileError::Codec`].
    pub(super) fn check(&self, prefix: &[u8], codec: &str) -> Result<(), FileError> {
        if self.prefix != prefix {
            return Err(FileError::Prefix { found: shown_key(self.prefix), wanted: shown_key(prefix) });
        }
        if self.codec != codec {
            return Err(FileError::Codec { found: shown_key(self.codec.as_bytes()), wanted: codec.to_owned() });
        }
        Ok(())
    }
}

impl Stamp {
    /// The time since the confirmation, at this time in milliseconds since 1970.
    ///
    /// # Errors
    /// [`FileError::Old`] and [`FileError::Future`].
    pub(super) fn age(&self, now_ms: u64, limit: Duration) -> Result<Duration, FileError> {
        let ahead = Duration::from_millis(self.confirmed_ms.saturating_sub(now_ms));
        if ahead > CLOCK_TOLERANCE {
            return Err(FileError::Future { ahead });
        }
        let age = Duration::from_millis(now_ms.saturating_sub(self.confirmed_ms));
        if age > limit { Err(FileError::Old { age, limit }) } else { Ok(age) }
    }

    /// Whether etcd held this later than the other, as far as the clock and the revisions tell. A time
    /// that is still to come tells nothing: the clock was set back.
    pub(super) fn is_later_than(&self, other: Stamp, now_ms: u64) -> bool {
        let is_later = other.confirmed_ms < self.confirmed_ms && self.confirmed_ms <= now_ms;
        is_later && self.revision >= other.revision
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], FileError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(FileError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, FileError> {
        let bytes = self.take(4)?;
        bytes.try_into().map(u32::from_le_bytes).map_err(|_| FileError::Short)
    }

    fn u64(&mut self) -> Result<u64, FileError> {
        let bytes = self.take(8)?;
        bytes.try_into().map(u64::from_le_bytes).map_err(|_| FileError::Short)
    }

    /// A length and as many bytes.
    fn part(&mut self) -> Result<&'a [u8], FileError> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| FileError::Short)?)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "it is no cache file of this crate"),
            Self::Version(version) => write!(f, "it has version {version} of the format, not {VERSION}"),
            Self::Short => write!(f, "it is damaged: it ends too early"),
            Self::Checksum(part) => write!(f, "it is damaged: the checksum of its {part} differs"),
            Self::Malformed(what) => write!(f, "it is damaged: {what}"),
            Self::Codec { found, wanted } => write!(f, "it was written with the codec {found:?}, not {wanted:?}"),
            Self::Prefix { found, wanted } => write!(f, "it is of the prefix {found:?}, not {wanted:?}"),
            Self::Old { age, limit } => {
                write!(f, "it is too old: confirmed {} s ago, and the limit is {} s", age.as_secs(), limit.as_secs())
            }
            Self::Future { ahead } => {
                write!(f, "it was confirmed {} s in the future: check the clock", ahead.as_secs())
            }
        }
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
