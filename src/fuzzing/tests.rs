//! Each target over its corpus, and over inputs that are generated from it with a fixed seed.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::TARGETS;
use crate::backoff::Random;

/// How many inputs are generated for each target.
const GENERATED: usize = 1_000;
/// The longest of them, in bytes.
const LONGEST: usize = 600;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The corpus of a target, in the order of its files' names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = folder().join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A number below `end`.
fn below(random: &mut Random, end: usize) -> usize {
    (random.next() % end.max(1) as u64) as usize
}

/// Bytes at random; or an input of the corpus, changed in a few places as fuzzers do.
fn generate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    if corpus.is_empty() || below(random, 3) == 0 {
        let length = below(random, LONGEST);
        return (0..length).map(|_| random.next() as u8).collect();
    }
    let mut bytes = corpus[below(random, corpus.len())].clone();
    for _ in 0..=below(random, 4) {
        let at = below(random, bytes.len() + 1);
        match below(random, 5) {
            0 => bytes.insert(at, random.next() as u8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 if at < bytes.len() => bytes[at] ^= 1 << below(random, 8),
            3 => bytes.truncate(at),
            _ => {
                let other = &corpus[below(random, corpus.len())];
                let from = below(random, other.len());
                let piece = &other[from..(from + below(random, 24)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

fn holds(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty");
    let mut random = Random(7);
    let generated: Vec<_> = (0..GENERATED).map(|_| generate(&mut random, &corpus)).collect();
    for bytes in corpus.iter().chain(&generated) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
            eprintln!("fuzz target {name}: input {}", bytes.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
}

/// One test for each target, so that they run side by side and a filter names them.
macro_rules! targets {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        $($(#[$attribute])* #[test] fn $name() { holds(stringify!($name)); })*
        const TESTED: &[&str] = &[$($(#[$attribute])* stringify!($name),)*];
    };
}

targets! {
    address target secret service_config grpc_naming plain record json
    backoff endpoint #[cfg(feature = "srv")] srv token watch_message watch_stream watch_streams
    cache_file watch_machine watch_machine_inputs doubt snapshot servers
    frames pacer call_headers connect_order health_check members outlier penalties reconnect redact wait_order weights
    lease_machine lease_promises advertise wire
}

/// A target is in the list, in `fuzz/fuzz_targets/`, in `fuzz/Cargo.toml` and in `fuzz/corpus/`.
#[test]
fn every_target_is_everywhere() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).chain(["srv".into()]).collect();
    assert_eq!(TESTED.iter().map(|name| (*name).to_owned()).chain(["srv".into()]).collect::<BTreeSet<_>>(), known);
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(self::folder().join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("fuzz_targets"), known);
    assert_eq!(names("corpus"), known);
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let paths = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""));
    assert_eq!(paths.map(str::to_owned).collect::<BTreeSet<_>>(), known);
}

/// What everybody clones.
#[test]
fn the_corpus_is_small() {
    let size: usize = TARGETS.iter().flat_map(|(name, _)| corpus(name)).map(|input| input.len()).sum();
    assert!(size <= 200 << 10, "{size} bytes");
}
