//! What an instrument is called, and what it measures.

use std::fmt;

use crate::metrics::bounds::Bounds;

/// What the values of an instrument mean, in OpenTelemetry's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstrumentKind {
    /// A sum that only grows. Each recording adds its value, which is at least 0.
    Counter,
    /// A sum that grows and shrinks. Each recording adds its value, which may be negative. All channels, resolvers and
    /// registrars with the same labels add to one sum, and take their share away when they end.
    UpDownCounter,
    /// The present value. Each recording replaces it.
    Gauge,
    /// A distribution. Each recording adds its value to it.
    Histogram,
}

/// The description of an instrument. All instruments of this crate are constants: [`instruments`](crate::metrics::instruments)
/// lists them.
#[derive(Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Instrument {
    pub(crate) name: &'static str,
    pub(crate) kind: InstrumentKind,
    pub(crate) unit: &'static str,
    pub(crate) description: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) optional_labels: &'static [&'static str],
    pub(crate) bounds: &'static Bounds,
    pub(crate) is_experimental: bool,
}

impl Instrument {
    /// Returns the name, with dots: `grpc.client.call.duration`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns what its values mean.
    pub fn kind(&self) -> InstrumentKind {
        self.kind
    }

    /// Returns the unit, after UCUM as OpenTelemetry uses it: `s`, `By`, `{attempt}`.
    pub fn unit(&self) -> &'static str {
        self.unit
    }

    /// Returns one sentence that says what is measured.
    pub fn description(&self) -> &'static str {
        self.description
    }

    /// Returns the names of the labels that every series of it has.
    pub fn labels(&self) -> &'static [&'static str] {
        self.labels
    }

    /// Returns the names of the labels that a series has only where [`Metrics`](crate::metrics::Metrics) asks for them.
    pub fn optional_labels(&self) -> &'static [&'static str] {
        self.optional_labels
    }

    /// Returns the upper bounds of a histogram's buckets, in ascending order and in [`unit`](Self::unit); each bound belongs to its
    /// bucket. The bucket above the last one has no bound. Empty for all other kinds.
    pub fn bounds(&self) -> &'static [f64] {
        self.bounds.values
    }

    /// Whether it is recorded only where [`Metrics::experimental`](crate::metrics::Metrics::experimental) asks for it (gRFC A79).
    pub fn is_experimental(&self) -> bool {
        self.is_experimental
    }
}

impl fmt::Debug for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instrument").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}
