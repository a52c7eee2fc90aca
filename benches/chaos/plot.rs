//! Answered and failed calls over time, a row for each scenario: our channel at the left, tonic's own at the right.

use std::fmt::Write as _;

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

const ANSWERED: &str = "#2f7fb8";
const FAILED: &str = "#d1352b";

/// The whole picture.
pub(crate) fn draw(panels: &[&Panel]) -> String {
    let mut scenarios: Vec<&str> = panels.iter().map(|panel| panel.scenario).collect();
    scenarios.dedup();
    let height = TOP + ROW * scenarios.len() as f64;
    let mut svg = String::new();
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    line(format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11" fill="#333">"##
    ));
    line(r##"<rect width="100%" height="100%" fill="#fff"/>"##.to_owned());
    for (left, name) in LEFT.iter().zip(["BalancedChannel", "tonic's own balance_channel"]) {
        line(format!(r#"<text x="{left}" y="24" font-size="15" font-weight="bold">{name}</text>"#));
    }
    for (left, colour, name) in [(LEFT[0], ANSWERED, "answered"), (LEFT[0] + 80.0, FAILED, "failed")] {
        line(format!(r#"<rect x="{left}" y="34" width="10" height="10" fill="{colour}"/>"#));
        line(format!(r#"<text x="{}" y="43">{name}</text>"#, left + 14.0));
    }
    line(format!(r#"<text x="{}" y="43">calls per second, in steps of {STEP_MS} ms</text>"#, LEFT[0] + 150.0));
    for (row, scenario) in scenarios.iter().enumerate() {
        let top = TOP + ROW * row as f64;
        let row: Vec<&&Panel> = panels.iter().filter(|panel| panel.scenario == *scenario).collect();
        // One scale for both sides, that of the higher one.
        let most = row.iter().flat_map(|panel| totals(panel)).max().unwrap_or(0).max(1);
        if let Some(first) = row.first() {
            line(format!(r#"<text x="{}" y="{}" font-size="13">{}</text>"#, LEFT[0], top + TITLE, first.title));
        }
        for panel in row {
            line(area(panel, top + AREA, most));
        }
    }
    line("</svg>".to_owned());
    svg
}

/// One panel: what was answered, what failed on top of it, and what was done meanwhile.
fn area(panel: &Panel, top: f64, most: u64) -> String {
    let left = LEFT[usize::from(panel.side == Side::Tonic)];
    let (width, height) = PANEL;
    let bottom = top + height;
    let x = |ms: f64| left + width * ms / (panel.seconds * 1e3);
    let y = |count: u64| bottom - height * count as f64 / most as f64;
    let mut svg = String::new();
    let steps = (panel.seconds * 1e3 / STEP_MS as f64).round() as usize;
    let shape = |upper: &[u64], lower: &[u64], colour: &str| {
        let mut path = String::new();
        let at = |steps: &[u64], step: usize| y(steps.get(step).copied().unwrap_or(0));
        for step in 0..steps {
            let (from, to) = (x((step as u64 * STEP_MS) as f64), x(((step + 1) as u64 * STEP_MS) as f64));
            let command = if step == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{from:.1} {0:.1}H{to:.1}", at(upper, step));
        }
        for step in (0..steps).rev() {
            let from = x((step as u64 * STEP_MS) as f64);
            let _ = write!(path, "V{:.1}H{from:.1}", at(lower, step));
        }
        format!(r#"<path d="{path}Z" fill="{colour}"/>"#)
    };
    let _ = writeln!(svg, "{}", shape(&panel.answered, &[], ANSWERED));
    if panel.failed.iter().any(|count| *count > 0) {
        let _ = writeln!(svg, "{}", shape(&totals(panel), &panel.answered, FAILED));
    }
    let _ = writeln!(svg, r##"<path d="M{left} {top}V{bottom}h{width}" fill="none" stroke="#888"/>"##);
    let per_second = most * 1_000 / STEP_MS;
    let edge = left - 4.0;
    let _ = writeln!(svg, r#"<text x="{edge}" y="{}" text-anchor="end">{per_second}</text>"#, top + 8.0);
    let _ = writeln!(svg, r#"<text x="{edge}" y="{bottom}" text-anchor="end">0</text>"#);
    let every = if panel.seconds > 10.0 { 5 } else { 1 };
    for second in (0..=panel.seconds as u64).step_by(every) {
        let at = x(second as f64 * 1e3);
        let _ = writeln!(svg, r#"<text x="{at:.1}" y="{}" text-anchor="middle">{second} s</text>"#, bottom + 14.0);
    }
    for (ms, event) in &panel.events {
        let at = x(*ms as f64);
        let _ = writeln!(svg, r##"<path d="M{at:.1} {}V{bottom}" stroke="#333" stroke-dasharray="3 2"/>"##, top - 4.0);
        let _ = writeln!(svg, r#"<text x="{at:.1}" y="{}" text-anchor="middle">{event}</text>"#, top - 6.0);
    }
    let failed: u64 = panel.failed.iter().sum();
    let _ = write!(
        svg,
        r#"<text x="{}" y="{}" text-anchor="end">{failed} failed</text>"#,
        left + width,
        top - AREA + TITLE
    );
    svg
}

/// Answered and failed calls of each step.
fn totals(panel: &Panel) -> Vec<u64> {
    let mut totals = panel.answered.clone();
    add(&mut totals, &panel.failed);
    totals
}
