//! Fuzz targets: functions that take any bytes and panic if something that must hold does not.
//!
//! They are compiled for tests, and for the package in `fuzz/`, whose build script sets the cfg `tonic_etcd_fuzzing`; never in a
//! build of the crate for its users. `cargo xtask fuzz` runs each with libFuzzer. `cargo test` runs each over its corpus
//! (`fuzz/corpus/TARGET/`) and over generated inputs (`tests.rs`).
//!
//! - Parsers and decoders take the bytes as they are. Written and read again, what was read is the same. `names.rs` and
//!   `stored.rs` hold those that use several rooms of the crate; the others stand beside what they test.
//! - Machines take a sequence of inputs, which proptest's strategies make of the bytes ([`with_steps`]): the same strategies, models and
//!   invariants as those of the property tests.
//!
//! A new target is a line in [`TARGETS`], a file in `fuzz/fuzz_targets/`, a `[[bin]]` in `fuzz/Cargo.toml`, and one or more files
//! in its folder of `fuzz/corpus/`. A test compares the four.

mod names;
mod stored;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestCaseResult, TestRng, TestRunner};

use crate::backoff::Random;
use crate::{balance, codec, connection, etcd, registrar, resolver, secret, serve, service_config};

/// What takes an input, and panics at a fault.
type Target = fn(&[u8]);

/// The targets, by their names. The order is that of the crate's folders.
const TARGETS: &[(&str, Target)] = &[
    // What users write and what is stored in etcd.
    ("address", names::address),
    ("target", names::target),
    ("secret", secret::tests::fuzz),
    ("service_config", service_config::tests::fuzz),
    ("grpc_naming", stored::grpc_naming),
    ("plain", stored::plain),
    ("record", resolver::record::tests::fuzz),
    ("json", codec::json::tests::fuzz),
    // etcd's side.
    ("backoff", crate::backoff::tests::fuzz),
    ("endpoint", names::endpoint),
    #[cfg(feature = "srv")]
    ("srv", etcd::members::srv::records::tests::fuzz),
    ("token", etcd::token::pacing::tests::fuzz),
    ("watch_message", etcd::watch::message::tests::fuzz),
    ("watch_stream", etcd::watch::stream::tests::inputs::fuzz),
    ("watch_streams", etcd::watch::streams::tests::fuzz),
    // The resolver.
    ("cache_file", resolver::cache::file::tests::fuzz),
    ("watch_machine", resolver::watch::tests::fuzz),
    ("watch_machine_inputs", resolver::watch::inputs_tests::fuzz),
    ("doubt", resolver::doubt::tests::fuzz),
    ("snapshot", resolver::snapshot::tests::fuzz),
    ("servers", resolver::servers::tests::fuzz),
    // Connections and the channel.
    ("frames", connection::exchange::frames::tests::fuzz),
    ("pacer", connection::resets::pacer::tests::fuzz),
    ("call_headers", balance::call::deadline::tests::fuzz),
    ("connect_order", balance::subchannel::connect_order::tests::fuzz),
    ("health_check", balance::subchannel::health::machine::tests::fuzz),
    ("members", balance::pool::members::tests::fuzz),
    ("outlier", balance::subchannel::outlier::tests::fuzz),
    ("penalties", balance::subchannel::cost::penalties::tests::fuzz),
    ("reconnect", balance::subchannel::reconnect::tests::fuzz),
    ("redact", balance::status::redact::tests::fuzz),
    ("wait_order", balance::queue::order::tests::fuzz),
    ("weights", balance::policy::set::weights::tests::fuzz),
    // Registration and servers.
    ("lease_machine", registrar::lease::tests::fuzz),
    ("lease_promises", registrar::lease::tests::late::fuzz),
    ("advertise", serve::advertise::plan::tests::fuzz),
    ("wire", serve::connections::wire::tests::fuzz),
];

/// Runs a target over one input.
///
/// # Panics
/// If the input shows a fault, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no fuzz target {name:?}"));
    target(bytes);
}

/// The most steps of one input.
const MOST_STEPS: usize = 200;
/// How many bytes of an input make one step.
const STEP: usize = 4;

/// What follows the bytes of a value: proptest draws 0 once they are used up, and with that some of its draws go on forever (rand
/// rejects it, and draws again).
static FURTHER_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random(1);
    std::iter::repeat_with(|| random.next().to_le_bytes()).take(1 << 10).flatten().collect()
});

/// Holds a property against the value that a strategy makes of the bytes. proptest draws its random numbers from them, so that
/// another byte changes a part of the value. For strategies without unions of many: each of their arms may take away half of the
/// bytes that are left (`TestRng::gen_rng`).
pub(crate) fn with<S: Strategy>(bytes: &[u8], strategy: S, property: impl FnOnce(S::Value) -> TestCaseResult) {
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, &[bytes, &FURTHER_BYTES].concat());
    if let Some(value) = value(rng, &strategy) {
        check(property(value));
    }
}

/// Holds a property of a machine against a start, which the first [`STEP`] bytes make, and the steps that the others make, each of
/// [`STEP`] bytes. One that is inserted or left out changes no other.
pub(crate) fn with_steps<A: Strategy, S: Strategy>(
    bytes: &[u8],
    start: A,
    step: S,
    property: impl FnOnce(A::Value, Vec<S::Value>) -> TestCaseResult,
) {
    let (first, rest) = bytes.split_at(bytes.len().min(STEP));
    if let Some(start) = value(seeded(first), &start) {
        let steps = rest.chunks(STEP).take(MOST_STEPS).filter_map(|bytes| value(seeded(bytes), &step));
        check(property(start, steps.collect()));
    }
}

/// The random numbers of one step: its bytes are their seed.
fn seeded(bytes: &[u8]) -> TestRng {
    let mut random = Random(bytes.iter().fold(1, |seed, byte| seed << 8 | u64::from(*byte)));
    let seed = [random.next().to_le_bytes(), random.next().to_le_bytes()].concat();
    TestRng::from_seed(RngAlgorithm::XorShift, &seed)
}

fn value<S: Strategy>(rng: TestRng, strategy: &S) -> Option<S::Value> {
    let tree = strategy.new_tree(&mut TestRunner::new_with_rng(Config::default(), rng));
    tree.ok().map(|tree| tree.current())
}

fn check(result: TestCaseResult) {
    match result {
        Ok(()) | Err(TestCaseError::Reject(_)) => {}
        Err(TestCaseError::Fail(reason)) => panic!("{reason}"),
    }
}
