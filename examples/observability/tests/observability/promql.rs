//! Which metrics and labels a `PromQL` expression asks for. It reads no more of the language than that takes.

/// A metric with the labels in its braces.
#[derive(Debug, PartialEq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    pub(crate) matchers: Vec<Matcher>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Matcher {
    pub(crate) label: String,
    /// `=`, `!=`, `=~` or `!~`.
    pub(crate) operator: String,
    pub(crate) value: String,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Query {
    pub(crate) selectors: Vec<Selector>,
    /// What is summed or joined by.
    pub(crate) groupings: Vec<String>,
}

/// All of our metrics have one of these.
const PREFIXES: [&str; 2] = ["grpc_", "tonic_etcd_"];

pub(crate) fn parse(expression: &str) -> Query {
    let mut query = Query::default();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            rest = between(rest, '"', '"').1; // a value
            continue;
        }
        if !(first.is_ascii_alphabetic() || first == '_') {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let end = rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if matches!(word, "by" | "on" | "without" | "ignoring") {
            let (list, after) = between(rest.trim_start(), '(', ')');
            query.groupings.extend(list.split(',').map(|label| label.trim().to_owned()));
            rest = after;
        } else if PREFIXES.iter().any(|prefix| word.starts_with(prefix)) {
            let mut selector = Selector { metric: word.to_owned(), matchers: Vec::new() };
            if rest.starts_with('{') {
                let (list, after) = between(rest, '{', '}');
                selector.matchers = list.split(", ").map(matcher).collect();
                rest = after;
            }
            query.selectors.push(selector);
        }
    }
    query
}

fn between(text: &str, open: char, close: char) -> (&str, &str) {
    let inner = text.strip_prefix(open).unwrap_or_else(|| panic!("no {open} at {text}"));
    inner.split_once(close).unwrap_or_else(|| panic!("no {close} in {text}"))
}

fn matcher(text: &str) -> Matcher {
    let at = text.find(['=', '!']).unwrap_or_else(|| panic!("no operator in {text}"));
    let (label, rest) = text.split_at(at);
    let (operator, value) = rest.split_once('"').unwrap_or_else(|| panic!("no value in {text}"));
    let value = value.trim_end().strip_suffix('"').unwrap_or_else(|| panic!("no end in {text}"));
    Matcher { label: label.trim().to_owned(), operator: operator.to_owned(), value: value.to_owned() }
}

#[test]
fn metrics_labels_and_groupings() {
    let query = parse(
        r#"f(0.9, sum by (le, job) (rate(grpc_a_bucket{x="1", y=~"$z"}[5m]))) unless on (service) tonic_etcd_b or {z="grpc_c"}"#,
    );
    let matcher = |label: &str, operator: &str, value: &str| Matcher {
        label: label.to_owned(),
        operator: operator.to_owned(),
        value: value.to_owned(),
    };
    let first = Selector {
        metric: "grpc_a_bucket".to_owned(),
        matchers: vec![matcher("x", "=", "1"), matcher("y", "=~", "$z")],
    };
    let second = Selector { metric: "tonic_etcd_b".to_owned(), matchers: Vec::new() };
    let groupings = ["le", "job", "service"].map(str::to_owned).into();
    assert_eq!(query, Query { selectors: vec![first, second], groupings });
}
