//! What the parts have found: rows with their bars, and curves.

use std::fmt::Display;
use std::process::ExitCode;

use test_support::{Bar, Report};

/// Rows and curves.
pub(crate) struct Findings {
    report: Report,
    curves: Vec<Curve>,
}

/// How one cost grows.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    /// What costs.
    pub(crate) title: String,
    /// What there is so much of: `servers`, `services`, …
    pub(crate) of: &'static str,
    /// What the cost counts.
    pub(crate) unit: &'static str,
    /// How many there are, and the cost.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Findings {
    pub(crate) fn new() -> Self {
        Self { report: Report::new("how cost grows"), curves: Vec::new() }
    }

    /// A figure.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &str, bar: impl Into<Option<Bar>>) {
        self.report.add(name, value, unit, bar);
    }

    /// A figure, or why it could not be had.
    pub(crate) fn add_or_missing<E: Display>(
        &mut self,
        name: impl Into<String>,
        value: Result<f64, E>,
        unit: &str,
        bar: impl Into<Option<Bar>>,
    ) {
        match value {
            Ok(value) => self.report.add(name, value, unit, bar),
            Err(error) => self.report.missing(name, unit, bar, error.to_string()),
        };
    }

    /// A curve for the picture.
    pub(crate) fn draw(&mut self, curve: Curve) {
        self.curves.push(curve);
    }

    pub(crate) fn curves(&self) -> &[Curve] {
        &self.curves
    }

    pub(crate) fn print(&self, json: bool) {
        self.report.print(json);
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.report.exit_code()
    }
}
