//! What Prometheus reads.

use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use metrics_util::MetricKindMask;
use tonic_etcd::metrics::{InstrumentKind, Recorder, instruments};
use tonic_etcd_metrics::{MetricsRecorder, buckets, prometheus_name};

fn builder() -> PrometheusBuilder {
    buckets().fold(PrometheusBuilder::new(), |builder, (name, bounds)| {
        builder.set_buckets_for_metric(Matcher::Full(name), bounds).unwrap()
    })
}

/// The page after one value into each instrument, with each of its labels.
fn page(builder: PrometheusBuilder) -> String {
    let exporter = builder.build_recorder();
    let handle = exporter.handle();
    let recorder = MetricsRecorder::with_recorder(exporter);
    for instrument in instruments() {
        let labels: Vec<_> = instrument.labels().iter().map(|label| (*label, "value")).collect();
        recorder.bind(instrument, &labels).record(1.0);
    }
    handle.render()
}

#[test]
fn every_instrument_is_there_under_its_name() {
    // The exporter's own ways of naming change nothing: the names have its suffixes already.
    for builder in [builder(), builder().with_recommended_naming(true)] {
        let page = page(builder);
        for instrument in instruments() {
            let name = prometheus_name(instrument);
            let kind = match instrument.kind() {
                InstrumentKind::Counter => "counter",
                InstrumentKind::Histogram => "histogram",
                _ => "gauge",
            };
            assert!(
                page.contains(&format!("\n# TYPE {name} {kind}\n")) || page.starts_with(&format!("# TYPE {name} "))
            );
            assert!(page.contains(&format!("# HELP {name} {}\n", instrument.description())), "{page}");
        }
    }
}

#[test]
fn histograms_have_grpcs_bounds() {
    let page = page(builder());
    let bounds = |name: &str| -> Vec<f64> {
        let start = format!("{name}_bucket{{");
        let lines = page.lines().filter(|line| line.starts_with(&start));
        let bounds = lines.map(|line| line.split("le=\"").nth(1).unwrap().split('"').next().unwrap());
        bounds.filter(|bound| *bound != "+Inf").map(|bound| bound.parse().unwrap()).collect()
    };
    for (name, expected) in buckets() {
        assert_eq!(bounds(&name), expected, "{name}");
        assert!(page.contains(&format!("\n{name}_count")) && page.contains(&format!("\n{name}_sum")), "{name}");
    }
    // A value that is a bound belongs to its bucket: 1 second.
    for (bound, count) in [("0.8", 0), ("1", 1), ("+Inf", 1)] {
        let line = format!("\ntonic_etcd_registrar_renewal_duration_seconds_bucket{{le=\"{bound}\"}} {count}\n");
        assert!(page.contains(&line), "no {line} in {page}");
    }
}

/// The reason of the crate's warning.
#[test]
fn an_idle_timeout_loses_what_is_recorded_after_it() {
    let exporter = builder().idle_timeout(MetricKindMask::ALL, Some(Duration::from_nanos(1))).build_recorder();
    let page = exporter.handle();
    let recorder = MetricsRecorder::with_recorder(exporter);
    let started = instruments().find(|instrument| instrument.name() == "grpc.client.attempt.started").unwrap();
    let bound = recorder.bind(started, &[]);
    bound.record(1.0);
    let is_there = || page.render().contains("grpc_client_attempt_started_total 1");
    assert!(is_there());
    while is_there() {} // the exporter's clock moves on
    bound.record(1.0);
    assert!(!page.render().contains("grpc_client_attempt_started_total "));
}
