//! The names on `/metrics` are those that OpenTelemetry's exporter for Prometheus gives.

use std::collections::BTreeMap;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use observability::opentelemetry::OpenTelemetryRecorder;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::TextEncoder;
use tonic_etcd::metrics::{InstrumentKind, Recorder, instruments};
use tonic_etcd_metrics::MetricsRecorder;

/// Two series of each instrument, one of them with its optional labels, and some values in each.
fn record(recorder: &impl Recorder) {
    for instrument in instruments() {
        let all = instrument.labels().iter().chain(instrument.optional_labels());
        let all: Vec<_> = all.map(|label| (*label, "a value")).collect();
        for labels in [&all[..instrument.labels().len()], &all] {
            let bound = recorder.bind(instrument, labels);
            bound.record(1.0);
            bound.record(3.0);
            if instrument.kind() == InstrumentKind::UpDownCounter {
                bound.record(-2.0);
            }
        }
    }
}

fn with_the_facade() -> String {
    let builder = tonic_etcd_metrics::buckets().fold(PrometheusBuilder::new(), |builder, (name, bounds)| {
        builder.set_buckets_for_metric(Matcher::Full(name), bounds).unwrap()
    });
    let exporter = builder.build_recorder();
    let page = exporter.handle();
    record(&MetricsRecorder::with_recorder(exporter));
    page.render()
}

fn with_opentelemetry() -> String {
    let registry = prometheus::Registry::new();
    let exporter =
        opentelemetry_prometheus::exporter().with_registry(registry.clone()).without_target_info().build().unwrap();
    let provider = SdkMeterProvider::builder().with_reader(exporter).build();
    record(&OpenTelemetryRecorder::new(provider.meter("tonic-etcd")));
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
}

/// A label as a reader of the page takes it: bounds are numbers, however they are written.
fn label(text: &str) -> String {
    match text
        .strip_prefix("le=\"")
        .and_then(|bound| bound.strip_suffix('"'))
        .and_then(|bound| bound.parse::<f64>().ok())
    {
        Some(bound) => format!("le={bound}"),
        None => text.to_owned(),
    }
}

/// Each series with its value, and each `# TYPE` and `# HELP`. Without the name of OpenTelemetry's scope, which is not
/// ours to give.
fn read(page: &str) -> BTreeMap<String, String> {
    let lines = page.lines().filter(|line| !line.is_empty());
    let read = lines.map(|line| {
        if line.starts_with('#') {
            let (key, text) = line.match_indices(' ').nth(2).map(|(at, _)| line.split_at(at)).unwrap();
            return (key.to_owned(), text.trim().to_owned());
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty());
        let labels = labels.filter(|label| !label.starts_with("otel_scope_"));
        let mut labels: Vec<String> = labels.map(label).collect();
        labels.sort();
        let value: f64 = value.parse().unwrap();
        (format!("{name} {}", labels.join(" ")), value.to_string())
    });
    let count = page.lines().filter(|line| !line.is_empty()).count();
    let read: BTreeMap<_, _> = read.collect();
    assert_eq!(read.len(), count, "a line stands twice in {page}");
    read
}

#[test]
fn both_exporters_write_the_same() {
    let (ours, theirs) = (read(&with_the_facade()), read(&with_opentelemetry()));
    assert!(ours.len() > 31 * 4);
    let beside = |some: &BTreeMap<String, String>, others: &BTreeMap<String, String>| -> Vec<String> {
        let differing = some.iter().filter(|(key, value)| others.get(*key) != Some(value));
        differing.map(|(key, value)| format!("{key} {value}")).collect()
    };
    assert_eq!(beside(&ours, &theirs), Vec::<String>::new(), "only the facade's exporter writes this");
    assert_eq!(beside(&theirs, &ours), Vec::<String>::new(), "only OpenTelemetry's exporter writes this");
}
