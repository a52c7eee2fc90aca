//! What the facade is told of each kind of instrument.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tonic_etcd::metrics::{Instrument, InstrumentKind, Recorder, instruments};
use tonic_etcd_metrics::{MetricsRecorder, prometheus_name};

fn instrument(name: &str) -> &'static Instrument {
    instruments().find(|instrument| instrument.name() == name).unwrap()
}

/// What was recorded since the last look, which takes it away: each series by its name and the text of its labels.
fn values(recorder: &DebuggingRecorder) -> BTreeMap<String, DebugValue> {
    let snapshot = recorder.snapshotter().snapshot().into_vec();
    let count = snapshot.len();
    let values: BTreeMap<_, _> = snapshot
        .into_iter()
        .map(|(key, _, _, value)| {
            let key = key.key();
            let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            (format!("{} {}", key.name(), labels.join(" ")), value)
        })
        .collect();
    assert_eq!(values.len(), count, "two series of equal labels");
    values
}

#[test]
fn each_kind_is_recorded_as_it_is_meant() {
    let exporter = Arc::new(DebuggingRecorder::new());
    let recorder = MetricsRecorder::with_recorder(exporter.clone());
    let record = |name: &str, labels: &[(&'static str, &str)], values: &[f64]| {
        let bound = recorder.bind(instrument(name), labels);
        values.iter().for_each(|value| bound.record(*value));
    };
    let labels = [("grpc.method", "helloworld.Greeter/SayHello"), ("grpc.target", "etcd:///greeter")];
    record("grpc.client.attempt.started", &labels, &[1.0, 2.0]);
    record("grpc.client.call.retries", &labels, &[1.0, 3.0]);
    record("tonic_etcd.channel.waiting", &labels[1..], &[3.0, -1.0]);
    record("tonic_etcd.resolver.staleness", &[("service", "greeter")], &[3.0, 1.5]);

    let values = values(&exporter);
    let call = "grpc_method=helloworld.Greeter/SayHello grpc_target=etcd:///greeter";
    assert_eq!(values[&format!("grpc_client_attempt_started_total {call}")], DebugValue::Counter(3));
    let retries = &values[&format!("grpc_client_call_retries {call}")];
    assert_eq!(*retries, DebugValue::Histogram(vec![1.0.into(), 3.0.into()]));
    let waiting = &values["tonic_etcd_channel_waiting grpc_target=etcd:///greeter"];
    assert_eq!(*waiting, DebugValue::Gauge(2.0.into()));
    let staleness = &values["tonic_etcd_resolver_staleness_seconds service=greeter"];
    assert_eq!(*staleness, DebugValue::Gauge(1.5.into()));
}

#[test]
fn two_of_equal_labels_add_to_one_series() {
    let exporter = Arc::new(DebuggingRecorder::new());
    let recorder = MetricsRecorder::with_recorder(exporter.clone());
    let labels = [("grpc.target", "etcd:///greeter"), ("state", "ready")];
    let both = [(); 2].map(|()| recorder.bind(instrument("tonic_etcd.channel.servers"), &labels));
    both[0].record(3.0);
    both[1].record(2.0);
    both[0].record(-3.0);
    let series = "tonic_etcd_channel_servers grpc_target=etcd:///greeter state=ready";
    assert_eq!(values(&exporter)[series], DebugValue::Gauge(2.0.into()));
}

#[test]
fn a_counter_takes_no_nonsense() {
    let exporter = Arc::new(DebuggingRecorder::new());
    let bound = MetricsRecorder::with_recorder(exporter.clone()).bind(instrument("grpc.client.attempt.started"), &[]);
    for value in [1.0, -4.0, f64::NAN, f64::NEG_INFINITY] {
        bound.record(value);
    }
    assert_eq!(values(&exporter)["grpc_client_attempt_started_total "], DebugValue::Counter(1));
}

#[test]
fn all_instruments_are_described_with_their_units() {
    let exporter = Arc::new(DebuggingRecorder::new());
    let recorder = MetricsRecorder::with_recorder(exporter.clone());
    // Descriptions are shown of what has been bound.
    let bound: Vec<_> = instruments().map(|instrument| recorder.bind(instrument, &[])).collect();
    let snapshot = exporter.snapshotter().snapshot().into_vec();
    assert_eq!(snapshot.len(), bound.len());
    let described: BTreeMap<String, _> = snapshot
        .into_iter()
        .map(|(key, unit, description, _)| (key.key().name().to_owned(), (key.kind(), unit, description)))
        .collect();
    for instrument in instruments() {
        let (kind, unit, description) = &described[&prometheus_name(instrument)];
        let expected = match instrument.kind() {
            InstrumentKind::Counter => MetricKind::Counter,
            InstrumentKind::Histogram => MetricKind::Histogram,
            _ => MetricKind::Gauge,
        };
        assert_eq!(*kind, expected, "{instrument:?}");
        assert_eq!(description.as_deref(), Some(instrument.description()));
        let unit = unit.unwrap_or_else(|| panic!("{instrument:?} has no unit")).as_canonical_label();
        let expected = match instrument.unit() {
            "s" => "s",
            "By" => "B",
            _ => "",
        };
        assert_eq!(unit, expected, "{instrument:?}");
    }
}
