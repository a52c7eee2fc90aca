//! The recorder, and the series that it binds.

use std::fmt;
use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata};
use tonic_etcd::metrics::{BoundInstrument, Instrument, InstrumentKind, Recorder, instruments};

use crate::names::{prometheus_label, prometheus_name, unit};

static METADATA: Metadata<'static> = Metadata::new("tonic_etcd", Level::INFO, Some("tonic_etcd"));

/// Records the metrics of tonic-etcd into the facade `metrics`, under the names of
/// [`prometheus_name`](crate::prometheus_name).
///
/// A series asks the facade for its handle once, when a channel, a resolver, a registrar or a server first needs it,
/// and keeps it. So the exporter must be installed before, and must not forget series: see [the crate's
/// documentation](crate).
///
/// A clone records into the same exporter.
#[derive(Clone)]
pub struct MetricsRecorder {
    /// Of one's own, else the one that is installed when a series is bound.
    recorder: Option<Arc<dyn metrics::Recorder + Send + Sync>>,
}

impl MetricsRecorder {
    /// Records into the exporter that the program has installed, and describes all instruments to it.
    ///
    /// Where no exporter is installed yet, the descriptions are lost, and so are all values of what is built before it
    /// is.
    #[allow(clippy::new_without_default)] // it has an effect, which nobody expects of a default
    pub fn new() -> Self {
        metrics::with_recorder(describe);
        Self { recorder: None }
    }

    /// Records into an exporter that is not the program's installed one, and describes all instruments to it. To keep a
    /// handle of the exporter, pass an [`Arc`] of it.
    pub fn with_recorder(recorder: impl metrics::Recorder + Send + Sync + 'static) -> Self {
        describe(&recorder);
        Self { recorder: Some(Arc::new(recorder)) }
    }

    fn with<T>(&self, what: impl FnOnce(&dyn metrics::Recorder) -> T) -> T {
        match &self.recorder {
            Some(recorder) => what(recorder),
            None => metrics::with_recorder(what),
        }
    }
}

fn describe(recorder: &dyn metrics::Recorder) {
    for instrument in instruments() {
        let (name, unit) = (prometheus_name(instrument).into(), unit(instrument.unit()));
        let description = instrument.description().into();
        match instrument.kind() {
            InstrumentKind::Counter => recorder.describe_counter(name, unit, description),
            InstrumentKind::UpDownCounter | InstrumentKind::Gauge => recorder.describe_gauge(name, unit, description),
            InstrumentKind::Histogram => recorder.describe_histogram(name, unit, description),
            _ => {} // a kind that this release does not know is not recorded either
        }
    }
}

impl Recorder for MetricsRecorder {
    fn bind(&self, instrument: &'static Instrument, labels: &[(&'static str, &str)]) -> Box<dyn BoundInstrument> {
        let labels: Vec<Label> =
            labels.iter().map(|(name, value)| Label::new(prometheus_label(name), (*value).to_owned())).collect();
        let key = Key::from_parts(prometheus_name(instrument), labels);
        self.with(|recorder| -> Box<dyn BoundInstrument> {
            match instrument.kind() {
                InstrumentKind::Counter => Box::new(BoundCounter(recorder.register_counter(&key, &METADATA))),
                InstrumentKind::UpDownCounter => Box::new(BoundSum(recorder.register_gauge(&key, &METADATA))),
                InstrumentKind::Gauge => Box::new(BoundGauge(recorder.register_gauge(&key, &METADATA))),
                InstrumentKind::Histogram => Box::new(BoundHistogram(recorder.register_histogram(&key, &METADATA))),
                _ => Box::new(Unknown),
            }
        })
    }
}

impl fmt::Debug for MetricsRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsRecorder").field("is_installed_exporter", &self.recorder.is_none()).finish()
    }
}

struct BoundCounter(Counter);

impl BoundInstrument for BoundCounter {
    fn record(&self, value: f64) {
        self.0.increment(value as u64); // whole and at least 0, as the core promises; anything else is cut to that
    }
}

struct BoundSum(Gauge);

impl BoundInstrument for BoundSum {
    fn record(&self, value: f64) {
        self.0.increment(value); // of a negative value, a decrement
    }
}

struct BoundGauge(Gauge);

impl BoundInstrument for BoundGauge {
    fn record(&self, value: f64) {
        self.0.set(value);
    }
}

struct BoundHistogram(Histogram);

impl BoundInstrument for BoundHistogram {
    fn record(&self, value: f64) {
        self.0.record(value);
    }
}

/// Of a kind of instrument that this release does not know.
struct Unknown;

impl BoundInstrument for Unknown {
    fn record(&self, _: f64) {}
}
