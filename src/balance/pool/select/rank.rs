//! The order of servers in which one client prefers them (rendezvous hashing). PURE.

use crate::instance::Instance;

/// The rank of a server for one client: of two servers the client prefers the one with the greater rank.
///
/// Each pair of a client and a server has a random number of its own (rendezvous hashing), so that
/// clients spread evenly over servers, and the order of two servers does not depend on the others. A server
/// is known by its instance's id, so that it keeps its rank when it comes back at another address; without
/// an id by `key`, its `host:port`. The further addresses of an instance are known by the id and `key`.
pub(crate) fn rank(client_id: u64, instance: &Instance, key: &str) -> u64 {
    let is_first = instance.addresses().first().is_some_and(|first| first.parsed_authority().as_str() == key);
    match instance.id() {
        Some(id) if is_first => hash(client_id, [id, ""]),
        Some(id) => hash(client_id, [id, key]),
        None => hash(client_id, ["", key]),
    }
}

/// The number of a client that has a name.
pub(crate) fn client_id(name: &str) -> u64 {
    hash(0, [name, ""])
}

/// A number for the texts, which looks random to each seed.
pub(super) fn hash(seed: u64, texts: [&str; 2]) -> u64 {
    // FNV-1a, which mixes its last bytes too little: `mix` does the rest. No text has the byte 0xff.
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0xff]));
    let fnv = bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(mix(fnv) ^ mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// The finalizer of `SplitMix64`: each bit of the input changes each bit of the output half of the time.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
