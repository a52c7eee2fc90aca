//! Metrics: what a recorder gets of a channel, and what `stats()` returns.
#![allow(clippy::float_cmp)] // counts, which are whole numbers

mod attempts;
mod calls;
mod connections;
mod labels;
mod odd_ends;
mod series;

use std::collections::BTreeMap;

use test_support::SeriesRecorder;
use tonic::Code;
use tonic_etcd::BalancedChannel;
use tonic_etcd::metrics::Metrics;

pub(super) const METHOD: &str = "helloworld.Greeter/SayHello";
pub(super) const TARGET: &str = "discover:///greeter";
pub(super) const STARTED: &str = "grpc.client.attempt.started";
pub(super) const ATTEMPTS: &str = "grpc.client.attempt.duration";
pub(super) const SENT: &str = "grpc.client.attempt.sent_total_compressed_message_size";
pub(super) const RECEIVED: &str = "grpc.client.attempt.rcvd_total_compressed_message_size";
pub(super) const CALLS: &str = "grpc.client.call.duration";
pub(super) const AGAIN: [&str; 3] =
    ["grpc.client.call.retries", "grpc.client.call.transparent_retries", "grpc.client.call.hedges"];

/// A recorder that also gets the experimental instruments.
pub(super) fn recorder() -> (SeriesRecorder, Metrics) {
    let recorder = SeriesRecorder::default();
    (recorder.clone(), Metrics::new(recorder).experimental())
}

/// A code as gRPC writes it.
pub(super) fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The counts of an instrument by status.
pub(super) fn by_status(recorder: &SeriesRecorder, instrument: &str) -> BTreeMap<String, u64> {
    let codes = (0..17).map(|code| name(Code::from_i32(code)));
    let count = |code: String| (recorder.count(instrument, &[("grpc.status", &code)]), code);
    codes.map(count).filter(|(count, _)| *count > 0).map(|(count, code)| (code, count)).collect()
}

/// Holds `stats()` against the recorder, once nothing is in flight, and the numbers against each other.
pub(super) fn check(channel: &BalancedChannel, recorder: &SeriesRecorder) {
    let stats = channel.stats();
    let (mut started, mut calls, mut again) = (0, 0, 0);
    for method in stats.methods() {
        let labels = [("grpc.method", method.name()), ("grpc.target", stats.target())];
        assert_eq!(recorder.values(STARTED, &labels).value, method.attempts_started() as f64);
        let ended: u64 = method.attempts().map(|(_, attempts)| attempts.duration().count()).sum();
        assert_eq!(ended, method.attempts_started(), "all attempts have ended");
        for (code, attempts) in method.attempts() {
            let code = name(code);
            let labels = [labels[0], labels[1], ("grpc.status", &*code)];
            let pairs = [(ATTEMPTS, attempts.duration()), (SENT, attempts.sent()), (RECEIVED, attempts.received())];
            for (instrument, distribution) in pairs {
                let values = recorder.values(instrument, &labels);
                assert_eq!(values.count, distribution.count(), "{instrument} {labels:?}");
                assert!((values.value - distribution.sum()).abs() < 0.01, "{instrument} {labels:?}");
            }
        }
        for (code, durations) in method.calls() {
            let code = name(code);
            let values = recorder.values(CALLS, &[labels[0], labels[1], ("grpc.status", &*code)]);
            assert_eq!(values.count, durations.count(), "{labels:?} {code}");
            calls += durations.count();
        }
        for (instrument, distribution) in
            AGAIN.iter().zip([method.retries(), method.transparent_retries(), method.hedges()])
        {
            assert_eq!(recorder.values(instrument, &labels).value, distribution.sum(), "{instrument}");
            again += distribution.sum() as u64;
        }
        started += method.attempts_started();
    }
    assert_eq!(started, calls + again, "each attempt is a call's first one, or was made again");
    assert_eq!(recorder.values(STARTED, &[]).value, started as f64);
    assert_eq!(recorder.count(CALLS, &[]), calls);
}
