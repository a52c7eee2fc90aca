//! The curves, a panel for each: how many there are from left to right, in powers of ten; the cost upwards from zero.

use std::fmt::Write as _;

use test_support::Svg;

use crate::findings::Curve;

/// Of one panel's area.
const PANEL: (f64, f64) = (400.0, 90.0);
/// From the corner of one panel to that of the next.
const STEP: (f64, f64) = (480.0, 160.0);
const COLUMNS: usize = 2;
/// Inside of a panel: its title, then the area.
const TITLE: f64 = 20.0;
const AREA: (f64, f64) = (60.0, 36.0);
const LINE: &str = "#2f7fb8";

/// The whole picture.
pub(crate) fn draw(curves: &[Curve]) -> String {
    let rows = curves.len().div_ceil(COLUMNS);
    let mut svg = Svg::new(STEP.0 * COLUMNS as f64, STEP.1 * rows as f64);
    for (place, curve) in curves.iter().enumerate() {
        let (column, row) = (place % COLUMNS, place / COLUMNS);
        panel(&mut svg, (STEP.0 * column as f64, STEP.1 * row as f64), curve);
    }
    svg.finish()
}

fn panel(svg: &mut Svg, corner: (f64, f64), curve: &Curve) {
    let (left, top) = (corner.0 + AREA.0, corner.1 + AREA.1);
    let bottom = top + PANEL.1;
    let counts = || curve.points.iter().map(|(count, _)| *count);
    let (least, most) = (counts().fold(f64::INFINITY, f64::min), counts().fold(0.0, f64::max));
    let highest = curve.points.iter().map(|(_, cost)| *cost).fold(f64::MIN_POSITIVE, f64::max);
    let span = (most / least).log10().max(f64::MIN_POSITIVE);
    let place = |(count, cost): (f64, f64)| {
        (left + PANEL.0 * (count / least).log10() / span, bottom - PANEL.1 * cost / highest)
    };
    svg.element(format_args!(r#"<text x="{left}" y="{}" font-size="13">{}</text>"#, corner.1 + TITLE, curve.title));
    svg.element(format_args!(r##"<path d="M{left} {top}V{bottom}h{}" fill="none" stroke="#888"/>"##, PANEL.0));
    svg.text((left - 4.0, top + 8.0), "end", &number(highest));
    svg.text((left - 4.0, top + 20.0), "end", curve.unit);
    svg.text((left - 4.0, bottom), "end", "0");
    let mut path = String::new();
    for (step, point) in curve.points.iter().enumerate() {
        let (x, y) = place(*point);
        let _ = write!(path, "{}{x:.1} {y:.1}", if step == 0 { "M" } else { "L" });
        svg.element(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{LINE}"/>"#));
        let is_last = step + 1 == curve.points.len();
        let count = number(point.0);
        svg.text((x, bottom + 14.0), "middle", &if is_last { format!("{count} {}", curve.of) } else { count });
    }
    svg.element(format_args!(r#"<path d="{path}" fill="none" stroke="{LINE}" stroke-width="2"/>"#));
}

/// A number with no more digits than say something.
fn number(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.1}").trim_end_matches(".0").to_owned() }
}
