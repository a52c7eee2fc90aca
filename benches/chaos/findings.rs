//! What a scenario has found: figures with their bars, and the calls over time.

use test_support::{Bar, Report, Row};

use crate::outcome::Outcome;
use crate::world::Side;

/// What one scenario has found.
pub(crate) struct Findings {
    name: &'static str,
    report: Report,
    panels: Vec<Panel>,
}

/// One run, to be drawn.
pub(crate) struct Panel {
    pub(crate) scenario: &'static str,
    pub(crate) title: &'static str,
    pub(crate) side: Side,
    pub(crate) answered: Vec<u64>,
    pub(crate) failed: Vec<u64>,
    /// Workers whose last call had no answer.
    pub(crate) hanging: u64,
    pub(crate) seconds: f64,
    /// What was done, and when.
    pub(crate) events: Vec<(u64, String)>,
}

impl Findings {
    pub(crate) fn new(name: &'static str, about: &str) -> Self {
        Self { name, report: Report::new(format!("{name}: {about}")), panels: Vec::new() }
    }

    /// A figure of ours.
    pub(crate) fn ours(&mut self, name: &str, value: f64, unit: &str, bar: impl Into<Option<Bar>>) {
        self.report.add(format!("{name}, ours"), value, unit, bar);
    }

    /// A figure of tonic's own channel, beside ours; it has no bar.
    pub(crate) fn tonic(&mut self, name: &str, value: f64, unit: &str) {
        self.report.add(format!("{name}, tonic's own"), value, unit, None);
    }

    /// A figure that compares, or belongs to no side.
    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &str, bar: impl Into<Option<Bar>>) {
        self.report.add(name, value, unit, bar);
    }

    /// A row as somebody else found it.
    pub(crate) fn row(&mut self, row: Row) {
        self.report.push(row);
    }

    /// A figure that could not be had.
    pub(crate) fn missing(&mut self, name: &str, why: impl Into<String>) {
        self.report.missing(name, "", None, why);
    }

    /// Keeps a run for the plot.
    pub(crate) fn draw(&mut self, title: &'static str, side: Side, outcome: &Outcome, events: Vec<(u64, String)>) {
        self.panels.push(Panel {
            scenario: self.name,
            title,
            side,
            answered: outcome.answered_in(),
            failed: outcome.failed_in.clone(),
            hanging: outcome.hanging,
            seconds: outcome.seconds,
            events,
        });
    }

    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    pub(crate) fn panels(&self) -> &[Panel] {
        &self.panels
    }

    /// The rows as they stand among those of other scenarios.
    pub(crate) fn named_rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.report.rows().iter().map(|row| Row { name: format!("{}: {}", self.name, row.name), ..row.clone() })
    }
}

/// How calls failed that should not have, for whoever looks for the reason.
pub(crate) fn explain(outcome: &Outcome) {
    for failure in outcome.failures.iter().take(5) {
        eprintln!("  {} × {}: {}", failure.count, failure.code, failure.text);
    }
}
