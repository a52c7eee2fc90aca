//! A recorder of metrics that keeps every value.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic_etcd::metrics::{BoundInstrument, Instrument, InstrumentKind};

/// Keeps the values of all series. A series is named `name{label=value,label=value}`, with the labels in the order in which they
/// were bound. Clones share the series.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    series: BTreeMap<String, Series>,
    /// What no recorder should be given.
    faults: Vec<String>,
}

struct Series {
    kind: InstrumentKind,
    /// Of counters the sum, of gauges the last value, of histograms the sum.
    value: f64,
    /// Every value, in the order of the recordings.
    values: Vec<f64>,
    /// Handles that were bound and not dropped.
    bound: usize,
}

struct Bound {
    recorder: Recorder,
    name: String,
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a series: the sum of all recordings, and of a gauge the last one. 0 if nothing was recorded, or nothing was bound.
    pub fn value(&self, series: &str) -> f64 {
        self.state().series.get(series).map_or(0.0, |series| series.value)
    }

    /// Everything that was recorded into a series, in its order.
    pub fn values(&self, series: &str) -> Vec<f64> {
        self.state().series.get(series).map_or_else(Vec::new, |series| series.values.clone())
    }

    /// The sum of [`Recorder::value`] over all series of an instrument.
    pub fn sum(&self, instrument: &str) -> f64 {
        let state = self.state();
        let of_it = state.series.iter().filter(|(name, _)| is_of(name, instrument));
        of_it.map(|(_, series)| series.value).sum()
    }

    /// The number of recordings over all series of an instrument.
    pub fn count(&self, instrument: &str) -> usize {
        let state = self.state();
        let of_it = state.series.iter().filter(|(name, _)| is_of(name, instrument));
        of_it.map(|(_, series)| series.values.len()).sum()
    }

    /// The names of all series that were ever bound.
    pub fn series(&self) -> Vec<String> {
        self.state().series.keys().cloned().collect()
    }

    /// How many handles of series were bound and not dropped.
    pub fn bound(&self) -> usize {
        self.state().series.values().map(|series| series.bound).sum()
    }

    /// What was recorded against the rules: labels that an instrument does not have, counters that fall, values that are no numbers.
    pub fn faults(&self) -> Vec<String> {
        self.state().faults.clone()
    }

    /// All series with their values, a line each.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, series) in &self.state().series {
            let _ = writeln!(text, "{name} {}", series.value); // a string takes everything
        }
        text
    }
}

/// Whether a series is one of this instrument.
fn is_of(series: &str, instrument: &str) -> bool {
    series.strip_prefix(instrument).is_some_and(|rest| rest.starts_with('{'))
}

impl tonic_etcd::metrics::Recorder for Recorder {
    fn bind(&self, instrument: &'static Instrument, labels: &[(&'static str, &str)]) -> Box<dyn BoundInstrument> {
        let shown: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let name = format!("{}{{{}}}", instrument.name(), shown.join(","));
        let mut state = self.state();
        let names: Vec<_> = labels.iter().map(|(name, _)| *name).collect();
        let (fixed, further) = names.split_at(names.len().min(instrument.labels().len()));
        if fixed != instrument.labels() || !further.iter().all(|name| instrument.optional_labels().contains(name)) {
            state.faults.push(format!("{name} has other labels than {:?}", instrument.labels()));
        }
        let first = Series { kind: instrument.kind(), value: 0.0, values: Vec::new(), bound: 0 };
        state.series.entry(name.clone()).or_insert(first).bound += 1;
        Box::new(Bound { recorder: self.clone(), name })
    }
}

impl BoundInstrument for Bound {
    fn record(&self, value: f64) {
        let mut state = self.recorder.state();
        let State { series, faults } = &mut *state;
        let Some(series) = series.get_mut(&self.name) else { return };
        let is_count = matches!(series.kind, InstrumentKind::Counter | InstrumentKind::UpDownCounter);
        let falls = value < 0.0 && series.kind != InstrumentKind::UpDownCounter;
        if !value.is_finite() || falls || (is_count && value.fract() != 0.0) {
            faults.push(format!("{} was given {value}", self.name));
        }
        series.value = if series.kind == InstrumentKind::Gauge { value } else { series.value + value };
        series.values.push(value);
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(series) = self.recorder.state().series.get_mut(&self.name) {
            series.bound -= 1;
        }
    }
}
