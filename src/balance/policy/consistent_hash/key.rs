//! What the server of a call is chosen by.

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use http::HeaderName;
use twox_hash::XxHash64;

use crate::policy::Call;

use super::ring::xxh64;

/// What a call is hashed by: calls with equal keys go to the same server.
///
/// It is an extension of a request, for [`ConsistentHash::by_extension`](crate::policy::ConsistentHash::by_extension):
///
/// ```
/// use tonic_etcd::policy::HashKey;
///
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(HashKey::of("user-17"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashKey(u64);

impl HashKey {
    /// The key of a text or of bytes: their XXH64 with seed 0. `HashKey::of("user-17")` is the key of a call with
    /// this text in the header of [`ConsistentHash::by_header`](crate::policy::ConsistentHash::by_header). For a
    /// number use its bytes: `HashKey::of(id.to_be_bytes())`.
    pub fn of(key: impl AsRef<[u8]>) -> Self {
        Self(xxh64(key.as_ref()))
    }

    /// A hash that the program has made itself. It must be spread evenly over all of `u64`: small numbers would all
    /// go to one server.
    pub const fn from_hash(hash: u64) -> Self {
        Self(hash)
    }

    /// The hash.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// The header that [`ConsistentHash::by_header`](crate::policy::ConsistentHash::by_header) was given cannot be hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidHashHeader {
    name: String,
    reason: &'static str,
}

impl InvalidHashHeader {
    /// The name that was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why it cannot be hashed.
    pub fn reason(&self) -> &str {
        self.reason
    }
}

impl fmt::Display for InvalidHashHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot hash calls by the header {:?}: {}", self.name, self.reason)
    }
}

impl std::error::Error for InvalidHashHeader {}

/// A function of the user's.
type KeyFunction = dyn Fn(&Call<'_>) -> Option<HashKey> + Send + Sync;

/// Where the key of a call comes from.
#[derive(Clone)]
pub(crate) enum KeySource {
    /// The values of this header.
    Header(HeaderName),
    /// The [`HashKey`] in the request's extensions.
    Extension,
    /// What this says of the call.
    Function(Arc<KeyFunction>),
}

impl KeySource {
    /// A header by its name.
    pub(crate) fn header(name: &str) -> Result<Self, InvalidHashHeader> {
        let invalid = |reason| InvalidHashHeader { name: name.to_owned(), reason };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid("it is no name of a header"))?;
        if header.as_str().ends_with("-bin") {
            return Err(invalid("the values of binary metadata have no order (gRFC A76)"));
        }
        Ok(Self::Header(header))
    }

    /// The key of this call; `None` if it has none.
    pub(crate) fn of(&self, call: &Call<'_>) -> Option<HashKey> {
        match self {
            Self::Header(name) => {
                let mut values = call.headers().get_all(name).iter();
                let mut hasher = XxHash64::with_seed(0);
                hasher.write(values.next()?.as_bytes());
                values.for_each(|value| {
                    hasher.write(b",");
                    hasher.write(value.as_bytes());
                });
                Some(HashKey(hasher.finish()))
            }
            Self::Extension => call.extensions().get().copied(),
            Self::Function(key) => key(call),
        }
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => f.debug_tuple("Header").field(&name.as_str()).finish(),
            Self::Extension => f.write_str("Extension"),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}
