//! `/metrics` as Prometheus reads it.

use std::collections::BTreeMap;

/// One line: a series.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

pub(crate) struct Page(Vec<Series>);

impl Page {
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(series).collect())
    }

    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.0.iter().filter(move |series| series.name == name)
    }

    /// The sum over all series of that name with this label.
    pub(crate) fn sum(&self, name: &str, label: (&str, &str)) -> f64 {
        let has = |series: &&Series| series.labels.get(label.0).is_some_and(|value| value == label.1);
        self.of(name).filter(has).map(|series| series.value).sum()
    }
}

fn series(line: &str) -> Series {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("a series without a value: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
    let (name, mut rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    while let Some((label, value)) = rest.split_once("=\"") {
        let end = value.find('"').unwrap_or_else(|| panic!("a label without an end: {line}"));
        labels.insert(label.trim_start_matches(',').to_owned(), value[..end].to_owned());
        rest = &value[end + 1..];
    }
    assert_eq!(rest, "}", "{line}");
    Series { name: name.to_owned(), labels, value }
}
