//! The configuration of the ring hash policy, as the gRFCs A42 and A76 define it. PURE.

use super::document::{Node, Object};
use super::invalid::InvalidServiceConfig;

/// The largest size of a ring that a document may ask for (A42): 8 Mi.
const MOST_POINTS: u32 = 8 << 20;
/// What the sizes are compared as where they are not set (A42).
const MIN_SIZE: u32 = 1_024;
const MAX_SIZE: u32 = 4_096;

/// A42's `RingHashLoadBalancingConfig`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RingHashParams {
    /// The least number of points in all, if the document sets one; never 0.
    pub(crate) min_ring_size: Option<u32>,
    /// The most of them, if the document sets it; never 0.
    pub(crate) max_ring_size: Option<u32>,
    /// The header that calls are hashed by, in lower case; not a binary one.
    pub(crate) request_hash_header: Option<String>,
}

impl RingHashParams {
    /// Reads all fields. None is required, and 0 and the empty text count as absent, as in proto3.
    pub(super) fn read(config: &Object<'_>) -> Result<Self, InvalidServiceConfig> {
        let size = |name| config.optional(name, ring_size).map(|size| size.filter(|size| *size > 0));
        let (min_ring_size, max_ring_size) = (size("minRingSize")?, size("maxRingSize")?);
        let (min, max) = (min_ring_size.unwrap_or(MIN_SIZE), max_ring_size.unwrap_or(MAX_SIZE));
        if min > max {
            return Err(config.invalid("minRingSize", format!("is {min} and must be at most maxRingSize, {max}")));
        }
        let request_hash_header = config.optional("requestHashHeader", request_hash_header)?.flatten();
        Ok(Self { min_ring_size, max_ring_size, request_hash_header })
    }
}

/// A number of points.
fn ring_size(node: &Node<'_>) -> Result<u32, InvalidServiceConfig> {
    let size = node.unsigned()?;
    if size > MOST_POINTS {
        return Err(node.invalid(format!("must be at most {MOST_POINTS}")));
    }
    Ok(size)
}

/// The name of a header of text: A76 takes what gRPC takes as a name.
fn request_hash_header(node: &Node<'_>) -> Result<Option<String>, InvalidServiceConfig> {
    let name = node.string()?.to_ascii_lowercase();
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !name.bytes().all(is_valid) {
        return Err(node.invalid("must be the name of a header, of letters, digits, \"-\", \"_\" and \".\""));
    }
    if name.ends_with("-bin") {
        return Err(node.invalid("must not end with \"-bin\""));
    }
    Ok(Some(name).filter(|name| !name.is_empty()))
}
