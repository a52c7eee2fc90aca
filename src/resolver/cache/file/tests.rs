//! A file is what was written, or it is refused.

use std::collections::BTreeMap;

use super::*;
use proptest::prelude::*;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

fn records() -> impl Strategy<Value = Records> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
    proptest::collection::btree_map(bytes(), bytes(), 0..12)
}

fn contents<'a>(codec: &'a str, prefix: &'a [u8], records: &'a Records) -> Contents<'a> {
    let records = records.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
    Contents { codec, prefix, records }
}

fn stamp() -> impl Strategy<Value = Stamp> {
    any::<(u64, i64)>().prop_map(|(confirmed_ms, revision)| Stamp { confirmed_ms, revision })
}

/// A file of one record.
fn example() -> Vec<u8> {
    let records = Records::from([(b"s/h:1".to_vec(), b"h:1".to_vec())]);
    encode(Stamp { confirmed_ms: 5_000, revision: 7 }, &contents("detect", b"s/", &records)).unwrap()
}

/// The same with other contents, whose checksums are right.
fn with_contents(contents: &[u8]) -> Vec<u8> {
    let head = head(Stamp { confirmed_ms: 5_000, revision: 7 }, sum64(contents));
    [&head, contents].concat()
}

/// What is decoded gives the same bytes again.
fn is_refused_or_the_same(bytes: &[u8]) -> Result<(), TestCaseError> {
    match decode(bytes) {
        Ok((stamp, contents)) => prop_assert_eq!(encode(stamp, &contents).unwrap(), bytes),
        Err(error) => prop_assert!(!error.to_string().is_empty()),
    }
    Ok(())
}

