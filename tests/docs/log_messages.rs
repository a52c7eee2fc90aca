//! Every message at INFO and above stands in the table of `tonic_etcd::log_messages`, and the table holds no other.

use std::collections::BTreeMap;
use std::fs;

use super::{read, rust_files};

const MACROS: [(&str, &str); 3] = [("info!(", "INFO"), ("warn!(", "WARN"), ("error!(", "ERROR")];

/// The arguments of a macro, from behind its parenthesis, split at the commas between them.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    let (mut arguments, mut current) = (Vec::new(), String::new());
    for letter in text.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            _ if in_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                arguments.push(current);
                return arguments;
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(std::mem::take(&mut current));
                continue;
            }
            _ => {}
        }
        current.push(letter);
    }
    panic!("a macro without an end: {text}");
}

/// A literal in quotes as its text; lines that end with a backslash go on in the next one.
fn literal(argument: &str) -> Option<String> {
    let inner = argument.trim().strip_prefix('"')?.strip_suffix('"')?;
    let lines = inner.split("\\\n").map(str::trim_start);
    Some(lines.collect::<String>().replace("\\\"", "\""))
}

/// Message and level of everything that the crate logs, and where.
fn logged() -> BTreeMap<(String, String), String> {
    let mut logged = BTreeMap::new();
    for path in rust_files("src") {
        let text = fs::read_to_string(&path).unwrap();
        // Comments hold no calls.
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = lines.join(
            "
",
        );
        for (name, level) in MACROS {
            for (at, _) in code.match_indices(name) {
                if code[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
                    continue;
                }
                let arguments = arguments(&code[at + name.len()..]);
                let message = arguments.iter().rev().find_map(|argument| literal(argument)).unwrap_or_else(|| {
                    panic!("{}: a {level} without a constant message: {arguments:?}", path.display())
                });
                assert!(!message.contains(['{', '}']), "{}: data belong into fields: {message:?}", path.display());
                logged.insert((message, level.to_owned()), path.display().to_string());
            }
        }
    }
    logged
}

/// Message and level of each line of the table.
fn documented() -> BTreeMap<(String, String), String> {
    let page = read("src/log_messages.rs");
    let rows = page.lines().filter_map(|line| line.strip_prefix("//! | `"));
    rows.map(|row| {
        let (message, rest) =
            row.split_once("` | ").unwrap_or_else(|| panic!("a line of the table without a level: {row}"));
        let level = rest.split(" | ").next().unwrap_or_default();
        let columns = rest.split(" | ").filter(|column| !column.trim_matches(['|', ' ']).is_empty()).count();
        assert_eq!(columns, 3, "level, meaning and what to do: {row}");
        ((message.to_owned(), level.to_owned()), row.to_owned())
    })
    .collect()
}

#[test]
fn every_message_is_explained_and_every_explanation_has_one() {
    let (logged, documented) = (logged(), documented());
    let missing: Vec<_> = logged.iter().filter(|(key, _)| !documented.contains_key(key)).collect();
    let gone: Vec<_> = documented.keys().filter(|key| !logged.contains_key(key)).collect();
    assert!(missing.is_empty(), "not in the table of src/log_messages.rs: {missing:#?}");
    assert!(gone.is_empty(), "in the table of src/log_messages.rs, and logged nowhere: {gone:#?}");
    assert!(logged.len() > 20, "only {} messages were found", logged.len());
}

#[test]
fn arguments_are_told_apart() {
    let found = arguments("parent: None, error = f(a, \"b)\"), \"a message, \\\n    of two lines\");");
    assert_eq!(found.len(), 3);
    assert_eq!(literal(&found[2]).unwrap(), "a message, of two lines");
    assert_eq!(literal(&found[1]), None);
}
