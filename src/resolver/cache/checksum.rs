//! FNV-1a, for file names and against damage. PURE.
//!
//! It is no protection against intent: who can write into the folder can write any file. Each step
//! is a bijection of the state, so that one changed byte always changes the sum. The standard
//! library's hashes may change between releases, so they cannot be stored.

/// The sum of 64 bits.
pub(super) fn sum64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The sum of 128 bits.
pub(super) fn sum128(bytes: &[u8]) -> u128 {
    let (start, prime) = (0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, 0x0000_0000_0100_0000_0000_0000_0000_013b);
    bytes.iter().fold(start, |sum: u128, byte| (sum ^ u128::from(*byte)).wrapping_mul(prime))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the authors: <http://www.isthe.com/chongo/tech/comp/fnv>.
    #[test]
    fn sums_are_those_of_the_standard() {
        assert_eq!(sum64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(sum64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(sum64(b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(sum128(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(sum128(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