/// The fuzz target: files of any bytes, and contents of any bytes under checksums that are right.
pub(crate) fn fuzz(bytes: &[u8]) {
    for bytes in [bytes, &with_contents(bytes)] {
        if let Err(fault) = is_refused_or_the_same(bytes) {
            panic!("{fault}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        stamp in stamp(), codec in "\\PC{0,12}", prefix: Vec<u8>, records in records()
    ) {
        let contents = contents(&codec, &prefix, &records);
        let bytes = encode(stamp, &contents).unwrap();
        prop_assert_eq!(decode(&bytes).unwrap(), (stamp, contents.clone()));
        // A confirmation replaces the head alone.
        let later = Stamp { confirmed_ms: stamp.confirmed_ms ^ 1, revision: stamp.revision ^ 1 };
        let (_, sum) = decode_head(&bytes).unwrap();
        let confirmed = [&head(later, sum), &bytes[HEAD..]].concat();
        prop_assert_eq!(decode(&confirmed).unwrap(), (later, contents));
    }

    #[test]
    fn every_changed_byte_is_found(stamp in stamp(), records in records(), place: prop::sample::Index, to: u8) {
        let mut bytes = encode(stamp, &contents("codec", b"s/", &records)).unwrap();
        let place = place.index(bytes.len());
        let was = std::mem::replace(&mut bytes[place], to);
        prop_assert_eq!(decode(&bytes).is_ok(), was == to, "byte {}", place);
    }

    #[test]
    fn every_cut_and_every_addition_is_found(stamp in stamp(), records in records(), more in 1usize..9) {
        let bytes = encode(stamp, &contents("codec", b"s/", &records)).unwrap();
        for length in 0..bytes.len() {
            prop_assert!(decode(&bytes[..length]).is_err(), "cut to {}", length);
        }
        prop_assert!(decode(&[bytes.as_slice(), &vec![0; more]].concat()).is_err());
    }

    #[test]
    fn any_bytes_are_refused_or_what_was_written(bytes: Vec<u8>) {
        is_refused_or_the_same(&bytes)?;
        is_refused_or_the_same(&[MAGIC.as_slice(), &bytes].concat())?;
    }

    /// With right checksums, so that every part is read.
    #[test]
    fn any_contents_are_refused_or_what_was_written(
        parts in proptest::collection::vec((0u32..6, proptest::collection::vec(any::<u8>(), 0..5)), 0..9)
    ) {
        let contents: Vec<u8> =
            parts.iter().flat_map(|(length, bytes)| [&length.to_le_bytes(), bytes.as_slice()].concat()).collect();
        is_refused_or_the_same(&with_contents(&contents))?;
    }
}

#[test]
fn a_number_that_is_too_large_allocates_nothing() {
    let part = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat();
    let start = [part(b"detect"), part(b"s/")].concat();
    for contents in [
        vec![0xff; 4],
        [&start[..], &[0xff; 4]].concat(),
        [&start[..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat(),
    ] {
        assert_eq!(decode(&with_contents(&contents)), Err(FileError::Short));
    }
}

#[test]
fn what_is_wrong_is_said() {
    let good = example();
    let changed = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 0x10;
        decode(&bytes).unwrap_err().to_string()
    };
    assert!(decode(b"").unwrap_err().to_string().contains("ends too early"));
    assert!(decode(b"{}").unwrap_err().to_string().contains("no cache file"));
    assert!(changed(0).contains("no cache file"));
    assert!(changed(16).contains("version 17 of the format, not 1"));
    assert!(changed(20).contains("checksum of its head"));
    assert!(changed(HEAD + 5).contains("checksum of its contents"));
    assert!(decode(&good[..good.len() - 1]).unwrap_err().to_string().contains("damaged"));
    let doubled = [b"\0\0\0\0\0\0\0\0\x02\0\0\0".as_slice(), &[0; 16]].concat();
    assert!(decode(&with_contents(&doubled)).unwrap_err().to_string().contains("not in order"));
    let more = [0; 13];
    assert!(decode(&with_contents(&more)).unwrap_err().to_string().contains("goes on"));
}

#[test]
fn files_of_others_are_refused() {
    let good = example();
    let (_, contents) = decode(&good).unwrap();
    assert_eq!(contents.check(b"s/", "detect"), Ok(()));
    let other = contents.check(b"t/", "detect").unwrap_err().to_string();
    assert_eq!(other, r#"it is of the prefix "s/", not "t/""#);
    let other = contents.check(b"s/", "plain").unwrap_err().to_string();
    assert_eq!(other, r#"it was written with the codec "detect", not "plain""#);
}

#[test]
fn age_has_a_limit_and_the_clock_some_tolerance() {
    let stamp = Stamp { confirmed_ms: 1_000_000, revision: 1 };
    let limit = Duration::from_secs(60);
    assert_eq!(stamp.age(1_060_000, limit), Ok(limit));
    assert_eq!(
        stamp.age(1_060_001, limit).unwrap_err().to_string(),
        "it is too old: confirmed 60 s ago, and the limit is 60 s"
    );
    assert_eq!(stamp.age(700_000, limit), Ok(Duration::ZERO), "the clock was set back");
    assert!(stamp.age(699_999, limit).unwrap_err().to_string().contains("in the future"));
    let last = Stamp { confirmed_ms: u64::MAX, revision: 1 };
    assert!(last.age(0, limit).is_err() && Stamp { confirmed_ms: 0, ..last }.age(u64::MAX, limit).is_err());
}

#[test]
fn what_is_later_is_told_by_the_clock_and_the_revisions() {
    let stamp = |confirmed_ms, revision| Stamp { confirmed_ms, revision };
    let later = |known, new| stamp(known, 5).is_later_than(new, 1_000);
    assert!(later(900, stamp(899, 5)) && later(900, stamp(899, 4)) && later(1_000, stamp(0, 5)));
    assert!(!later(900, stamp(900, 5)) && !later(900, stamp(901, 4)), "this one is not later");
    assert!(!later(900, stamp(899, 6)), "it was confirmed by a process that had not seen the last change");
    assert!(!later(1_001, stamp(999, 5)), "the clock was set back");
}
