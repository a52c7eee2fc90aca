//! The tables of `tonic_etcd::metrics` list every instrument, with its kind, unit, labels and description, and no other.

use tonic_etcd::metrics::{Instrument, instruments};

use super::read;

/// The row of an instrument.
fn row(instrument: &Instrument) -> String {
    let experimental = if instrument.is_experimental() { " (experimental)" } else { "" };
    let required = instrument.labels().iter().map(|label| format!("`{label}`"));
    let optional = instrument.optional_labels().iter().map(|label| format!("`{label}` (optional)"));
    let labels: Vec<_> = required.chain(optional).collect();
    let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
    let (name, kind, unit, what) = (instrument.name(), instrument.kind(), instrument.unit(), instrument.description());
    format!("| `{name}`{experimental} | {kind:?} | `{unit}` | {labels} | {what} |")
}

#[test]
fn the_tables_of_instruments_are_true() {
    let text = read("src/metrics/mod.rs");
    // Other tables there have other columns.
    let is_row = |line: &&str| line.starts_with("| `") && line.matches(" | ").count() == 4;
    let documented: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("//! ")).filter(is_row).collect();
    let expected: Vec<_> = instruments().map(row).collect();
    for row in &expected {
        assert!(documented.contains(&&**row), "no row in src/metrics/mod.rs:\n{row}");
    }
    assert_eq!(documented.len(), expected.len(), "a row of no instrument");
}
