//! Measurements, and the bars that they are held against.

mod bar;

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

pub use bar::Bar;

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The number; `None` when it could not be measured.
    pub value: Option<f64>,
    /// What the number counts, as `ms` or `calls/s`; empty for a plain ratio.
    pub unit: String,
    /// What it is held against.
    pub bar: Option<Bar>,
    /// Why it could not be measured and what to install.
    pub note: Option<String>,
}

/// A list of measurements: printed as a table, or as JSON for machines.
#[derive(Debug, Clone, Default)]
pub struct Report {
    title: String,
    rows: Vec<Row>,
}

impl Row {
    /// Whether the value was measured and reaches its bar; without a bar, every measured value does.
    pub fn holds(&self) -> bool {
        self.value.is_some_and(|value| value.is_finite() && self.bar.is_none_or(|bar| bar.holds(value)))
    }
}

impl Report {
    /// An empty report; the title stands above its table.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), rows: Vec::new() }
    }

    /// Adds a measured value. One that is not finite counts as not measured.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &str, bar: impl Into<Option<Bar>>) -> &mut Self {
        let note = (!value.is_finite()).then(|| format!("measured as {value}, which is no number"));
        let value = Some(value).filter(|value| value.is_finite());
        self.push(Row { name: name.into(), value, unit: unit.to_owned(), bar: bar.into(), note })
    }

    /// Adds a value that could not be measured, and says what is missing.
    pub fn missing(
        &mut self,
        name: impl Into<String>,
        unit: &str,
        bar: impl Into<Option<Bar>>,
        note: impl Into<String>,
    ) -> &mut Self {
        let note = Some(note.into());
        self.push(Row { name: name.into(), value: None, unit: unit.to_owned(), bar: bar.into(), note })
    }

    /// Adds a row as it is.
    pub fn push(&mut self, row: Row) -> &mut Self {
        self.rows.push(row);
        self
    }

    /// The rows so far.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether every row was measured and reaches its bar.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(Row::holds)
    }

    /// Success only if every row holds.
    pub fn exit_code(&self) -> ExitCode {
        if self.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Prints it to stdout, as JSON if this program was called with `--json`, and gives the exit code.
    #[must_use = "the exit code says whether the bars hold: return it from main"]
    pub fn finish(&self) -> ExitCode {
        self.print(std::env::args().any(|arg| arg == "--json"));
        self.exit_code()
    }

    /// Prints it to stdout: a table, or JSON. Notes of rows without a value go to stderr when it is JSON.
    pub fn print(&self, json: bool) {
        if json {
            println!("{}", self.json());
            for (row, note) in self.rows.iter().filter_map(|row| Some((row, row.note.as_ref()?))) {
                eprintln!("{}: {note}", row.name);
            }
        } else {
            print!("{}", self.table());
        }
    }

    /// A JSON list of `{"name", "value", "unit", "bar", "holds"}`; bar is a string as `≤ 1.25`, or null.
    pub fn json(&self) -> String {
        let row = |row: &Row| {
            let (name, unit) = (json!(row.name), json!(row.unit));
            let (value, bar) = (json!(row.value), json!(row.bar.map(|bar| bar.to_string())));
            // By hand, for the order: serde_json's map sorts its keys.
            format!(
                r#"  {{"name":{name},"value":{value},"unit":{unit},"bar":{bar},"holds":{}}}"#,
                Value::from(row.holds())
            )
        };
        format!("[\n{}\n]", self.rows.iter().map(row).collect::<Vec<_>>().join(",\n"))
    }

    /// An aligned table, one line a row.
    pub fn table(&self) -> String {
        let cells = |row: &Row| {
            let value = row.value.map_or_else(|| "—".to_owned(), number);
            let bar = row.bar.map_or_else(String::new, |bar| bar.to_string());
            let note = row.note.as_ref().map_or_else(String::new, |note| format!("  {note}"));
            let verdict = match (row.holds(), row.bar, row.value) {
                (true, None, _) => String::new(),
                (true, Some(_), _) => "holds".to_owned(),
                (false, _, Some(_)) => "MISSED".to_owned(),
                (false, _, None) => format!("NOT MEASURED{note}"),
            };
            [row.name.clone(), value, row.unit.clone(), bar, verdict]
        };
        let lines: Vec<[String; 5]> = self.rows.iter().map(cells).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let (name_width, value_width, unit_width, bar_width) = (width(0), width(1), width(2), width(3));
        let mut table = if self.title.is_empty() { String::new() } else { format!("{}\n", self.title) };
        for [name, value, unit, bar, verdict] in &lines {
            let line =
                format!("  {name:name_width$}  {value:>value_width$} {unit:unit_width$}  {bar:bar_width$}  {verdict}");
            let _ = writeln!(table, "{}", line.trim_end()); // a String takes it all
        }
        table
    }
}

/// A number for people: no more digits than say something.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 | 1000.0.. => 0,
        100.0.. => 1,
        1.0.. => 2,
        small => (2.0 - small.log10().floor()) as usize,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("bench: calls");
        report.add("calls per second", 12_345.6, "calls/s", None);
        report.add("against tonic's own", 1.2, "", Bar::AtMost(1.25));
        report
    }

    #[test]
    fn table_is_aligned() {
        let expected = "bench: calls\n  \
             calls per second     12346 calls/s\n  \
             against tonic's own    1.2          ≤ 1.25  holds\n";
        assert_eq!(report().table(), expected);
    }

    #[test]
    fn a_missed_bar_fails() {
        let mut report = report();
        assert!(report.holds());
        report.add("failed calls", 3.0, "", Bar::Equal(0.0));
        assert!(!report.holds());
        assert!(report.table().contains("= 0     MISSED"), "{}", report.table());
    }

    #[test]
    fn a_missing_value_fails_and_says_what_to_install() {
        let mut report = report();
        report.missing("Go client", "ms", Bar::AtMost(5.0), "install Go");
        report.add("ratio", 1.0 / 0.0, "", None);
        assert_eq!(report.rows()[3].value, None);
        assert!(!report.holds());
        assert!(report.table().contains("NOT MEASURED  install Go"));
    }

    #[test]
    fn json_has_exactly_the_five_keys_in_order() {
        let mut report = report();
        report.missing("Go \"client\"", "ms", Bar::AtLeast(5.0), "install Go");
        let expected = r#"[
  {"name":"calls per second","value":12345.6,"unit":"calls/s","bar":null,"holds":true},
  {"name":"against tonic's own","value":1.2,"unit":"","bar":"≤ 1.25","holds":true},
  {"name":"Go \"client\"","value":null,"unit":"ms","bar":"≥ 5","holds":false}
]"#;
        assert_eq!(report.json(), expected);
        assert_eq!(serde_json::from_str::<Value>(&report.json()).unwrap().as_array().unwrap().len(), 3);
    }

    #[test]
    fn numbers_for_people() {
        let shown: Vec<String> = [0.0, 0.000_049, 0.5, 1.0, 1.256, 99.999, 123.45, 45_678.9].map(number).into();
        assert_eq!(shown, ["0", "0.000049", "0.5", "1", "1.26", "100", "123.5", "45679"]);
    }
}
