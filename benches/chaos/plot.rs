//! Answered and failed calls over time, a row for each scenario: our channel at the left, tonic's own at the right.

use std::fmt::Write as _;

use test_support::Svg;

use crate::findings::Panel;
use crate::outcome::{STEP_MS, add};
use crate::world::Side;

const WIDTH: f64 = 960.0;
/// Of one panel's area.
const PANEL: (f64, f64) = (400.0, 90.0);
/// From the top of one row to that of the next.
const ROW: f64 = 158.0;
const TOP: f64 = 56.0;
const LEFT: [f64; 2] = [60.0, 530.0];
/// Inside of a row: its title, then the area.
const TITLE: f64 = 14.0;
const AREA: f64 = 36.0;
/// What failed is to be seen, be it one call of thousands.
const LEAST: f64 = 2.0;

const ANSWERED: &str = "#2f7fb8";
const FAILED: &str = "#d1352b";

/// The whole picture.
pub(crate) fn draw(panels: &[&Panel]) -> String {
    let mut scenarios: Vec<&str> = panels.iter().map(|panel| panel.scenario).collect();
    scenarios.dedup();
    let height = TOP + ROW * scenarios.len() as f64;
    let mut svg = Svg::new(WIDTH, height);
    for (left, name) in LEFT.iter().zip(["BalancedChannel", "tonic's own balance_channel"]) {
        svg.element(format_args!(r#"<text x="{left}" y="24" font-size="15" font-weight="bold">{name}</text>"#));
    }
    for (left, colour, name) in [(LEFT[0], ANSWERED, "answered"), (LEFT[0] + 80.0, FAILED, "failed")] {
        svg.element(format_args!(r#"<rect x="{left}" y="34" width="10" height="10" fill="{colour}"/>"#));
        svg.text((left + 14.0, 43.0), "start", name);
    }
    svg.text((LEFT[0] + 150.0, 43.0), "start", &format!("calls per second, in steps of {STEP_MS} ms"));
    for (row, scenario) in scenarios.iter().enumerate() {
        let top = TOP + ROW * row as f64;
        let row: Vec<&&Panel> = panels.iter().filter(|panel| panel.scenario == *scenario).collect();
        // One scale for both sides, that of the higher one.
        let most = row.iter().flat_map(|panel| totals(panel)).max().unwrap_or(0).max(1);
        if let Some(first) = row.first() {
            let title =
                format_args!(r#"<text x="{}" y="{}" font-size="13">{}</text>"#, LEFT[0], top + TITLE, first.title);
            svg.element(title);
        }
        for panel in row {
            Area::new(panel, top + AREA, most).draw(&mut svg);
        }
    }
    svg.finish()
}

/// One panel: what was answered, what failed on top of it, and what was done meanwhile.
struct Area<'a> {
    panel: &'a Panel,
    left: f64,
    top: f64,
    bottom: f64,
    /// Calls in a step that reach to the top.
    most: u64,
}

impl<'a> Area<'a> {
    fn new(panel: &'a Panel, top: f64, most: u64) -> Self {
        let left = LEFT[usize::from(panel.side == Side::Tonic)];
        Self { panel, left, top, bottom: top + PANEL.1, most }
    }

    fn x(&self, ms: u64) -> f64 {
        self.left + PANEL.0 * ms as f64 / (self.panel.seconds * 1e3)
    }

    fn y(&self, count: u64) -> f64 {
        self.bottom - PANEL.1 * count as f64 / self.most as f64
    }

    fn draw(&self, svg: &mut Svg) {
        let Self { panel, left, top, bottom, most } = *self;
        self.draw_answered(svg);
        self.draw_failed(svg);
        svg.element(format_args!(r##"<path d="M{left} {top}V{bottom}h{}" fill="none" stroke="#888"/>"##, PANEL.0));
        svg.text((left - 4.0, top + 8.0), "end", &(most * 1_000 / STEP_MS).to_string());
        svg.text((left - 4.0, bottom), "end", "0");
        let every = if panel.seconds > 10.0 { 5 } else { 1 };
        for second in (0..=panel.seconds as u64).step_by(every) {
            svg.text((self.x(second * 1_000), bottom + 14.0), "middle", &format!("{second} s"));
        }
        for (ms, event) in &panel.events {
            let (x, from) = (self.x(*ms), top - 4.0);
            svg.element(format_args!(r##"<path d="M{x:.1} {from}V{bottom}" stroke="#333" stroke-dasharray="3 2"/>"##));
            svg.text((x, top - 6.0), "middle", event);
        }
        let failed: u64 = panel.failed.iter().sum();
        let hang = if panel.hanging > 0 { format!(", {} workers hang", panel.hanging) } else { String::new() };
        svg.text((left + PANEL.0, top - AREA + TITLE), "end", &format!("{failed} failed{hang}"));
    }

    fn draw_answered(&self, svg: &mut Svg) {
        let mut path = format!("M{} {}", self.left, self.bottom);
        for step in 0..self.steps() {
            let count = self.panel.answered.get(step).copied().unwrap_or(0);
            let _ = write!(path, "V{:.1}H{:.1}", self.y(count), self.x((step as u64 + 1) * STEP_MS));
        }
        svg.element(format_args!(r#"<path d="{path}V{}Z" fill="{ANSWERED}"/>"#, self.bottom));
    }

    /// A box for each step in which calls failed.
    fn draw_failed(&self, svg: &mut Svg) {
        let mut path = String::new();
        for (step, failed) in self.panel.failed.iter().enumerate().take(self.steps()).filter(|(_, failed)| **failed > 0)
        {
            let answered = self.panel.answered.get(step).copied().unwrap_or(0);
            let (from, to) = (self.x(step as u64 * STEP_MS), self.x((step as u64 + 1) * STEP_MS));
            let low = self.y(answered);
            let high = self.y(answered + failed).min(low - LEAST);
            let _ = write!(path, "M{from:.1} {low:.1}H{to:.1}V{high:.1}H{from:.1}Z");
        }
        if !path.is_empty() {
            svg.element(format_args!(r#"<path d="{path}" fill="{FAILED}"/>"#));
        }
    }

    fn steps(&self) -> usize {
        (self.panel.seconds * 1e3 / STEP_MS as f64).round() as usize
    }
}

/// Answered and failed calls of each step.
fn totals(panel: &Panel) -> Vec<u64> {
    let mut totals = panel.answered.clone();
    add(&mut totals, &panel.failed);
    totals
}
