//! What an instrument is called on the page that Prometheus reads.

use metrics::Unit;
use tonic_etcd::metrics::{Instrument, InstrumentKind, instruments};

/// Returns the name under which [`MetricsRecorder`](crate::MetricsRecorder) records an instrument. It is the one that
/// OpenTelemetry's exporter for Prometheus makes of it: `grpc.client.call.duration` is
/// `grpc_client_call_duration_seconds`, and `grpc.client.attempt.started` is `grpc_client_attempt_started_total`.
///
/// Dots become underscores, the units `s` and `By` become the suffixes `_seconds` and `_bytes`, counters end with
/// `_total`, and a unit in braces gives no suffix. A histogram's series have `_bucket`, `_sum` and `_count` after that,
/// which the exporter adds.
pub fn prometheus_name(instrument: &Instrument) -> String {
    let mut name = prometheus_label(instrument.name());
    if let Some(suffix) = suffix(instrument.unit()) {
        name.push('_');
        name.push_str(suffix);
    }
    if instrument.kind() == InstrumentKind::Counter {
        name.push_str("_total");
    }
    name
}

/// Returns the histograms by the names that they are recorded under, with the upper bounds of their buckets (gRFCs A66,
/// A96): for `PrometheusBuilder::set_buckets_for_metric`, as the crate's documentation shows.
pub fn buckets() -> impl Iterator<Item = (String, &'static [f64])> {
    instruments()
        .filter(|instrument| instrument.kind() == InstrumentKind::Histogram)
        .map(|instrument| (prometheus_name(instrument), instrument.bounds()))
}

/// The name of a label: the same characters, less what Prometheus does not allow.
pub(crate) fn prometheus_label(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

/// The unit in the facade's words. Exporters that name units after it find the suffix there already, and add none.
pub(crate) fn unit(unit: &str) -> Option<Unit> {
    match unit {
        "s" => Some(Unit::Seconds),
        "By" => Some(Unit::Bytes),
        _ if unit.starts_with('{') => Some(Unit::Count),
        _ => None,
    }
}

fn suffix(unit: &str) -> Option<&'static str> {
    match unit {
        "s" => Some("seconds"),
        "By" => Some("bytes"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> String {
        prometheus_name(instruments().find(|instrument| instrument.name() == name).unwrap())
    }

    #[test]
    fn the_names_are_those_of_opentelemetrys_exporter() {
        for (name, expected) in [
            ("grpc.client.attempt.started", "grpc_client_attempt_started_total"),
            ("grpc.client.attempt.duration", "grpc_client_attempt_duration_seconds"),
            (
                "grpc.client.attempt.sent_total_compressed_message_size",
                "grpc_client_attempt_sent_total_compressed_message_size_bytes",
            ),
            ("grpc.client.call.retries", "grpc_client_call_retries"),
            ("grpc.subchannel.open_connections", "grpc_subchannel_open_connections"),
            ("tonic_etcd.resolver.staleness", "tonic_etcd_resolver_staleness_seconds"),
            ("tonic_etcd.registrar.renewal.duration", "tonic_etcd_registrar_renewal_duration_seconds"),
        ] {
            assert_eq!(named(name), expected);
        }
        assert_eq!(prometheus_label("grpc.lb.locality"), "grpc_lb_locality");
    }

    #[test]
    fn every_unit_is_known() {
        for instrument in instruments() {
            assert!(unit(instrument.unit()).is_some(), "{instrument:?} has the unit {}", instrument.unit());
        }
    }

    #[test]
    fn every_histogram_has_bounds_and_a_name_of_its_own() {
        let mut names: Vec<String> = instruments().map(prometheus_name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), instruments().len());
        assert!(buckets().count() > 5);
        assert!(buckets().all(|(_, bounds)| !bounds.is_empty()));
    }
}
