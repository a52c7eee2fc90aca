//! The name of a service's cache file. PURE.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::resolver::cache::checksum::sum128;

/// The longest name without its ending. Most file systems take 255 bytes, and temporary files have
/// a longer ending.
const MAX_LENGTH: usize = 200;
/// What is left of a longer name, for people who look into the folder.
const KEPT_LENGTH: usize = 160;
/// The ending of cache files.
const ENDING: &str = ".cache";
/// What is escaped. No name begins with another's escape, and none leaves the folder: `/` is escaped, and
/// the ending makes `.` and `..` ordinary names.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// The name of the file for the keys that begin with `prefix`: the prefix with percent escapes. If
/// that is longer than 200 bytes, its start and a hash of the prefix.
///
/// The file holds the prefix, so two prefixes of one hash do no harm.
pub(super) fn file_name(prefix: &[u8]) -> String {
    let mut name = percent_encode(prefix, ESCAPED).to_string();
    if name.len() <= MAX_LENGTH {
        return name + ENDING;
    }
    name.truncate(KEPT_LENGTH); // ASCII, so that every byte is a boundary
    format!("{name}~{:032x}{ENDING}", sum128(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_prefixes_with_escapes() {
        assert_eq!(file_name(b"greeter/"), "greeter%2F.cache");
        assert_eq!(file_name(b"/shop/pay-1_x.y/"), "%2Fshop%2Fpay-1_x.y%2F.cache");
        assert_eq!(file_name(b".."), "...cache");
        assert_eq!(file_name("ü/".as_bytes()), "%C3%BC%2F.cache");
    }

    #[test]
    fn long_names_are_hashed_from_201_bytes_on() {
        let name = |length: usize| file_name("a".repeat(length).as_bytes());
        assert_eq!(name(200), "a".repeat(200) + ".cache");
        assert_eq!(name(201).len(), 160 + 1 + 32 + 6);
        let names: HashSet<String> = (1..600).map(name).collect();
        assert_eq!(names.len(), 599, "all differ");
    }

    proptest! {
        #[test]
        fn every_prefix_has_a_safe_name(prefix: Vec<u8>, times in 1usize..40) {
            let prefix = prefix.repeat(times);
            let name = file_name(&prefix);
            prop_assert!(name.len() <= MAX_LENGTH + ENDING.len());
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.%~".contains(&byte)), "{}", name);
            prop_assert!(name.ends_with(ENDING));
            if !name.contains('~') {
                let escaped = name.strip_suffix(ENDING).unwrap_or_default();
                prop_assert_eq!(percent_encoding::percent_decode_str(escaped).collect::<Vec<u8>>(), prefix);
            }
        }
    }
}
