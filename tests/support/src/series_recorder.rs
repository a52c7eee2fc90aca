//! A recorder of metrics that keeps each series in a map.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic_etcd::metrics::{BoundInstrument, Instrument, InstrumentKind, Recorder};

/// All series that were bound, with what was recorded into them. Clones share them.
#[derive(Clone, Default)]
pub struct SeriesRecorder(Arc<Shared>);

#[derive(Default)]
struct Shared {
    series: Mutex<BTreeMap<SeriesKey, Values>>,
    live: AtomicUsize,
    panics: AtomicBool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesKey {
    name: &'static str,
    labels: Vec<(&'static str, String)>,
}

/// What a series has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Values {
    /// How often something was recorded.
    pub count: u64,
    /// The sum of all; of a gauge the last one.
    pub value: f64,
}

impl SeriesRecorder {
    /// Panics in each call from now on, or no longer.
    pub fn set_panics(&self, panics: bool) {
        self.0.panics.store(panics, Ordering::SeqCst);
    }

    /// How many series are bound at present, and were not dropped.
    pub fn live(&self) -> usize {
        self.0.live.load(Ordering::SeqCst)
    }

    /// Everything that was recorded into the series of this instrument that have these labels, and maybe others.
    pub fn values(&self, name: &str, labels: &[(&str, &str)]) -> Values {
        let mut all = Values::default();
        for (key, values) in self.lock().iter().filter(|(key, _)| key.has(name, labels)) {
            assert!(key.labels.len() >= labels.len());
            all.count += values.count;
            all.value += values.value;
        }
        all
    }

    /// How often something was recorded into those.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.values(name, labels).count
    }

    /// The series of this instrument, as `label="value",…`, in their order.
    pub fn series(&self, name: &str) -> Vec<String> {
        let text = |(label, value): &(&str, String)| format!("{label}={value:?}");
        let of = |key: &SeriesKey| key.labels.iter().map(text).collect::<Vec<_>>().join(",");
        self.lock().keys().filter(|key| key.name == name).map(of).collect()
    }

    /// How many series there were.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SeriesKey, Values>> {
        self.0.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn maybe_panic(&self) {
        assert!(!self.0.panics.load(Ordering::SeqCst), "the recorder was told to panic");
    }
}

impl SeriesKey {
    fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let has = |(label, value): &(&str, &str)| self.labels.iter().any(|(own, text)| own == label && text == value);
        self.name == name && labels.iter().all(has)
    }
}

impl Recorder for SeriesRecorder {
    /// # Panics
    /// If the labels are not those of the instrument, in their order, and if it was told to.
    fn bind(&self, instrument: &'static Instrument, labels: &[(&'static str, &str)]) -> Box<dyn BoundInstrument> {
        self.maybe_panic();
        let names: Vec<_> = labels.iter().map(|(name, _)| *name).collect();
        let (required, optional) = names.split_at(instrument.labels().len());
        assert_eq!(required, instrument.labels(), "{}", instrument.name());
        let mut known = instrument.optional_labels().iter();
        assert!(optional.iter().all(|name| known.any(|known| known == name)), "{}: {names:?}", instrument.name());
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let key = SeriesKey { name: instrument.name(), labels };
        self.lock().entry(key.clone()).or_default();
        self.0.live.fetch_add(1, Ordering::SeqCst);
        Box::new(Series { recorder: self.clone(), key, kind: instrument.kind() })
    }
}

struct Series {
    recorder: SeriesRecorder,
    key: SeriesKey,
    kind: InstrumentKind,
}

impl BoundInstrument for Series {
    fn record(&self, value: f64) {
        self.recorder.maybe_panic();
        assert!(self.kind == InstrumentKind::UpDownCounter || value >= 0.0, "{} {value}", self.key.name);
        let mut all = self.recorder.lock();
        let values = all.entry(self.key.clone()).or_default();
        values.count += 1;
        values.value = if self.kind == InstrumentKind::Gauge { value } else { values.value + value };
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        self.recorder.0.live.fetch_sub(1, Ordering::SeqCst);
        if !std::thread::panicking() {
            self.recorder.maybe_panic();
        }
    }
}
