//! A recorder for OpenTelemetry's metrics. Copy it: OpenTelemetry's API changes with each of its releases.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};
use tonic_etcd::metrics::{BoundInstrument, Instrument, InstrumentKind, Recorder};

/// Records into the instruments of one meter, under the same names, units, descriptions and bounds.
///
/// The SDK keeps 2 000 series of an instrument, and counts further ones as one: raise the limit by a view where
/// `server_label` makes more.
pub struct OpenTelemetryRecorder {
    meter: Meter,
    /// By name. The SDK makes a stream of values for each instrument that it is asked for.
    made: Mutex<HashMap<&'static str, Made>>,
}

#[derive(Clone)]
enum Made {
    Counter(Counter<u64>),
    UpDownCounter(UpDownCounter<i64>),
    Gauge(Gauge<f64>),
    Histogram(Histogram<f64>),
}

struct Series {
    made: Made,
    attributes: Vec<KeyValue>,
}

impl OpenTelemetryRecorder {
    /// Records into this meter. It makes an instrument when its first series is bound.
    pub fn new(meter: Meter) -> Self {
        Self { meter, made: Mutex::default() }
    }

    fn make(&self, instrument: &'static Instrument) -> Made {
        let (name, unit, text) = (instrument.name(), instrument.unit(), instrument.description());
        match instrument.kind() {
            InstrumentKind::Counter => {
                Made::Counter(self.meter.u64_counter(name).with_unit(unit).with_description(text).build())
            }
            InstrumentKind::UpDownCounter => {
                Made::UpDownCounter(self.meter.i64_up_down_counter(name).with_unit(unit).with_description(text).build())
            }
            InstrumentKind::Histogram => {
                let builder = self.meter.f64_histogram(name).with_unit(unit).with_description(text);
                Made::Histogram(builder.with_boundaries(instrument.bounds().to_vec()).build())
            }
            // `Gauge`, and kinds that a later release adds.
            _ => Made::Gauge(self.meter.f64_gauge(name).with_unit(unit).with_description(text).build()),
        }
    }
}

impl Recorder for OpenTelemetryRecorder {
    fn bind(&self, instrument: &'static Instrument, labels: &[(&'static str, &str)]) -> Box<dyn BoundInstrument> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let made = made.entry(instrument.name()).or_insert_with(|| self.make(instrument)).clone();
        let attributes = labels.iter().map(|(name, value)| KeyValue::new(*name, (*value).to_owned())).collect();
        let series = Series { made, attributes };
        if matches!(series.made, Made::Counter(_) | Made::UpDownCounter(_)) {
            series.record(0.0); // there from the beginning: an alert on a sum that is 0 needs its series
        }
        Box::new(series)
    }
}

impl BoundInstrument for Series {
    fn record(&self, value: f64) {
        match &self.made {
            Made::Counter(counter) => counter.add(value as u64, &self.attributes), // counters' values are whole numbers
            Made::UpDownCounter(sum) => sum.add(value as i64, &self.attributes),
            Made::Gauge(gauge) => gauge.record(value, &self.attributes),
            Made::Histogram(histogram) => histogram.record(value, &self.attributes),
        }
    }
}
